#include "anyserve/capability_text.hpp"

#include <algorithm>

#include "anyserve/utf8.hpp"

namespace anyserve {
namespace {

constexpr std::size_t kMaxQuoted = 80;  // characters

constexpr bool is_lower_or_digit(char c) noexcept { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

constexpr int hex_digit(char c) noexcept {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

void append_hex(std::string& out, std::string_view prefix, unsigned char byte, std::string_view digits) {
    out += prefix;
    out += digits[byte >> 4];
    out += digits[byte & 0xF];
}

void append_quoted(std::string& out, std::string_view character, char quote) {
    constexpr std::string_view escaped = "\t\n\r";
    constexpr std::string_view letters = "tnr";
    const char c = character[0];
    if (const std::size_t i = escaped.find(c); i != std::string_view::npos) {
        out += {'\\', letters[i]};
    } else if (c == '\\' || c == quote) {
        out += {'\\', c};
    } else if (has_control(character) || (character.size() == 1 && static_cast<unsigned char>(c) >= 0x80)) {
        append_hex(out, "\\x", static_cast<unsigned char>(c), "0123456789abcdef");
    } else {
        out += character;
    }
}

}  // namespace

bool has_control(std::string_view text) noexcept {
    return std::any_of(text.begin(), text.end(),
                       [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; });
}

bool is_capability_key(std::string_view text) noexcept {
    if (text.empty() || text.size() > kMaxCapabilityKeyLength) return false;
    const auto further = [](char c) { return is_lower_or_digit(c) || c == '_' || c == '.' || c == '-'; };
    return is_lower_or_digit(text[0]) && std::all_of(text.begin(), text.end(), further) && !text.ends_with("-bin");
}

void append_percent_encoded(std::string& out, std::string_view text) {
    for (const char c : text) {
        if (is_lower_or_digit(c) || (c >= 'A' && c <= 'Z') || c == '-' || c == '.' || c == '_' || c == '~') {
            out += c;
        } else {
            append_hex(out, "%", static_cast<unsigned char>(c), "0123456789ABCDEF");
        }
    }
}

std::variant<std::string, BadText> percent_decoded(std::string_view text) {
    std::string decoded;
    decoded.reserve(text.size());
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '%') {
            decoded += text[i];
            continue;
        }
        const int high = i + 2 < text.size() ? hex_digit(text[i + 1]) : -1;
        const int low = i + 2 < text.size() ? hex_digit(text[i + 2]) : -1;
        if (high < 0 || low < 0) {
            return BadText{in_quotes(text) + " has a '%' that is not followed by two hex digits (write %25 for '%')"};
        }
        decoded += static_cast<char>(high * 16 + low);
        i += 2;
    }
    if (!is_utf8(decoded)) return BadText{in_quotes(text) + " does not decode to UTF-8"};
    return decoded;
}

std::string in_quotes(std::string_view text) {
    std::string out;
    const bool single = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
    const char quote = single ? '"' : '\'';
    out += quote;
    for (std::size_t count = 0; !text.empty() && count < kMaxQuoted; ++count) {
        const std::size_t size = std::max<std::size_t>(first_character(text), 1);  // a stray byte counts as a character
        append_quoted(out, text.substr(0, size), quote);
        text.remove_prefix(size);
    }
    out += quote;
    return out;
}

}  // namespace anyserve
