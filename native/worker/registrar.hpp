// Keeps a worker registered: registers all that it serves, sends heartbeats, registers again when the agent does not
// know it, and takes its leave. Mirrors reference/anyserve/worker/registration.py. Knows of the network only how to
// call.
//
// Rules: spec `lifecycle.worker.*`, `manage.*`.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "anyserve/event_loop.hpp"
#include "anyserve/log.hpp"
#include "grpc_client_session.hpp"

namespace anyserve {

/// What a registrar tells the agent.
struct RegistrarOptions {
    std::string worker_id;
    std::vector<std::string> registrations;  ///< RegisterModelRequests, serialized
    std::vector<std::string> model_names;    ///< of those
    std::chrono::milliseconds interval;      ///< between heartbeats
    std::chrono::milliseconds orphan_timeout;
    /// Whether requests by reference to shared memory are to be taken; called before any can come.
    std::function<void(bool agreed)> share_memory;
};

/// Everything on the loop's thread. One call at a time is under way, so that nothing can follow the leave
/// (`lifecycle.worker.silent`).
class Registrar {
public:
    /// Makes one call of the management service, as `ManagementChannel::call` does.
    using Call = std::function<void(std::string_view method, std::string_view request, std::chrono::milliseconds limit,
                                    CallDone done)>;

    /// Why a worker is to end.
    enum class Reason {
        refused,   ///< the agent does not want it: trying again would not help (`lifecycle.worker.refused`)
        orphaned,  ///< no agent has answered for `orphan_timeout` (`lifecycle.worker.orphan`)
    };

    /// How long the agent may take over a call, and over the leave with what is under way before it.
    static constexpr std::chrono::milliseconds kCallLimit{5'000};
    /// The longest wait before a worker that is not registered tries again (`lifecycle.worker.retry`).
    static constexpr std::chrono::milliseconds kMostRetry{1'000};

    /// Args:
    ///   ended: called at most once, and not after `leave`; what remains to be done then is to leave.
    Registrar(EventLoop& loop, Call call, RegistrarOptions options, std::function<void(Reason, std::string)> ended,
              Log log);
    ~Registrar();
    Registrar(const Registrar&) = delete;
    Registrar& operator=(const Registrar&) = delete;

    /// Registers, and sends heartbeats from then on.
    void start();
    /// Takes leave of the agent, so that it sends no more requests, and then calls `left`, also when the agent does not
    /// answer. Once.
    void leave(std::function<void()> left);

private:
    void beat();
    void register_next(std::size_t index);
    void heartbeat();
    void answered(bool healthy);
    void failed(const CallResult& result);
    void refuse(std::string message);
    void end(Reason reason, std::string message);
    void pause();
    void unregister();
    void call(std::string_view method, std::string_view request, std::function<void(CallResult)> done);
    void log(LogLevel level, std::string_view message, std::string reason) const;

    EventLoop& loop_;
    Call call_;
    RegistrarOptions options_;
    std::function<void(Reason, std::string)> ended_;
    Log log_;
    std::string heartbeat_;  // the request
    EventLoop::Clock::time_point heard_{};
    EventLoop::Timer timer_;      // for the next beat, or for the end of a leave
    std::function<void()> left_;  // once it is leaving
    bool healthy_ = false;
    bool agreed_ = false;  // on shared memory
    bool calling_ = false;
    bool over_ = false;            // it is to end, or it leaves
    std::shared_ptr<bool> alive_;  // for what calls may still tell: whether there is a registrar
};

}  // namespace anyserve
