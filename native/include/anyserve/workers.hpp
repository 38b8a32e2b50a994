// The workers that an agent knows: registrations, connections, heartbeats, losses.
//
// One place where a worker comes, is replaced and goes, so that registry, admission, connections and events never
// disagree. Rules: spec `manage.*`, `lifecycle.crash.*`. Mirrors reference/anyserve/agent/workers.py.
#pragma once

#include <cstddef>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "anyserve/absent.hpp"
#include "anyserve/config.hpp"
#include "anyserve/event_loop.hpp"
#include "anyserve/events.hpp"
#include "anyserve/log.hpp"
#include "anyserve/queues.hpp"
#include "anyserve/registry.hpp"
#include "anyserve/worker_client.hpp"

namespace anyserve {

/// So many protocol violations in a row, and a worker is dropped (`frame.violation.limit`).
inline constexpr int kViolationLimit = 3;
/// Of so many ended processes the agent knows that a registration in their name comes too late.
inline constexpr std::size_t kEndedRemembered = 1024;

/// The process that registers has ended: what it has sent came too late (`lifecycle.crash.late`).
struct WorkerEnded {
    std::string message;
};

/// One registered worker.
struct KnownWorker {
    std::string worker_id;
    std::shared_ptr<WorkerClient> client;
    std::optional<EventLoop::Clock::time_point> last_heartbeat;  ///< nothing: it never sent one
    int violations = 0;                                          ///< in a row
};

/// All workers of one agent; every change of the registry goes through here. On the loop's thread. Must outlive the
/// exchanges of its clients: they tell it of violations.
class Workers {
public:
    Workers(EventLoop& loop, const AgentConfig& config, Registry& registry, Admission& admission, EventLog& events,
            Log log);
    ~Workers();
    Workers(const Workers&) = delete;
    Workers& operator=(const Workers&) = delete;

    /// In the order in which they came.
    [[nodiscard]] std::vector<const KnownWorker*> all() const;

    /// Whether every worker that this instance launched has registered once (`serving.ready.workers`).
    [[nodiscard]] bool all_launched_registered() const noexcept { return launched_waiting_.empty(); }
    /// Called each time when that has become true. It must not change the workers.
    std::function<void()> on_all_launched_registered;

    /// Makes readiness wait for the first heartbeat of these workers; and no longer.
    void expect(std::span<const std::string> worker_ids);
    void expect_no_more(std::span<const std::string> worker_ids);

    /// The instance keeps a worker running at a place, and now it is this one; nothing: it does so no longer.
    void keep(std::string_view place, std::optional<std::string_view> worker_id);
    /// Whether a kept worker that is not there would serve it (`lifecycle.crash.unavailable`).
    [[nodiscard]] bool expected_to_serve(const Target& target) { return absent_.serves(target); }

    /// The connections to a worker; null if it has gone.
    [[nodiscard]] std::shared_ptr<WorkerClient> client(std::string_view worker_id) const noexcept;

    struct Registered {};
    /// Adds or replaces a registration; after the other answers nothing has changed.
    [[nodiscard]] std::variant<Registered, RegistryFull, WorkerEnded> add(RegistrationPtr registration);
    /// Removes what a worker registered under a name and version; false if there was nothing.
    bool unregister_model(std::string_view worker_id, std::string_view model_name, std::string_view model_version);
    /// A worker takes its leave: exchanges under way go on, no more are sent; false if it was unknown.
    bool unregister_worker(std::string_view worker_id);

    /// A worker is lost: its exchanges fail, requests that wait go to what is left.
    void drop(std::string_view worker_id, std::string_view reason);
    /// A worker's process has ended: it is lost, but replies that it had sent still count (`lifecycle.crash.*`).
    void ended(std::string_view worker_id, std::string_view reason);
    /// Keeps a worker alive; false asks it to register again.
    bool heartbeat(std::string_view worker_id);
    /// No connection could be made: a worker that refuses them and never sent a heartbeat is dropped.
    void unreachable(std::string_view worker_id, const Failure& failure);
    /// An exchange went by the rules: violations are no longer in a row.
    void succeeded(std::string_view worker_id) noexcept;
    /// Drops the workers whose heartbeats have stopped.
    void sweep();
    /// Closes the connections to all workers.
    void close();

private:
    [[nodiscard]] KnownWorker* find(std::string_view worker_id) const noexcept;
    void came(std::string_view worker_id);
    void lose(std::string_view worker_id, std::string_view reason, void (WorkerClient::*end)());
    void violated(const std::string& worker_id, const Failure& violation);
    [[nodiscard]] std::shared_ptr<WorkerClient> new_client(const Registration& registration);
    void removed(std::string_view worker_id, std::span<const RegistrationPtr> registrations);
    void changed(std::string_view worker_id);
    void forget(std::string_view worker_id);
    void publish(EventType type, std::string_view worker_id, RegistrationPtr registration, std::string_view message);
    void say(LogLevel level, std::string_view message,
             std::vector<std::pair<std::string_view, std::string>> fields) const;

    EventLoop& loop_;
    const AgentConfig& config_;
    SendBatch sends_;  // of all clients
    Registry& registry_;
    Admission& admission_;
    EventLog& events_;
    Log log_;
    std::list<KnownWorker> known_;                                                // in the order in which they came
    std::map<std::string, std::list<KnownWorker>::iterator, std::less<>> by_id_;  // the same
    std::set<std::string, std::less<>> launched_waiting_;
    Absent absent_;
    std::set<std::string, std::less<>> ended_;
    std::list<std::string> ended_order_;  // the latest last
};

}  // namespace anyserve
