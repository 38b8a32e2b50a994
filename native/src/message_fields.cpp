#include "anyserve/message_fields.hpp"

#include <array>
#include <limits>
#include <protozero/exception.hpp>
#include <protozero/varint.hpp>

namespace anyserve::message_fields {
namespace {

/// Tags and lengths have at most so many bytes, whatever their value.
constexpr std::size_t kMaxShortVarint = 5;
/// As deep as protobuf's parsers go into groups.
constexpr std::size_t kMaxDepth = 100;

// Wire types that protozero does not name.
constexpr std::uint32_t kBeginGroup = 3;
constexpr std::uint32_t kEndGroup = 4;

/// A varint of at most five bytes and `max`.
std::optional<std::uint32_t> take_short_varint(std::string_view& rest, std::uint32_t max) noexcept {
    const std::size_t before = rest.size();
    const std::optional<std::uint64_t> value = take_varint(rest);
    if (!value || *value > max || before - rest.size() > kMaxShortVarint) return std::nullopt;
    return static_cast<std::uint32_t>(*value);
}

}  // namespace

std::optional<std::uint64_t> take_varint(std::string_view& rest) noexcept {
    const char* at = rest.data();
    try {
        const std::uint64_t value = protozero::decode_varint(&at, rest.data() + rest.size());
        rest.remove_prefix(static_cast<std::size_t>(at - rest.data()));
        return value;
    } catch (const protozero::exception&) {
        return std::nullopt;
    }
}

bool WireReader::next(WireField& field) noexcept {
    while (!rest_.empty() && !malformed_) {
        std::uint32_t type = 0;
        const bool tagged = tag(field.number, type);
        const bool group = type == kBeginGroup;
        malformed_ = !tagged || !(group ? skip_group(field.number) : value(type, field));
        if (!malformed_ && !group) return true;
    }
    return false;
}

bool WireReader::tag(std::uint32_t& number, std::uint32_t& type) noexcept {
    const std::optional<std::uint32_t> tag = take_short_varint(rest_, std::numeric_limits<std::uint32_t>::max());
    number = tag.value_or(0) >> 3;
    type = tag.value_or(0) & 7;
    return number != 0;
}

/// Reads what comes behind a tag; a group does not.
bool WireReader::value(std::uint32_t type, WireField& field) noexcept {
    field.type = static_cast<WireType>(type);
    switch (field.type) {
        case WireType::varint: {
            const std::optional<std::uint64_t> varint = take_varint(rest_);
            field.varint = varint.value_or(0);
            return varint.has_value();
        }
        case WireType::fixed64: return take(8, field.bytes);
        case WireType::fixed32: return take(4, field.bytes);
        case WireType::length_delimited: {
            const auto length = take_short_varint(rest_, std::numeric_limits<std::int32_t>::max());
            return length && take(*length, field.bytes);
        }
        default: return false;
    }
}

bool WireReader::skip_group(std::uint32_t number) noexcept {
    std::array<std::uint32_t, kMaxDepth> open{number};  // the numbers of the groups that are open
    for (std::size_t depth = 1; depth > 0;) {
        WireField inside;
        std::uint32_t type = 0;
        if (!tag(inside.number, type)) return false;
        if (type == kBeginGroup) {
            if (depth == kMaxDepth) return false;
            open[depth++] = inside.number;
        } else if (type == kEndGroup) {
            if (inside.number != open[--depth]) return false;
        } else if (!value(type, inside)) {
            return false;
        }
    }
    return true;
}

bool WireReader::take(std::uint64_t size, std::string_view& bytes) noexcept {
    if (size > rest_.size()) return false;
    bytes = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return true;
}

}  // namespace anyserve::message_fields
