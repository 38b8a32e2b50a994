// The texts of capabilities and queries: their characters, their keys, and how they are written in ASCII. Pure.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <variant>

namespace anyserve {

inline constexpr std::size_t kMaxCapabilityKeyLength = 64;  ///< characters, all of them ASCII

/// Why a text could not be read, to be shown to whoever sent it.
struct BadText {
    std::string message;
};

/// Whether a text has a character of U+0000 to U+001F or U+007F.
[[nodiscard]] bool has_control(std::string_view text) noexcept;

/// `[a-z0-9][a-z0-9_.-]*`, at most 64 characters, not ending in `-bin` (`route.capability.keys`, `route.query.keys`).
///
/// Keys travel as part of a metadata key (`x-cap-<key>`), which HTTP/2 wants in lower case, and whose values gRPC takes
/// for binary if it ends in `-bin`.
[[nodiscard]] bool is_capability_key(std::string_view text) noexcept;

/// Appends `text` with each byte but `A-Z a-z 0-9 - . _ ~` as `%` and two upper-case digits
/// (`route.capability.encoding`).
void append_percent_encoded(std::string& out, std::string_view text);

/// Each `%` and two digits as a byte, nothing else changed; the result is UTF-8 (`route.query.decode`,
/// `route.query.percent`).
[[nodiscard]] std::variant<std::string, BadText> percent_decoded(std::string_view text);

/// The text in quotes for a message, as Python's `repr` writes it, of at most 80 characters.
[[nodiscard]] std::string in_quotes(std::string_view text);

}  // namespace anyserve
