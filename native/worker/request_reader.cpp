#include "request_reader.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace anyserve {
namespace {

std::uint64_t number(std::span<const unsigned char> bytes) noexcept {
    std::uint64_t value = 0;
    for (const unsigned char byte : bytes) value = value << 8 | byte;
    return value;
}

}  // namespace

bool RequestReader::take(std::size_t in_room, std::string_view behind, bool by_reference,
                         std::vector<RequestFrame>& frames) {
    if (in_room > 0) take_payload(in_room, behind, frames);
    while (!behind.empty()) {
        if (in_payload_) {
            take_payload(0, behind, frames);
        } else if (!take_head(behind, by_reference, frames)) {
            return false;
        }
    }
    return true;
}

/// False: a payload is above the limit.
bool RequestReader::take_head(std::string_view& bytes, bool by_reference, std::vector<RequestFrame>& frames) {
    const auto length = [this] {
        return static_cast<std::uint32_t>(number(std::span(head_).first(kFrameHeaderBytes)));
    };
    const bool referring = head_size_ >= kFrameHeaderBytes;  // else it would not be here any more
    const std::size_t wanted = referring ? kReferenceHeaderBytes : kFrameHeaderBytes;
    const std::size_t size = std::min(wanted - head_size_, bytes.size());
    std::memcpy(head_.data() + head_size_, bytes.data(), size);
    head_size_ += size;
    bytes.remove_prefix(size);
    if (head_size_ < wanted || (!referring && by_reference && length() == kByReference)) return true;
    head_size_ = 0;
    if (!referring) return begin(length(), frames);
    const std::span head(head_);
    frame_.body = number(head.subspan(8, 8));
    frame_.room = number(head.subspan(16, 8));
    return begin(static_cast<std::uint32_t>(number(head.subspan(4, 4))), frames);
}

bool RequestReader::begin(std::uint32_t length, std::vector<RequestFrame>& frames) {
    if (length > limit_ || frame_.body > limit_ - length) {
        refused_ = std::uint64_t{length} + std::min<std::uint64_t>(frame_.body, ~std::uint64_t{0} - length);
        return false;
    }
    left_ = length;
    in_payload_ = true;
    const auto header = frame_header(length);
    std::string_view none;
    if (!reader_.take({header.data(), header.size()}, payloads_)) return false;  // it has the same limit
    if (length == 0) take_payload(0, none, frames);
    return true;
}

void RequestReader::take_payload(std::size_t in_room, std::string_view& behind, std::vector<RequestFrame>& frames) {
    const std::size_t size = std::min(left_ - in_room, behind.size());
    static_cast<void>(reader_.take(in_room, behind.substr(0, size), payloads_));  // no prefix is in these
    behind.remove_prefix(size);
    left_ -= in_room + size;
    if (left_ > 0) return;
    in_payload_ = false;
    frame_.bytes = std::move(payloads_.front());
    payloads_.clear();
    frames.push_back(std::exchange(frame_, {}));
}

}  // namespace anyserve
