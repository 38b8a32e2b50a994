#include "reply_frame.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>

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

void ReplyFrame::append_payload_to(std::string& out) const {
    std::vector<iovec> parts;
    append_parts(kHeaderBytes, std::numeric_limits<std::size_t>::max(), parts);
    for (const iovec& part : parts) out.append(static_cast<const char*>(part.iov_base), part.iov_len);
}

void ReplyFrame::seal() {
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
