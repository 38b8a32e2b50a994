// Reads frames where their bytes belong. Pure: bytes in, payloads out (`frame.length.*`).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace anyserve {

/// The length prefix of a frame in bytes, and the longest payload that one can tell.
inline constexpr std::size_t kFrameHeaderBytes = 4;
inline constexpr std::uint64_t kMaxFrameLength = 0xffff'fffe;
/// What stands in place of a length when the payload lies in shared memory (`frame.shared.*`), and the bytes of such a
/// frame before its inline ones.
inline constexpr std::uint32_t kByReference = 0xffff'ffff;
inline constexpr std::size_t kReferenceHeaderBytes = 24;

/// The length prefix of a payload.
[[nodiscard]] constexpr std::array<char, kFrameHeaderBytes> frame_header(std::uint32_t length) noexcept {
    return {static_cast<char>(length >> 24), static_cast<char>(length >> 16), static_cast<char>(length >> 8),
            static_cast<char>(length)};
}

/// What stands before the inline bytes of a frame by reference.
[[nodiscard]] std::array<char, kReferenceHeaderBytes> reference_header(std::uint32_t in_line, std::uint64_t body,
                                                                       std::uint64_t room) noexcept;

/// Cuts a byte stream into payloads, wherever it was split.
///
/// Whoever reads the stream can put the bytes of a payload under way into `room()`, where they stay, and needs to hand
/// over by `take` only what lies behind them. Memory of a payload grows with what has come of it, not with what its
/// prefix says: at most `kRoomBytes` more.
class FrameReader {
public:
    static constexpr std::size_t kRoomBytes = std::size_t{256} << 10;  // more than a Unix socket gives in one read

    /// `limit`: the greatest payload in bytes that is taken.
    explicit FrameReader(std::size_t limit) noexcept : limit_(limit) {}

    /// The next frame may be by reference, with so many bytes in shared memory; 0: none may, as at first.
    void offer_room(std::uint64_t bytes) noexcept {
        offered_ = bytes;
        placed_.reset();
    }
    /// How many bytes the frame by reference that has come since has there; its payload that was given is inline.
    [[nodiscard]] std::optional<std::uint64_t> placed() const noexcept { return placed_; }

    /// Where the next bytes belong; empty between frames and within a prefix. Valid until the next call.
    [[nodiscard]] std::span<char> room();

    /// Takes the first `in_room` bytes of `room()` as read, and then `behind`; `behind` is empty unless the room was
    /// filled. Appends the payloads that this completes to `frames`. False: a length is above the limit
    /// (`frame.length.limit`), see `refused_length`; nothing is to be taken after that.
    [[nodiscard]] bool take(std::size_t in_room, std::string_view behind, std::vector<std::string>& frames);

    /// The same without a room.
    [[nodiscard]] bool take(std::string_view bytes, std::vector<std::string>& frames) { return take(0, bytes, frames); }

    /// Within a frame: an end of the stream here is a truncation (`frame.violation.truncated`).
    [[nodiscard]] bool unfinished() const noexcept { return prefix_size_ > 0; }

    /// How many bytes have come of a frame that is not complete.
    [[nodiscard]] std::size_t held() const noexcept { return in_payload() ? filled_ : prefix_size_; }

    /// The length that was above the limit; of a frame by reference its inline bytes.
    [[nodiscard]] std::size_t refused_length() const noexcept { return length_; }
    /// Whether it was a frame by reference that told more than it may.
    [[nodiscard]] bool refused_reference() const noexcept { return header_bytes_ == kReferenceHeaderBytes; }

private:
    [[nodiscard]] bool in_payload() const noexcept { return prefix_size_ == header_bytes_; }
    void take_prefix(std::string_view& bytes) noexcept;
    [[nodiscard]] bool fits() noexcept;
    void begin_next() noexcept;
    void take_payload(std::string_view& bytes, std::vector<std::string>& frames);
    void filled(std::size_t size, std::vector<std::string>& frames);

    std::size_t limit_;
    std::uint64_t offered_ = 0;
    std::optional<std::uint64_t> placed_;
    std::array<unsigned char, kReferenceHeaderBytes> prefix_{};
    std::size_t prefix_size_ = 0;
    std::size_t header_bytes_ = kFrameHeaderBytes;  // of this frame
    std::size_t length_ = 0;                        // of the payload, once the prefix is complete
    std::size_t filled_ = 0;                        // of it, the bytes that have come
    std::string payload_;                           // those, and room for more
};

}  // namespace anyserve
