// Which timer fires when. Pure: time is a parameter.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

namespace anyserve {

/// Tasks by the time at which they are due; a binary heap, so that setting and cancelling take O(log n).
/// Not thread-safe.
class TimerQueue {
    struct Node;

public:
    using Time = std::chrono::steady_clock::time_point;

    /// One task that waits. Destroying or overwriting it cancels, also inside of that very task or of another one that
    /// is due at the same time. May outlive the queue.
    class Timer {
    public:
        Timer() noexcept;
        ~Timer();
        Timer(Timer&& other) noexcept;
        Timer& operator=(Timer&& other) noexcept;
        Timer(const Timer&) = delete;
        Timer& operator=(const Timer&) = delete;

        /// Whether it has still to fire.
        [[nodiscard]] explicit operator bool() const noexcept;

    private:
        friend class TimerQueue;
        explicit Timer(std::unique_ptr<Node> node) noexcept;
        void cancel() noexcept;

        std::unique_ptr<Node> node_;
    };

    TimerQueue() = default;
    ~TimerQueue();
    TimerQueue(const TimerQueue&) = delete;
    TimerQueue& operator=(const TimerQueue&) = delete;

    [[nodiscard]] Timer add(Time when, std::function<void()> task);
    /// When the next one is due.
    [[nodiscard]] std::optional<Time> next() const noexcept;
    [[nodiscard]] std::size_t size() const noexcept { return heap_.size(); }

    /// Runs what is due, the earliest first and those of one time in the order in which they were set. What the tasks
    /// set in the meantime waits for the next call, also if it is due already: nothing can keep the loop here.
    void fire(Time now);

private:
    struct Entry {
        Time when;
        std::uint64_t number;  // in the order of `add`
        Node* node;

        bool before(const Entry& other) const noexcept {
            return when != other.when ? when < other.when : number < other.number;
        }
    };

    void put(std::size_t index, const Entry& entry) noexcept;
    void rise(std::size_t index) noexcept;
    void sink(std::size_t index) noexcept;
    void erase(std::size_t index) noexcept;
    void forget(const Node& node) noexcept;

    std::vector<Entry> heap_;
    std::vector<Node*> due_;  // of the `fire` under way; null: has run, or was cancelled
    std::uint64_t next_number_ = 0;
};

}  // namespace anyserve
