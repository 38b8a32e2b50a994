// The retry table of docs/spec/framing.md: what the end of a connection means for the exchange on it. Pure.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace anyserve {

/// Why an exchange failed, as far as it matters for what is done about it.
enum class FailureKind : std::uint8_t {
    unreachable,  ///< no connection could be made; nothing was sent
    not_taken,    ///< the worker cannot have had the whole request: sending it elsewhere is safe
    gone,         ///< the worker may have had it, and ended before its reply was complete
    violation,    ///< the worker broke the framing
};

/// Whose fault it was, and how to tell people.
struct Failure {
    FailureKind kind;
    std::string text;
    bool refused = false;  ///< `unreachable`: nobody listens at the worker's address (any more)
};

/// How far an exchange has come.
enum class Progress : std::uint8_t {
    writing,         ///< the request frame is not wholly written
    written,         ///< it is, and no byte of a reply has come
    in_frame,        ///< within a reply frame
    between_frames,  ///< behind a reply frame
};

/// How a connection ends by the worker's doing.
enum class Ending : std::uint8_t {
    end_of_stream,  ///< closed or half-closed
    reset,          ///< EPIPE or ECONNRESET (any error of the socket): bytes were left unread
};

/// Rows 2 to 4 of the table (`frame.retry.*`, `frame.violation.truncated`). Its first row is `unreachable`; its last,
/// bytes before the request is written, is `frame.violation.early`.
[[nodiscard]] constexpr FailureKind failure_kind(Progress progress, Ending ending) noexcept {
    constexpr std::array<std::array<FailureKind, 4>, 2> kTable{{
        //                 writing                 written                 in_frame                between_frames
        /* end_of_stream */ {{FailureKind::not_taken, FailureKind::gone, FailureKind::violation, FailureKind::gone}},
        /* reset */ {{FailureKind::not_taken, FailureKind::not_taken, FailureKind::violation, FailureKind::gone}},
    }};
    return kTable[static_cast<std::size_t>(ending)][static_cast<std::size_t>(progress)];
}

}  // namespace anyserve
