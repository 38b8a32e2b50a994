// The words of gRPC's header fields: `grpc-timeout`, `grpc-message`, content types, binary metadata. Pure functions.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace anyserve {

using Metadata = std::vector<std::pair<std::string, std::string>>;

/// The longest time that a timeout stands for. The largest that can be written is 11,415 years, which no clock can add.
inline constexpr std::chrono::hours kLongestTimeout{24 * 365};

/// The time that a `grpc-timeout` gives, at most `kLongestTimeout`; nothing if it is malformed
/// (`serving.grpc.timeout`).
[[nodiscard]] std::optional<std::chrono::nanoseconds> parse_timeout(std::string_view value) noexcept;

/// Whether a content type is gRPC's (`serving.grpc.content-type`).
[[nodiscard]] bool is_grpc_content_type(std::string_view value) noexcept;

/// Bytes of a percent-encoded status message (`serving.status.message-length`).
inline constexpr std::size_t kMaxStatusMessage = 4096;

/// A status message as `grpc-message` carries it: percent-encoded, cut to `kMaxStatusMessage` at the end of a character
/// with `...` if it is longer. Bytes that are no UTF-8 become U+FFFD.
[[nodiscard]] std::string encode_status_message(std::string_view text);

/// Appends one field of metadata as services are to see it.
///
/// White space around a value is dropped. A value of a `-bin` name is split at commas and decoded from base64, padded
/// or not; a part that is no base64 is left out, since nobody could read it (`serving.grpc.field-values`).
void append_metadata(Metadata& metadata, std::string name, std::string value);

/// Decodes standard base64, padded or not; nothing if it is malformed.
[[nodiscard]] std::optional<std::string> decode_base64(std::string_view text);

}  // namespace anyserve
