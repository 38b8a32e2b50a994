#include "anyserve/utf8.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace anyserve {
namespace {

constexpr bool is_continuation(char c) noexcept { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

/// How many of the first bytes are surely ASCII, by eights.
std::size_t ascii_prefix(std::string_view text) noexcept {
    constexpr std::uint64_t high_bits = 0x8080'8080'8080'8080;
    std::size_t size = 0;
    for (std::uint64_t eight = 0; size + sizeof eight <= text.size(); size += sizeof eight) {
        std::memcpy(&eight, text.data() + size, sizeof eight);
        if ((eight & high_bits) != 0) break;
    }
    return size;
}

}  // namespace

std::size_t first_character(std::string_view text) noexcept {
    const auto at = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char first = at(0);
    if (first < 0x80) return 1;
    const std::size_t size = character_length(text[0]);
    if (first < 0xC2 || first > 0xF4 || text.size() < size) return 0;
    if (!std::all_of(text.begin() + 1, text.begin() + static_cast<std::ptrdiff_t>(size), is_continuation)) return 0;
    const bool overlong = (first == 0xE0 && at(1) < 0xA0) || (first == 0xF0 && at(1) < 0x90);
    const bool surrogate = first == 0xED && at(1) >= 0xA0;
    const bool beyond = first == 0xF4 && at(1) >= 0x90;
    return overlong || surrogate || beyond ? 0 : size;
}

bool is_utf8(std::string_view text) noexcept {
    text.remove_prefix(ascii_prefix(text));
    while (!text.empty()) {
        const std::size_t size = first_character(text);
        if (size == 0) return false;
        text.remove_prefix(size);
    }
    return true;
}

std::optional<std::size_t> count_characters(std::string_view text) noexcept {
    std::size_t count = ascii_prefix(text);
    text.remove_prefix(count);
    for (; !text.empty(); ++count) {
        const std::size_t size = first_character(text);
        if (size == 0) return std::nullopt;
        text.remove_prefix(size);
    }
    return count;
}

}  // namespace anyserve
