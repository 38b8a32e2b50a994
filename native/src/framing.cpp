#include "anyserve/framing.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "anyserve/message_room.hpp"

namespace anyserve {
namespace {

/// Room behind a payload: its owner appends a few fields (`frame.reply.*`), which should not move all of it.
constexpr std::size_t kSpareBytes = 128;

/// An unsigned number, big-endian.
std::uint64_t number_of(std::span<const unsigned char> bytes) noexcept {
    std::uint64_t number = 0;
    for (const unsigned char byte : bytes) number = number << 8 | byte;
    return number;
}

void put_number(std::span<char> bytes, std::uint64_t number) noexcept {
    for (std::size_t i = bytes.size(); i-- > 0; number >>= 8) bytes[i] = static_cast<char>(number & 0xff);
}

}  // namespace

std::array<char, kReferenceHeaderBytes> reference_header(std::uint32_t in_line, std::uint64_t body,
                                                         std::uint64_t room) noexcept {
    std::array<char, kReferenceHeaderBytes> header;  // NOLINT(*-member-init): filled below
    const std::span<char> bytes(header);
    put_number(bytes.subspan(0, 4), kByReference);
    put_number(bytes.subspan(4, 4), in_line);
    put_number(bytes.subspan(8, 8), body);
    put_number(bytes.subspan(16, 8), room);
    return header;
}

std::span<char> FrameReader::room() {
    if (!in_payload()) return {};
    const std::size_t size = std::min(length_ - filled_, kRoomBytes);
    // Step by step, just before the bytes come: the zeros that a string is made of are then still in the cache.
    if (payload_.size() < filled_ + size) payload_.resize(filled_ + size);
    return {payload_.data() + filled_, size};
}

bool FrameReader::take(std::size_t in_room, std::string_view behind, std::vector<std::string>& frames) {
    if (in_room > 0) filled(in_room, frames);
    while (!behind.empty()) {
        if (in_payload()) {
            take_payload(behind, frames);
            continue;
        }
        take_prefix(behind);
        if (!in_payload()) break;
        if (!fits()) return false;
        if (behind.size() >= length_) {  // whole: no way round by `payload_`
            std::string& frame = frames.emplace_back();
            frame.reserve(length_ + kSpareBytes);
            frame.append(behind.substr(0, length_));
            behind.remove_prefix(length_);
            begin_next();
        } else {
            make_room(payload_, length_ + kSpareBytes);
        }
    }
    return true;
}

void FrameReader::take_prefix(std::string_view& bytes) noexcept {
    const std::size_t size = std::min(header_bytes_ - prefix_size_, bytes.size());
    std::memcpy(prefix_.data() + prefix_size_, bytes.data(), size);
    prefix_size_ += size;
    bytes.remove_prefix(size);
    if (!in_payload()) return;
    const std::size_t last = header_bytes_ == kFrameHeaderBytes ? 0 : kFrameHeaderBytes;  // the length's place
    length_ = number_of(std::span(prefix_).subspan(last, kFrameHeaderBytes));
    filled_ = 0;
    if (last == 0 && length_ == kByReference && offered_ > 0) {
        header_bytes_ = kReferenceHeaderBytes;
        if (!bytes.empty()) take_prefix(bytes);
    }
}

/// Whether a frame may have the length that its header tells.
bool FrameReader::fits() noexcept {
    if (header_bytes_ == kFrameHeaderBytes) return length_ <= limit_;
    const std::span<const unsigned char> header(prefix_);
    const std::uint64_t placed = number_of(header.subspan(8, 8));
    if (placed > offered_ || placed > limit_ || length_ > limit_ - placed || number_of(header.subspan(16, 8)) != 0) {
        return false;
    }
    placed_ = placed;
    offered_ = 0;  // it was for one frame
    return true;
}

void FrameReader::begin_next() noexcept {
    prefix_size_ = 0;
    header_bytes_ = kFrameHeaderBytes;
}

void FrameReader::take_payload(std::string_view& bytes, std::vector<std::string>& frames) {
    const std::size_t size = std::min(length_ - filled_, bytes.size());
    if (payload_.size() < filled_ + size) payload_.resize(filled_ + size);
    std::memcpy(payload_.data() + filled_, bytes.data(), size);
    bytes.remove_prefix(size);
    filled(size, frames);
}

void FrameReader::filled(std::size_t size, std::vector<std::string>& frames) {
    filled_ += size;
    if (filled_ < length_) return;
    frames.push_back(std::exchange(payload_, {}));
    begin_next();
}

}  // namespace anyserve
