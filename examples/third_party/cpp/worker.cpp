// A worker for anyserve in C++20, from docs/spec alone: framing, four models, registration, drain.
// In the reader's order: the models, one exchange, frames, connections, the management port, start and end.
// One thread for each connection, one that accepts, and the main thread, which keeps the worker registered.
// Names in backticks are requirements of docs/spec.

#include <grpcpp/grpcpp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <climits>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "envelope.pb.h"
#include "grpc_predict_v2.pb.h"
#include "worker_management.grpc.pb.h"

namespace {

using anyserve::WorkerManagement;
using anyserve::example::Envelope;
using inference::InferParameter;
using inference::ModelInferRequest;
using inference::ModelInferResponse;
using inference::ModelStreamInferResponse;
using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr std::size_t kHeadBytes = 4;
constexpr std::size_t kReadBytes = 1 << 20;  // memory for a frame grows by this, as its bytes come
constexpr unsigned kPlaces = 8;  // of each model, said at registration: the agent opens no more connections
constexpr std::size_t kMaxConnections = 256;
constexpr auto kHeartbeat = 1s;
constexpr auto kRetry = 500ms;  // with a call's limit less than 2 s (`lifecycle.worker.retry`)
constexpr auto kCallLimit = 1s;

double setting(const char* name, double otherwise) {
  const char* text = std::getenv(name);
  if (!text) return otherwise;
  char* end = nullptr;
  const double value = std::strtod(text, &end);
  if (end == text || *end || !(value >= 0)) throw std::runtime_error(std::string(name) + " is no number: " + text);
  return value;
}

std::size_t frame_limit() {  // `frame.limit.request`
  static const auto limit = static_cast<std::size_t>(setting("ANYSERVE_MAX_MESSAGE_BYTES", 64 << 20)) + 131'072;
  return limit;
}

std::chrono::milliseconds seconds(const char* name) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(setting(name, 30) * 1000));
}

std::system_error system_error(const std::string& what) { return {errno, std::generic_category(), what}; }

// Closes what it owns.
class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

// ---- The models. A handler calls `reply` once, or, if it streams, as often as it likes.

struct Failure : std::runtime_error {
  Failure(grpc::StatusCode status, const std::string& message) : std::runtime_error(message), code(status) {}
  grpc::StatusCode code;
};

struct Gone {};  // thrown where the agent has closed the connection: nobody waits for a reply

struct Exchange {
  ModelInferRequest request;
  int connection;
  bool stream;
  void reply(const ModelInferResponse& message) const;
};

std::atomic<std::int64_t> running{0};   // `wait` handlers
std::atomic<std::int64_t> produced{0};  // replies of `count` handlers

const InferParameter* parameter(const Exchange& exchange, const char* name, InferParameter::ParameterChoiceCase kind) {
  const auto found = exchange.request.parameters().find(name);
  if (found == exchange.request.parameters().end()) return nullptr;
  if (found->second.parameter_choice_case() != kind) {
    throw Failure(grpc::INVALID_ARGUMENT, std::string("parameter ") + name + " is of another kind");
  }
  return &found->second;
}

std::int64_t integer(const Exchange& exchange, const char* name, std::int64_t otherwise) {
  const auto* found = parameter(exchange, name, InferParameter::kInt64Param);
  return found ? found->int64_param() : otherwise;
}

void set(ModelInferResponse& message, const char* name, std::int64_t value) {
  (*message.mutable_parameters())[name].set_int64_param(value);
}

void echo(Exchange& exchange) {
  auto& request = exchange.request;
  if (request.raw_input_contents_size() != 0 && request.raw_input_contents_size() != request.inputs_size()) {
    throw Failure(grpc::INVALID_ARGUMENT, "raw contents and inputs differ in number");
  }
  ModelInferResponse message;
  for (auto& input : *request.mutable_inputs()) {
    auto& output = *message.add_outputs();
    output.set_name(input.name());
    output.set_datatype(input.datatype());
    output.mutable_shape()->Swap(input.mutable_shape());
    if (input.has_contents()) output.mutable_contents()->Swap(input.mutable_contents());
  }
  message.mutable_raw_output_contents()->Swap(request.mutable_raw_input_contents());
  exchange.reply(message);
}

void fail(Exchange& exchange) {
  const auto code = integer(exchange, "code", grpc::INVALID_ARGUMENT);
  if (code < 1 || code > 16) throw Failure(grpc::INVALID_ARGUMENT, "code is not between 1 and 16");
  const auto* message = parameter(exchange, "message", InferParameter::kStringParam);
  throw Failure(static_cast<grpc::StatusCode>(code), message ? message->string_param() : "as asked");
}

void wait(Exchange& exchange) {
  struct Running {
    Running() { ++running; }
    ~Running() { --running; }
  } counted;
  const auto ms = static_cast<int>(std::clamp<std::int64_t>(integer(exchange, "ms", 0), 0, INT_MAX));
  pollfd closed{exchange.connection, POLLRDHUP, 0};
  if (::poll(&closed, 1, ms) > 0) throw Gone{};  // `frame.cancel.stop`
  ModelInferResponse message;
  set(message, "running", running);
  set(message, "produced", produced);
  exchange.reply(message);
}

void count(Exchange& exchange) {
  const auto n = integer(exchange, "n", 3);
  const auto fail_at = integer(exchange, "fail_at", -1);
  const auto size = integer(exchange, "size", -1);
  ModelInferResponse message;
  if (exchange.request.parameters().contains("size")) {
    if (size < 0 || static_cast<std::size_t>(size) > frame_limit()) {
      throw Failure(grpc::INVALID_ARGUMENT, "size is out of range");
    }
    auto& output = *message.add_outputs();
    output.set_name("data");
    output.set_datatype("UINT8");
    output.add_shape(size);
    message.add_raw_output_contents(std::string(static_cast<std::size_t>(size), '\0'));
  }
  for (std::int64_t i = 0; i < n; ++i) {
    if (i == fail_at) throw Failure(grpc::INTERNAL, "as asked");
    set(message, "i", i);
    exchange.reply(message);  // waits while the agent does not read: `stream.flow.worker`
    ++produced;
  }
}

struct Model {
  void (*run)(Exchange&);
  bool stream;
};

// By the value of `type` in the capability, which is the model's name too.
const std::map<std::string, Model> kModels{
    {"echo", {echo, false}}, {"fail", {fail, false}}, {"wait", {wait, false}}, {"count", {count, true}}};

// ---- Frames.

// Reads that many bytes behind what `into` has; false when the connection ends before.
bool read_more(int fd, std::string& into, std::size_t size) {
  for (const std::size_t end = into.size() + size; into.size() < end;) {
    const std::size_t have = into.size();
    into.resize(std::min(end, have + kReadBytes));
    const ssize_t got = ::recv(fd, into.data() + have, into.size() - have, 0);
    into.resize(have + static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    if (got <= 0) return false;
  }
  return true;
}

// The payload of the next frame; none when the connection ends, or has to be closed.
std::optional<std::string> read_frame(int fd) {
  std::string head;
  if (!read_more(fd, head, kHeadBytes)) return std::nullopt;
  std::size_t length = 0;
  for (const char byte : head) length = length << 8 | static_cast<unsigned char>(byte);
  std::string payload;
  if (length > frame_limit() || !read_more(fd, payload, length)) return std::nullopt;
  return payload;
}

void write_frame(int fd, const std::string& payload) {
  std::string frame;
  frame.reserve(kHeadBytes + payload.size());
  for (const unsigned shift : {24U, 16U, 8U, 0U}) frame.push_back(static_cast<char>(payload.size() >> shift & 0xff));
  frame += payload;
  for (std::span<const char> rest(frame); !rest.empty();) {
    const ssize_t sent = ::send(fd, rest.data(), rest.size(), MSG_NOSIGNAL);
    if (sent < 0) throw Gone{};
    rest = rest.subspan(static_cast<std::size_t>(sent));
  }
}

// ---- One exchange: a request's payload in, its reply frames out.

void Exchange::reply(const ModelInferResponse& message) const {
  if (!stream) return write_frame(connection, message.SerializeAsString());
  ModelStreamInferResponse wrapped;
  *wrapped.mutable_infer_response() = message;
  write_frame(connection, wrapped.SerializeAsString());
}

void reply_failure(int connection, bool stream, grpc::StatusCode code, const std::string& message) {
  ModelStreamInferResponse reply;
  auto& inner = *reply.mutable_infer_response();
  set(inner, "anyserve_error_code", code);
  if (stream) {
    reply.set_error_message(message.empty() ? "failed" : message);  // an empty one would be no error
    return write_frame(connection, reply.SerializeAsString());
  }
  (*inner.mutable_parameters())["anyserve_error_message"].set_string_param(message);
  write_frame(connection, inner.SerializeAsString());
}

template <typename Message>
void parse(Message& message, const std::string& payload) {
  if (!message.ParseFromString(payload)) throw Failure(grpc::INVALID_ARGUMENT, "the request cannot be parsed");
}

const Model& choose(const Envelope& envelope) {  // `frame.request.handler`
  const auto given = envelope.parameters().find("anyserve_capability");
  const std::string capability = given == envelope.parameters().end() ? "" : given->second.string_param();
  const std::string asked = capability.empty() ? "type=" + envelope.model_name() : capability;  // `type=NAME`
  const auto model = asked.starts_with("type=") ? kModels.find(asked.substr(5)) : kModels.end();
  if (model == kModels.end() || (capability.empty() && !envelope.model_version().empty())) {
    throw Failure(grpc::NOT_FOUND, "this worker does not serve " + asked);
  }
  return model->second;
}

void run_exchange(int connection, const std::string& payload) {
  bool stream = false;
  try {
    Envelope envelope;
    parse(envelope, payload);
    const Model& model = choose(envelope);
    stream = model.stream;
    Exchange exchange{{}, connection, stream};
    parse(exchange.request, payload);
    model.run(exchange);
  } catch (const Failure& failure) {
    reply_failure(connection, stream, failure.code, failure.what());
  } catch (const std::exception& error) {
    reply_failure(connection, stream, grpc::INTERNAL, error.what());
  }
  if (stream) write_frame(connection, {});  // the end, also after an error: `frame.reply.stream`
}

// ---- Connections.

class Listener {
 public:
  explicit Listener(std::string path) : path_(std::move(path)), socket_(listen()), stop_(::eventfd(0, EFD_CLOEXEC)) {
    acceptor_ = std::jthread([this] { accept(); });
  }

  // Ends what has begun on the accepted connections, and what has not after the grace.
  void drain(std::chrono::milliseconds grace) {
    ::eventfd_write(stop_.get(), 1);
    acceptor_.join();
    ::unlink(path_.c_str());
    socket_ = Fd();
    std::unique_lock lock(mutex_);
    const auto ended = [this] { return std::ranges::all_of(connections_, &Connection::ended); };
    if (!ended_.wait_for(lock, grace, ended)) {
      for (const auto& connection : connections_) ::shutdown(connection.socket.get(), SHUT_RDWR);  // -1 where ended
    }
    lock.unlock();
    connections_.clear();  // joins
  }

 private:
  struct Connection {
    explicit Connection(Fd fd) : socket(std::move(fd)) {}
    Fd socket;
    bool ended = false;
    std::jthread thread;
  };

  Fd listen() const {
    Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path_.size() >= sizeof address.sun_path) throw std::runtime_error(path_ + " is too long for a socket");
    path_.copy(address.sun_path, path_.size());
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
        ::listen(fd.get(), SOMAXCONN) != 0) {
      throw system_error("cannot listen at " + path_);
    }
    return fd;
  }

  void accept() {
    for (;;) {
      std::array<pollfd, 2> ready{{{stop_.get(), POLLIN, 0}, {socket_.get(), POLLIN, 0}}};
      ::poll(ready.data(), ready.size(), 1000);
      if (ready[0].revents) return;
      if (::access(path_.c_str(), F_OK) != 0) relisten();
      if (ready[1].revents) add(Fd(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC)));
    }
  }

  void relisten() {  // `lifecycle.worker.relisten`
    try {
      socket_ = listen();
    } catch (const std::exception& error) {
      std::cerr << error.what() << std::endl;
    }
  }

  void add(Fd fd) {
    const std::lock_guard lock(mutex_);
    connections_.remove_if([](const Connection& connection) { return connection.ended; });
    ucred peer{};
    socklen_t size = sizeof peer;
    if (connections_.size() >= kMaxConnections || ::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 ||
        (peer.uid != 0 && peer.uid != ::geteuid())) {
      return;  // `lifecycle.worker.socket`
    }
    auto& connection = connections_.emplace_back(std::move(fd));
    connection.thread = std::jthread([this, &connection] { serve(connection); });
  }

  void serve(Connection& connection) {
    const int fd = connection.socket.get();
    try {
      while (await_request(fd)) {
        const auto payload = read_frame(fd);
        if (!payload) break;
        run_exchange(fd, *payload);
      }
    } catch (const Gone&) {  // the handler has stopped: `frame.cancel.stop`
    }
    const std::lock_guard lock(mutex_);
    connection.socket = Fd();
    connection.ended = true;
    ended_.notify_all();
  }

  // False when the worker drains and no byte of another request has come: `lifecycle.worker.drain`.
  [[nodiscard]] bool await_request(int fd) const {
    std::array<pollfd, 2> ready{{{fd, POLLIN, 0}, {stop_.get(), POLLIN, 0}}};
    ::poll(ready.data(), ready.size(), -1);
    return ready[0].revents != 0;
  }

  const std::string path_;
  Fd socket_;
  Fd stop_;  // readable from the drain on, for all threads
  std::mutex mutex_;
  std::condition_variable ended_;
  std::list<Connection> connections_;  // guarded by mutex_, with what they hold
  std::jthread acceptor_;
};

// ---- The management port: register, heartbeats, leave. One call at a time, so nothing follows the leave.

class Management {
 public:
  Management(const std::string& target, std::string id, std::string address)
      : id_(std::move(id)), address_(std::move(address)) {
    grpc::ChannelArguments arguments;
    // Without these gRPC would wait for up to two minutes before it tries an agent again that has restarted.
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    stub_ = WorkerManagement::NewStub(grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments));
  }

  // Keeps the worker registered until a signal comes, no agent is left (both true), or the agent refuses it (false).
  [[nodiscard]] bool run(const sigset_t& signals, std::chrono::milliseconds orphan_timeout) {
    bool registered = false;
    auto answered = Clock::now();
    while (Clock::now() - answered < orphan_timeout) {
      grpc::Status status = registered ? grpc::Status::OK : register_all();
      if (status.ok()) status = heartbeat(registered);
      if (status.ok()) {
        answered = Clock::now();
      } else {
        std::cerr << "the management port: " << status.error_message() << std::endl;
        if (refused(status.error_code())) return false;
      }
      const timespec pause = registered ? timespec{kHeartbeat.count(), 0}
                                        : timespec{0, std::chrono::nanoseconds(kRetry).count()};
      if (::sigtimedwait(&signals, nullptr, &pause) > 0) return true;
    }
    return true;
  }

  void leave() {
    anyserve::UnregisterWorkerRequest request;
    request.set_worker_id(id_);
    anyserve::UnregisterWorkerResponse reply;
    const auto status = call(&WorkerManagement::Stub::UnregisterWorker, request, reply);
    if (!status.ok()) std::cerr << "took no leave: " << status.error_message() << std::endl;
  }

 private:
  static bool refused(grpc::StatusCode code) {  // `lifecycle.worker.refused`
    return code == grpc::INVALID_ARGUMENT || code == grpc::UNAUTHENTICATED || code == grpc::UNIMPLEMENTED ||
           code == grpc::RESOURCE_EXHAUSTED;
  }

  grpc::Status register_all() {
    for (const auto& [name, model] : kModels) {
      anyserve::RegisterModelRequest request;
      request.set_worker_id(id_);
      request.set_worker_address(address_);
      request.set_model_name(name);
      (*request.mutable_capability())["type"] = name;
      request.set_stream(model.stream);
      request.set_max_concurrency(kPlaces);
      anyserve::RegisterModelResponse reply;
      const auto status = call(&WorkerManagement::Stub::RegisterModel, request, reply);
      if (!status.ok()) return status;
      if (!reply.success()) return {grpc::UNKNOWN, name + " is not registered: " + reply.message()};
    }
    return grpc::Status::OK;
  }

  grpc::Status heartbeat(bool& registered) {
    anyserve::HeartbeatRequest request;
    request.set_worker_id(id_);
    for (const auto& [name, model] : kModels) request.add_model_names(name);
    anyserve::HeartbeatResponse reply;
    auto status = call(&WorkerManagement::Stub::Heartbeat, request, reply);
    registered = status.ok() && reply.healthy();
    return status;
  }

  template <typename Method, typename Request, typename Reply>
  grpc::Status call(Method method, const Request& request, Reply& reply) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kCallLimit);
    context.set_wait_for_ready(true);  // gRPC connects anew only every 5 s while no call waits for it
    if (const char* token = std::getenv("ANYSERVE_MANAGEMENT_TOKEN")) {
      context.AddMetadata("authorization", std::string("Bearer ") + token);
    }
    return (stub_.get()->*method)(&context, request, &reply);
  }

  const std::string id_;
  const std::string address_;
  std::unique_ptr<WorkerManagement::Stub> stub_;
};

// ---- Start and end.

int run(std::span<char*> arguments) {
  std::map<std::string, std::string> options;
  for (std::size_t i = 1; i + 1 < arguments.size(); i += 2) options[arguments[i]] = arguments[i + 1];
  const std::size_t known = options.count("--management") + options.count("--socket-dir");
  if (!options.contains("--management") || arguments.size() != 1 + 2 * known) {
    throw std::runtime_error("usage: worker --management HOST:PORT [--socket-dir DIR]");
  }
  frame_limit();  // now, so that a setting that is no number ends the worker before it serves
  const auto grace = seconds("ANYSERVE_GRACE");
  const auto orphan_timeout = seconds("ANYSERVE_ORPHAN_TIMEOUT");
  sigset_t signals;  // blocked in all threads, and awaited in the main one
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGTERM);
  ::sigaddset(&signals, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::umask(077);  // the socket is for its own user alone

  std::string own = (std::filesystem::temp_directory_path() / "anyXXXXXX").string();
  const bool makes_directory = !options.contains("--socket-dir");
  if (makes_directory && !::mkdtemp(own.data())) throw system_error("cannot create " + own);
  const std::filesystem::path directory = makes_directory ? own : options["--socket-dir"];
  const std::string id = "cpp-" + std::to_string(::getpid()) + "-" + std::to_string(std::random_device{}());
  const std::string path = std::filesystem::absolute(directory / (id + ".sock")).string();

  Listener listener(path);
  Management management(options["--management"], id, "unix://" + path);
  const bool asked = management.run(signals, orphan_timeout);
  management.leave();
  listener.drain(grace);
  if (makes_directory) std::filesystem::remove(directory);
  return asked ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run({argv, static_cast<std::size_t>(argc)});
  } catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
    return EXIT_FAILURE;
  }
}
