#include "anyserve/http2_output.hpp"

#include <algorithm>
#include <utility>

namespace anyserve {
namespace {

/// A copied piece does not grow beyond this: memory of its size is kept for the next one.
constexpr std::size_t kPieceBytes = std::size_t{32} << 10;

}  // namespace

void OutputQueue::append(std::string_view bytes) {
    if (bytes.empty()) return;
    if (pieces_.empty() || pieces_.back().owner || pieces_.back().copied.size() + bytes.size() > kPieceBytes) {
        pieces_.push_back({std::exchange(spare_, {}), nullptr, {}, 0});
    }
    pieces_.back().copied.append(bytes);
    size_ += bytes.size();
}

void OutputQueue::append(std::shared_ptr<const void> owner, std::string_view bytes) {
    if (bytes.empty()) return;
    pieces_.push_back({{}, std::move(owner), bytes, 0});
    size_ += bytes.size();
}

std::size_t OutputQueue::gather(std::span<iovec> vectors) const noexcept {
    const std::size_t count = std::min(vectors.size(), pieces_.size());
    for (std::size_t i = 0; i < count; ++i) {
        const std::string_view rest = pieces_[i].rest();
        vectors[i] = {const_cast<char*>(rest.data()), rest.size()};  // iovec serves reading and writing
    }
    return count;
}

void OutputQueue::pop(std::size_t count) noexcept {
    size_ -= count;
    while (count > 0) {
        Piece& front = pieces_.front();
        const std::size_t here = std::min(count, front.rest().size());
        front.begin += here;
        count -= here;
        if (!front.rest().empty()) return;
        if (!front.owner && front.copied.capacity() <= 2 * kPieceBytes) {
            front.copied.clear();
            spare_ = std::move(front.copied);
        }
        pieces_.pop_front();
    }
}

}  // namespace anyserve
