// Reads and writes protobuf messages by tables of their fields. Knows no message: those are in `*_messages.hpp`.
//
// A message is a struct with a member for each field and a function `fields()` that gives its table:
//
//     struct HeartbeatResponse {
//         bool healthy = false;
//         static constexpr auto fields() { return std::tuple(field(1, &HeartbeatResponse::healthy)); }
//     };
//
// The type of a member says what the field is:
//
//     bool, std::int32_t, std::uint32_t, std::int64_t, std::uint64_t, an enum     the same
//     std::string_view                                                            string
//     Bytes                                                                       bytes, or a message in its bytes
//     a message, std::optional of a message                                       a message, always or not always there
//     std::vector                                                                 repeated
//     std::map                                                                    map
//     std::variant with std::monostate first, one `choice` for each other type    oneof
//
// All texts are views: of the bytes that are read, which must outlive the message, or of whatever is written.
//
// Readers take and refuse what protobuf's own parsers do, which the reference agent has: a field that comes again
// replaces the one before it, messages are merged, numbers may be packed or not, a field of another wire type is one
// that is not known, what is not known is skipped, groups too. That is more than protozero's `pbf_reader` takes, and
// less: it cuts lengths and tags to 32 bits. Of protozero this room uses the varints and the writer.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <protozero/pbf_writer.hpp>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "anyserve/utf8.hpp"

namespace anyserve {

/// A field of type `bytes`, or a message that is there as its bytes.
struct Bytes {
    std::string_view value;
};

/// One row of a message's table: the field's number, and which member holds it.
template <class Message, class Value>
struct MessageField {
    std::uint32_t number;
    Value Message::*member;
};

template <class Message, class Value>
[[nodiscard]] constexpr MessageField<Message, Value> field(std::uint32_t number, Value Message::*member) noexcept {
    return {number, member};
}

/// One row for one choice of a `oneof`: the alternative `index` of the variant that holds it.
template <std::size_t index, class Message, class Variant>
struct MessageChoice {
    std::uint32_t number;
    Variant Message::*member;
};

template <std::size_t index, class Message, class Variant>
[[nodiscard]] constexpr MessageChoice<index, Message, Variant> choice(std::uint32_t number,
                                                                      Variant Message::*member) noexcept {
    return {number, member};
}

template <class T>
concept ProtobufMessage = requires { T::fields(); };

/// The message in these bytes; nothing if they are malformed.
template <ProtobufMessage Message>
[[nodiscard]] std::optional<Message> read_message(std::string_view bytes);

/// A message in its bytes. Numbers and texts that are 0 or empty are left out, but for those of a `oneof`.
template <ProtobufMessage Message>
[[nodiscard]] std::string write_message(const Message& message);

// The rest of this file is how that is done.

namespace message_fields {

using WireType = protozero::pbf_wire_type;

/// A field as it stands in the bytes: its number and the value that it has, as its wire type has it.
struct WireField {
    std::uint32_t number = 0;
    WireType type = WireType::varint;
    std::uint64_t varint = 0;
    std::string_view bytes;
};

/// Goes through the fields of one message; groups are skipped, since no message of ours has any.
class WireReader {
public:
    explicit WireReader(std::string_view bytes) noexcept : rest_(bytes) {}

    /// The next field; false when there is none, or something else.
    [[nodiscard]] bool next(WireField& field) noexcept;
    /// Whether the bytes are something else.
    [[nodiscard]] bool malformed() const noexcept { return malformed_; }

private:
    [[nodiscard]] bool tag(std::uint32_t& number, std::uint32_t& type) noexcept;
    [[nodiscard]] bool value(std::uint32_t type, WireField& field) noexcept;
    [[nodiscard]] bool skip_group(std::uint32_t number) noexcept;
    [[nodiscard]] bool take(std::uint64_t size, std::string_view& bytes) noexcept;

    std::string_view rest_;
    bool malformed_ = false;
};

/// Takes a varint from the beginning of `rest`; nothing if there is none.
[[nodiscard]] std::optional<std::uint64_t> take_varint(std::string_view& rest) noexcept;

template <class T>
concept Number = std::is_integral_v<T> || std::is_enum_v<T>;

template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};
template <class T>
struct IsMap : std::false_type {};
template <class Key, class Value>
struct IsMap<std::map<Key, Value>> : std::true_type {};
template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};

// How protobuf has the entries of a map: as messages.
inline constexpr std::uint32_t kMapKey = 1;
inline constexpr std::uint32_t kMapValue = 2;

template <class Key, class Value>
struct MapEntry {
    Key key{};
    Value value{};
    static constexpr auto fields() {
        return std::tuple(field(kMapKey, &MapEntry::key), field(kMapValue, &MapEntry::value));
    }
};

// Reading. The functions return false for what is malformed.

template <ProtobufMessage Message>
[[nodiscard]] bool merge(std::string_view bytes, Message& message);

template <Number Value>
[[nodiscard]] Value number_of(std::uint64_t varint) noexcept {
    if constexpr (std::is_same_v<Value, bool>) {
        return varint != 0;
    } else {
        return static_cast<Value>(varint);  // what does not fit is cut, as protobuf does
    }
}

template <Number Value>
[[nodiscard]] bool read_numbers(std::string_view packed, std::vector<Value>& values) {
    while (!packed.empty()) {
        const std::optional<std::uint64_t> varint = take_varint(packed);
        if (!varint) return false;
        values.push_back(number_of<Value>(*varint));
    }
    return true;
}

/// Reads one value that is not a number.
template <class Value>
[[nodiscard]] bool read_bytes(std::string_view bytes, Value& value) {
    if constexpr (std::is_same_v<Value, std::string_view>) {
        value = bytes;
        return is_utf8(bytes);
    } else if constexpr (std::is_same_v<Value, Bytes>) {
        value.value = bytes;
        return true;
    } else if constexpr (IsOptional<Value>::value) {
        return merge(bytes, value ? *value : value.emplace());
    } else if constexpr (IsVector<Value>::value) {
        if constexpr (Number<typename Value::value_type>) {
            return read_numbers(bytes, value);
        } else {
            return read_bytes(bytes, value.emplace_back());
        }
    } else if constexpr (IsMap<Value>::value) {
        MapEntry<typename Value::key_type, typename Value::mapped_type> entry;
        const bool whole = merge(bytes, entry);
        value.insert_or_assign(entry.key, std::move(entry.value));
        return whole;
    } else {
        return merge(bytes, value);
    }
}

template <class Value>
[[nodiscard]] bool read_field(const WireField& wire, Value& value) {
    if constexpr (Number<Value>) {
        if (wire.type == WireType::varint) value = number_of<Value>(wire.varint);
        return true;
    } else {
        if (wire.type == WireType::length_delimited) return read_bytes(wire.bytes, value);
        if constexpr (IsVector<Value>::value) {
            using Element = typename Value::value_type;
            if constexpr (Number<Element>) {
                if (wire.type == WireType::varint) value.push_back(number_of<Element>(wire.varint));
            }
        }
        return true;
    }
}

template <class Message, class Value>
[[nodiscard]] bool read_row(const MessageField<Message, Value>& row, const WireField& wire, Message& message) {
    return wire.number != row.number || read_field(wire, message.*row.member);
}

template <std::size_t index, class Message, class Variant>
[[nodiscard]] bool read_row(const MessageChoice<index, Message, Variant>& row, const WireField& wire,
                            Message& message) {
    static_assert(!Number<std::variant_alternative_t<index, Variant>>, "not needed so far");
    if (wire.number != row.number || wire.type != WireType::length_delimited) return true;
    Variant& variant = message.*row.member;
    if (variant.index() != index) variant.template emplace<index>();
    return read_bytes(wire.bytes, std::get<index>(variant));
}

template <ProtobufMessage Message>
bool merge(std::string_view bytes, Message& message) {
    WireReader reader(bytes);
    WireField wire;
    while (reader.next(wire)) {
        const bool whole = std::apply(
            [&](const auto&... rows) {
                static_cast<void>(message);  // a message may have no fields
                return (read_row(rows, wire, message) && ...);
            },
            Message::fields());
        if (!whole) return false;
    }
    return !reader.malformed();
}

// Writing.

template <ProtobufMessage Message>
void write_fields(protozero::pbf_writer& writer, const Message& message);

/// Writes a value, also one that is the default.
template <class Value>
void write_value(protozero::pbf_writer& writer, std::uint32_t number, const Value& value) {
    if constexpr (std::is_enum_v<Value>) {
        writer.add_int64(number, static_cast<std::int64_t>(value));
    } else if constexpr (std::is_signed_v<Value>) {
        writer.add_int64(number, value);
    } else if constexpr (std::is_integral_v<Value>) {
        writer.add_uint64(number, value);
    } else if constexpr (std::is_same_v<Value, std::string_view>) {
        writer.add_string(number, value.data(), value.size());
    } else if constexpr (std::is_same_v<Value, Bytes>) {
        writer.add_bytes(number, value.value.data(), value.value.size());
    } else {
        // Not by a writer within the writer: protozero leaves out an empty message, which is not the same as none.
        writer.add_message(number, write_message(value));
    }
}

template <class Value>
void write_field(protozero::pbf_writer& writer, std::uint32_t number, const Value& value) {
    if constexpr (Number<Value>) {
        if (value != Value{}) write_value(writer, number, value);
    } else if constexpr (std::is_same_v<Value, std::string_view>) {
        if (!value.empty()) write_value(writer, number, value);
    } else if constexpr (IsOptional<Value>::value) {
        if (value) write_value(writer, number, *value);
    } else if constexpr (IsMap<Value>::value) {
        for (const auto& [key, mapped] : value) {
            std::string entry;
            protozero::pbf_writer part(entry);
            write_value(part, kMapKey, key);
            write_value(part, kMapValue, mapped);
            writer.add_message(number, entry);
        }
    } else if constexpr (IsVector<Value>::value) {
        if constexpr (Number<typename Value::value_type>) {
            if (!value.empty()) writer.add_packed_int64(number, value.begin(), value.end());
        } else {
            for (const auto& element : value) write_value(writer, number, element);
        }
    } else {
        write_value(writer, number, value);
    }
}

template <class Message, class Value>
void write_row(protozero::pbf_writer& writer, const MessageField<Message, Value>& row, const Message& message) {
    write_field(writer, row.number, message.*row.member);
}

template <std::size_t index, class Message, class Variant>
void write_row(protozero::pbf_writer& writer, const MessageChoice<index, Message, Variant>& row,
               const Message& message) {
    if (const auto* chosen = std::get_if<index>(&(message.*row.member))) write_value(writer, row.number, *chosen);
}

template <ProtobufMessage Message>
void write_fields(protozero::pbf_writer& writer, const Message& message) {
    std::apply(
        [&](const auto&... rows) {
            static_cast<void>(message);
            (write_row(writer, rows, message), ...);
        },
        Message::fields());
}

}  // namespace message_fields

template <ProtobufMessage Message>
std::optional<Message> read_message(std::string_view bytes) {
    std::optional<Message> message(std::in_place);
    if (!message_fields::merge(bytes, *message)) message.reset();
    return message;
}

template <ProtobufMessage Message>
std::string write_message(const Message& message) {
    std::string bytes;
    protozero::pbf_writer writer(bytes);
    message_fields::write_fields(writer, message);
    return bytes;
}

}  // namespace anyserve
