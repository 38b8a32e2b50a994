#include "reply_frame.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>

#include "anyserve/framing.hpp"

namespace anyserve {

static_assert(kFrameHeaderBytes == 4);

ReplyFrame::ReplyFrame(std::string_view payload) {
    own_.reserve(kHeaderBytes + payload.size());
    own_.assign(kHeaderBytes, '\0');
    own_.append(payload);
}

void ReplyFrame::append_view(std::string_view bytes) {
    views_.push_back({own_.size(), bytes});
    outside_ += bytes.size();
}

ReplyFrame ReplyFrame::by_reference(std::size_t bytes) {
    ReplyFrame frame;
    const auto header = reference_header(0, bytes, 0);
    frame.own_.assign(header.data(), header.size());
    frame.sealed_ = true;
    return frame;
}

void ReplyFrame::copy_payload_to(std::span<char> out) const {
    std::vector<iovec> parts;
    append_parts(kHeaderBytes, std::numeric_limits<std::size_t>::max(), parts);
    char* end = out.data();
    for (const iovec& part : parts) end = std::copy_n(static_cast<const char*>(part.iov_base), part.iov_len, end);
}

void ReplyFrame::seal() {
    if (std::exchange(sealed_, true)) return;
    const auto header = frame_header(static_cast<std::uint32_t>(payload_size()));
    std::ranges::copy(header, own_.begin());
}

void ReplyFrame::append_parts(std::size_t skip, std::size_t most, std::vector<iovec>& parts) const {
    const auto append = [&](std::string_view bytes) {
        const std::size_t skipped = std::min(skip, bytes.size());
        skip -= skipped;
        bytes.remove_prefix(skipped);
        if (!bytes.empty() && parts.size() < most) parts.push_back({const_cast<char*>(bytes.data()), bytes.size()});
    };
    const std::string_view own(own_);
    std::size_t at = 0;
    for (const View& view : views_) {
        append(own.substr(at, view.at - at));
        append(view.bytes);
        at = view.at;
    }
    append(own.substr(at));
}

}  // namespace anyserve
