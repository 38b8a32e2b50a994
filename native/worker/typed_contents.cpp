#include "typed_contents.hpp"

#include <cstdint>
#include <limits>

#include "anyserve/message_fields.hpp"

namespace anyserve {
namespace {

using message_fields::take_varint;
using message_fields::WireField;
using message_fields::WireReader;
using message_fields::WireType;

/// The lowest `size` bytes of a number, least first.
void append_number(std::string& raw, std::uint64_t number, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) raw += static_cast<char>(number >> (8 * i) & 0xFF);
}

/// Whether an element, as its varint has it, is one of the datatype.
bool fits(const Datatype& datatype, std::uint64_t varint) {
    if (datatype.name == "BOOL") return varint <= 1;
    if (datatype.bytes == 8) return true;
    const auto bits = static_cast<unsigned>(8 * datatype.bytes);
    if (datatype.name.starts_with('U')) return varint >> bits == 0;
    const auto number = static_cast<std::int64_t>(varint);
    const std::int64_t bound = std::int64_t{1} << (bits - 1);
    return -bound <= number && number < bound;
}

bool append_varint_element(std::string& raw, const Datatype& datatype, std::uint64_t varint) {
    if (!fits(datatype, varint)) return false;
    append_number(raw, varint, datatype.bytes);
    return true;
}

bool append_varints(std::string& raw, const Datatype& datatype, std::string_view packed) {
    while (!packed.empty()) {
        const auto varint = take_varint(packed);
        if (!varint || !append_varint_element(raw, datatype, *varint)) return false;
    }
    return true;
}

bool append_field(std::string& raw, const Datatype& datatype, const WireField& field) {
    if (datatype.bytes == 0) {
        if (field.type != WireType::length_delimited) return false;
        append_number(raw, field.bytes.size(), 4);
        raw += field.bytes;
        return true;
    }
    if (datatype.name.starts_with("FP")) {  // as they stand, packed or one by one
        const WireType single = datatype.bytes == 4 ? WireType::fixed32 : WireType::fixed64;
        raw += field.bytes;
        return field.type == single ||
               (field.type == WireType::length_delimited && field.bytes.size() % datatype.bytes == 0);
    }
    if (field.type == WireType::length_delimited) return append_varints(raw, datatype, field.bytes);
    return field.type == WireType::varint && append_varint_element(raw, datatype, field.varint);
}

}  // namespace

std::optional<std::string> raw_contents(const Datatype& datatype, std::string_view contents) {
    std::string raw;
    WireReader reader(contents);
    WireField field;
    while (reader.next(field)) {
        if (field.number != datatype.typed_field || !append_field(raw, datatype, field)) return std::nullopt;
    }
    if (reader.malformed()) return std::nullopt;
    return raw;
}

}  // namespace anyserve
