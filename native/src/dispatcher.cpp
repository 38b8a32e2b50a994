#include "anyserve/dispatcher.hpp"

#include <chrono>
#include <utility>

#include "anyserve/reply_filling.hpp"

namespace anyserve {
namespace {

std::uint64_t nanoseconds(EventLoop::Clock::duration duration) noexcept {
    return static_cast<std::uint64_t>(std::chrono::nanoseconds(duration).count());
}

std::uint64_t unix_ms() {
    const auto since_1970 = std::chrono::system_clock::now().time_since_epoch();
    return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(since_1970).count());
}

}  // namespace

Dispatcher::Dispatcher(EventLoop& loop, SharedState& state, WorkerClients& clients)
    : loop_(loop), state_(state), clients_(clients), no_match_(state.registry, state.workers) {}

void Dispatcher::give_back(Slot slot) {
    {
        const std::lock_guard lock(state_.mutex);
        state_.admission.release(std::move(slot));
    }
    take_turns();
}

/// Tells those of this thread whose turn has come, in order. What they do meanwhile may bring others their turn: these
/// are told by the same, outermost call.
void Dispatcher::take_turns() {
    if (std::exchange(taking_turns_, true)) return;
    for (;;) {
        std::unique_lock lock(state_.mutex);
        if (turns_.empty()) break;
        Inference& next = *turns_.front();
        turns_.pop_front();
        Inference::Turn turn = *std::exchange(next.turn_, std::nullopt);
        lock.unlock();
        next.take_turn(std::move(turn));  // it may be gone behind this
    }
    taking_turns_ = false;
}

std::optional<InferenceError> Inference::start(bool stream) {
    stream_ = stream;
    asks_final_ = stream && asks_for_final(request.head);
    return acquire();
}

/// Sends the request to the best match that takes it, or has it wait for a place.
std::optional<InferenceError> Inference::acquire() {
    Dispatcher& d = dispatcher_;
    if (too_late()) return late_error();
    for (;;) {
        arrived_ = d.loop_.now();
        std::unique_lock lock(d.state_.mutex);
        auto answer = d.state_.admission.submit(*this);
        if (auto* slot = std::get_if<Slot>(&answer)) {
            lock.unlock();
            if (begin(std::move(*slot))) return std::nullopt;
        } else if (const auto* full = std::get_if<QueueFull>(&answer)) {
            d.state_.statistics.rejected(*full->best);
            return InferenceError{Code::resource_exhausted, request.target.text() + ": " + full->message};
        } else if (std::holds_alternative<NothingLeft>(answer)) {
            return tried_ ? unreachable_error() : d.no_match_.explain(request.target);
        } else {
            waits_ = true;
            return std::nullopt;
        }
    }
}

RoutePtr Inference::resolve() { return dispatcher_.state_.registry.resolve(request.target); }

/// Its turn has come, after it has waited: its own thread takes it.
void Inference::granted(std::optional<Slot> slot) noexcept {
    Dispatcher& d = dispatcher_;
    turn_ = Turn{std::move(slot)};
    d.turns_.push_back(this);
    if (d.turns_.size() == 1) d.loop_.run_soon([&d] { d.take_turns(); });
}

void Inference::take_turn(Turn turn) {
    waits_ = false;
    if (!turn.slot) return outcome_.on_error(unreachable_error());
    if (too_late()) {
        dispatcher_.give_back(*std::move(turn.slot));
        return outcome_.on_error(late_error());
    }
    if (begin(*std::move(turn.slot))) return;
    if (auto error = acquire()) outcome_.on_error(*std::move(error));
}

/// Sends the request to the worker that has a place for it; false: that worker has gone, and its place is given back.
bool Inference::begin(Slot slot) {
    Dispatcher& d = dispatcher_;
    const Registration& registration = *slot.registration();
    {
        const std::lock_guard lock(d.state_.mutex);
        endpoint_ = d.state_.workers.endpoint(registration.worker_id);
    }
    if (!endpoint_) {
        tried_ = true;
        exclude(slot.registration());
        d.give_back(std::move(slot));
        return false;
    }
    started_ = d.loop_.now();
    annotations_ = annotations(request, registration, started_);
    slot_ = std::move(slot);
    exchange_ = d.clients_.of(endpoint_).start(parts(registration), *this);
    return true;
}

/// A worker that takes payloads by shared memory gets large ones there, and room for a reply if the last was large.
RequestParts Inference::parts(const Registration& registration) {
    RequestParts parts{request.payload.view(), annotations_};
    if (!endpoint_->shared_memory) return parts;
    SharedMemoryPool& memory = *dispatcher_.state_.memory;
    parts.body = request.payload.shared();
    const std::size_t last = registration.last_reply.get();
    if (!registration.stream && memory.is_large(last)) parts.room = memory.room(endpoint_->number, last);
    return parts;
}

void Inference::on_frame(Payload frame) {
    if (!slot_->registration()->stream) return on_only_reply(std::move(frame));
    if (frame.empty()) return on_stream_end();
    on_stream_reply(std::move(frame).take());
}

/// The place is free again before the reply goes to a client that may be slow.
void Inference::on_only_reply(Payload frame) {
    if (!finish_exchange()) return;
    if (frame.shared() != nullptr) frame.shared()->give_back();
    slot_->registration()->last_reply.set(frame.size());
    if (auto error = fill_reply(frame, request, *slot_->registration())) {
        return fail(error->code, std::move(error->message));
    }
    release(true);
    if (stream_) frame = as_stream_reply(std::move(frame).take(), asks_final_);
    outcome_.on_reply(std::move(frame));
    outcome_.on_done();
}

void Inference::on_stream_reply(std::string frame) {
    StreamReplyFacts facts;
    if (auto error = fill_stream_reply(frame, request, *slot_->registration(), asks_final_, facts)) {
        return fail(error->code, std::move(error->message));
    }
    failed_ = failed_ || facts.failed;
    marked_final_ = facts.marked_final;
    if (!outcome_.on_reply(std::move(frame))) exchange_->pause();
}

void Inference::on_stream_end() {
    if (!finish_exchange()) return;
    const RegistrationPtr registration = slot_->registration();
    release(!failed_);
    if (asks_final_ && !marked_final_) outcome_.on_reply(final_reply(request, *registration));
    outcome_.on_done();
}

void Inference::on_failed(Failure failure) {
    exchange_.reset();
    switch (failure.kind) {
        case FailureKind::unreachable:
        case FailureKind::not_taken: return try_elsewhere(failure);
        case FailureKind::gone: return fail(Code::unavailable, request.target.text() + ": " + failure.text);
        case FailureKind::violation: return fail(Code::internal, "the worker broke the protocol: " + failure.text);
    }
}

/// The worker has not taken the request: another match gets it, each once (`frame.retry.*`).
void Inference::try_elsewhere(const Failure& failure) {
    const RegistrationPtr registration = slot_->registration();
    tried_ = true;
    exclude(registration);
    dispatcher_.give_back(*std::exchange(slot_, std::nullopt));
    if (failure.kind == FailureKind::unreachable) {
        const std::lock_guard lock(dispatcher_.state_.mutex);
        dispatcher_.state_.workers.unreachable(registration->worker_id, failure);
    }
    if (auto error = acquire()) outcome_.on_error(*std::move(error));
}

/// Ends the exchange behind its last reply; false: more came behind that, and the request has failed by it.
bool Inference::finish_exchange() {
    const auto violation = exchange_->finish();
    exchange_.reset();
    if (violation) {
        fail(Code::internal, "the worker broke the protocol: " + violation->text);
        return false;
    }
    endpoint_->violations = 0;
    return true;
}

/// The exchange is over: counts it, and gives its place to the next.
void Inference::release(bool succeeded) {
    Dispatcher& d = dispatcher_;
    exchange_.reset();
    Slot slot = *std::exchange(slot_, std::nullopt);
    {
        const std::lock_guard lock(d.state_.mutex);
        d.state_.statistics.exchanged(*slot.registration(), {succeeded, nanoseconds(started_ - arrived_),
                                                             nanoseconds(d.loop_.now() - started_), unix_ms()});
        d.state_.admission.release(std::move(slot));
    }
    d.take_turns();
}

void Inference::fail(Code code, std::string message) {
    release(false);
    outcome_.on_error({code, std::move(message)});
}

void Inference::resume() {
    if (exchange_) exchange_->resume();
}

void Inference::withdraw() {
    if (!std::exchange(waits_, false)) return;
    Dispatcher& d = dispatcher_;
    std::unique_lock lock(d.state_.mutex);
    if (!turn_) return d.state_.admission.withdraw(*this);
    // Its turn has come, but it will not take it.
    std::erase(d.turns_, this);
    const Turn turn = *std::exchange(turn_, std::nullopt);
    lock.unlock();
    if (turn.slot) d.give_back(*turn.slot);
}

void Inference::cancel() {
    withdraw();
    if (slot_) release(false);
}

bool Inference::too_late() const noexcept { return request.deadline && *request.deadline <= dispatcher_.loop_.now(); }

InferenceError Inference::late_error() const {
    return {Code::deadline_exceeded, request.target.text() + ": the deadline passed before the reply was complete"};
}

InferenceError Inference::unreachable_error() const {
    return {Code::unavailable, request.target.text() + ": workers that serve it exist, but none can be reached"};
}

}  // namespace anyserve
