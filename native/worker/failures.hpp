// What a worker replies when a handler fails. Pure.
#pragma once

#include <exception>
#include <string>

#include "anyserve/code.hpp"
#include "anyserve/scan.hpp"
#include "reply_frame.hpp"

namespace anyserve {

/// What was thrown as the client is told: the handler's own choice, or INTERNAL with what it says.
[[nodiscard]] InferenceError as_inference_error(const std::exception_ptr& thrown);

/// A unary reply that is a failure (`frame.error.type`).
[[nodiscard]] ReplyFrame failure_frame(const InferenceError& error);
/// The same among the replies of a stream; the end is still to come (`stream.error.worker-id`).
[[nodiscard]] ReplyFrame stream_failure_frame(const MessageHead& request, const InferenceError& error);

}  // namespace anyserve
