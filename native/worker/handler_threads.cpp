#include "handler_threads.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "anyserve/code.hpp"
#include "anyserve/wire.hpp"
#include "failures.hpp"

namespace anyserve {
namespace {

constexpr int kQuietTicks = 20;  // of `kPatience`, with somebody at the loop: then the watcher sleeps
constexpr int kMeanOf = 8;       // calls, about

/// A unary failure reply (`frame.error.code`): also where a stream was meant, since nobody knows.
ReplyFrame unserved(const MessageHead& head) {
    const Parameter* chosen = head.parameter(wire::kCapability);
    const auto* capability = chosen != nullptr ? std::get_if<std::string_view>(chosen) : nullptr;
    const std::string name(capability != nullptr && !capability->empty() ? *capability : head.model_name);
    return failure_frame({Code::not_found, "this worker does not serve '" + name + "'"});
}

/// Reads the head of a request that may be in two pieces, each of whole fields as a rule.
Malformed read_head(WorkerExchange& exchange) {
    const RequestPayload& request = *exchange.request();
    MessageHead& head = exchange.notes.head;
    Malformed malformed = scan_message(request.bytes(), kRequestFields, head);
    if (request.shared() == nullptr) return malformed;
    if (!malformed) malformed = scan_message(request.rest(), kRequestFields, head);
    if (!malformed) return malformed;
    exchange.join();
    head = {};
    return scan_message(exchange.request()->bytes(), kRequestFields, head);
}

std::size_t most_threads(const std::vector<Served>& served) {
    std::size_t places = 0;
    for (const Served& each : served) places += each.in_threads ? each.places : 0;
    return places + 1;  // one to run the loop when all places are taken
}

}  // namespace

HandlerThreads::HandlerThreads(EventLoop& loop, std::vector<Served> served, WorkerSink& events,
                               const WorkerServerOptions& options)
    : loop_(loop),
      table_(served),
      events_(events),
      server_(loop, *this, options),
      most_threads_(most_threads(served)),
      handlers_(served.size()) {
    for (std::size_t number = 0; number < served.size(); ++number) handlers_[number].free = served[number].places;
    if (most_threads_ > 1) watcher_ = std::thread([this] { watch(); });
}

HandlerThreads::~HandlerThreads() {
    {
        const Lock lock(mutex_);
        closed_ = true;
    }
    watch_.notify_all();
    if (watcher_.joinable()) watcher_.join();
    server_.close();  // while all is there that it tells us
}

void HandlerThreads::on_request(WorkerExchangePtr exchange) {
    WorkerExchange::Notes& notes = exchange->notes;
    if (const Malformed malformed = read_head(*exchange)) {
        events_.on_refused(malformed.message);  // no form of reply is known
        return exchange->refuse();
    }
    const auto served = table_.find(notes.head);
    if (!served) {
        exchange->send(unserved(notes.head), true);
        return;
    }
    notes.served = *served;
    notes.arrived = loop_.now();
    if (!admit(exchange)) return;
    if (!table_[*served].in_threads) return events_.on_request(std::move(exchange));
    loop_.stop_after_turn();
}

/// Whether there is a place for it; else it waits for one.
bool HandlerThreads::admit(const WorkerExchangePtr& exchange) {
    const Lock lock(mutex_);
    Handlers& handlers = handlers_[exchange->notes.served];
    if (handlers.free == 0) {
        handlers.waiting.push_back(exchange);
        return false;
    }
    --handlers.free;
    exchange->notes.in_place = true;
    if (table_[exchange->notes.served].in_threads) ready_.push_back(exchange);
    return true;
}

void HandlerThreads::on_cancelled(const WorkerExchangePtr& exchange) {
    {
        // Its request's bytes go now, not when the handlers end that it waits for, which may hang.
        const Lock lock(mutex_);
        for (Handlers& each : handlers_) std::erase(each.waiting, exchange);
    }
    events_.on_cancelled(exchange);
}

void HandlerThreads::ended(const WorkerExchangePtr& exchange) {
    exchange->release();
    WorkerExchangePtr next;
    {
        const Lock lock(mutex_);
        if (!std::exchange(exchange->notes.in_place, false)) return;
        const std::size_t served = exchange->notes.served;
        const auto took = EventLoop::Clock::now() - exchange->notes.begun;
        if (table_[served].in_threads) {
            handlers_[served].usual_time += (took - handlers_[served].usual_time) / kMeanOf;
        }
        next = free_place(served);
    }
    if (next) events_.on_request(std::move(next));
}

/// Gives the place to the next that waits for it: handler threads come back for theirs, others are returned.
WorkerExchangePtr HandlerThreads::free_place(std::size_t served) {
    Handlers& handlers = handlers_[served];
    while (!handlers.waiting.empty()) {
        WorkerExchangePtr next = std::move(handlers.waiting.front());
        handlers.waiting.pop_front();
        if (next->cancelled()) continue;
        next->notes.in_place = true;
        if (!table_[served].in_threads) return next;
        ready_.push_back(std::move(next));
        return nullptr;
    }
    ++handlers.free;
    return nullptr;
}

/// Nobody wants what the first of them would reply.
void HandlerThreads::drop_cancelled() {
    while (!ready_.empty() && ready_.front()->cancelled()) {
        const WorkerExchangePtr exchange = std::move(ready_.front());
        ready_.pop_front();
        exchange->notes.in_place = false;
        static_cast<void>(free_place(exchange->notes.served));
    }
}

std::optional<HandlerThreads::Taken> HandlerThreads::try_take() {
    const Lock lock(mutex_);
    drop_cancelled();
    if (ready_.empty() || closed_) return std::nullopt;
    const auto now = EventLoop::Clock::now();
    if (flush_due(now)) return std::nullopt;
    return pop(now);
}

HandlerThreads::Taken HandlerThreads::take() {
    Lock lock(mutex_);
    while (!closed_) {
        const auto now = EventLoop::Clock::now();
        drop_cancelled();
        if (!ready_.empty() && !flush_due(now)) return pop(now);
        if (!leader_) {
            lead(lock);
        } else if (server_.held() > 0) {
            lock.unlock();
            server_.write_held();
            lock.lock();
        } else {
            follow(lock);
        }
    }
    return {};
}

bool HandlerThreads::flush_due(EventLoop::Clock::time_point now) {
    const std::size_t held = server_.held();
    if (held == 0) {
        held_since_ = {};
        return false;
    }
    if (held_since_ == EventLoop::Clock::time_point{}) held_since_ = now;
    return held >= kMostHeldReplies || now - held_since_ > kHoldReplies;
}

HandlerThreads::Taken HandlerThreads::pop(EventLoop::Clock::time_point now) {
    Taken taken{std::move(ready_.front())};
    ready_.pop_front();
    taken.exchange->notes.begun = now;
    if (followers_ == 0 && threads_ < most_threads_) {
        ++threads_;
        taken.start_thread = true;
    }
    if (!leader_) leave_vacant(handlers_[taken.exchange->notes.served]);
    return taken;
}

/// Nobody runs the loop while a handler of these runs.
void HandlerThreads::leave_vacant(const Handlers& for_these) {
    ++vacancies_;
    if (for_these.usual_time > kSlowHandler) return promote();
    if (!std::exchange(watching_, true)) watch_.notify_one();
}

void HandlerThreads::promote() {
    if (promoted_ >= followers_) return;
    ++promoted_;
    follow_.notify_one();
}

/// What is thrown here ends the process: without its loop it would live, and be deaf.
void HandlerThreads::lead(Lock& lock) noexcept {
    leader_ = true;
    const bool wait = ready_.empty();
    lock.unlock();
    server_.flush();
    if (wait) loop_.run();
    lock.lock();
    held_since_ = {};
    leader_ = false;
}

void HandlerThreads::follow(Lock& lock) {
    ++followers_;
    follow_.wait(lock, [this] { return promoted_ > 0 || closed_; });
    --followers_;
    if (promoted_ > 0) --promoted_;
}

/// On a thread of its own. It wakes nobody, and sleeps, while somebody runs the loop.
void HandlerThreads::watch() {
    Lock lock(mutex_);
    std::uint64_t seen = 0;
    for (int quiet = 0; !closed_;) {
        if (quiet >= kQuietTicks) {
            watching_ = false;
            watch_.wait(lock, [this] { return watching_ || closed_; });
            quiet = 0;
        }
        seen = vacancies_;
        watch_.wait_for(lock, kPatience);
        if (leader_) {
            ++quiet;
        } else if (seen == vacancies_) {
            promote();
        }
    }
}

void HandlerThreads::thread_not_started() {
    const Lock lock(mutex_);
    --threads_;
}

void HandlerThreads::poll() {
    server_.flush();
    loop_.poll();
}

void HandlerThreads::on_loop(std::function<void()> task) { loop_.post(std::move(task)); }

void HandlerThreads::listen(Fd listener) {
    // A task can be copied, a descriptor cannot.
    on_loop([this, shared = std::make_shared<Fd>(std::move(listener))] { server_.listen(std::move(*shared)); });
}

void HandlerThreads::drain() {
    on_loop([this] { server_.drain(); });
}

void HandlerThreads::close() {
    on_loop([this] {
        server_.close();
        {
            const Lock lock(mutex_);
            closed_ = true;
        }
        follow_.notify_all();
        events_.on_drained();
        loop_.stop_after_turn();
    });
}

}  // namespace anyserve
