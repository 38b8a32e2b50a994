// The status of a call, and why a request failed.
#pragma once

#include <array>
#include <cstdint>
#include <exception>
#include <string>
#include <string_view>
#include <utility>

namespace anyserve {

/// gRPC status codes, by the numbers that go over the wire.
enum class Code : std::uint8_t {
    ok = 0,
    cancelled = 1,
    unknown = 2,
    invalid_argument = 3,
    deadline_exceeded = 4,
    not_found = 5,
    already_exists = 6,
    permission_denied = 7,
    resource_exhausted = 8,
    failed_precondition = 9,
    aborted = 10,
    out_of_range = 11,
    unimplemented = 12,
    internal = 13,
    unavailable = 14,
    data_loss = 15,
    unauthenticated = 16,
};

inline constexpr Code kLastCode = Code::unauthenticated;

/// The name that gRPC gives a code: `INVALID_ARGUMENT`.
[[nodiscard]] constexpr std::string_view code_name(Code code) noexcept {
    constexpr std::array<std::string_view, 17> kNames{
        "OK",        "CANCELLED",       "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
        "NOT_FOUND", "ALREADY_EXISTS",  "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
        "ABORTED",   "OUT_OF_RANGE",    "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
        "DATA_LOSS", "UNAUTHENTICATED",
    };
    return kNames[static_cast<std::size_t>(code)];
}

/// Why a request failed, as the client is told. The agent hands it on as a value; handlers of workers throw it.
struct [[gnu::visibility("default")]] InferenceError : std::exception {
    InferenceError(Code why, std::string text) noexcept : code(why), message(std::move(text)) {}
    [[nodiscard]] const char* what() const noexcept override { return message.c_str(); }

    Code code;
    std::string message;
};

}  // namespace anyserve
