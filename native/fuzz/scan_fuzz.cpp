// Any bytes as a request, a reply and a stream reply: the scan agrees with an obvious one, parts say what the whole
// says, what is read and written again is read alike, and fields that nobody knows change nothing.
//
// The first two bytes say where the rest is cut in two.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "anyserve/scan.hpp"
#include "obvious_scan.hpp"
#include "require.hpp"

namespace {

using namespace anyserve;
using fuzz::comparable;
using fuzz::Reading;
using fuzz::require;

Reading reading_of(const MessageHead& head) {
    Reading reading{
        std::string(head.model_name), std::string(head.model_version), std::string(head.id), {}, head.tensors};
    for (const auto& [name, value] : head.parameters) {
        require(reading.parameters.emplace(name, comparable(value)).second);  // each once
        require(comparable(*head.parameter(name)) == comparable(value));
    }
    return reading;
}

std::optional<Reading> scanned(std::string_view data, std::uint32_t fields) {
    MessageHead head;
    if (scan_message(data, fields, head)) return std::nullopt;
    return reading_of(head);
}

/// What was read, written anew.
std::string written(const MessageHead& head) {
    std::string out;
    append_bytes_field(out, 1, head.model_name);
    append_bytes_field(out, 2, head.model_version);
    append_bytes_field(out, 3, head.id);
    for (const auto& [name, value] : head.parameters) append_parameter(out, name, value);
    if (head.tensors) append_bytes_field(out, 5, "");
    return out;
}

const std::string kUnknown("\x78\x01\x7a\x01\xff\x7d\0\0\0\0\x79\0\0\0\0\0\0\0\0", 19);

void check_message(std::string_view data, std::size_t cut, std::uint32_t fields) {
    MessageHead head;
    const bool whole = !scan_message(data, fields, head);
    Reading obvious;
    require(fuzz::obvious_message(data, fields, obvious) == whole);
    if (whole) {
        const Reading reading = reading_of(head);
        require(reading == obvious);
        require(scanned(written(head), fields) == reading);
        require(scanned(kUnknown + std::string(data) + kUnknown, fields) == reading);
    }
    MessageHead parts;
    if (scan_message(data.substr(0, cut), fields, parts)) return;
    // Behind a good part, the rest is good if the whole is, and says the same.
    require(!scan_message(data.substr(cut), fields, parts) == whole);
    if (whole) require(reading_of(parts) == reading_of(head));
}

void check_stream_reply(std::string_view data) {
    StreamReply reply;
    if (scan_stream_reply(data, reply)) return;
    require(fuzz::obvious_utf8(reply.error_message));
    require(reply.response.has_value() == !reply.parts.empty());
    std::string response;
    for (const auto& part : reply.parts) response += data.substr(part.first, part.last - part.first);
    if (reply.response) require(scanned(response, kResponseFields) == reading_of(*reply.response));

    std::string added;
    append_bytes_field(added, 3, "id");
    append_parameter(added, "final", true);
    const std::string extended = extend_response(data, reply, added);
    StreamReply again;
    require(!scan_stream_reply(extended, again));
    require(again.parts.size() == 1 && again.parts[0].last == extended.size());
    require(again.error_message == reply.error_message);
    require(reading_of(*again.response) == scanned(response + added, kResponseFields));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 2) return 0;
    const std::string_view bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
    const std::size_t cut = (std::size_t{data[0]} << 8 | data[1]) % (bytes.size() + 1);
    check_message(bytes, cut, kRequestFields);
    check_message(bytes, cut, kResponseFields);
    check_stream_reply(bytes);
    return 0;
}
