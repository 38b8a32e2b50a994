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
    WatchCall(ServerCall& call, EventLoop& loop, const Registry& registry, EventLog& events)
        : UnaryHandler(call), loop_(loop), registry_(registry), events_(events) {}

    void on_cancel() override { end(); }

private:
    void on_request(std::string bytes) override;
    void tell_next();
    void tell(const Event& event);
    void finish(Code code, std::string_view message);
    void end();

    EventLoop& loop_;
    const Registry& registry_;
    EventLog& events_;
    std::unique_ptr<Watcher> watcher_;
    EventLoop::Timer woken_;                // the log must not be called from within its call of `wake`
    std::deque<RegistrationPtr> existing_;  // that have not been told
    std::uint64_t sequence_ = 0;            // of the last event before this call watched
};

void WatchCall::on_request(std::string bytes) {
    const auto request = read_message<messages::WatchEventsRequest>(bytes);
    if (!request) {
        const InferenceError error = malformed_request(call());
        return call().finish(error.code, error.message);
    }
    auto watching = events_.watch([this] { woken_ = loop_.at(loop_.now(), [this] { tell_next(); }); });
    if (const auto* refusal = std::get_if<TooManyWatchers>(&watching)) {
        return call().finish(Code::resource_exhausted, refusal->message);
    }
    watcher_ = std::get<std::unique_ptr<Watcher>>(std::move(watching));
    // Taken at this very moment: nothing is told twice or missed between what exists and what comes.
    sequence_ = events_.sequence();
    if (request->include_existing) {
        const std::vector<RegistrationPtr> all = registry_.all();
        existing_.assign(all.begin(), all.end());
    }
    call().send_initial_metadata();  // tells the client that it misses nothing from here on
    tell_next();
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
    const Watcher::Taken taken = watcher_->take();
    if (const auto* event = std::get_if<EventPtr>(&taken)) return tell(**event);
    if (std::holds_alternative<Watcher::Closed>(taken)) return finish(Code::ok, {});
    if (std::holds_alternative<Watcher::TooSlow>(taken)) {
        finish(Code::resource_exhausted,
               std::to_string(Watcher::kBuffer) + " events were not taken; call WatchEvents again");
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
    watcher_.reset();
    woken_ = {};
}

}  // namespace

std::unique_ptr<CallHandler> watch_events(ServerCall& call, EventLoop& loop, const Registry& registry,
                                          EventLog& events) {
    return std::make_unique<WatchCall>(call, loop, registry, events);
}

messages::Registration registration_message(const Registration& registration) {
    messages::Registration message{registration.model_name, registration.model_version,   {},
                                   registration.stream,     registration.max_concurrency, registration.priority,
                                   registration.platform};
    for (const auto& [key, value] : registration.capability.items()) message.capability.emplace(key, value);
    return message;
}

}  // namespace anyserve
