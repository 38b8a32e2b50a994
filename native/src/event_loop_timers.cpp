#include "anyserve/event_loop_timers.hpp"

#include <utility>

namespace anyserve {

struct TimerQueue::Node {
    enum class Place : std::uint8_t { nowhere, heap, due };

    TimerQueue* queue = nullptr;
    std::size_t index = 0;  // in `heap_` or `due_`
    Place place = Place::nowhere;
    std::function<void()> task;
};

TimerQueue::Timer::Timer() noexcept = default;
TimerQueue::Timer::Timer(std::unique_ptr<Node> node) noexcept : node_(std::move(node)) {}
TimerQueue::Timer::Timer(Timer&& other) noexcept = default;
TimerQueue::Timer::~Timer() { cancel(); }

TimerQueue::Timer& TimerQueue::Timer::operator=(Timer&& other) noexcept {
    if (this != &other) {
        cancel();
        node_ = std::move(other.node_);
    }
    return *this;
}

TimerQueue::Timer::operator bool() const noexcept { return node_ != nullptr && node_->place != Node::Place::nowhere; }

void TimerQueue::Timer::cancel() noexcept {
    if (*this) node_->queue->forget(*node_);
    // Out of the member first: what the task owns may, when it goes, come back to this very timer.
    const std::unique_ptr<Node> gone = std::move(node_);
}

TimerQueue::~TimerQueue() {
    for (const Entry& entry : heap_) entry.node->place = Node::Place::nowhere;
    for (Node* node : due_) {
        if (node != nullptr) node->place = Node::Place::nowhere;
    }
}

TimerQueue::Timer TimerQueue::add(Time when, std::function<void()> task) {
    auto node = std::make_unique<Node>();
    node->queue = this;
    node->task = std::move(task);
    heap_.push_back({when, next_number_++, node.get()});
    node->place = Node::Place::heap;
    rise(heap_.size() - 1);
    return Timer(std::move(node));
}

std::optional<TimerQueue::Time> TimerQueue::next() const noexcept {
    return heap_.empty() ? std::nullopt : std::optional(heap_.front().when);
}

void TimerQueue::fire(Time now) {
    if (heap_.empty() || heap_.front().when > now) return;
    due_.clear();
    while (!heap_.empty() && heap_.front().when <= now) {
        Node* node = heap_.front().node;
        erase(0);
        node->place = Node::Place::due;
        node->index = due_.size();
        due_.push_back(node);
    }
    for (Node*& slot : due_) {
        Node* node = std::exchange(slot, nullptr);
        if (node == nullptr) continue;
        node->place = Node::Place::nowhere;
        const auto task = std::move(node->task);  // the node may go while it runs
        task();
    }
}

void TimerQueue::forget(const Node& node) noexcept {
    if (node.place == Node::Place::heap) {
        erase(node.index);
    } else {
        due_[node.index] = nullptr;
    }
}

void TimerQueue::erase(std::size_t index) noexcept {
    const Entry last = heap_.back();
    heap_.pop_back();
    if (index == heap_.size()) return;
    put(index, last);
    rise(index);
    sink(last.node->index);
}

void TimerQueue::put(std::size_t index, const Entry& entry) noexcept {
    heap_[index] = entry;
    entry.node->index = index;
}

void TimerQueue::rise(std::size_t index) noexcept {
    const Entry entry = heap_[index];
    while (index > 0) {
        const std::size_t parent = (index - 1) / 2;
        if (!entry.before(heap_[parent])) break;
        put(index, heap_[parent]);
        index = parent;
    }
    put(index, entry);
}

void TimerQueue::sink(std::size_t index) noexcept {
    const Entry entry = heap_[index];
    while (2 * index + 1 < heap_.size()) {
        std::size_t child = 2 * index + 1;
        if (child + 1 < heap_.size() && heap_[child + 1].before(heap_[child])) ++child;
        if (!heap_[child].before(entry)) break;
        put(index, heap_[child]);
        index = child;
    }
    put(index, entry);
}

}  // namespace anyserve
