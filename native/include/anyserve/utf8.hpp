// The project's one reading of UTF-8 (RFC 3629): strict, without surrogates, overlong forms and what lies beyond
// U+10FFFF. Pure.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace anyserve {

/// Whether a text is well-formed. A text in ASCII, which most are, takes a fraction of a nanosecond a byte.
[[nodiscard]] bool is_utf8(std::string_view text) noexcept;

/// How many characters (code points) a text has; nothing if it is not well-formed.
[[nodiscard]] std::optional<std::size_t> count_characters(std::string_view text) noexcept;

/// Bytes of the well-formed character at the beginning of `text`, which is not empty; 0 if there is none.
[[nodiscard]] std::size_t first_character(std::string_view text) noexcept;

/// Bytes of the character that begins at `first` in well-formed UTF-8.
[[nodiscard]] constexpr std::size_t character_length(char first) noexcept {
    const auto byte = static_cast<unsigned char>(first);
    return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

}  // namespace anyserve
