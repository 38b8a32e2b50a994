#include "anyserve/grpc_metadata.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "anyserve/utf8.hpp"

namespace anyserve {
namespace {

constexpr std::string_view kEllipsis = "...";
constexpr std::string_view kReplacement = "%EF%BF%BD";  // U+FFFD

constexpr bool stays_as_it_is(char c) noexcept { return c >= 0x20 && c <= 0x7E && c != '%'; }

void append_encoded(std::string& out, std::string_view character) {
    constexpr std::string_view digits = "0123456789ABCDEF";
    for (const char c : character) {
        if (stays_as_it_is(c)) {
            out += c;
        } else {
            const auto byte = static_cast<unsigned char>(c);
            out += {'%', digits[byte >> 4], digits[byte & 0xF]};
        }
    }
}

constexpr std::array<std::int8_t, 256> base64_values() {
    constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::array<std::int8_t, 256> values{};
    values.fill(-1);
    for (std::size_t i = 0; i < alphabet.size(); ++i) {
        values[static_cast<unsigned char>(alphabet[i])] = static_cast<std::int8_t>(i);
    }
    return values;
}

constexpr std::string_view trim(std::string_view text) noexcept {
    const std::size_t first = text.find_first_not_of(" \t");
    if (first == std::string_view::npos) return {};
    return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

}  // namespace

std::optional<std::chrono::nanoseconds> parse_timeout(std::string_view value) noexcept {
    if (value.size() < 2 || value.size() > 9) return std::nullopt;
    std::int64_t number = 0;  // eight digits fit many times
    for (const char c : value.substr(0, value.size() - 1)) {
        if (c < '0' || c > '9') return std::nullopt;
        number = number * 10 + (c - '0');
    }
    using std::chrono::nanoseconds;
    nanoseconds unit{};
    switch (value.back()) {
        case 'H': unit = std::chrono::hours{1}; break;
        case 'M': unit = std::chrono::minutes{1}; break;
        case 'S': unit = std::chrono::seconds{1}; break;
        case 'm': unit = std::chrono::milliseconds{1}; break;
        case 'u': unit = std::chrono::microseconds{1}; break;
        case 'n': unit = nanoseconds{1}; break;
        default: return std::nullopt;
    }
    if (number > nanoseconds{kLongestTimeout} / unit) return kLongestTimeout;
    return number * unit;
}

bool is_grpc_content_type(std::string_view value) noexcept {
    constexpr std::string_view grpc = "application/grpc";
    if (!value.starts_with(grpc)) return false;
    return value.size() == grpc.size() || value[grpc.size()] == '+' || value[grpc.size()] == ';';
}

std::string encode_status_message(std::string_view text) {
    if (text.size() <= kMaxStatusMessage && std::ranges::all_of(text, stays_as_it_is)) return std::string(text);
    std::string out;
    std::size_t cut = 0;  // where the last character ends behind which an ellipsis would still fit
    while (!text.empty()) {
        const std::size_t size = first_character(text);
        if (size == 0) {
            out += kReplacement;
        } else {
            append_encoded(out, text.substr(0, size));
        }
        text.remove_prefix(std::max<std::size_t>(size, 1));
        if (out.size() > kMaxStatusMessage) return out.replace(cut, std::string::npos, kEllipsis);
        if (out.size() <= kMaxStatusMessage - kEllipsis.size()) cut = out.size();
    }
    return out;
}

void append_metadata(Metadata& metadata, std::string name, std::string value) {
    if (!name.ends_with("-bin")) {
        if (const std::string_view text = trim(value); text.size() < value.size()) value = std::string(text);
        metadata.emplace_back(std::move(name), std::move(value));
        return;
    }
    for (std::string_view rest = value;;) {
        const std::size_t comma = rest.find(',');
        if (std::optional<std::string> bytes = decode_base64(trim(rest.substr(0, comma)))) {
            metadata.emplace_back(name, *std::move(bytes));
        }
        if (comma == std::string_view::npos) return;
        rest.remove_prefix(comma + 1);
    }
}

std::optional<std::string> decode_base64(std::string_view text) {
    static constexpr auto values = base64_values();
    if (text.size() % 4 == 0) {
        if (text.ends_with('=')) text.remove_suffix(1);
        if (text.ends_with('=')) text.remove_suffix(1);
    }
    if (text.size() % 4 == 1) return std::nullopt;
    std::string bytes;
    bytes.reserve(text.size() * 3 / 4);
    std::uint32_t bits = 0;
    unsigned count = 0;
    for (const char c : text) {
        const std::int8_t value = values[static_cast<unsigned char>(c)];
        if (value < 0) return std::nullopt;
        bits = (bits << 6) | static_cast<std::uint32_t>(value);
        count += 6;
        if (count < 8) continue;
        count -= 8;
        bytes += static_cast<char>((bits >> count) & 0xFF);
    }
    return bytes;
}

}  // namespace anyserve
