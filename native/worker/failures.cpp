#include "failures.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "anyserve/utf8.hpp"
#include "anyserve/wire.hpp"

namespace anyserve {
namespace {

constexpr std::uint32_t kId = 3;             // of ModelInferResponse
constexpr std::uint32_t kErrorMessage = 1;   // of ModelStreamInferResponse
constexpr std::uint32_t kInferResponse = 2;  // of the same

/// Of a failure's message: more than an agent passes on, less than any limit of a reply.
constexpr std::size_t kMostErrorBytes = 8192;

/// A code that a failure may have: OK is none.
InferenceError checked(const InferenceError& error) {
    return error.code == Code::ok ? InferenceError(Code::internal, error.message) : error;
}

/// At the end of a character.
std::string cut(std::string_view text) {
    std::size_t size = std::min(text.size(), kMostErrorBytes);
    while (size < text.size() && size > 0 && (static_cast<unsigned char>(text[size]) & 0xC0U) == 0x80U) --size;
    return std::string(text.substr(0, size));
}

/// What is not UTF-8 cannot travel: its bytes beyond ASCII are written as `\xNN`.
std::string as_utf8(std::string_view text) {
    if (is_utf8(text)) return cut(text);
    constexpr std::string_view digits = "0123456789abcdef";
    std::string escaped;
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x80) {
            escaped += c;
        } else {
            escaped.append("\\x") += digits[byte >> 4];
            escaped += digits[byte & 0xF];
        }
    }
    return cut(escaped);
}

void append_code(std::string& response, Code code) {
    append_parameter(response, wire::kErrorCode, static_cast<std::int64_t>(code));
}

}  // namespace

InferenceError as_inference_error(const std::exception_ptr& thrown) {
    try {
        std::rethrow_exception(thrown);
    } catch (const InferenceError& error) {
        return checked(error);
    } catch (const std::exception& error) {
        return {Code::internal, error.what()};
    } catch (...) {
        return {Code::internal, "the handler has thrown what is no exception of the standard library"};
    }
}

ReplyFrame failure_frame(const InferenceError& error) {
    ReplyFrame frame;
    append_code(frame.own(), error.code);
    append_parameter(frame.own(), wire::kErrorMessage, as_utf8(error.message));
    return frame;
}

ReplyFrame stream_failure_frame(const MessageHead& request, const InferenceError& error) {
    std::string response;
    append_bytes_field(response, kId, request.id);
    append_code(response, error.code);
    ReplyFrame frame;
    // With an empty one the reply would look like a success.
    append_bytes_field(frame.own(), kErrorMessage,
                       error.message.empty() ? code_name(error.code) : std::string_view(as_utf8(error.message)));
    append_bytes_field(frame.own(), kInferResponse, response);
    return frame;
}

}  // namespace anyserve
