#include "anyserve/framing.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "anyserve/message_room.hpp"

namespace anyserve {
namespace {

/// Room behind a payload: its owner appends a few fields (`frame.reply.*`), which should not move all of it.
constexpr std::size_t kSpareBytes = 128;

}  // namespace

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
        if (length_ > limit_) return false;
        if (behind.size() >= length_) {  // whole: no way round by `payload_`
            std::string& frame = frames.emplace_back();
            frame.reserve(length_ + kSpareBytes);
            frame.append(behind.substr(0, length_));
            behind.remove_prefix(length_);
            prefix_size_ = 0;
        } else {
            make_room(payload_, length_ + kSpareBytes);
        }
    }
    return true;
}

void FrameReader::take_prefix(std::string_view& bytes) noexcept {
    const std::size_t size = std::min(kFrameHeaderBytes - prefix_size_, bytes.size());
    std::memcpy(prefix_.data() + prefix_size_, bytes.data(), size);
    prefix_size_ += size;
    bytes.remove_prefix(size);
    length_ = std::size_t{prefix_[0]} << 24 | std::size_t{prefix_[1]} << 16 | std::size_t{prefix_[2]} << 8 | prefix_[3];
    filled_ = 0;
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
    prefix_size_ = 0;
}

}  // namespace anyserve
