// Payloads in memory that the agent shares, as a worker sees them (`frame.shared.*`).
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string_view>

#include "anyserve/fd.hpp"

namespace anyserve {

/// A mapping of a body, which is read, or of a room, which is written.
class SharedMapping {
public:
    SharedMapping(char* data, std::size_t size) noexcept : data_(data), size_(size) {}
    ~SharedMapping();
    SharedMapping(const SharedMapping&) = delete;
    SharedMapping& operator=(const SharedMapping&) = delete;

    [[nodiscard]] char* data() const noexcept { return data_; }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }

    /// Puts a copy of our own in the place of the first bytes: who reads there goes on reading the same, whatever the
    /// agent does with its memory. False: there is no memory for it.
    [[nodiscard]] bool detach(std::size_t bytes) noexcept;

private:
    char* data_;
    std::size_t size_;
};

using SharedMappingPtr = std::shared_ptr<SharedMapping>;

/// The mappings that a worker keeps: the same memory comes again and again. Any thread.
class SharedMappings {
public:
    using Clock = std::chrono::steady_clock;

    /// Of all that are kept; the one used last stays in any case.
    static constexpr std::size_t kMostBytes = std::size_t{256} << 20;
    static constexpr std::size_t kMost = 256;
    /// What the agent has not sent for so long it may have closed: then we hold the memory alone.
    static constexpr std::chrono::seconds kKept{30};

    /// A mapping of the memory of a descriptor; null: it is smaller than `bytes`, can be made smaller, or cannot be
    /// mapped so.
    [[nodiscard]] SharedMappingPtr map(const Fd& descriptor, std::uint64_t bytes, bool writable, Clock::time_point now);
    /// Lets go of a mapping that is not the agent's memory any more.
    void forget(const SharedMapping& mapping) noexcept;
    /// Lets go of those that were not used for `kKept`.
    void drop_unused(Clock::time_point now);
    [[nodiscard]] bool empty() const;

private:
    struct Kept {
        dev_t device;
        ino_t inode;
        bool writable;
        SharedMappingPtr mapping;
        Clock::time_point used;
    };
    void drop(const SharedMapping& mapping) noexcept;

    mutable std::mutex mutex_;
    std::list<Kept> kept_;  // used last first
    std::size_t bytes_ = 0;
};

}  // namespace anyserve
