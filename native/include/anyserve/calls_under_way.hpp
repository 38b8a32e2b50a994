// The inference calls under way: counted, so that a drain knows when they have ended.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <unordered_set>

#include "anyserve/event_loop.hpp"

namespace anyserve {

/// All on the loop's thread.
class CallsUnderWay {
public:
    explicit CallsUnderWay(EventLoop& loop) noexcept : loop_(loop) {}
    CallsUnderWay(const CallsUnderWay&) = delete;
    CallsUnderWay& operator=(const CallsUnderWay&) = delete;

    /// A call; counts for as long as it lives.
    class Call {
    public:
        explicit Call(CallsUnderWay& all) noexcept : all_(all) { ++all_.count_; }
        Call(const Call&) = delete;
        Call& operator=(const Call&) = delete;

        /// The server drains. Told to those that asked for it, and only once; must not destroy a call.
        virtual void on_drain() {}

    protected:
        ~Call();
        /// From now on `on_drain` is called.
        void listen();

    private:
        CallsUnderWay& all_;
        bool listens_ = false;
    };

    [[nodiscard]] bool draining() const noexcept { return draining_; }

    /// Tells those that listen.
    void begin_drain();

    /// Calls `ended`, once and from the loop, when there is no call, after `grace` at the latest.
    void when_ended(std::chrono::milliseconds grace, std::function<void()> ended);

private:
    void end();
    void tell();

    EventLoop& loop_;
    std::size_t count_ = 0;
    bool draining_ = false;
    std::unordered_set<Call*> listening_;
    std::function<void()> ended_;  // while somebody waits for the end
    EventLoop::Timer grace_;
    EventLoop::Timer soon_;  // to tell from the loop
};

}  // namespace anyserve
