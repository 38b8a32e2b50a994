// What an agent's thread tells the thread that started it: a bounded queue with a descriptor to wait for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "anyserve/events.hpp"
#include "anyserve/fd.hpp"
#include "anyserve/log.hpp"

namespace anyserve {

/// A log line, with its texts owned.
struct LogLine {
    LogLevel level;
    std::string message;
    std::vector<std::pair<std::string, std::string>> fields;
};

struct AgentReady {};    ///< once
struct AgentDrained {};  ///< the client side has ended
struct AgentStopped {};  ///< all has ended; nothing comes after it

/// Somebody asks for workers of a model to be started or stopped; wants an answer by its number.
struct LifecycleCall {
    std::uint64_t number;
    bool load;
    std::string model_name;
};

using Notice = std::variant<LogLine, EventPtr, AgentReady, AgentDrained, AgentStopped, LifecycleCall>;

/// Written by one thread, read by another.
class NoticeQueue {
public:
    /// Log lines and events that wait; beyond, further ones are dropped and counted. The other notices are few.
    static constexpr std::size_t kMaxWaiting = 10'000;

    /// Throws std::system_error when the kernel has no descriptors left.
    NoticeQueue();

    void put(Notice notice);

    struct Taken {
        std::vector<Notice> notices;
        std::size_t dropped = 0;  ///< since the last time
    };
    /// All that waits; the descriptor is not readable until there is something again.
    [[nodiscard]] Taken take();

    /// Readable while something waits. Owned by the queue.
    [[nodiscard]] int descriptor() const noexcept { return readable_.get(); }

private:
    Fd readable_;
    std::mutex mutex_;
    Taken waiting_;
};

}  // namespace anyserve
