// One ModelStreamInfer call: its requests run at the same time, their replies share the one way back.
//
// Rules: spec `stream.*`. In the reference agent this is a part of reference/anyserve/agent/kserve_service.py.
#pragma once

#include <cstddef>
#include <deque>
#include <list>
#include <optional>
#include <string>
#include <string_view>

#include "anyserve/calls_under_way.hpp"
#include "anyserve/code.hpp"
#include "anyserve/dispatcher.hpp"
#include "anyserve/event_loop.hpp"
#include "anyserve/grpc_protocol.hpp"
#include "anyserve/request.hpp"

namespace anyserve {

/// What a client is told whose call is refused or cut by a drain.
inline constexpr std::string_view kDraining =
    "the server is draining: try another instance, or this one when it is back";

/// What has been given to a call and has not gone to the client's socket. Beyond either, a request's next reply waits
/// in its turn and its worker with it (`stream.flow.stop`): small ones go out many at a time, large ones one by one.
inline constexpr std::size_t kSendAheadReplies = 16;
inline constexpr std::size_t kSendAheadBytes = std::size_t{64} << 10;

/// Reads requests from the call as long as it may have more at once, and ends it when all is answered.
class StreamCall final : public CallHandler, private CallsUnderWay::Call {
public:
    /// What a call is served with.
    struct Service {
        EventLoop& loop;
        Dispatcher& dispatcher;
        CallsUnderWay& calls;
        std::size_t max_requests;  ///< at once (`stream.request.limit`)
    };

    /// Args:
    ///   drains: whether the call takes no further requests when the server drains (`stream.drain.*`).
    StreamCall(const Service& service, ServerCall& call, CallTerms terms, bool drains);
    ~StreamCall() override;

    void on_message(Payload message) override;
    void on_half_close() override;
    void on_cancel() override;

private:
    /// A request that is not answered in full.
    struct Running final : Outcome {
        explicit Running(StreamCall& stream_call) : call(stream_call) { inference.emplace(call.dispatcher_, *this); }
        bool on_reply(Payload given) override { return call.reply(*this, std::move(given)); }
        void on_done() override { call.done(*this); }
        void on_error(InferenceError error) override { call.fail(*this, error); }

        StreamCall& call;
        std::optional<Inference> inference;  // until there are no more replies
        Payload waiting;                     // the reply whose turn comes
        bool waits = false;
        std::list<Running>::iterator self;
    };

    void on_drain() override;
    bool reply(Running& running, Payload reply);
    void done(Running& running);
    void fail(Running& running, const InferenceError& error);
    void send(Payload reply);
    void taken(std::size_t bytes);
    void answered(Running& running);
    void read();
    void end_if_done();
    [[nodiscard]] bool may_send() const noexcept {
        return unsent_ < kSendAheadReplies && unsent_bytes_ < kSendAheadBytes;
    }
    [[nodiscard]] bool may_read() const noexcept {
        return !reading_ && !half_closed_ && !draining_ && !ended_ && running_.size() < max_requests_;
    }

    EventLoop& loop_;
    Dispatcher& dispatcher_;
    ServerCall& call_;
    const std::size_t max_requests_;
    const CallTerms terms_;
    std::list<Running> running_;
    std::deque<Running*> turns_;  // of those whose reply waits
    EventLoop::Timer read_later_;
    std::size_t unsent_ = 0;  // replies given to the call that have not gone to the socket
    std::size_t unsent_bytes_ = 0;
    bool reading_ = false;  // a message is asked for
    bool half_closed_ = false;
    bool draining_ = false;
    bool left_out_ = false;  // a request that came behind the drain
    bool ended_ = false;     // nothing may be said to the call any more
};

}  // namespace anyserve
