// What a client asks for, read of a call's metadata and of the bytes of a message. Pure: no I/O, no clock.
//
// Rules: spec `serving.infer.*`, `route.query.*`, `frame.scan.*`. In the reference agent this is a part of
// reference/anyserve/agent/kserve_service.py.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "anyserve/code.hpp"
#include "anyserve/grpc_metadata.hpp"
#include "anyserve/payload.hpp"
#include "anyserve/query.hpp"
#include "anyserve/registry.hpp"
#include "anyserve/scan.hpp"

namespace anyserve {

/// What a call says beside its messages: it holds for each of its requests.
struct CallTerms {
    std::optional<Query> query;
    std::optional<std::chrono::steady_clock::time_point> deadline;
    std::string traceparent;
};

/// Reads query and trace of a call's metadata; the error is INVALID_ARGUMENT.
[[nodiscard]] std::optional<InferenceError> read_terms(const Metadata& metadata, CallTerms& terms);

/// One inference request as the client sent it, and what the agent has read of it.
struct Request {
    Payload payload;
    MessageHead head;  ///< views of `payload`: a request does not move
    Target target;
    std::optional<std::chrono::steady_clock::time_point> deadline;
    std::string traceparent;

    Request() = default;
    Request(const Request&) = delete;
    Request& operator=(const Request&) = delete;
};

/// Reads a request into `request`, which is empty; the error is INVALID_ARGUMENT and names what is wrong. Of a payload
/// that is malformed nothing is read (`stream.error.id`).
[[nodiscard]] std::optional<InferenceError> read_request(Payload payload, CallTerms terms, bool unary_only,
                                                         Request& request);

/// Whether metadata has `secret` under `key`, as the last of its values; the time that it takes tells nothing of the
/// secret but its length. An empty secret is nobody's.
[[nodiscard]] bool carries(const Metadata& metadata, std::string_view key, std::string_view secret) noexcept;

}  // namespace anyserve
