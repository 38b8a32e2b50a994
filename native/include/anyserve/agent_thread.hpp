// An agent on threads of its own, for programs that live on another one: a Python process, above all.
//
// Once it has started, every function may be called from any thread. What the agent has to tell comes by a queue
// (`NoticeQueue`), so its threads never wait for their owner. Knows nothing of Python.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <variant>
#include <vector>

#include "anyserve/agent.hpp"
#include "anyserve/config.hpp"
#include "anyserve/event_loop.hpp"
#include "anyserve/model_info.hpp"
#include "anyserve/notices.hpp"

namespace anyserve {

class AgentThread {
public:
    /// See `Agent`. Throws std::system_error when the system has no descriptors left.
    AgentThread(AgentConfig config, std::string instance_secret, std::string server_version);
    /// Closes everything at once and waits for the threads. In a process that was forked off it only lets go.
    ~AgentThread();
    AgentThread(const AgentThread&) = delete;
    AgentThread& operator=(const AgentThread&) = delete;

    struct Ports {
        std::uint16_t port;
        std::uint16_t management_port;
    };
    /// Starts the threads and returns when both ports listen, or with the reason why not. Once.
    [[nodiscard]] std::variant<Ports, StartError> start();

    [[nodiscard]] NoticeQueue& notices() noexcept { return notices_; }

    void expect_workers(std::vector<std::string> worker_ids);
    void expect_no_more(std::vector<std::string> worker_ids);
    void keep_worker(std::string place, std::optional<std::string> worker_id);
    void worker_ended(std::string worker_id, std::string reason);

    /// From now on loading and unloading of models is asked for by `LifecycleCall`.
    void serve_lifecycle();
    /// Answers one of them: whether workers were started or stopped, or what hindered it.
    void answer_lifecycle(std::uint64_t number, std::variant<bool, InferenceError> answer);

    /// From now on events come as notices.
    void watch();

    /// Waits for the thread's answer; nothing when it does not run.
    [[nodiscard]] std::optional<Snapshot> snapshot();

    /// Tells `AgentDrained` when the client side has ended (see `Agent::begin_stop`).
    void begin_stop(std::chrono::milliseconds grace);
    void hurry();
    /// Tells `AgentStopped`.
    void finish_stop();

private:
    class AskedLifecycle;

    void post(std::function<void(Agent&)> task);

    const pid_t process_;
    NoticeQueue notices_;
    std::vector<std::unique_ptr<EventLoop>> loops_;
    std::unique_ptr<AskedLifecycle> lifecycle_;
    std::unique_ptr<Agent> agent_;      // used on the first thread alone while that runs
    std::vector<std::thread> threads_;  // one for each loop, once they run
};

}  // namespace anyserve
