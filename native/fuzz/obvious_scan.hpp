// The scan in the plainest way, without a thought of speed: what `scan.cpp` must agree with. Spec `frame.scan.*`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "anyserve/scan.hpp"

namespace anyserve::fuzz {

/// One byte after the other, written anew from its code points: well-formed if that is the same.
inline bool obvious_utf8(std::string_view text) {
    std::string again;
    for (std::size_t i = 0; i < text.size();) {
        const auto first = static_cast<unsigned char>(text[i]);
        const std::size_t size = first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
        std::uint32_t code_point = size == 1 ? first : first & (0xFFU >> (size + 1));
        for (std::size_t k = 1; k < size; ++k) {
            if (i + k >= text.size()) return false;
            code_point = code_point << 6 | (static_cast<unsigned char>(text[i + k]) & 0x3FU);
        }
        if (code_point > 0x10'FFFF || (code_point >= 0xD800 && code_point <= 0xDFFF)) return false;
        if (code_point < 0x80) {
            again += static_cast<char>(code_point);
        } else if (code_point < 0x800) {
            again += {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3F))};
        } else if (code_point < 0x1'0000) {
            again += {static_cast<char>(0xE0 | code_point >> 12), static_cast<char>(0x80 | (code_point >> 6 & 0x3F)),
                      static_cast<char>(0x80 | (code_point & 0x3F))};
        } else {
            again +=
                {static_cast<char>(0xF0 | code_point >> 18), static_cast<char>(0x80 | (code_point >> 12 & 0x3F)),
                 static_cast<char>(0x80 | (code_point >> 6 & 0x3F)), static_cast<char>(0x80 | (code_point & 0x3F))};
        }
        i += size;
    }
    return again == text;
}

struct ObviousField {
    std::uint64_t number = 0;
    std::uint64_t wire_type = 0;
    std::uint64_t value = 0;  // of a varint
    std::string_view bytes;   // of the others
};

inline std::optional<std::uint64_t> obvious_varint(std::string_view& rest) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < 10; ++i) {
        if (i == rest.size()) return std::nullopt;
        const std::uint64_t bits = static_cast<unsigned char>(rest[i]) & 0x7FU;
        if (bits << (7 * i) >> (7 * i) != bits) return std::nullopt;  // some do not fit
        value |= bits << (7 * i);
        if (static_cast<unsigned char>(rest[i]) < 0x80) {
            rest.remove_prefix(i + 1);
            return value;
        }
    }
    return std::nullopt;
}

/// All fields of a message; nothing if it is malformed.
inline std::optional<std::vector<ObviousField>> obvious_fields(std::string_view rest) {
    std::vector<ObviousField> fields;
    while (!rest.empty()) {
        const auto tag = obvious_varint(rest);
        if (!tag || *tag / 8 < 1 || *tag / 8 > 536'870'911) return std::nullopt;
        ObviousField field{*tag / 8, *tag % 8, 0, {}};
        std::optional<std::uint64_t> number = 0;
        if (field.wire_type == 0 || field.wire_type == 2) number = obvious_varint(rest);
        if (field.wire_type == 1) number = 8;
        if (field.wire_type == 5) number = 4;
        if (!number || field.wire_type == 3 || field.wire_type == 4 || field.wire_type > 5) return std::nullopt;
        if (field.wire_type == 0) {
            field.value = *number;
        } else {
            if (*number > rest.size()) return std::nullopt;
            field.bytes = rest.substr(0, *number);
            rest.remove_prefix(*number);
        }
        fields.push_back(field);
    }
    return fields;
}

/// What is read of a message, all of it owned.
struct Reading {
    std::string model_name;
    std::string model_version;
    std::string id;
    std::map<std::string, std::string> parameters;  // by `comparable`
    bool tensors = false;

    bool operator==(const Reading&) const = default;
};

/// A value in bytes that are the same for the same value only; bits, since NaN is not equal to itself.
inline std::string comparable(const Parameter& value) {
    const auto index = static_cast<char>('0' + value.index());
    std::string written;
    append_parameter(written, "", value);
    return index + written;
}

/// An InferParameter on top of what one before it said; false if it is malformed.
inline bool obvious_choice(std::string_view data, Parameter& value) {
    const auto fields = obvious_fields(data);
    if (!fields) return false;
    for (const ObviousField& field : *fields) {
        if (field.number > 5) continue;
        if (field.wire_type != (field.number == 3 ? 2U : field.number == 4 ? 1U : 0U)) return false;
        if (field.number == 1) value = field.value != 0;
        if (field.number == 2) value = static_cast<std::int64_t>(field.value);
        if (field.number == 3) value = field.bytes;
        if (field.number == 5) value = field.value;
        if (field.number == 4) {
            double number = 0;
            static_assert(sizeof number == 8);
            std::memcpy(&number, field.bytes.data(), sizeof number);  // on machines that this runs on
            value = number;
        }
        if (field.number == 3 && !obvious_utf8(field.bytes)) return false;
    }
    return true;
}

/// A message on top of what was read before; false if it is malformed.
inline bool obvious_message(std::string_view data, std::uint64_t defined, Reading& reading) {
    const auto fields = obvious_fields(data);
    if (!fields) return false;
    for (const ObviousField& field : *fields) {
        if (field.number > defined) continue;
        if (field.wire_type != 2) return false;
        if (field.number <= 3 && !obvious_utf8(field.bytes)) return false;
        if (field.number == 1) reading.model_name = field.bytes;
        if (field.number == 2) reading.model_version = field.bytes;
        if (field.number == 3) reading.id = field.bytes;
        if (field.number == 5) reading.tensors = true;
        if (field.number != 4) continue;
        const auto entry = obvious_fields(field.bytes);
        if (!entry) return false;
        std::string name;
        Parameter value;
        for (const ObviousField& part : *entry) {
            if (part.number > 2) continue;
            if (part.wire_type != 2) return false;
            if (part.number == 1) name = part.bytes;
            if (part.number == 1 && !obvious_utf8(part.bytes)) return false;
            if (part.number == 2 && !obvious_choice(part.bytes, value)) return false;
        }
        reading.parameters[name] = comparable(value);
    }
    return true;
}

}  // namespace anyserve::fuzz
