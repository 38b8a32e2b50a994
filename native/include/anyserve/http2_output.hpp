// Bytes on their way to a socket: small ones copied together, large ones by reference.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace anyserve {

/// A queue of bytes in pieces, made for `sendmsg`. Its owner bounds it: see `size()`.
class OutputQueue {
public:
    /// Copies `bytes` to the end.
    void append(std::string_view bytes);
    /// Puts `bytes`, which lie in `owner`, at the end without a copy; keeps `owner` until they are gone.
    void append(std::shared_ptr<const void> owner, std::string_view bytes);

    std::size_t size() const noexcept { return size_; }
    bool empty() const noexcept { return size_ == 0; }

    /// Fills `vectors` from the front; returns how many of them.
    [[nodiscard]] std::size_t gather(std::span<iovec> vectors) const noexcept;
    /// Drops the first `count` bytes.
    void pop(std::size_t count) noexcept;

private:
    struct Piece {
        std::string copied;
        std::shared_ptr<const void> owner;
        std::string_view borrowed;  // in `owner`
        std::size_t begin = 0;      // what is gone of it

        std::string_view rest() const noexcept { return (owner ? borrowed : std::string_view(copied)).substr(begin); }
    };

    std::deque<Piece> pieces_;
    std::string spare_;  // the memory of a piece that is gone, for the next one
    std::size_t size_ = 0;
};

}  // namespace anyserve
