// A whole worker in this process, an agent's management port beside it, and the test as the agent on its socket.
#include "anyserve/worker.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <condition_variable>
#include <csignal>
#include <filesystem>
#include <future>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "anyserve/http2_server.hpp"
#include "anyserve/management_service.hpp"
#include "anyserve/shared_state.hpp"
#include "anyserve/sockets.hpp"
#include "worker_client_peer.hpp"
#include "worker_messages.hpp"

namespace anyserve {
namespace {

using namespace std::chrono_literals;
using testing::kPatience;
using testing::Peer;
using testing::RequestText;
using testing::Response;
using testing::TemporaryDirectory;

/// The management port of an agent, on a thread of its own, that can be left and taken up again.
class ManagementPort {
public:
    ManagementPort() { start(); }
    ~ManagementPort() { stop(); }
    ManagementPort(const ManagementPort&) = delete;
    ManagementPort& operator=(const ManagementPort&) = delete;

    /// What `look` sees in the registry, once it is something.
    std::string until(const std::function<std::string(const Registry&)>& look) {
        for (const auto limit = EventLoop::Clock::now() + kPatience; EventLoop::Clock::now() < limit;) {
            std::promise<std::string> found;
            loop_->post([&] {
                const std::lock_guard lock(state_->mutex);
                found.set_value(look(state_->registry));
            });
            if (std::string text = found.get_future().get(); !text.empty()) return text;
            std::this_thread::yield();
        }
        ADD_FAILURE() << "it did not come";
        return {};
    }
    /// The socket of whoever serves a model.
    std::string socket_of(const std::string& model) {
        return until([&](const Registry& registry) {
            const auto& named = registry.named(model);
            return named.empty() ? std::string() : named.front()->socket_path;
        });
    }
    void wait_until_empty() {
        until([](const Registry& registry) { return registry.all().empty() ? "yes" : ""; });
    }

    void start() {
        Listening listening = listen_inet("127.0.0.1", port);
        ASSERT_EQ(listening.error, "");
        port = local_port(listening.sockets.front());
        loop_.emplace();
        thread_ = std::thread([this, socket = std::move(listening.sockets.front())]() mutable {
            const AgentConfig config;
            state_.emplace(*loop_, config, [](const WorkerEndpointPtr&, ClientEnd) {}, Log());
            ManagementService service(*loop_, config, *state_);
            Http2Server server(*loop_, ServerLimits{}, [&](ServerCall& call) { return service.route(call); });
            server.serve(std::move(socket));
            loop_->run();
        });
    }
    void stop() {
        loop_->stop();
        thread_.join();
        state_.reset();
        loop_.reset();
    }

    std::uint16_t port = 0;

private:
    std::optional<EventLoop> loop_;
    std::optional<SharedState> state_;
    std::thread thread_;
};

/// A worker that runs on a thread of its own.
class WorkerTest : public ::testing::Test {
protected:
    WorkerOptions options() {
        WorkerOptions made;
        made.worker_id = "w";
        made.socket_dir = directory / "sockets";
        made.management = "127.0.0.1:" + std::to_string(port.port);
        made.heartbeat_interval = 20ms;
        made.handle_signals = false;
        made.log = [this](const LogRecord& record) {
            const std::lock_guard lock(mutex);
            logged.emplace_back(record.message);
        };
        return made;
    }
    void start(WorkerOptions given) {
        worker.emplace(std::move(given));
        worker->serve({{"type", "echo"}}, [](const Request& request, Reply& reply) {
            for (const Tensor& tensor : request.tensors()) reply.add(tensor);
        });
        worker->serve({{"type", "wait"}}, [this](const Request& request, Reply&) {
            std::mutex own;
            std::unique_lock lock(own);
            std::condition_variable_any changed;
            began.fetch_add(1);
            while (!released &&
                   !changed.wait_for(lock, request.cancellation(), 1ms, [this] { return released.load(); })) {
                if (request.cancelled()) break;
            }
            if (request.cancelled()) stopped.fetch_add(1);
        });
        worker->serve({{"type", "fail"}},
                      [](const Request&, Reply&) { throw InferenceError(Code::aborted, "as asked"); });
        worker->serve_stream({{"type", "count"}}, [this](const Request& request, Stream& stream) {
            for (std::int64_t i = 0; i < request.parameter("n", 3); ++i) {
                Reply reply;
                std::ranges::fill(reply.add<std::uint8_t>("data", {100'000}), std::uint8_t{0});
                stream.send(std::move(reply));
                produced.fetch_add(1);
            }
            if (request.parameter("throw", false)) throw std::runtime_error("in the end");
        });
        status = std::async(std::launch::async, [this] { return worker->run(); });
    }
    void start() { start(options()); }
    /// A connection to the worker, once it has registered.
    Peer connect() {
        Connected connected = connect_unix(port.socket_of("count"));  // which is registered last
        EXPECT_EQ(connected.error, 0);
        fcntl(connected.socket.get(), F_SETFL, 0);
        return Peer(std::move(connected.socket));
    }
    /// The reply to a request.
    static std::string ask(Peer& peer, const std::string& request) {
        peer.reply(request);
        return peer.frame().value_or("the end");
    }
    static std::string echo_request() { return RequestText("echo").input({"x", "UINT8", {3}, {}}).raw("abc"); }
    static void expect_echo(Peer& peer) {
        const std::string reply = ask(peer, echo_request());
        const auto read = read_message<Response>(reply);
        ASSERT_TRUE(read && read->raw.size() == 1);
        EXPECT_EQ(read->raw[0].value, "abc");
    }
    int stop() {
        worker->stop();
        return status.get();
    }
    template <class Condition>
    static void until(const Condition& condition) {
        const auto limit = EventLoop::Clock::now() + kPatience;
        while (!condition()) {
            ASSERT_LT(EventLoop::Clock::now(), limit) << "it did not come";
            std::this_thread::yield();
        }
    }

    TemporaryDirectory directory;
    ManagementPort port;
    std::atomic<int> began{0};
    std::atomic<int> stopped{0};
    std::atomic<int> produced{0};
    std::atomic<bool> released{false};
    std::mutex mutex;
    std::vector<std::string> logged;
    std::optional<Worker> worker;
    std::future<int> status;
};

TEST_F(WorkerTest, ServesUntilItIsStopped) {
    start();
    Peer peer = connect();
    expect_echo(peer);
    expect_echo(peer);
    struct stat found {};
    ASSERT_EQ(stat((directory / "sockets").c_str(), &found), 0);
    EXPECT_EQ(found.st_mode & 0777, 0700U);
    ASSERT_EQ(stat((directory / "sockets/w.sock").c_str(), &found), 0);
    EXPECT_EQ(found.st_mode & 0777, 0600U);
    EXPECT_EQ(stop(), 0);
    port.wait_until_empty();
    EXPECT_TRUE(peer.wait_for_end());
    EXPECT_FALSE(std::filesystem::exists(directory / "sockets/w.sock"));
}

TEST_F(WorkerTest, TellsFailuresInTheFormOfTheModel) {
    start();
    Peer peer = connect();
    const std::string unary = ask(peer, RequestText("fail"));
    MessageHead head;
    ASSERT_FALSE(scan_message(unary, kResponseFields, head));
    EXPECT_EQ(*head.parameter("anyserve_error_message"), Parameter(std::string_view("as asked")));
    const std::string streamed =
        ask(peer, RequestText("count").id("7").parameter("n", std::int64_t{0}).parameter("throw", true));
    StreamReply read;
    ASSERT_FALSE(scan_stream_reply(streamed, read));
    EXPECT_EQ(read.error_message, "in the end");
    EXPECT_EQ(peer.frame(), "");
    expect_echo(peer);
    EXPECT_EQ(stop(), 0);
}

TEST_F(WorkerTest, ServesAsManyAtOnceAsItHasPlaces) {
    start();
    std::vector<Peer> peers;
    for (int i = 0; i < 10; ++i) {
        peers.push_back(connect());
        peers.back().reply(RequestText("wait"));
    }
    until([this] { return began == 10; });
    Peer quick = connect();
    expect_echo(quick);
    released = true;
    for (Peer& peer : peers) EXPECT_EQ(peer.frame(), "");
    EXPECT_EQ(stop(), 0);
}

TEST_F(WorkerTest, StopsAHandlerWhoseConnectionIsClosed) {
    start();
    Peer peer = connect();
    peer.reply(RequestText("wait"));
    until([this] { return began == 1; });
    peer.close();
    until([this] { return stopped == 1; });
    EXPECT_EQ(stop(), 0);
}

TEST_F(WorkerTest, HoldsUpAStreamWhileTheAgentDoesNotRead) {
    start();
    Peer peer = connect();
    peer.reply(RequestText("count").parameter("n", std::int64_t{1000}));
    peer.wait_for_bytes();
    Peer other = connect();
    expect_echo(other);
    EXPECT_LT(produced, 100) << "a buffer's worth";
    for (int i = 0; i < 500; ++i) ASSERT_GT(peer.frame()->size(), 100'000u);
    until([this] { return produced >= 500; });
    peer.close();
    EXPECT_EQ(stop(), 0) << "the handler has ended";
    EXPECT_LT(produced, 1000);
}

TEST_F(WorkerTest, EndsWhatIsUnderWayBeforeItGoes) {
    start();
    Peer peer = connect();
    peer.reply(RequestText("wait"));
    until([this] { return began == 1; });
    worker->stop();
    port.wait_until_empty();
    EXPECT_EQ(status.wait_for(20ms), std::future_status::timeout);
    released = true;
    EXPECT_EQ(peer.frame(), "");
    EXPECT_EQ(status.get(), 0);
}

TEST_F(WorkerTest, CutsOffWhatDoesNotEndInTime) {
    WorkerOptions given = options();
    given.grace = 10ms;
    start(std::move(given));
    Peer peer = connect();
    peer.reply(RequestText("wait"));
    until([this] { return began == 1; });
    EXPECT_EQ(stop(), 0);
    EXPECT_EQ(stopped, 1);
    EXPECT_TRUE(peer.wait_for_end());
}

TEST_F(WorkerTest, RegistersAgainWhenTheAgentIsBack) {
    start();
    connect();
    port.stop();
    port.start();
    Peer peer = connect();
    expect_echo(peer);
    EXPECT_EQ(stop(), 0);
}

TEST_F(WorkerTest, ListensAnewWhenItsSocketWasRemoved) {
    start();
    const std::string path = port.socket_of("echo");
    std::filesystem::remove(path);
    until([&] { return connect_unix(path).error == 0; });
    Peer peer = connect();
    expect_echo(peer);
    EXPECT_EQ(stop(), 0);
}

TEST_F(WorkerTest, EndsWithoutAnAgent) {
    WorkerOptions given = options();
    given.orphan_timeout = 100ms;
    port.stop();
    start(std::move(given));
    EXPECT_EQ(status.get(), 0);
    port.start();
}

TEST_F(WorkerTest, EndsWhenTheAgentRefusesIt) {
    WorkerOptions given = options();
    worker.emplace(std::move(given));
    CapabilityOptions described;
    described.platform = "control \x01 character";
    worker->serve({{"type", "x"}}, [](const Request&, Reply&) {}, described);
    EXPECT_EQ(worker->run(), 1);
    EXPECT_EQ(logged.back(), "leaving");
}

TEST_F(WorkerTest, CannotBeginWhereItMayNotListen) {
    WorkerOptions given = options();
    given.socket_dir = directory / "open";
    std::filesystem::create_directory(given.socket_dir);
    std::filesystem::permissions(given.socket_dir, std::filesystem::perms::all);
    start(std::move(given));
    EXPECT_EQ(status.get(), 1);
    EXPECT_EQ(logged, std::vector<std::string>{"the worker cannot begin"});
}

TEST_F(WorkerTest, EndsOnSigtermAndLeavesTheHandlerThatWasThere) {
    WorkerOptions given = options();
    given.handle_signals = true;
    static std::atomic<int> others;
    others = 0;
    const auto before = std::signal(SIGTERM, [](int) { ++others; });
    start(std::move(given));
    connect();
    std::raise(SIGTERM);
    EXPECT_EQ(status.get(), 0);
    EXPECT_EQ(others, 0);
    std::raise(SIGTERM);
    EXPECT_EQ(others, 1);
    std::signal(SIGTERM, before);
}

TEST(WorkerDeclarations, AreChecked) {
    Worker worker;
    const auto nothing = [](const Request&, Reply&) {};
    const auto declare = [&](const std::map<std::string, std::string>& capability, CapabilityOptions options = {}) {
        worker.serve(capability, nothing, std::move(options));
    };
    declare({{"type", "x"}});
    EXPECT_THROW(declare({{"type", "x"}}), std::invalid_argument);
    EXPECT_THROW(declare({}), std::invalid_argument);
    EXPECT_THROW(worker.serve({{"type", "y"}}, nullptr), std::invalid_argument);
    EXPECT_THROW(worker.serve_stream({{"type", "y"}}, nullptr), std::invalid_argument);
    EXPECT_THROW(declare({{"Type", "x"}}), std::invalid_argument);
    CapabilityOptions none;
    none.max_concurrency = 0;
    EXPECT_THROW(declare({{"type", "y"}}, none), std::invalid_argument);
    CapabilityOptions unknown;
    unknown.inputs = {{"x", "FP8", {-1}}};
    EXPECT_THROW(declare({{"type", "y"}}, unknown), std::invalid_argument);
    CapabilityOptions negative;
    negative.outputs = {{"x", "FP32", {-2}}};
    EXPECT_THROW(declare({{"type", "y"}}, negative), std::invalid_argument);
    EXPECT_THROW(static_cast<void>(Worker().run()), std::logic_error);
}

TEST(WorkerOptionsTest, AreCheckedAndTakenFromTheEnvironment) {
    const auto refused = [](const std::function<void(WorkerOptions&)>& spoil) {
        WorkerOptions options;
        spoil(options);
        EXPECT_THROW(Worker{options}, std::invalid_argument);
    };
    refused([](WorkerOptions& options) { options.worker_id = "a/b"; });
    refused([](WorkerOptions& options) { options.worker_id = std::string(65, 'x'); });
    refused([](WorkerOptions& options) { options.management = "here"; });
    refused([](WorkerOptions& options) { options.management_token = "two\nlines"; });
    refused([](WorkerOptions& options) { options.max_message_bytes = 0; });
    refused([](WorkerOptions& options) { options.heartbeat_interval = 0ms; });
    setenv("ANYSERVE_MANAGEMENT", "[::1]:1", 1);
    setenv("ANYSERVE_GRACE", "1.5", 1);
    setenv("ANYSERVE_MAX_MESSAGE_BYTES", "100", 1);
    const WorkerOptions options = WorkerOptions::from_environment();
    EXPECT_EQ(options.management, "[::1]:1");
    EXPECT_EQ(options.grace, 1500ms);
    EXPECT_EQ(options.max_message_bytes, 100u);
    EXPECT_EQ(options.heartbeat_interval, 1s);
    for (const char* const wrong : {"soon", "-1", "1e99", "nan"}) {
        setenv("ANYSERVE_GRACE", wrong, 1);
        EXPECT_THROW(static_cast<void>(WorkerOptions::from_environment()), std::invalid_argument) << wrong;
    }
    for (const char* const name : {"ANYSERVE_MANAGEMENT", "ANYSERVE_GRACE", "ANYSERVE_MAX_MESSAGE_BYTES"})
        unsetenv(name);
}

}  // namespace
}  // namespace anyserve
