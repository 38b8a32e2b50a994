#include "anyserve/notices.hpp"

#include <sys/eventfd.h>

#include <cerrno>
#include <system_error>

namespace anyserve {

NoticeQueue::NoticeQueue() : readable_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    if (!readable_) throw std::system_error(errno, std::generic_category(), "eventfd");
}

void NoticeQueue::put(Notice notice) {
    const bool may_drop = std::holds_alternative<LogLine>(notice) || std::holds_alternative<EventPtr>(notice);
    bool first = false;
    {
        const std::lock_guard lock(mutex_);
        if (may_drop && waiting_.notices.size() >= kMaxWaiting) {
            ++waiting_.dropped;
            return;
        }
        first = waiting_.notices.empty();
        waiting_.notices.push_back(std::move(notice));
    }
    // Counting to its limit would take 2^64 of them: this write cannot fail.
    if (first) eventfd_write(readable_.get(), 1);
}

NoticeQueue::Taken NoticeQueue::take() {
    const std::lock_guard lock(mutex_);
    eventfd_t count = 0;
    eventfd_read(readable_.get(), &count);
    return std::exchange(waiting_, {});
}

}  // namespace anyserve
