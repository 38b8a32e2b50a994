// When a handler may begin, and on which thread.
//
// Threads that run handlers take turns at the event loop (the pattern is known as leader and followers): whoever waits
// for a request runs the loop, leaves it with the request that it finds, runs the handler, and comes back with the
// reply. So a request that is served quickly needs no other thread, and no wake-up. If its handler takes long somebody
// else must run the loop meanwhile: at once where the handler is known to be slow, else as soon as it shows.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "anyserve/event_loop.hpp"
#include "handler_table.hpp"
#include "worker_server.hpp"

namespace anyserve {

/// A handler is slow when it takes longer on average: another thread is woken to run the loop, which costs about a
/// tenth of that.
inline constexpr std::chrono::microseconds kSlowHandler{100};
/// After so long in one handler, whatever it is, another thread runs the loop.
inline constexpr std::chrono::milliseconds kPatience{1};
/// Replies wait so long for those of the next handlers, to be sent together; and no more of them.
inline constexpr std::chrono::microseconds kHoldReplies{100};
inline constexpr std::size_t kMostHeldReplies = 32;

/// Admits requests to the places of their handlers, and runs the loop. Any thread, but for the constructor.
class HandlerThreads final : private WorkerSink {
public:
    /// `events` gets the requests whose handlers do not run in these threads, once they may begin, and all that a
    /// `WorkerSink` is told beside: on the loop's thread, or by `ended`.
    HandlerThreads(EventLoop& loop, std::vector<Served> served, WorkerSink& events,
                   const WorkerServerOptions& options = {});
    ~HandlerThreads();
    HandlerThreads(const HandlerThreads&) = delete;
    HandlerThreads& operator=(const HandlerThreads&) = delete;

    struct Taken {
        WorkerExchangePtr exchange;  ///< null: closed
        bool start_thread = false;   ///< nobody waits behind this thread: start another one
    };
    /// Sends what the thread has replied, and waits for the next request.
    [[nodiscard]] Taken take();
    /// The same where it takes no waiting and no system call; nothing otherwise.
    [[nodiscard]] std::optional<Taken> try_take();
    /// There is no thread for `Taken::start_thread`: the next `take` asks again.
    void thread_not_started();
    /// The handler has ended, with its reply or without: its place is free. Once for each request that was given.
    void ended(const WorkerExchangePtr& exchange);

    /// Where no handler runs in threads: one turn of the loop, without waiting. Always by the same thread.
    void poll();
    [[nodiscard]] EventLoop& loop() noexcept { return loop_; }

    void listen(Fd listener);
    void share_memory(bool agreed) noexcept { server_.share_memory(agreed); }
    void drain();
    /// Closes all connections. Threads that wait end with null, others when they come back.
    void close();

private:
    struct Handlers {
        std::size_t free = 0;
        std::deque<WorkerExchangePtr> waiting;     // for a place
        EventLoop::Clock::duration usual_time{0};  // of one call: a running mean
    };
    using Lock = std::unique_lock<std::mutex>;

    // WorkerSink
    void on_request(WorkerExchangePtr exchange) override;
    void on_cancelled(const WorkerExchangePtr& exchange) override;
    void on_writable(const WorkerExchangePtr& exchange) override { events_.on_writable(exchange); }
    void on_drained() override { events_.on_drained(); }
    void on_refused(const std::string& reason) override { events_.on_refused(reason); }

    [[nodiscard]] bool admit(const WorkerExchangePtr& exchange);
    [[nodiscard]] WorkerExchangePtr free_place(std::size_t served);
    void drop_cancelled();
    [[nodiscard]] Taken pop(EventLoop::Clock::time_point now);
    [[nodiscard]] bool flush_due(EventLoop::Clock::time_point now);
    void lead(Lock& lock) noexcept;
    void follow(Lock& lock);
    void leave_vacant(const Handlers& for_these);
    void promote();
    void watch();
    void on_loop(std::function<void()> task);

    EventLoop& loop_;
    const HandlerTable table_;
    WorkerSink& events_;
    WorkerServer server_;
    std::size_t most_threads_;

    std::mutex mutex_;  // guards what follows; never held over a call of a sink
    std::vector<Handlers> handlers_;
    std::deque<WorkerExchangePtr> ready_;  // each in a place
    bool leader_ = false;                  // somebody runs the loop
    std::size_t threads_ = 1;
    std::size_t followers_ = 0;  // wait on `follow_`
    std::size_t promoted_ = 0;   // of those, may go on
    std::condition_variable follow_;
    EventLoop::Clock::time_point held_since_{};
    bool closed_ = false;

    // Watches that the loop is not left alone.
    std::uint64_t vacancies_ = 0;
    bool watching_ = false;
    std::condition_variable watch_;
    std::thread watcher_;
};

}  // namespace anyserve
