// One thread's events: descriptors, timers, tasks from other threads. Knows nothing of what they are about.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "anyserve/event_loop_timers.hpp"
#include "anyserve/fd.hpp"

namespace anyserve {

/// An epoll loop. Everything but `post` and `stop` belongs to the one thread that calls `run` or `poll`. Threads may
/// take turns at that, where something orders one before the other.
///
/// A turn waits, runs the tasks that were posted, tells handlers what their descriptors are ready for, then runs the
/// timers that are due, then what was deferred. Handlers and tasks may add and remove any descriptor, their own
/// included, and must not throw.
class EventLoop {
public:
    /// Whoever is told about a descriptor. Not owned: `remove` comes before its end.
    class Handler {
    public:
        /// `events` as of epoll_wait(2). EPOLLHUP and EPOLLERR come unasked, and at each turn until the descriptor is
        /// removed: a handler that cannot act on them now must remove it.
        virtual void ready(std::uint32_t events) = 0;

    protected:
        ~Handler() = default;
    };

    /// Whose events are told first among those that one turn finds.
    enum class Order : std::uint8_t { first, then };

    using Clock = std::chrono::steady_clock;
    using Timer = TimerQueue::Timer;

    /// Throws std::system_error when the kernel has no descriptors left.
    EventLoop();
    /// Tasks that have not run are destroyed without being run; timers that are still held become idle.
    ~EventLoop();
    EventLoop(const EventLoop&) = delete;
    EventLoop& operator=(const EventLoop&) = delete;

    /// Turns until `stop`. May be called again after that. Throws std::system_error if the kernel does not know this
    /// loop's epoll descriptor any more, which is a bug of ours.
    void run();

    /// Ends `run` after the turn under way; without one, the next `run` after its first turn. Any thread.
    void stop() noexcept;

    /// The same from inside a turn, which needs nobody to be woken.
    void stop_after_turn() noexcept { stop_ = true; }

    /// One turn that does not wait. For those who wait for `descriptor` elsewhere, and for `next_timer`.
    void poll();

    /// Readable when a turn has something to do, but for timers and what is deferred. Owned by the loop.
    [[nodiscard]] int descriptor() const noexcept { return epoll_.get(); }

    /// When the first timer is due.
    [[nodiscard]] std::optional<Clock::time_point> next_timer() const noexcept { return timers_.next(); }

    /// Runs a task in one of the next turns, in the order of the calls. Any thread.
    void post(std::function<void()> task);

    /// Runs a task after what is on the stack now: at the end of this turn if called on the loop's thread (`defer`),
    /// else in one of the next turns (`post`). Any thread.
    void run_soon(std::function<void()> task);

    /// Watches a descriptor, by level unless EPOLLET is among the events. False: the kernel will not (too many
    /// watches, no memory, a plain file, watched already), and the handler is not called.
    bool add(int fd, std::uint32_t events, Handler& handler, Order order = Order::then);
    /// Changes what a watched descriptor is watched for, and who is told.
    void modify(int fd, std::uint32_t events, Handler& handler);
    /// No call of its handler comes after this, also not for what this turn has already found. To be called before the
    /// descriptor is closed; without effect on one that is not watched.
    void remove(int fd) noexcept;

    /// The time at which this turn's waiting ended.
    [[nodiscard]] Clock::time_point now() const noexcept { return now_; }

    /// Runs a task when `when` has come: never earlier, and with an idle loop at most about a millisecond later. What
    /// is due already runs in this turn or the next one, never inside this call.
    [[nodiscard]] Timer at(Clock::time_point when, std::function<void()> task) {
        return timers_.add(when, std::move(task));
    }

    /// Runs a task at the end of this turn. What such a task defers runs at the end of the next one, which then does
    /// not wait: nothing can keep the loop from its descriptors.
    void defer(std::function<void()> task) { deferred_.push_back(std::move(task)); }

private:
    struct Watch {
        Handler* handler = nullptr;    // null: not watched
        std::uint32_t generation = 0;  // tells an event of an earlier descriptor with this number
        Order order = Order::then;
    };

    void turn(int milliseconds);
    void dispatch(std::uint64_t key, std::uint32_t events);
    void run_posted();
    void run_deferred();
    void wake() noexcept;
    [[nodiscard]] int wait_milliseconds() const noexcept;

    Fd epoll_;
    Fd wake_;
    std::vector<Watch> watches_;  // by descriptor
    TimerQueue timers_;
    std::vector<std::function<void()>> deferred_;
    Clock::time_point now_;
    std::atomic<bool> stop_{false};
    std::atomic<std::thread::id> thread_;  // that runs it; none between runs
    std::mutex mutex_;                     // guards posted_
    std::vector<std::function<void()>> posted_;
};

}  // namespace anyserve
