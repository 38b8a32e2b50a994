// The bytes of a message on its way through the agent: in a string, or in memory that is shared with workers.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "anyserve/shared_memory.hpp"

namespace anyserve {

/// Owns its bytes, which lie one behind the other in either case.
///
/// A worker that breaks the rules may change those in a room while they are read: a length that was read of them holds
/// for that read alone.
class Payload {
public:
    Payload() noexcept = default;
    template <std::convertible_to<std::string> Bytes>
    Payload(Bytes&& bytes) : text_(std::forward<Bytes>(bytes)) {}  // NOLINT(*-explicit-*): the usual kind
    /// The first `size` bytes of `memory`, at most all of them.
    Payload(SharedMemoryPtr memory, std::size_t size) noexcept : shared_(std::move(memory)), size_(size) {}

    [[nodiscard]] std::string_view view() const noexcept {
        return shared_ ? std::string_view(shared_->data(), size_) : std::string_view(text_);
    }
    [[nodiscard]] std::size_t size() const noexcept { return shared_ ? size_ : text_.size(); }
    [[nodiscard]] bool empty() const noexcept { return size() == 0; }

    /// The memory in which they lie; null: it is not shared.
    [[nodiscard]] SharedMemory* shared() const noexcept { return shared_.get(); }
    /// The string in which they lie; null: they lie in shared memory.
    [[nodiscard]] std::string* text() noexcept { return shared_ ? nullptr : &text_; }

    /// Adds bytes behind them; in shared memory as far as it has room for all.
    void append(std::string_view bytes) {
        if (shared_ && shared_->size() - size_ >= bytes.size()) {
            std::copy(bytes.begin(), bytes.end(), shared_->data() + size_);
            size_ += bytes.size();
            return;
        }
        leave_shared(bytes.size());
        text_.append(bytes);
    }

    /// As a string, copied only if they were in shared memory.
    [[nodiscard]] std::string take() && {
        leave_shared(0);
        return std::move(text_);
    }

private:
    void leave_shared(std::size_t room) {
        if (!shared_) return;
        text_.reserve(size_ + room);
        text_.assign(view());
        shared_.reset();
    }

    std::string text_;
    SharedMemoryPtr shared_;
    std::size_t size_ = 0;  // in `shared_`
};

}  // namespace anyserve
