// What the agent adds to requests and replies, and what it makes of a worker's failure, to the byte. Pure.
//
// Rules: spec `frame.request.*`, `frame.reply.*`, `frame.error.*`, `stream.reply.*`, `stream.final.*`,
// `stream.error.*`. In the reference agent this is a part of reference/anyserve/agent/dispatcher.py.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "anyserve/code.hpp"
#include "anyserve/registry.hpp"
#include "anyserve/request.hpp"
#include "anyserve/scan.hpp"

namespace anyserve {

/// Whether a request wants to be told which response is its last (`stream.final.asked`).
[[nodiscard]] bool asks_for_final(const MessageHead& request) noexcept;

/// What stands behind the client's bytes in the frame for a worker (`frame.request.annotations`).
[[nodiscard]] std::string annotations(const Request& request, const Registration& registration,
                                      std::chrono::steady_clock::time_point now);

/// Appends to a unary reply what the worker left empty. The error: it is no reply, or one that tells a failure.
[[nodiscard]] std::optional<InferenceError> fill_reply(Payload& reply, const Request& request,
                                                       const Registration& registration);

/// The ModelStreamInferResponse of a unary reply that is filled already; `last` marks it as the only one.
[[nodiscard]] std::string as_stream_reply(std::string reply, bool last);

/// What the agent has seen in a stream reply.
struct StreamReplyFacts {
    bool failed = false;        ///< it tells a failure
    bool marked_final = false;  ///< the worker marked it as the last
};

/// Fills in a reply of a stream, and marks it as not the last one if the client asks for marks. The error: it is no
/// ModelStreamInferResponse.
[[nodiscard]] std::optional<InferenceError> fill_stream_reply(std::string& reply, const Request& request,
                                                              const Registration& registration, bool asks,
                                                              StreamReplyFacts& facts);

/// The response that only says that there are no more (`stream.final.extra`).
[[nodiscard]] std::string final_reply(const Request& request, const Registration& registration);

/// A ModelStreamInferResponse that tells the failure of one request (`stream.error.in-band`).
[[nodiscard]] std::string error_reply(const MessageHead& request, const InferenceError& error);

}  // namespace anyserve
