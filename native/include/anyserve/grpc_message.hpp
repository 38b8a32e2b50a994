// gRPC's messages inside a request's DATA: prefix, length, compression. Sans-I/O: bytes in, messages out.
//
// A message is one byte of flags (0 plain, 1 compressed), its length in four bytes, big-endian, and that many bytes.
// Frames of HTTP/2 and messages have nothing to do with one another: the reader takes them cut anywhere.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "anyserve/code.hpp"
#include "anyserve/payload.hpp"

namespace anyserve {

/// Names of encodings that the server decodes, for `grpc-accept-encoding`.
inline constexpr std::string_view kAcceptedEncodings = "identity,deflate,gzip";

/// What `grpc-encoding` says. It matters only to messages that have the compressed flag.
enum class Encoding { identity, deflate, gzip, unknown };

[[nodiscard]] Encoding parse_encoding(std::string_view name) noexcept;

/// The five bytes in front of a message that is sent without compression.
[[nodiscard]] std::array<char, 5> message_prefix(std::size_t length) noexcept;

/// Whose fault: the client's, always. The call ends with this status; its connection goes on.
struct MessageError {
    Code code;
    std::string text;
};

/// Reads the messages of one request.
///
/// Feed it until `more` comes with nothing left. After `error` it must not be fed any more.
class MessageReader {
public:
    enum class Event {
        more,     ///< all bytes are taken, more are needed
        prefix,   ///< a prefix is complete and within the limit: `announced()` bytes are about to come
        message,  ///< a message is complete: `take()` it
        error,    ///< see `error()`
    };
    struct Step {
        std::size_t taken;  ///< bytes of those given, from their beginning
        Event event;
    };

    /// Args:
    ///   max_bytes: of a message, before and after decompression; one above is RESOURCE_EXHAUSTED at its prefix.
    ///   memory: where large messages are put that are not compressed; null: nowhere else than small ones.
    MessageReader(std::size_t max_bytes, Encoding encoding, SharedMemoryPool* memory = nullptr) noexcept
        : max_bytes_(max_bytes), encoding_(encoding), memory_(memory) {}

    [[nodiscard]] Step feed(std::string_view bytes);

    /// The message that `Event::message` told of, decompressed.
    [[nodiscard]] Payload take() noexcept;

    std::size_t announced() const noexcept { return length_; }
    /// Whether the bytes so far end inside a message: an end of the request here cuts it.
    bool inside() const noexcept { return in_body_ || prefix_size_ > 0; }
    const MessageError& error() const noexcept { return error_; }

private:
    Step fail(std::size_t taken, Code code, std::string text);
    std::optional<Event> read_prefix();
    std::size_t put(std::string_view bytes);
    bool finish_message();

    std::size_t max_bytes_;
    Encoding encoding_;
    SharedMemoryPool* memory_;
    std::array<unsigned char, 5> prefix_{};
    std::size_t prefix_size_ = 0;
    std::size_t length_ = 0;
    bool in_body_ = false;
    std::size_t filled_ = 0;  // of the message, the bytes that have come
    std::string message_;
    SharedMemoryPtr shared_;  // instead of it
    MessageError error_{};
};

/// Decompresses `bytes` (zlib or gzip, one stream that fills them) to at most `max_bytes`.
///
/// Returns nothing and sets `error` when they are not that, or more comes out: a bomb costs no more than the limit.
[[nodiscard]] std::optional<std::string> decompress(std::string_view bytes, std::size_t max_bytes, MessageError& error);

}  // namespace anyserve
