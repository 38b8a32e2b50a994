// The agent: owns the parts, starts and stops them. Mirrors reference/anyserve/agent/agent.py.
//
// One thread's loop serves workers and operators, and it is the one to call from: others do so by `EventLoop::post`.
// Each I/O thread has a loop that serves its clients and talks to workers; the first of them is that same one. What the
// threads share is in `SharedState`.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "anyserve/config.hpp"
#include "anyserve/event_loop.hpp"
#include "anyserve/events.hpp"
#include "anyserve/log.hpp"
#include "anyserve/model_info.hpp"
#include "anyserve/registry.hpp"

namespace anyserve {

/// What there is now.
struct Snapshot {
    struct Worker {
        std::string worker_id;
        std::size_t in_flight;
        std::size_t connections;
        std::vector<std::string> models;
    };
    bool ready;
    std::vector<Worker> workers;
    std::size_t registrations;
    std::size_t waiting;
    std::vector<std::pair<std::string, std::size_t>> queues;  ///< for people: the models of a queue, how many wait
};

/// Why an agent cannot start, for people.
struct StartError {
    bool tls;             ///< a file of TLS cannot be used; else an address cannot be listened on
    std::string message;  ///< names the file or the address
};

/// One agent: the client port, the management port and all between them.
class Agent {
public:
    /// Args:
    ///   loops: of the I/O threads, at least one. They must outlive the agent, and all but the first are to have
    ///   stopped
    ///     when it is destroyed.
    ///   instance_secret: told to the workers that this instance starts: their calls are let in while it drains.
    ///   server_version: what ServerMetadata tells.
    Agent(std::span<EventLoop* const> loops, AgentConfig config, std::string instance_secret,
          std::string server_version, Log log);
    ~Agent();
    Agent(const Agent&) = delete;
    Agent& operator=(const Agent&) = delete;

    /// Listens on both ports.
    [[nodiscard]] std::optional<StartError> start();
    [[nodiscard]] std::uint16_t port() const noexcept;
    [[nodiscard]] std::uint16_t management_port() const noexcept;

    /// What ServerReady answers (`serving.ready`).
    [[nodiscard]] bool ready() const noexcept;
    /// Calls `told` once, when `ready` has become true. It must not call the agent.
    void set_on_ready(std::function<void()> told);

    void expect_workers(std::span<const std::string> worker_ids);
    void expect_no_more(std::span<const std::string> worker_ids);
    void keep_worker(std::string_view place, std::optional<std::string_view> worker_id);
    void worker_ended(std::string_view worker_id, std::string_view reason);
    /// Not owned.
    void set_lifecycle(Lifecycle* lifecycle);
    /// Tells the events from now on; nothing if there are too many watchers already, or from a second call on.
    void watch(std::function<void(EventPtr)> told);
    [[nodiscard]] Snapshot snapshot() const;

    /// Drains (`lifecycle.drain`): no new calls, those under way have `grace`. Calls `drained` when the client side has
    /// ended; workers can still take their leave at the management port until `finish_stop`.
    void begin_stop(std::chrono::milliseconds grace, std::function<void()> drained);
    /// Cuts the drain short: calls under way are cancelled now.
    void hurry();
    /// Ends the management side and the connections to workers; calls `stopped` when that is done.
    void finish_stop(std::function<void()> stopped);

private:
    struct Parts;
    std::unique_ptr<Parts> parts_;
};

}  // namespace anyserve
