#include "anyserve/shared_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>

namespace anyserve {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kSmallest = std::size_t{4} << 10;
/// Room behind the last reply's size: for what the agent fills in, and for replies that differ a little.
constexpr std::size_t kSpare = 256;
constexpr std::chrono::seconds kLookInterval{1};
#ifndef F_SEAL_FUTURE_WRITE
constexpr int F_SEAL_FUTURE_WRITE = 0x0010;  // newer than some C libraries
#endif

std::size_t size_class(std::size_t bytes) noexcept { return std::bit_ceil(std::max(bytes, kSmallest)); }

}  // namespace

SharedMemory::~SharedMemory() { munmap(data_, size_); }

/// Takes pages now: later, without any left, a write to a mapping would be the end of the process.
bool SharedMemory::commit(std::size_t bytes) noexcept {
    if (bytes <= committed_) return true;
    const std::size_t more = bytes - committed_;
    if (fallocate(descriptor_.get(), 0, static_cast<off_t>(committed_), static_cast<off_t>(more)) != 0) return false;
    committed_ = bytes;
    return true;
}

void SharedMemoryReturn::operator()(SharedMemory* memory) const noexcept {
    const std::shared_ptr<SharedMemoryPool> pool = std::move(memory->pool_);
    pool->take_back(std::unique_ptr<SharedMemory>(memory));
}

SharedMemoryTaker::SharedMemoryTaker(std::shared_ptr<SharedMemoryPool> pool) noexcept : pool_(std::move(pool)) {
    pool_->takers_.fetch_add(1, std::memory_order_relaxed);
}

SharedMemoryTaker::~SharedMemoryTaker() { pool_->takers_.fetch_sub(1, std::memory_order_relaxed); }

std::shared_ptr<SharedMemoryPool> SharedMemoryPool::create(const SharedMemoryLimits& limits) {
    return std::shared_ptr<SharedMemoryPool>(new SharedMemoryPool(limits));
}

SharedMemoryPool::SharedMemoryPool(const SharedMemoryLimits& limits) : limits_(limits) {
    usable_ = limits.threshold > 0 && limits.bytes >= limits.threshold && make(false, kSmallest) != nullptr;
}

std::shared_ptr<const SharedMemoryTaker> SharedMemoryPool::taker() {
    return usable_ ? std::make_shared<const SharedMemoryTaker>(shared_from_this()) : nullptr;
}

SharedMemoryPtr SharedMemoryPool::body(std::size_t bytes) {
    if (!is_large(bytes) || takers_.load(std::memory_order_relaxed) == 0) return nullptr;
    return take(0, size_class(bytes), bytes);
}

SharedMemoryPtr SharedMemoryPool::room(std::uint64_t worker, std::size_t bytes) {
    if (!usable_) return nullptr;
    const std::size_t size = size_class(bytes + kSpare);
    return take(worker, size, size);
}

std::size_t SharedMemoryPool::bytes() const {
    const std::lock_guard lock(mutex_);
    return bytes_;
}

SharedMemoryPool::Owned SharedMemoryPool::make(bool room, std::size_t size) {
    Fd descriptor(memfd_create(room ? "anyserve-room" : "anyserve-body", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!descriptor || ftruncate(descriptor.get(), static_cast<off_t>(size)) != 0) return nullptr;
    void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor.get(), 0);
    if (data == MAP_FAILED) return nullptr;
    const int fd = descriptor.get();
    Owned memory(new SharedMemory(std::move(descriptor), static_cast<char*>(data), size));
    // Behind the mapping: what is mapped writable already stays so.
    const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | (room ? 0 : F_SEAL_FUTURE_WRITE);
    return fcntl(fd, F_ADD_SEALS, seals) == 0 ? std::move(memory) : nullptr;
}

SharedMemoryPtr SharedMemoryPool::take(std::uint64_t worker, std::size_t size, std::size_t committed) {
    Owned memory;
    std::vector<Owned> closed;  // outside of the lock
    {
        const std::lock_guard lock(mutex_);
        close_unused(Clock::now(), closed);
        if (const auto found = free_.find({worker, size}); found != free_.end()) {
            memory = std::move(found->second.back());
            found->second.pop_back();
            if (found->second.empty()) free_.erase(found);
        } else if (!reserve(size, closed)) {
            return nullptr;
        }
    }
    closed.clear();
    if (!memory) memory = make(worker != 0, size);
    if (!memory || !memory->commit(committed)) {
        uncount(size);
        return nullptr;
    }
    memory->worker_ = worker;
    memory->pool_ = shared_from_this();
    return SharedMemoryPtr(memory.release());
}

/// Counts memory that is about to be made, in place of what nobody uses if there is no room otherwise.
bool SharedMemoryPool::reserve(std::size_t size, std::vector<Owned>& closed) {
    if (size > limits_.bytes) return false;
    while (bytes_ + size > limits_.bytes || count_ >= kMost) {
        if (!close_oldest(closed)) return false;
    }
    bytes_ += size;
    ++count_;
    return true;
}

void SharedMemoryPool::take_back(Owned memory) noexcept {
    if (memory->use_ != SharedMemory::Use::ours) {
        const std::size_t size = memory->size();
        memory.reset();
        return uncount(size);
    }
    std::vector<Owned> closed;
    const std::lock_guard lock(mutex_);
    memory->freed_ = Clock::now();
    close_unused(memory->freed_, closed);
    const Key key{memory->worker_, memory->size()};
    free_[key].push_back(std::move(memory));
}

void SharedMemoryPool::close_unused(Clock::time_point now, std::vector<Owned>& closed) {
    if (now < next_look_) return;
    next_look_ = now + kLookInterval;
    for (auto each = free_.begin(); each != free_.end();) {
        std::vector<Owned>& list = each->second;
        const auto used =
            std::find_if(list.begin(), list.end(), [now](const Owned& m) { return now - m->freed_ < kKept; });
        for (auto old = list.begin(); old != used; ++old) {
            bytes_ -= (*old)->size();
            --count_;
            closed.push_back(std::move(*old));
        }
        list.erase(list.begin(), used);
        each = list.empty() ? free_.erase(each) : std::next(each);
    }
}

bool SharedMemoryPool::close_oldest(std::vector<Owned>& closed) {
    const auto oldest = std::min_element(free_.begin(), free_.end(), [](const auto& a, const auto& b) {
        return a.second.front()->freed_ < b.second.front()->freed_;
    });
    if (oldest == free_.end()) return false;
    bytes_ -= oldest->first.second;
    --count_;
    closed.push_back(std::move(oldest->second.front()));
    oldest->second.erase(oldest->second.begin());
    if (oldest->second.empty()) free_.erase(oldest);
    return true;
}

void SharedMemoryPool::uncount(std::size_t size) noexcept {
    const std::lock_guard lock(mutex_);
    bytes_ -= size;
    --count_;
}

}  // namespace anyserve
