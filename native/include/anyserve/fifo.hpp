// A queue for the few: nothing is allocated before the first element, and memory is kept from then on.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

namespace anyserve {

/// First in, first out, in one piece of memory. An empty one is as small as a vector; an empty std::deque of libstdc++
/// takes two blocks of memory, which every request would pay for.
///
/// Elements that were taken leave their place only when most places are such: each is moved a few times at most.
template <class T>
class Fifo {
public:
    [[nodiscard]] bool empty() const noexcept { return first_ == items_.size(); }
    [[nodiscard]] std::size_t size() const noexcept { return items_.size() - first_; }
    [[nodiscard]] T& front() noexcept { return items_[first_]; }
    [[nodiscard]] const T& front() const noexcept { return items_[first_]; }
    auto begin() const noexcept { return items_.begin() + static_cast<std::ptrdiff_t>(first_); }
    auto end() const noexcept { return items_.end(); }

    void push(T item) {
        if (first_ > 0 && items_.size() == items_.capacity() && first_ >= items_.size() / 2) {
            items_.erase(items_.begin(), begin());
            first_ = 0;
        }
        items_.push_back(std::move(item));
    }
    T pop() {
        T item = std::move(items_[first_++]);
        if (empty()) clear();
        return item;
    }
    void clear() noexcept {
        items_.clear();
        first_ = 0;
    }

private:
    std::vector<T> items_;
    std::size_t first_ = 0;  // those before have been taken
};

}  // namespace anyserve
