// One worker as those see it who connect to it: where it listens, and how the I/O threads share its connections.
//
// A worker has places, and the agent opens no connection beyond them (`frame.connections.open`). Each thread keeps the
// connections on which it has had an exchange; a thread that has none to spare takes over one that is idle at another
// before it opens a new one. So there are never more connections than exchanges that run at once, over all threads.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "anyserve/event_loop.hpp"
#include "anyserve/fd.hpp"

namespace anyserve {

class WorkerClient;

/// Counts the connections to one worker, over the clients of all threads. Any thread.
class ConnectionShare {
public:
    /// Takes a connection to another thread; nothing if there is none any more.
    using HandOver = std::function<void(Fd socket)>;

    /// A client takes part; returns its number.
    std::size_t join(EventLoop& loop, std::weak_ptr<WorkerClient> client);

    void opened() noexcept { open_.fetch_add(1, std::memory_order_relaxed); }
    void closed() noexcept { open_.fetch_sub(1, std::memory_order_relaxed); }
    /// How many connections are open.
    [[nodiscard]] std::size_t open() const noexcept { return open_.load(std::memory_order_relaxed); }

    /// A member has an idle connection more.
    void add_idle(std::size_t member);
    /// An idle connection of a member has closed. One that was promised may be meant: whom it was promised to finds
    /// out.
    void drop_idle(std::size_t member);
    /// Promises the caller an idle connection, its own if it has one, and tells whose it is; nothing: none is idle.
    [[nodiscard]] std::optional<std::size_t> take_idle(std::size_t member);
    /// Has the member that it is idle at hand over what was promised: see `WorkerClient::taken_over`.
    void fetch(std::size_t from, std::size_t to);

private:
    struct Member {
        EventLoop* loop;
        std::weak_ptr<WorkerClient> client;
        std::size_t idle = 0;  // promised to nobody
    };

    std::atomic<std::size_t> open_{0};
    std::mutex mutex_;
    std::vector<Member> members_;
};

/// A worker at one socket. One that moves gets another.
struct WorkerEndpoint {
    WorkerEndpoint(std::string id, std::string socket_path)
        : worker_id(std::move(id)), path(std::move(socket_path)), number(next_number.fetch_add(1)) {}

    const std::string worker_id;
    const std::string path;
    const std::uint64_t number;              ///< no other endpoint has or had it; above 0
    std::atomic<bool> shared_memory{false};  ///< it takes payloads by shared memory
    std::atomic<int> violations{0};          ///< of the protocol, in a row
    const std::shared_ptr<ConnectionShare> share = std::make_shared<ConnectionShare>();

private:
    static inline std::atomic<std::uint64_t> next_number{1};
};

using WorkerEndpointPtr = std::shared_ptr<WorkerEndpoint>;

}  // namespace anyserve
