#include "anyserve/management_watch.hpp"

#include <chrono>
#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "anyserve/answered_call.hpp"

namespace anyserve {
namespace {

messages::Event event_message(const Event& event) {
    messages::Event message{event.sequence, event.time_unix_ms, event.type, event.worker_id, {}, event.message};
    if (event.registration) message.registration = registration_message(*event.registration);
    return message;
}

class WatchCall final : public UnaryHandler {
public:
    WatchCall(ServerCall& call, EventLoop& loop, SharedState& state) : UnaryHandler(call), loop_(loop), state_(state) {}
    ~WatchCall() override { end(); }

    void on_cancel() override { end(); }

private:
    void on_request(Payload bytes) override;
    void wake();
    void tell_next();
    void tell(const Event& event);
    void finish(Code code, std::string_view message);
    void end();

    EventLoop& loop_;
    SharedState& state_;
    std::unique_ptr<Watcher> watcher_;                                        // null: it has ended
    std::shared_ptr<const bool> alive_ = std::make_shared<const bool>(true);  // for who is woken
    std::deque<RegistrationPtr> existing_;                                    // that have not been told
    std::uint64_t sequence_ = 0;  // of the last event before this call watched
};

void WatchCall::on_request(Payload bytes) {
    const auto request = read_message<messages::WatchEventsRequest>(bytes.view());
    if (!request) {
        const InferenceError error = malformed_request(call());
        return call().finish(error.code, error.message);
    }
    {
        // Taken at one moment: nothing is told twice or missed between what exists and what comes.
        const std::lock_guard lock(state_.mutex);
        auto watching = state_.events.watch([this] { wake(); });
        if (const auto* refusal = std::get_if<TooManyWatchers>(&watching)) {
            return call().finish(Code::resource_exhausted, refusal->message);
        }
        watcher_ = std::get<std::unique_ptr<Watcher>>(std::move(watching));
        sequence_ = state_.events.sequence();
        if (request->include_existing) {
            const std::vector<RegistrationPtr> all = state_.registry.all();
            existing_.assign(all.begin(), all.end());
        }
    }
    call().send_initial_metadata();  // tells the client that it misses nothing from here on
    tell_next();
}

/// There is something to take again. Under the lock, on any thread.
void WatchCall::wake() {
    loop_.run_soon([this, alive = std::weak_ptr(alive_)] {
        if (!alive.expired() && watcher_) tell_next();
    });
}

/// Tells the next event, if there is one; comes again when the client has taken it, or else when there is one.
void WatchCall::tell_next() {
    if (!existing_.empty()) {
        const RegistrationPtr registration = std::move(existing_.front());
        existing_.pop_front();
        const auto since_1970 = std::chrono::system_clock::now().time_since_epoch();
        return tell({sequence_,
                     std::chrono::duration_cast<std::chrono::milliseconds>(since_1970).count(),
                     EventType::model_registered,
                     registration->worker_id,
                     registration,
                     {}});
    }
    std::unique_lock lock(state_.mutex);
    const Watcher::Taken taken = watcher_->take();
    lock.unlock();
    if (const auto* event = std::get_if<EventPtr>(&taken)) return tell(**event);
    if (std::holds_alternative<Watcher::Closed>(taken)) return finish(Code::ok, {});
    if (std::holds_alternative<Watcher::TooSlow>(taken)) {
        std::string message = std::to_string(Watcher::kBuffer);
        message += " events were not taken; call WatchEvents again";
        finish(Code::resource_exhausted, message);
    }
}

void WatchCall::tell(const Event& event) {
    call().send(write_message(event_message(event)), [this] { tell_next(); });
}

void WatchCall::finish(Code code, std::string_view message) {
    end();
    call().finish(code, message);
}

/// Makes room for another watcher.
void WatchCall::end() {
    const std::lock_guard lock(state_.mutex);
    watcher_.reset();
}

}  // namespace

std::unique_ptr<CallHandler> watch_events(ServerCall& call, EventLoop& loop, SharedState& state) {
    return std::make_unique<WatchCall>(call, loop, state);
}

messages::Registration registration_message(const Registration& registration) {
    messages::Registration message{registration.model_name, registration.model_version,   {},
                                   registration.stream,     registration.max_concurrency, registration.priority,
                                   registration.platform};
    for (const auto& [key, value] : registration.capability.items()) message.capability.emplace(key, value);
    return message;
}

}  // namespace anyserve
