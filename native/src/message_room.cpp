#include "anyserve/message_room.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <memory>

namespace anyserve {
namespace {

constexpr std::size_t kPageBytes = std::size_t{4} << 10;  // where pages are larger, the advice fails without harm

}  // namespace

void make_room(std::string& message, std::size_t bytes) {
    message.reserve(std::min(bytes, kReservedBytes));
    if (message.capacity() < kHugeBytes) return;
    void* begin = message.data();
    std::size_t space = message.capacity();
    if (std::align(kPageBytes, kPageBytes, begin, space) == nullptr) return;
    madvise(begin, space / kPageBytes * kPageBytes, MADV_HUGEPAGE);
}

}  // namespace anyserve
