// What is behind a `Reply`, and the frame that becomes of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "anyserve/exchange.hpp"
#include "reply_frame.hpp"
#include "request_state.hpp"

namespace anyserve::inline v1 {

struct ReplyState {
    /// One output: its InferOutputTensor without contents, and its elements in raw form.
    struct Output {
        std::string head;
        std::span<const std::byte> bytes;  // in `own`, in the request's memory, or kept by `owner`
        HeapBytes own;
        std::shared_ptr<const void> owner;
        std::string_view typed;  // the whole message, where the output is an input that came in typed form
    };

    explicit ReplyState(const RequestState* its_request) noexcept : request(its_request) {}

    /// The state of a reply that is sent.
    [[nodiscard]] static std::unique_ptr<ReplyState> of(Reply&& reply) noexcept { return std::move(reply.state_); }
    /// Adds an output with room for its elements.
    Output& add(std::string_view name, std::string_view datatype, std::span<const std::int64_t> shape);

    const RequestState* request;  // whose bytes are not copied; null: there is none
    std::string parameters;       // the field, serialized
    std::vector<Output> outputs;
};

/// The reply as the frame of a ModelInferResponse, or with `in_stream` of a ModelStreamInferResponse. Throws
/// std::length_error: its payload is longer than `limit`.
[[nodiscard]] ReplyFrame reply_frame(std::unique_ptr<ReplyState> reply, bool in_stream, std::size_t limit);

}  // namespace anyserve::inline v1
