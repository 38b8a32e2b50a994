// Reads the few protobuf fields an agent needs and leaves the rest alone. Pure: nothing is copied but what is written.
//
// A request is forwarded as the bytes it came in; of it the agent reads only the model's name and version, the id and
// the parameters. Of a reply it reads the same and whether it is an error. What the agent adds, it appends: protobuf
// merges concatenated messages. Rules: spec `frame.request.*`, `frame.reply.*`. Mirrors reference/anyserve/scan.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace anyserve {

/// Why bytes are not the message that they should be; empty: they are.
struct Malformed {
    std::string message;
    [[nodiscard]] explicit operator bool() const noexcept { return !message.empty(); }
};

/// The value of an InferParameter; monostate where none of its choices is set. `std::uint64_t` is `uint64_param`.
using Parameter = std::variant<std::monostate, bool, std::int64_t, std::uint64_t, double, std::string_view>;

/// How many fields the messages define, all of them length-delimited.
inline constexpr std::uint32_t kRequestFields = 7;
inline constexpr std::uint32_t kResponseFields = 6;

/// What the agent reads of a ModelInferRequest or a ModelInferResponse (fields 1 to 4 are alike). All texts are views
/// of the scanned bytes.
struct MessageHead {
    std::string_view model_name;
    std::string_view model_version;
    std::string_view id;
    std::vector<std::pair<std::string_view, Parameter>> parameters;  ///< each name once, with its last value
    bool tensors = false;                                            ///< a response has outputs, a request inputs

    /// The value of a parameter; null if it is not there.
    [[nodiscard]] const Parameter* parameter(std::string_view name) const noexcept;
    /// Whether a parameter is there and the boolean `true`.
    [[nodiscard]] bool is_true(std::string_view name) const noexcept;
};

/// Reads fields 1 to 4 of a message into `head`, on top of what an earlier part of the same message said.
[[nodiscard]] Malformed scan_message(std::string_view data, std::uint32_t fields, MessageHead& head);

/// What the agent reads of a ModelStreamInferResponse.
struct StreamReply {
    /// Where `infer_response` stands: begin of the field, begin and end of its payload.
    struct Part {
        std::size_t begin;
        std::size_t first;
        std::size_t last;
    };
    std::string_view error_message;
    std::optional<MessageHead> response;
    std::vector<Part> parts;
};

/// Reads a ModelStreamInferResponse, and of its `infer_response` what `scan_message` reads.
[[nodiscard]] Malformed scan_stream_reply(std::string_view data, StreamReply& reply);

/// A ModelStreamInferResponse with `fields` added to its one `infer_response`; not as a second one, see the reference.
[[nodiscard]] std::string extend_response(std::string_view data, const StreamReply& reply, std::string_view fields);

void append_varint(std::string& out, std::uint64_t value);
/// A length-delimited field.
void append_bytes_field(std::string& out, std::uint32_t number, std::string_view payload);
/// The tag and length of a length-delimited field whose payload comes next.
void append_field_header(std::string& out, std::uint32_t number, std::size_t length);
/// An entry of `parameters` (field 4), to append to a request or a response.
void append_parameter(std::string& out, std::string_view name, const Parameter& value);

}  // namespace anyserve
