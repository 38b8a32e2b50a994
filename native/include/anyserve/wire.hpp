// Names and limits that both ends of the wire share: agent, workers and clients. Constants, and nothing else.
//
// Rules: spec `frame.*`, `serving.*`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace anyserve::wire {

// Parameters that the agent appends to a request.
inline constexpr std::string_view kCapability = "anyserve_capability";
inline constexpr std::string_view kTimeoutMs = "anyserve_timeout_ms";
inline constexpr std::string_view kTraceparent = "traceparent";

// Parameters of a reply that is an error.
inline constexpr std::string_view kErrorCode = "anyserve_error_code";
inline constexpr std::string_view kErrorMessage = "anyserve_error_message";

/// Metadata by which an instance's own workers show that a call is part of one under way.
inline constexpr std::string_view kInstanceKey = "anyserve-instance";

/// Metadata of a capability query begin with this; parameters that the agent alone may set with that.
inline constexpr std::string_view kQueryPrefix = "x-cap-";
inline constexpr std::string_view kReservedPrefix = "anyserve_";

/// The greatest `max_concurrency` of a registration.
inline constexpr std::uint32_t kMaxConcurrency = 1024;
/// Bytes of a Unix socket's path: sun_path without its NUL.
inline constexpr std::size_t kMaxSocketPath = 107;

}  // namespace anyserve::wire
