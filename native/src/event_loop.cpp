#include "anyserve/event_loop.hpp"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>
#include <span>
#include <system_error>

namespace anyserve {
namespace {

constexpr std::size_t kEventsAtOnce = 256;
constexpr std::uint64_t kWakeKey = std::numeric_limits<std::uint64_t>::max() >> 1;
constexpr std::uint64_t kFirst = std::uint64_t{1} << 63;
constexpr std::uint32_t kGenerations = 0x3fff'ffff;  // so that no key is `kWakeKey`

/// What the kernel keeps for us with a descriptor. The generation tells events that were found before the descriptor
/// was removed from those of a new one that got the same number within the turn.
std::uint64_t key_of(int fd, std::uint32_t generation, EventLoop::Order order) {
    const std::uint64_t first = order == EventLoop::Order::first ? kFirst : 0;
    return first | (std::uint64_t{generation} << 32) | static_cast<std::uint32_t>(fd);
}

Fd checked(int fd, const char* what) {
    if (fd < 0) throw std::system_error(errno, std::generic_category(), what);
    return Fd(fd);
}

}  // namespace

EventLoop::EventLoop()
    : epoll_(checked(epoll_create1(EPOLL_CLOEXEC), "epoll_create1")),
      wake_(checked(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd")),
      now_(Clock::now()) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = kWakeKey;
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) {
        throw std::system_error(errno, std::generic_category(), "epoll_ctl");
    }
}

EventLoop::~EventLoop() {
    // While everything is still there: what the tasks own may remove descriptors, cancel timers and defer once more.
    while (!posted_.empty() || !deferred_.empty()) {
        std::exchange(posted_, {}).clear();
        std::exchange(deferred_, {}).clear();
    }
}

void EventLoop::run() {
    thread_ = std::this_thread::get_id();
    do {
        turn(wait_milliseconds());
    } while (!stop_.exchange(false));
    thread_ = std::thread::id();
}

void EventLoop::poll() {
    thread_ = std::this_thread::get_id();
    do {
        turn(0);
    } while (!deferred_.empty());
    thread_ = std::thread::id();
}

void EventLoop::stop() noexcept {
    stop_ = true;
    wake();
}

void EventLoop::post(std::function<void()> task) {
    bool first = false;
    {
        const std::lock_guard lock(mutex_);
        first = posted_.empty();
        posted_.push_back(std::move(task));
    }
    if (first) wake();  // else whoever posted the first one does, or has
}

void EventLoop::run_soon(std::function<void()> task) {
    if (thread_.load(std::memory_order_relaxed) == std::this_thread::get_id()) return defer(std::move(task));
    post(std::move(task));
}

bool EventLoop::add(int fd, std::uint32_t events, Handler& handler, Order order) {
    const auto index = static_cast<std::size_t>(fd);
    if (fd >= 0 && index >= watches_.size()) watches_.resize(std::max(index + 1, watches_.size() * 2));
    epoll_event event{};
    event.events = events;
    const std::uint32_t generation = fd >= 0 ? (watches_[index].generation + 1) & kGenerations : 0;
    event.data.u64 = key_of(fd, generation, order);
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return false;
    watches_[index] = {&handler, generation, order};
    return true;
}

void EventLoop::modify(int fd, std::uint32_t events, Handler& handler) {
    Watch& watch = watches_.at(static_cast<std::size_t>(fd));
    watch.handler = &handler;
    epoll_event event{};
    event.events = events;
    event.data.u64 = key_of(fd, watch.generation, watch.order);
    epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);  // of a watched descriptor it cannot fail
}

void EventLoop::remove(int fd) noexcept {
    const auto index = static_cast<std::size_t>(fd);
    if (fd < 0 || index >= watches_.size() || watches_[index].handler == nullptr) return;
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
    watches_[index].handler = nullptr;
}

void EventLoop::turn(int milliseconds) {
    std::array<epoll_event, kEventsAtOnce> events;  // NOLINT(*-member-init): filled by the kernel
    int count = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), milliseconds);
    if (count < 0) {
        if (errno != EINTR) throw std::system_error(errno, std::generic_category(), "epoll_wait");
        count = 0;
    }
    now_ = Clock::now();
    const std::span found(events.data(), static_cast<std::size_t>(count));
    // What was posted came before whatever its poster has sent us since by a socket.
    if (std::ranges::any_of(found, [](const epoll_event& event) { return event.data.u64 == kWakeKey; })) run_posted();
    for (const std::uint64_t order : {kFirst, std::uint64_t{0}}) {
        for (const epoll_event& event : found) {
            if ((event.data.u64 & kFirst) == order) dispatch(event.data.u64 & ~kFirst, event.events);
        }
    }
    timers_.fire(now_);
    run_deferred();
}

void EventLoop::dispatch(std::uint64_t key, std::uint32_t events) {
    if (key == kWakeKey) return;
    const Watch& watch = watches_[key & 0xffffffffU];
    if (watch.handler != nullptr && watch.generation == key >> 32) watch.handler->ready(events);
}

void EventLoop::run_posted() {
    std::uint64_t count = 0;
    // Before the tasks are taken: what is posted behind that wakes the next turn.
    [[maybe_unused]] const ssize_t size = ::read(wake_.get(), &count, sizeof count);
    std::vector<std::function<void()>> tasks;
    {
        const std::lock_guard lock(mutex_);
        tasks.swap(posted_);
    }
    for (const auto& task : tasks) task();
}

void EventLoop::run_deferred() {
    if (deferred_.empty()) return;
    std::vector<std::function<void()>> tasks;
    tasks.swap(deferred_);
    for (const auto& task : tasks) task();
    tasks.clear();
    if (deferred_.empty()) deferred_.swap(tasks);  // keeps its memory for the next turn
}

void EventLoop::wake() noexcept {
    const std::uint64_t one = 1;
    // EAGAIN, the one failure there can be, says that it is more than awake.
    [[maybe_unused]] const ssize_t size = ::write(wake_.get(), &one, sizeof one);
}

int EventLoop::wait_milliseconds() const noexcept {
    if (!deferred_.empty()) return 0;
    const auto next = timers_.next();
    if (!next) return -1;
    // Rounded up: a turn before the time would only turn again.
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*next - Clock::now()).count();
    return static_cast<int>(std::clamp<std::int64_t>(left, 0, std::numeric_limits<int>::max()));
}

}  // namespace anyserve
