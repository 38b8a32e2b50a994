// What happens to registrations and to the agent, told to whoever watches (WatchEvents). Pure: the time is a parameter.
//
// Rules: spec `manage.event.*`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "anyserve/registry.hpp"

namespace anyserve {

/// Numbers of `Event.Type` in worker_management.proto.
enum class EventType : int {
    model_registered = 1,
    model_unregistered = 2,
    worker_lost = 3,
    worker_unregistered = 4,
    server_ready = 5,
    server_draining = 6,
};

/// One thing that happened.
struct Event {
    std::uint64_t sequence = 0;     ///< given by the log, from 1
    std::int64_t time_unix_ms = 0;  ///< since 1970 (UTC)
    EventType type{};
    std::string worker_id;
    RegistrationPtr registration;
    std::string message;
};

/// Shared by all who watch.
using EventPtr = std::shared_ptr<const Event>;

class EventLog;

/// What one watcher has to take. It may outlive the log, and leaves it when it is destroyed.
class Watcher {
public:
    static constexpr std::size_t kBuffer = 1024;  ///< events (`manage.event.slow`)

    struct Nothing {};  ///< for now: `wake` will be called
    struct Closed {};   ///< the agent stops; there will be no more
    struct TooSlow {};  ///< events were missed behind those that were taken; there will be no more
    using Taken = std::variant<Nothing, EventPtr, Closed, TooSlow>;

    /// Only the log makes watchers: see `EventLog::watch`.
    class Key {
        friend class EventLog;
        Key() = default;
    };
    Watcher(Key, EventLog& log, std::function<void()> wake) : log_(&log), wake_(std::move(wake)) {}
    Watcher(const Watcher&) = delete;
    Watcher& operator=(const Watcher&) = delete;
    ~Watcher();

    /// The next event, or why there is none. Behind the last event it says so again and again.
    [[nodiscard]] Taken take();

private:
    friend class EventLog;
    enum class State { open, closed, too_slow };

    void put(const EventPtr& event);
    void end(State state);
    void woken();

    EventLog* log_;  // null when it gets no more
    std::function<void()> wake_;
    std::deque<EventPtr> events_;
    State state_ = State::open;
    bool wanted_ = false;  // somebody found nothing and has not been woken since
};

/// The limit on watchers is reached; the message names it.
struct TooManyWatchers {
    std::string message;
};

/// Numbers events and hands them to the watchers, none of which can hold up the agent (`manage.event.no-hold`).
class EventLog {
public:
    /// Args:
    ///   max_watchers: how many may watch at once (`manage.event.max-watchers`).
    explicit EventLog(std::size_t max_watchers) noexcept : max_watchers_(max_watchers) {}
    ~EventLog();
    EventLog(const EventLog&) = delete;
    EventLog& operator=(const EventLog&) = delete;

    /// Tells an event to every watcher; its sequence is set here.
    void publish(Event event);

    /// Ends what the watchers get, behind the events that they have not taken yet.
    void close();

    /// The number of the last event.
    std::uint64_t sequence() const noexcept { return sequence_; }

    /// The events from now on.
    ///
    /// Args:
    ///   wake: called, after `Watcher::take` has found nothing, when there is something, and from within `publish` or
    ///     `close`: it must not call the log or destroy a watcher, but see to it that somebody takes later.
    [[nodiscard]] std::variant<std::unique_ptr<Watcher>, TooManyWatchers> watch(std::function<void()> wake);

private:
    friend class Watcher;

    std::size_t max_watchers_;
    std::vector<Watcher*> watchers_;
    std::uint64_t sequence_ = 0;
    bool closed_ = false;
};

}  // namespace anyserve
