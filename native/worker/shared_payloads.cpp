#include "shared_payloads.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace anyserve {

SharedMapping::~SharedMapping() { munmap(data_, size_); }

bool SharedMapping::detach(std::size_t bytes) noexcept {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t size = (bytes + page - 1) / page * page;
    if (size == 0) return true;
    void* copy = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED) return false;
    std::memcpy(copy, data_, bytes);
    mprotect(copy, size, PROT_READ);
    if (mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, data_) != MAP_FAILED) return true;
    munmap(copy, size);
    return false;
}

SharedMappingPtr SharedMappings::map(const Fd& descriptor, std::uint64_t bytes, bool writable, Clock::time_point now) {
    struct stat status {};
    if (fstat(descriptor.get(), &status) != 0 || status.st_size <= 0) return nullptr;
    const auto size = static_cast<std::size_t>(status.st_size);
    if (bytes > size) return nullptr;
    const std::lock_guard lock(mutex_);
    const auto known = std::ranges::find_if(kept_, [&](const Kept& each) {
        return each.device == status.st_dev && each.inode == status.st_ino && each.mapping->size() == size &&
               each.writable == writable;
    });
    if (known != kept_.end()) {
        known->used = now;
        kept_.splice(kept_.begin(), kept_, known);
        return known->mapping;
    }
    // Whoever can make it smaller can end this process by it.
    if (const int seals = fcntl(descriptor.get(), F_GET_SEALS); seals < 0 || (seals & F_SEAL_SHRINK) == 0)
        return nullptr;
    const int access = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void* data = mmap(nullptr, size, access, MAP_SHARED | MAP_POPULATE, descriptor.get(), 0);
    if (data == MAP_FAILED) return nullptr;
    kept_.push_front(
        {status.st_dev, status.st_ino, writable, std::make_shared<SharedMapping>(static_cast<char*>(data), size), now});
    bytes_ += size;
    while (kept_.size() > 1 && (bytes_ > kMostBytes || kept_.size() > kMost)) drop(*kept_.back().mapping);
    return kept_.front().mapping;
}

void SharedMappings::forget(const SharedMapping& mapping) noexcept {
    const std::lock_guard lock(mutex_);
    drop(mapping);
}

void SharedMappings::drop(const SharedMapping& mapping) noexcept {
    const auto found = std::ranges::find_if(kept_, [&](const Kept& each) { return each.mapping.get() == &mapping; });
    if (found == kept_.end()) return;
    bytes_ -= mapping.size();
    kept_.erase(found);
}

void SharedMappings::drop_unused(Clock::time_point now) {
    const std::lock_guard lock(mutex_);
    while (!kept_.empty() && now - kept_.back().used > kKept) drop(*kept_.back().mapping);
}

bool SharedMappings::empty() const {
    const std::lock_guard lock(mutex_);
    return kept_.empty();
}

}  // namespace anyserve
