// A worker in C++: serves capabilities to an agent on this machine.
//
//     #include <anyserve/worker.hpp>
//
//     int main() {
//         anyserve::Worker worker(anyserve::WorkerOptions::from_environment());
//         worker.serve({{"type", "double"}}, [](const anyserve::Request& request, anyserve::Reply& reply) {
//             const auto in = request.tensor("x").values<float>();
//             const auto out = reply.add<float>("y", {static_cast<std::int64_t>(in.size())});
//             std::ranges::transform(in, out.begin(), [](float x) { return 2 * x; });
//         });
//         return worker.run();
//     }
//
// The library registers the worker, sends heartbeats, runs handlers in threads, and on SIGTERM takes leave of the agent
// and ends what is under way. It does what docs/spec says of a worker.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "anyserve/exchange.hpp"
#include "anyserve/log.hpp"

namespace anyserve::inline v1 {

/// What a worker is told by whoever starts it. Names and defaults are those of `python -m anyserve.worker`.
struct ANYSERVE_WORKER_API WorkerOptions {
    std::string worker_id;                      ///< `[A-Za-z0-9_.-]{1,64}`; empty: made up
    std::string socket_dir;                     ///< private to this user; empty: $XDG_RUNTIME_DIR/anyserve, or
                                                ///< /tmp/anyserve-UID
    std::string management = "127.0.0.1:9000";  ///< the agent's management port
    std::string management_token;               ///< for `authorization: Bearer`; empty: none
    std::size_t max_message_bytes = std::size_t{64} << 20;  ///< the greatest request or reply
    std::chrono::milliseconds heartbeat_interval{1'000};
    std::chrono::milliseconds orphan_timeout{30'000};  ///< to live without an agent
    std::chrono::milliseconds grace{30'000};           ///< for requests under way at the end
    bool handle_signals = true;                        ///< `run` ends on SIGTERM, and on SIGINT unless it is ignored
    Log log;  ///< called on any thread, must neither block nor throw; empty: lines to standard error

    /// Takes what is set of ANYSERVE_WORKER_ID, ANYSERVE_SOCKET_DIR, ANYSERVE_MANAGEMENT, ANYSERVE_MANAGEMENT_TOKEN,
    /// ANYSERVE_MAX_MESSAGE_BYTES, ANYSERVE_HEARTBEAT_INTERVAL, ANYSERVE_ORPHAN_TIMEOUT and ANYSERVE_GRACE; times are
    /// in seconds.
    ///
    /// Throws std::invalid_argument: one of them is not what it should be.
    [[nodiscard]] static WorkerOptions from_environment();
};

/// What a worker says of a capability beside it.
struct CapabilityOptions {
    std::string model_name;              ///< empty: the value of `model`, or else of `type`
    std::string model_version;           ///< empty: the value of `version`, if there is one
    std::uint32_t max_concurrency = 10;  ///< requests at once, each in a thread; 1 to 1,024
    std::int32_t priority = 0;           ///< among equal matches, higher first
    std::vector<TensorSpec> inputs;      ///< for ModelMetadata
    std::vector<TensorSpec> outputs;     ///< for ModelMetadata
    std::string platform;                ///< free text for ModelMetadata
};

/// One worker of an agent.
class ANYSERVE_WORKER_API Worker {
public:
    /// Fills the reply. Throws InferenceError to fail with its code and message; any other exception is INTERNAL with
    /// what it says. Called in several threads at once.
    using Handler = std::function<void(const Request&, Reply&)>;
    /// Sends any number of replies; what it throws is told behind them.
    using StreamHandler = std::function<void(const Request&, Stream&)>;

    /// Throws std::invalid_argument: an option is out of its range.
    explicit Worker(WorkerOptions options = {});
    ~Worker();
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

    /// Declares what the worker serves, before `run`: keys and values, all of them texts.
    ///
    /// Throws std::invalid_argument: the capability breaks the rules or is declared already, or an option is out of its
    /// range.
    void serve(const std::map<std::string, std::string>& capability, Handler handler, CapabilityOptions options = {});
    void serve_stream(const std::map<std::string, std::string>& capability, StreamHandler handler,
                      CapabilityOptions options = {});

    /// Serves until it is told to stop, once. Returns the process's exit status: 0 after SIGTERM, `stop`, or when no
    /// agent answers for `orphan_timeout`; 1 when it cannot begin, or the agent refuses it, which the log tells.
    ///
    /// A handler that still runs five seconds after its exchange was cut off, at the end of `grace`, ends with the
    /// process: `run` ends it then.
    [[nodiscard]] int run();
    /// Has `run` take leave of the agent, end what is under way, and return. Any thread, also before `run`.
    void stop() noexcept;

private:
    struct Parts;
    std::unique_ptr<Parts> parts_;
};

}  // namespace anyserve::inline v1
