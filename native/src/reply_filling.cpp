#include "anyserve/reply_filling.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "anyserve/capability_text.hpp"
#include "anyserve/wire.hpp"

namespace anyserve {
namespace {

using std::chrono::milliseconds;

constexpr std::string_view kAsksForFinal = "triton_enable_empty_final_response";
constexpr std::string_view kFinal = "triton_final_response";

// Fields of ModelInferResponse and ModelStreamInferResponse.
constexpr std::uint32_t kModelName = 1;
constexpr std::uint32_t kModelVersion = 2;
constexpr std::uint32_t kId = 3;
constexpr std::uint32_t kErrorMessage = 1;
constexpr std::uint32_t kInferResponse = 2;

/// Bytes of an annotation beside its value and name, and more than enough for a number.
constexpr std::size_t kEntryBytes = 32;

void append_missing(std::string& out, const MessageHead& reply, const Request& request,
                    const Registration& registration) {
    if (reply.model_name.empty()) {
        const auto name = request.head.model_name.empty() ? registration.listed_name() : request.head.model_name;
        if (!name.empty()) append_bytes_field(out, kModelName, name);
    }
    if (reply.model_version.empty()) {
        if (const auto version = registration.listed_version(); !version.empty()) {
            append_bytes_field(out, kModelVersion, version);
        }
    }
    if (reply.id.empty() && !request.head.id.empty()) append_bytes_field(out, kId, request.head.id);
}

template <class... Types>
struct Overloaded : Types... {
    using Types::operator()...;
};
template <class... Types>
Overloaded(Types...) -> Overloaded<Types...>;  // which clang wants before version 17

std::string number_text(auto number) {
    std::array<char, 32> text;  // NOLINT(*-member-init): filled below
    const auto end = std::to_chars(text.data(), text.data() + text.size(), number).ptr;
    return {text.data(), end};
}

/// A parameter's value for people; empty if there is none.
std::string text_of(const Parameter* value) {
    if (value == nullptr) return {};
    return std::visit(Overloaded{
                          [](std::monostate) { return std::string(); },
                          [](bool given) { return std::string(given ? "true" : "false"); },
                          [](std::string_view text) { return std::string(text); },
                          [](auto number) { return number_text(number); },
                      },
                      *value);
}

/// The status that a worker chose; nothing if there is none with that number (`frame.error.bad-code`).
std::optional<Code> code_of(const Parameter& value) noexcept {
    std::uint64_t number = 0;
    if (const auto* given = std::get_if<std::int64_t>(&value)) {
        number = static_cast<std::uint64_t>(*given);  // a negative one becomes a great one
    } else if (const auto* unsigned_given = std::get_if<std::uint64_t>(&value)) {
        number = *unsigned_given;
    }
    if (number == 0 || number > static_cast<std::uint64_t>(kLastCode)) return std::nullopt;
    return static_cast<Code>(number);
}

InferenceError worker_error(const Parameter& given, const Parameter* message) {
    std::string text = text_of(message);
    if (const auto code = code_of(given)) {
        return {*code, text.empty() ? std::string(code_name(*code)) : std::move(text)};
    }
    const bool is_text = std::holds_alternative<std::string_view>(given);
    const std::string shown = is_text ? in_quotes(std::get<std::string_view>(given)) : text_of(&given);
    return {Code::internal, "the worker failed with an unknown code" + (shown.empty() ? "" : " " + shown) + ": " +
                                (text.empty() ? "no message" : text)};
}

}  // namespace

bool asks_for_final(const MessageHead& request) noexcept { return request.is_true(kAsksForFinal); }

std::string annotations(const Request& request, const Registration& registration,
                        std::chrono::steady_clock::time_point now) {
    std::string out;
    if (!registration.annotate) return out;
    const std::string& capability = registration.capability.encoded();
    std::size_t size = kEntryBytes + wire::kCapability.size() + capability.size();
    if (request.deadline) size += kEntryBytes + wire::kTimeoutMs.size();
    if (!request.traceparent.empty()) size += kEntryBytes + wire::kTraceparent.size() + request.traceparent.size();
    out.reserve(size);
    append_parameter(out, wire::kCapability, std::string_view(capability));
    if (request.deadline) {
        const auto left = std::chrono::floor<milliseconds>(*request.deadline - now).count();
        append_parameter(out, wire::kTimeoutMs, std::int64_t{std::max<milliseconds::rep>(left, 0)});
    }
    if (!request.traceparent.empty()) {
        append_parameter(out, wire::kTraceparent, std::string_view(request.traceparent));
    }
    return out;
}

std::optional<InferenceError> fill_reply(Payload& reply, const Request& request, const Registration& registration) {
    MessageHead head;
    if (auto malformed = scan_message(reply.view(), kResponseFields, head)) {
        return InferenceError{Code::internal, "the worker's reply is not a ModelInferResponse: " + malformed.message};
    }
    if (const Parameter* code = head.parameter(wire::kErrorCode)) {
        return worker_error(*code, head.parameter(wire::kErrorMessage));
    }
    // Its views of the reply are not used behind an append.
    if (std::string* text = reply.text()) {
        append_missing(*text, head, request, registration);
    } else {
        std::string fields;
        append_missing(fields, head, request, registration);
        reply.append(fields);
    }
    return std::nullopt;
}

std::string as_stream_reply(std::string reply, bool last) {
    if (last) append_parameter(reply, kFinal, true);
    std::string out;
    append_field_header(out, kInferResponse, reply.size());
    return std::move(reply.insert(0, out));
}

std::optional<InferenceError> fill_stream_reply(std::string& reply, const Request& request,
                                                const Registration& registration, bool asks, StreamReplyFacts& facts) {
    StreamReply read;
    if (auto malformed = scan_stream_reply(reply, read)) {
        return InferenceError{Code::internal,
                              "the worker's reply is not a ModelStreamInferResponse: " + malformed.message};
    }
    const MessageHead nothing;
    const MessageHead& head = read.response ? *read.response : nothing;
    facts.failed = !read.error_message.empty();
    facts.marked_final = head.is_true(kFinal);
    std::string fields;
    append_missing(fields, head, request, registration);
    if (asks && head.parameter(kFinal) == nullptr) append_parameter(fields, kFinal, false);
    if (!fields.empty()) reply = extend_response(reply, read, fields);
    return std::nullopt;
}

std::string final_reply(const Request& request, const Registration& registration) {
    std::string response;
    append_missing(response, {}, request, registration);
    return as_stream_reply(std::move(response), true);
}

std::string error_reply(const MessageHead& request, const InferenceError& error) {
    std::string response;
    if (!request.id.empty()) append_bytes_field(response, kId, request.id);
    append_parameter(response, wire::kErrorCode, static_cast<std::int64_t>(error.code));
    if (asks_for_final(request)) append_parameter(response, kFinal, true);
    std::string out;
    append_bytes_field(out, kErrorMessage, error.message);
    append_bytes_field(out, kInferResponse, response);
    return out;
}

}  // namespace anyserve
