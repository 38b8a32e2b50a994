#include "stream_replies.hpp"

#include <utility>

namespace anyserve::inline v1 {

void StreamReplies::send(Reply reply) {
    ReplyFrame frame = reply_frame(ReplyState::of(std::move(reply)), true, limit_);
    const auto sent = exchange_.send(std::move(frame), false);
    const bool waits = sent == WorkerExchange::Sent::full;
    if (sent == WorkerExchange::Sent::over || (waits && !exchange_.wait_writable())) {
        throw InferenceError(Code::cancelled, "the exchange is over: the client has gone");
    }
}

void Stream::send(Reply reply) { replies_.send(std::move(reply)); }

}  // namespace anyserve::inline v1
