// Memory that the agent shares with workers: memfds and the agent's mappings of them, pooled by size.
//
// *Bodies*, from which workers read requests, are sealed against all writing but ours; into *rooms*, each offered to
// one worker alone, that worker writes replies. Nobody can make either smaller, so no read of ours can fail. They have
// no names: nothing of them is left when the processes have gone. Rules: spec `frame.shared.*`.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "anyserve/fd.hpp"

namespace anyserve {

class SharedMemoryPool;

/// One memfd and our mapping of it. Held by `SharedMemoryPtr`, whose end gives it back to its pool.
class SharedMemory {
public:
    ~SharedMemory();
    SharedMemory(const SharedMemory&) = delete;
    SharedMemory& operator=(const SharedMemory&) = delete;

    [[nodiscard]] char* data() const noexcept { return data_; }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] const Fd& descriptor() const noexcept { return descriptor_; }

    /// A worker gets the descriptor: until it has given it back nobody else's bytes come here, and if it never does the
    /// memory is not used again.
    void lend() noexcept { use_ = use_ == Use::ours ? Use::lent : Use::lost; }
    /// The exchange has ended with its last reply frame (`frame.shared.body-free`, `frame.shared.room-free`).
    void give_back() noexcept {
        if (use_ == Use::lent) use_ = Use::ours;
    }

private:
    friend class SharedMemoryPool;
    friend struct SharedMemoryReturn;
    enum class Use : std::uint8_t { ours, lent, lost };

    SharedMemory(Fd descriptor, char* data, std::size_t size) noexcept
        : descriptor_(std::move(descriptor)), data_(data), size_(size) {}
    [[nodiscard]] bool commit(std::size_t bytes) noexcept;

    Fd descriptor_;
    char* data_;
    std::size_t size_;
    std::size_t committed_ = 0;  // bytes from the beginning that have pages
    Use use_ = Use::ours;
    std::uint64_t worker_ = 0;                // of a room
    std::shared_ptr<SharedMemoryPool> pool_;  // while it is out of it
    std::chrono::steady_clock::time_point freed_{};
};

/// Gives memory back to its pool.
struct SharedMemoryReturn {
    void operator()(SharedMemory* memory) const noexcept;
};

using SharedMemoryPtr = std::unique_ptr<SharedMemory, SharedMemoryReturn>;

/// Counts for its pool that a worker takes payloads by shared memory.
class SharedMemoryTaker {
public:
    explicit SharedMemoryTaker(std::shared_ptr<SharedMemoryPool> pool) noexcept;
    ~SharedMemoryTaker();
    SharedMemoryTaker(const SharedMemoryTaker&) = delete;
    SharedMemoryTaker& operator=(const SharedMemoryTaker&) = delete;

private:
    std::shared_ptr<SharedMemoryPool> pool_;
};

/// Bounds of a pool; 0 for either: there is no shared memory.
struct SharedMemoryLimits {
    std::size_t threshold = std::size_t{64} << 10;  ///< payloads from here on go by shared memory
    std::size_t bytes = std::size_t{512} << 20;     ///< of all memory, in use and kept for use
};

/// All shared memory of an agent. Any thread.
class SharedMemoryPool : public std::enable_shared_from_this<SharedMemoryPool> {
public:
    /// So many at once: each holds a descriptor.
    static constexpr std::size_t kMost = 256;
    /// What nobody has used for so long is closed, when something else is asked for or given back.
    static constexpr std::chrono::seconds kKept{30};

    [[nodiscard]] static std::shared_ptr<SharedMemoryPool> create(const SharedMemoryLimits& limits);

    /// Whether there is any: it is not turned off, and the kernel has it (Linux 5.1).
    [[nodiscard]] bool usable() const noexcept { return usable_; }
    /// For a worker that takes payloads by shared memory, to be kept as long as it does; null: it is sent none.
    [[nodiscard]] std::shared_ptr<const SharedMemoryTaker> taker();

    /// Whether a payload of so many bytes should go by shared memory, if its worker takes it.
    [[nodiscard]] bool is_large(std::size_t bytes) const noexcept { return usable_ && bytes >= limits_.threshold; }
    /// Memory for a request; null: it is small, no worker takes it from there, or there is none left.
    [[nodiscard]] SharedMemoryPtr body(std::size_t bytes);
    /// Memory for a reply of about so many bytes, of one worker; null: there is none left.
    [[nodiscard]] SharedMemoryPtr room(std::uint64_t worker, std::size_t bytes);

    /// Bytes of all memory, also of what is kept for use.
    [[nodiscard]] std::size_t bytes() const;

private:
    friend class SharedMemoryTaker;
    friend struct SharedMemoryReturn;
    using Owned = std::unique_ptr<SharedMemory>;
    using Key = std::pair<std::uint64_t, std::size_t>;  // worker (0: a body) and size

    explicit SharedMemoryPool(const SharedMemoryLimits& limits);
    [[nodiscard]] static Owned make(bool room, std::size_t size);
    [[nodiscard]] SharedMemoryPtr take(std::uint64_t worker, std::size_t size, std::size_t committed);
    [[nodiscard]] bool reserve(std::size_t size, std::vector<Owned>& closed);
    void take_back(Owned memory) noexcept;
    void close_unused(std::chrono::steady_clock::time_point now, std::vector<Owned>& closed);
    [[nodiscard]] bool close_oldest(std::vector<Owned>& closed);
    void uncount(std::size_t size) noexcept;

    const SharedMemoryLimits limits_;
    bool usable_ = false;
    std::atomic<std::size_t> takers_{0};

    mutable std::mutex mutex_;
    std::size_t bytes_ = 0;
    std::size_t count_ = 0;
    std::map<Key, std::vector<Owned>> free_;  // of each the last used last; no list is empty
    std::chrono::steady_clock::time_point next_look_{};
};

}  // namespace anyserve
