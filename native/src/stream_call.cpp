#include "anyserve/stream_call.hpp"

#include <utility>

#include "anyserve/reply_filling.hpp"

namespace anyserve {

StreamCall::StreamCall(const Service& service, ServerCall& call, CallTerms terms, bool drains)
    : CallsUnderWay::Call(service.calls),
      loop_(service.loop),
      dispatcher_(service.dispatcher),
      call_(call),
      max_requests_(service.max_requests),
      terms_(std::move(terms)) {
    if (drains) listen();
    read();
}

StreamCall::~StreamCall() { on_cancel(); }

void StreamCall::on_message(Payload message) {
    reading_ = false;
    if (draining_) {
        left_out_ = true;
        return;
    }
    Running& running = running_.emplace_front(*this);
    running.self = running_.begin();
    Inference& inference = *running.inference;
    auto error = read_request(std::move(message), terms_, false, inference.request);
    if (!error) error = dispatcher_.stream(inference);
    if (error) fail(running, *error);
    read();
}

void StreamCall::on_half_close() {
    half_closed_ = true;
    end_if_done();
}

/// All of its requests leave their queues before the first gives its place back, which another of them would get.
void StreamCall::on_cancel() {
    ended_ = true;
    read_later_ = {};
    turns_.clear();
    for (Running& running : running_) {
        if (running.inference) running.inference->withdraw();
    }
    running_.clear();
}

void StreamCall::on_drain() {
    draining_ = true;
    end_if_done();
}

/// Whose turn has not come waits behind the others, with one reply each.
bool StreamCall::reply(Running& running, Payload reply) {
    if (turns_.empty() && may_send()) {
        send(std::move(reply));
        return true;
    }
    running.waiting = std::move(reply);
    running.waits = true;
    turns_.push_back(&running);
    return false;
}

void StreamCall::done(Running& running) {
    running.inference.reset();
    if (!running.waits) answered(running);
}

/// One request failed: said in the stream, which goes on (`stream.error.in-band`).
void StreamCall::fail(Running& running, const InferenceError& error) {
    reply(running, error_reply(running.inference->request.head, error));
    done(running);
}

void StreamCall::send(Payload reply) {
    const std::size_t bytes = reply.size();
    ++unsent_;
    unsent_bytes_ += bytes;
    call_.send(std::move(reply), [this, bytes] { taken(bytes); });
}

/// A reply has gone to the client's socket: those that wait have their turns.
void StreamCall::taken(std::size_t bytes) {
    --unsent_;
    unsent_bytes_ -= bytes;
    while (!turns_.empty() && may_send()) {
        Running& running = *turns_.front();
        turns_.pop_front();
        running.waits = false;
        send(std::exchange(running.waiting, {}));
        if (running.inference) {
            running.inference->resume();
        } else {
            answered(running);
        }
    }
}

/// A request is answered in full. The next one is read from the loop: it may end the call, and this may be inside the
/// end of an inference.
void StreamCall::answered(Running& running) {
    running_.erase(running.self);
    if (may_read() && !read_later_) read_later_ = loop_.at(loop_.now(), [this] { read(); });
    end_if_done();
}

void StreamCall::read() {
    if (!may_read()) return;
    reading_ = true;
    call_.read();
}

void StreamCall::end_if_done() {
    if (ended_ || !running_.empty() || !(half_closed_ || draining_)) return;
    ended_ = true;
    read_later_ = {};
    // Asked only now: the client may have ended its side after the drain began (`stream.drain.status`).
    if (half_closed_ && !left_out_) return call_.finish(Code::ok, {});
    call_.finish(Code::unavailable, kDraining);
}

}  // namespace anyserve
