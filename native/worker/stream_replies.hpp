// What is behind a `Stream`: frames that go out as they are sent, and wait while the agent is behind.
#pragma once

#include <cstddef>

#include "anyserve/exchange.hpp"
#include "reply_state.hpp"
#include "worker_server.hpp"

namespace anyserve::inline v1 {

class StreamReplies {
public:
    StreamReplies(WorkerExchange& exchange, std::size_t limit) noexcept : exchange_(exchange), limit_(limit) {}

    /// Throws InferenceError with CANCELLED when the exchange is over.
    void send(Reply reply);

private:
    WorkerExchange& exchange_;
    std::size_t limit_;
};

}  // namespace anyserve::inline v1
