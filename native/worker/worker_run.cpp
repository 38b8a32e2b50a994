#include "worker_run.hpp"

#include <sys/epoll.h>
#include <sys/random.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "failures.hpp"
#include "socket_directory.hpp"
#include "stream_replies.hpp"

namespace anyserve {
namespace {

/// For handlers to end when they are cut off.
constexpr std::chrono::seconds kCutOff{5};

std::string worker_id(const WorkerOptions& options) {
    if (!options.worker_id.empty()) return options.worker_id;
    std::uint32_t number = 0;
    if (getrandom(&number, sizeof number, 0) != sizeof number) throw std::runtime_error("there are no random numbers");
    constexpr std::string_view digits = "0123456789abcdef";
    std::string id = "worker-";
    for (unsigned shift = 0; shift < 32; shift += 4) id += digits[number >> shift & 0xF];
    return id;
}

std::string socket_path(const WorkerOptions& options, const std::string& id) {
    const std::string& given = options.socket_dir;
    return prepare_socket_directory(given.empty() ? default_socket_directory() : given) + "/" + id + ".sock";
}

std::vector<Served> served(const std::vector<Declared>& declared) {
    std::vector<Served> made;
    made.reserve(declared.size());
    for (const Declared& each : declared) made.push_back(each.served);
    return made;
}

WorkerServerOptions server_options(const WorkerOptions& options) {
    WorkerServerOptions made;
    made.max_frame_bytes = options.max_message_bytes + kAppendedBytes;
    return made;
}

/// Replies to several agents go out by one call, which cannot be told to do without it.
void block_sigpipe() noexcept {
    sigset_t pipe;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
}

Metadata authorization(const WorkerOptions& options) {
    if (options.management_token.empty()) return {};
    return {{"authorization", "Bearer " + options.management_token}};
}

RegistrarOptions registrar_options(const WorkerOptions& options, const std::vector<Declared>& declared,
                                   const std::string& id, const std::string& path,
                                   std::function<void(bool)> share_memory) {
    RegistrarOptions made{id, {}, {}, options.heartbeat_interval, options.orphan_timeout, std::move(share_memory)};
    for (const Declared& each : declared) {
        made.registrations.push_back(register_request(each, id, path));
        made.model_names.push_back(each.served.model_name);
    }
    return made;
}

}  // namespace

WorkerRun::WorkerRun(const WorkerOptions& options, const std::vector<Declared>& declared, const Fd& stop)
    : options_(options),
      declared_(declared),
      stop_(stop),
      worker_id_(worker_id(options)),
      path_(socket_path(options, worker_id_)),
      threads_(loop_, served(declared), *this, server_options(options)),
      channel_(loop_, *parse_host_port(options.management)),
      registrar_(
          loop_,
          [this, metadata = authorization(options)](std::string_view method, std::string_view request,
                                                    std::chrono::milliseconds limit, CallDone done) {
              channel_.call(method, metadata, request, limit, std::move(done));
          },
          registrar_options(options, declared, worker_id_, path_,
                            [this](bool agreed) { threads_.share_memory(agreed); }),
          [this](Registrar::Reason reason, const std::string& message) {
              end(reason == Registrar::Reason::refused ? 1 : 0, message);
          },
          options.log) {
    Listening listening = listen_unix(path_);
    if (!listening.error.empty()) throw std::runtime_error("cannot listen at " + path_ + ": " + listening.error);
    file_ = std::make_unique<SocketFile>(path_);
    threads_.listen(std::move(listening.sockets.front()));
}

WorkerRun::~WorkerRun() { loop_.remove(stop_.get()); }

int WorkerRun::run() {
    loop_.post([this] { begin(); });
    if (!start_thread()) return 1;
    if (!wait_for_threads()) {
        log(LogLevel::error, "a handler does not end, and the process ends without it");
        file_.reset();
        std::_Exit(status_);
    }
    for (std::thread& thread : started_) thread.join();
    return status_;
}

void WorkerRun::begin() {
    loop_.add(stop_.get(), EPOLLIN, *this);
    keep_listening();
    registrar_.start();
}

/// Listens anew when the socket's file is gone, e.g. because somebody cleaned up (`lifecycle.worker.relisten`).
void WorkerRun::keep_listening() {
    if (access(path_.c_str(), F_OK) != 0) {
        Listening listening = listen_unix(path_);
        log(LogLevel::warning, "listening anew", "the file of the worker's socket was removed. " + listening.error);
        if (listening.error.empty()) {
            file_.reset();
            file_ = std::make_unique<SocketFile>(path_);
            threads_.listen(std::move(listening.sockets.front()));
        }
    }
    listening_ = loop_.at(EventLoop::Clock::now() + options_.heartbeat_interval, [this] { keep_listening(); });
}

void WorkerRun::ready(std::uint32_t) {
    loop_.remove(stop_.get());
    end(0, "told to stop");
}

void WorkerRun::end(int status, const std::string& reason) {
    if (std::exchange(ending_, true)) return;
    status_ = status;
    log(status == 0 ? LogLevel::info : LogLevel::error, "leaving", reason);
    registrar_.leave([this] { drain(); });
}

void WorkerRun::drain() {
    listening_ = {};
    grace_ = loop_.at(EventLoop::Clock::now() + options_.grace, [this] { cut_off(); });
    threads_.drain();
}

void WorkerRun::cut_off() {
    log(LogLevel::warning, "requests were cut off");
    close();
}

void WorkerRun::close() {
    {
        const std::lock_guard lock(mutex_);
        if (std::exchange(closed_, true)) return;
    }
    grace_ = {};
    file_.reset();
    threads_.close();
    changed_.notify_all();
}

bool WorkerRun::start_thread() {
    const std::lock_guard lock(mutex_);
    try {
        started_.emplace_back([this] { serve(); });
        ++running_;
        return true;
    } catch (const std::system_error& error) {  // there are too many: others run what this one would have run
        log(LogLevel::warning, "a thread cannot be started", error.what());
        return false;
    }
}

/// Until they have ended; false if some have not, so long after they were cut off.
bool WorkerRun::wait_for_threads() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return closed_; });
    return changed_.wait_for(lock, kCutOff, [this] { return running_ == 0; });
}

/// On each of the threads.
void WorkerRun::serve() {
    block_sigpipe();
    for (;;) {
        const HandlerThreads::Taken taken = threads_.take();
        if (!taken.exchange) break;
        if (taken.start_thread && !start_thread()) threads_.thread_not_started();
        handle(taken.exchange);
        threads_.ended(taken.exchange);
    }
    const std::lock_guard lock(mutex_);
    --running_;
    changed_.notify_all();
}

void WorkerRun::handle(const WorkerExchangePtr& exchange) {
    const Declared& declared = declared_[exchange->notes.served];
    if (declared.served.stream) return stream(declared, exchange);
    exchange->reply(unary(declared, exchange));
}

ReplyFrame WorkerRun::unary(const Declared& declared, const WorkerExchangePtr& exchange) {
    try {
        RequestState state(exchange, declared.capability, cancellations_);
        state.read_tensors();
        const Request request(state);
        Reply reply(request);
        declared.handler(request, reply);
        return reply_frame(ReplyState::of(std::move(reply)), false, options_.max_message_bytes);
    } catch (...) {
        return failure_frame(failed(declared));
    }
}

void WorkerRun::stream(const Declared& declared, const WorkerExchangePtr& exchange) {
    try {
        RequestState state(exchange, declared.capability, cancellations_);
        state.read_tensors();
        const Request request(state);
        StreamReplies replies(*exchange, options_.max_message_bytes);
        Stream stream(replies);
        declared.stream_handler(request, stream);
    } catch (...) {
        // Nothing comes of it where the exchange is over, which is then what was thrown.
        if (!exchange->cancelled()) exchange->send(stream_failure_frame(exchange->notes.head, failed(declared)), false);
    }
    exchange->send(ReplyFrame(), true);
}

/// What the handler has thrown, from within the `catch`. What it did not choose itself is told to the log.
InferenceError WorkerRun::failed(const Declared& declared) {
    try {
        throw;
    } catch (const InferenceError&) {
        return as_inference_error(std::current_exception());
    } catch (...) {
        InferenceError error = as_inference_error(std::current_exception());
        log(LogLevel::error, "handler failed", declared.served.capability + ": " + error.message);
        return error;
    }
}

void WorkerRun::log(LogLevel level, std::string_view message, std::string reason) const {
    LogRecord record{level, message, {}};
    if (!reason.empty()) record.fields.emplace_back("reason", std::move(reason));
    options_.log(record);
}

}  // namespace anyserve
