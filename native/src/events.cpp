#include "anyserve/events.hpp"

#include <algorithm>
#include <utility>

namespace anyserve {

Watcher::~Watcher() {
    if (log_ != nullptr) std::erase(log_->watchers_, this);
}

Watcher::Taken Watcher::take() {
    if (!events_.empty()) {
        EventPtr event = std::move(events_.front());
        events_.pop_front();
        return event;
    }
    switch (state_) {
        case State::closed: return Closed{};
        case State::too_slow: return TooSlow{};
        case State::open: break;
    }
    wanted_ = true;
    return Nothing{};
}

void Watcher::put(const EventPtr& event) {
    if (events_.size() >= kBuffer) return end(State::too_slow);
    events_.push_back(event);
    woken();
}

void Watcher::end(State state) {
    state_ = state;
    log_ = nullptr;
    woken();
}

void Watcher::woken() {
    if (std::exchange(wanted_, false)) wake_();
}

EventLog::~EventLog() { close(); }

void EventLog::publish(Event event) {
    event.sequence = ++sequence_;
    const auto shared = std::make_shared<const Event>(std::move(event));
    for (Watcher* watcher : watchers_) watcher->put(shared);
    std::erase_if(watchers_, [](const Watcher* watcher) { return watcher->log_ == nullptr; });
}

void EventLog::close() {
    closed_ = true;
    for (Watcher* watcher : std::exchange(watchers_, {})) watcher->end(Watcher::State::closed);
}

std::variant<std::unique_ptr<Watcher>, TooManyWatchers> EventLog::watch(std::function<void()> wake) {
    if (watchers_.size() >= max_watchers_) {
        return TooManyWatchers{std::to_string(max_watchers_) + " watchers are there already (--max-watchers)"};
    }
    auto watcher = std::make_unique<Watcher>(Watcher::Key(), *this, std::move(wake));
    if (closed_) {
        watcher->end(Watcher::State::closed);
    } else {
        watchers_.push_back(watcher.get());
    }
    return watcher;
}

}  // namespace anyserve
