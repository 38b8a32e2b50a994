#include "anyserve/scan.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "anyserve/utf8.hpp"

namespace anyserve {
namespace {

enum WireType : std::uint32_t { kVarint = 0, kFixed64 = 1, kLength = 2, kFixed32 = 5 };

constexpr std::uint32_t kParameters = 4;  // the field of a request and of a response
constexpr std::uint32_t kTensors = 5;     // inputs of a request, outputs of a response

/// One field as it stands on the wire: the value of a varint, or the bytes of any other.
struct Field {
    std::uint32_t number = 0;
    std::uint32_t wire_type = 0;
    std::uint64_t value = 0;
    std::string_view bytes;
};

std::string about_field(std::uint32_t number, std::string_view what) {
    std::string message = "field " + std::to_string(number);
    message += what;
    return message;
}

/// Goes through the fields of a message, without looking into them (`frame.scan.cut`, `.varint`, `.tag`, `.group`).
class FieldReader {
public:
    FieldReader(std::string_view data, Malformed& malformed) noexcept : rest_(data), malformed_(malformed) {}

    /// The next field; false at the end, and if there is something else.
    [[nodiscard]] bool next(Field& field) {
        std::uint64_t tag = 0;
        if (rest_.empty() || !varint(tag)) return false;
        if (tag >> 32 != 0 || tag >> 3 == 0) return refuse("a field number is out of range");
        field.number = static_cast<std::uint32_t>(tag >> 3);
        field.wire_type = static_cast<std::uint32_t>(tag & 7);
        switch (field.wire_type) {
            case kVarint: return varint(field.value);
            case kFixed64: return take(field, 8);
            case kFixed32: return take(field, 4);
            case kLength: {
                std::uint64_t length = 0;
                return varint(length) && take(field, length);
            }
            default: break;
        }
        return refuse(about_field(field.number, " has wire type " + std::to_string(field.wire_type)) +
                      ", which proto3 does not use");
    }

    /// What lies behind the last field.
    [[nodiscard]] std::string_view rest() const noexcept { return rest_; }

private:
    bool refuse(std::string message) {
        malformed_.message = std::move(message);
        return false;
    }
    [[nodiscard]] bool varint(std::uint64_t& value) {
        if (!rest_.empty() && static_cast<unsigned char>(rest_[0]) < 0x80) {  // nearly all of them
            value = static_cast<unsigned char>(rest_[0]);
            rest_.remove_prefix(1);
            return true;
        }
        return long_varint(value);
    }
    [[nodiscard]] bool long_varint(std::uint64_t& value) {
        constexpr std::size_t max_size = 10;  // 64 bits by sevens; of the last byte there is room for one bit
        value = 0;
        for (std::size_t i = 0; i < std::min(rest_.size(), max_size); ++i) {
            const auto byte = static_cast<unsigned char>(rest_[i]);
            value |= std::uint64_t{byte & 0x7FU} << (7 * i);
            if (byte >= 0x80) continue;
            if (i + 1 == max_size && byte > 1) return refuse("a varint does not fit in 64 bits");
            rest_.remove_prefix(i + 1);
            return true;
        }
        return refuse(rest_.size() < max_size ? "a varint is cut off" : "a varint is longer than 10 bytes");
    }
    [[nodiscard]] bool take(Field& field, std::uint64_t size) {
        if (size > rest_.size()) return refuse(about_field(field.number, " is cut off"));
        field.bytes = rest_.substr(0, size);
        rest_.remove_prefix(size);
        return true;
    }

    std::string_view rest_;
    Malformed& malformed_;
};

/// Reads fields 1 to 4 of a message, or of several that are merged.
class HeadReader {
public:
    HeadReader(MessageHead& head, Malformed& malformed) noexcept
        : head_(head), malformed_(malformed), settle_at_(settled_size()) {}

    [[nodiscard]] bool read(std::string_view data, std::uint32_t fields) {
        FieldReader reader(data, malformed_);
        Field field;
        while (reader.next(field)) {
            if (field.number > fields) continue;
            if (field.wire_type != kLength) return wrong_wire_type(field);
            switch (field.number) {
                case 1:
                    if (!text(field, head_.model_name, "model_name")) return false;
                    break;
                case 2:
                    if (!text(field, head_.model_version, "model_version")) return false;
                    break;
                case 3:
                    if (!text(field, head_.id, "id")) return false;
                    break;
                case kParameters:
                    if (!parameter(field.bytes)) return false;
                    break;
                case kTensors: head_.tensors = true; break;
                default: break;
            }
        }
        return !malformed_;
    }

    /// Leaves each parameter once, with its last value.
    void settle() {
        auto& parameters = head_.parameters;
        if (parameters.size() <= kFew) return;  // they never stand twice
        const auto name = [](const auto& parameter) { return parameter.first; };
        std::stable_sort(parameters.begin(), parameters.end(),
                         [&](const auto& one, const auto& other) { return name(one) < name(other); });
        // From the back, the first of each name is the last that came.
        const auto last = std::unique(parameters.rbegin(), parameters.rend(),
                                      [&](const auto& one, const auto& other) { return name(one) == name(other); });
        parameters.erase(parameters.begin(), last.base());
        settle_at_ = settled_size();
    }

private:
    // So many are searched one by one. Of more the repeated ones are sorted out whenever their number has doubled: time
    // and memory stay in proportion to the message, whoever wrote it, and no choice of names makes them worse, as it
    // could with a hash.
    static constexpr std::size_t kFew = 16;

    [[nodiscard]] std::size_t settled_size() const noexcept { return 2 * std::max(head_.parameters.size(), kFew); }

    bool refuse(std::string message) {
        malformed_.message = std::move(message);
        return false;
    }
    bool wrong_wire_type(const Field& field, const char* message = "") {
        return refuse(message + about_field(field.number, " has wire type " + std::to_string(field.wire_type)));
    }
    [[nodiscard]] bool text(const Field& field, std::string_view& out, const char* name) {
        if (!is_utf8(field.bytes)) return refuse(std::string(name) + " is not UTF-8");
        out = field.bytes;
        return true;
    }

    /// An entry of the map (`frame.scan.map`).
    [[nodiscard]] bool parameter(std::string_view entry) {
        std::string_view name;
        Parameter value;
        FieldReader reader(entry, malformed_);
        Field field;
        while (reader.next(field)) {
            if (field.number > 2) continue;
            if (field.wire_type != kLength) return wrong_wire_type(field, "a parameters entry's ");
            if (field.number == 1 && !text(field, name, "a parameter's name")) return false;
            if (field.number == 2 && !choice(field.bytes, value)) return false;
        }
        if (malformed_) return false;
        set(name, value);
        return true;
    }

    /// An InferParameter, merged into `value`: the last choice that stands in it counts (`frame.scan.choice`).
    [[nodiscard]] bool choice(std::string_view data, Parameter& value) {
        constexpr std::array<std::uint32_t, 5> wire_types = {kVarint, kVarint, kLength, kFixed64, kVarint};
        FieldReader reader(data, malformed_);
        Field field;
        while (reader.next(field)) {
            if (field.number > wire_types.size()) continue;
            if (field.wire_type != wire_types[field.number - 1]) return wrong_wire_type(field, "InferParameter ");
            switch (field.number) {
                case 1: value = field.value != 0; break;
                case 2: value = static_cast<std::int64_t>(field.value); break;
                case 3: {
                    std::string_view string;
                    if (!text(field, string, "a string parameter")) return false;
                    value = string;
                    break;
                }
                case 4: value = to_double(field.bytes); break;
                case 5: value = field.value; break;
                default: break;
            }
        }
        return !malformed_;
    }

    static double to_double(std::string_view little_endian) noexcept {
        std::uint64_t bits = 0;
        for (std::size_t i = sizeof bits; i-- > 0;) bits = bits << 8 | static_cast<unsigned char>(little_endian[i]);
        return std::bit_cast<double>(bits);
    }

    void set(std::string_view name, const Parameter& value) {
        auto& parameters = head_.parameters;
        if (parameters.size() <= kFew) {
            const auto same = [name](const auto& parameter) { return parameter.first == name; };
            const auto found = std::find_if(parameters.begin(), parameters.end(), same);
            if (found != parameters.end()) {
                found->second = value;
                return;
            }
            if (parameters.empty()) parameters.reserve(4);  // one allocation does for nearly every request
        }
        parameters.emplace_back(name, value);
        if (parameters.size() >= settle_at_) settle();
    }

    MessageHead& head_;
    Malformed& malformed_;
    std::size_t settle_at_;
};

constexpr std::size_t varint_size(std::uint64_t value) noexcept {
    return (static_cast<std::size_t>(std::bit_width(value | 1)) + 6) / 7;
}

/// Bytes of a length-delimited field with one of the numbers up to 15.
constexpr std::size_t field_size(std::size_t payload) noexcept { return 1 + varint_size(payload) + payload; }

std::size_t choice_size(const Parameter& value) noexcept {
    struct {
        std::size_t operator()(std::monostate) const noexcept { return 0; }
        std::size_t operator()(bool) const noexcept { return 2; }
        std::size_t operator()(double) const noexcept { return 1 + sizeof(double); }
        std::size_t operator()(std::string_view text) const noexcept { return field_size(text.size()); }
        std::size_t operator()(std::uint64_t number) const noexcept { return 1 + varint_size(number); }
        std::size_t operator()(std::int64_t number) const noexcept {
            return 1 + varint_size(static_cast<std::uint64_t>(number));
        }
    } constexpr size;
    return std::visit(size, value);
}

void append_tag(std::string& out, std::uint32_t number, WireType wire_type) {
    append_varint(out, std::uint64_t{number} << 3 | wire_type);
}

/// The fields of an InferParameter.
struct ChoiceWriter {
    std::string& out;

    void operator()(std::monostate) const {}
    void operator()(bool value) const { varint(1, value ? 1 : 0); }
    void operator()(std::int64_t value) const { varint(2, static_cast<std::uint64_t>(value)); }
    void operator()(std::string_view value) const { append_bytes_field(out, 3, value); }
    void operator()(double value) const {
        append_tag(out, 4, kFixed64);
        auto bits = std::bit_cast<std::uint64_t>(value);
        for (std::size_t i = 0; i < sizeof bits; ++i, bits >>= 8) out += static_cast<char>(bits & 0xFF);
    }
    void operator()(std::uint64_t value) const { varint(5, value); }

private:
    void varint(std::uint32_t number, std::uint64_t value) const {
        append_tag(out, number, kVarint);
        append_varint(out, value);
    }
};

}  // namespace

const Parameter* MessageHead::parameter(std::string_view name) const noexcept {
    for (const auto& [key, value] : parameters) {
        if (key == name) return &value;
    }
    return nullptr;
}

bool MessageHead::is_true(std::string_view name) const noexcept {
    const Parameter* value = parameter(name);
    const bool* choice = value != nullptr ? std::get_if<bool>(value) : nullptr;
    return choice != nullptr && *choice;
}

Malformed scan_message(std::string_view data, std::uint32_t fields, MessageHead& head) {
    Malformed malformed;
    HeadReader reader(head, malformed);
    if (reader.read(data, fields)) reader.settle();
    return malformed;
}

Malformed scan_stream_reply(std::string_view data, StreamReply& reply) {
    Malformed malformed;
    FieldReader fields(data, malformed);
    Field field;
    for (std::size_t begin = 0; fields.next(field); begin = data.size() - fields.rest().size()) {
        if (field.number > 2) continue;
        if (field.wire_type != kLength) {
            return {about_field(field.number, " has wire type " + std::to_string(field.wire_type))};
        }
        if (field.number == 1) {
            if (!is_utf8(field.bytes)) return {"error_message is not UTF-8"};
            reply.error_message = field.bytes;
        } else {
            const std::size_t last = data.size() - fields.rest().size();
            reply.parts.push_back({begin, last - field.bytes.size(), last});
        }
    }
    if (malformed || reply.parts.empty()) return malformed;
    // A singular sub-message that stands twice is merged, each whole by itself.
    HeadReader head(reply.response.emplace(), malformed);
    for (const auto& part : reply.parts) {
        if (!head.read(data.substr(part.first, part.last - part.first), kResponseFields)) return malformed;
    }
    head.settle();
    return malformed;
}

std::string extend_response(std::string_view data, const StreamReply& reply, std::string_view fields) {
    std::size_t response_size = fields.size();
    for (const auto& part : reply.parts) response_size += part.last - part.first;
    std::string out;
    out.reserve(data.size() + fields.size() + 2 * field_size(0) + varint_size(response_size));
    std::size_t end = 0;
    for (const auto& part : reply.parts) {
        out += data.substr(end, part.begin - end);
        end = part.last;
    }
    out += data.substr(end);
    append_field_header(out, 2, response_size);
    for (const auto& part : reply.parts) out += data.substr(part.first, part.last - part.first);
    out += fields;
    return out;
}

void append_varint(std::string& out, std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
    out += static_cast<char>(value);
}

void append_field_header(std::string& out, std::uint32_t number, std::size_t length) {
    append_tag(out, number, kLength);
    append_varint(out, length);
}

void append_bytes_field(std::string& out, std::uint32_t number, std::string_view payload) {
    append_field_header(out, number, payload.size());
    out += payload;
}

void append_parameter(std::string& out, std::string_view name, const Parameter& value) {
    const std::size_t choice = choice_size(value);
    append_field_header(out, kParameters, field_size(name.size()) + field_size(choice));
    append_bytes_field(out, 1, name);
    append_field_header(out, 2, choice);
    std::visit(ChoiceWriter{out}, value);
}

}  // namespace anyserve
