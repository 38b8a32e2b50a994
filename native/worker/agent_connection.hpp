// One connection of an agent: the private part of `worker_server`.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "anyserve/event_loop.hpp"
#include "anyserve/fd.hpp"
#include "anyserve/send_batch.hpp"
#include "request_reader.hpp"
#include "worker_server.hpp"

namespace anyserve {

/// Reads a request, then sends its replies, then reads the next. It is read all the time, to see when the agent closes.
///
/// What is read belongs to the loop's thread. What is written belongs to whoever holds the mutex, and so does the
/// socket's end.
class AgentConnection final : public EventLoop::Handler,
                              public SendBatch::Sender,
                              public std::enable_shared_from_this<AgentConnection> {
public:
    AgentConnection(WorkerServer& server, Fd socket);
    ~AgentConnection();
    AgentConnection(const AgentConnection&) = delete;
    AgentConnection& operator=(const AgentConnection&) = delete;

    [[nodiscard]] bool watch();
    void ready(std::uint32_t events) override;
    /// Closes at once; the exchange under way is cancelled. On the loop's thread.
    void end();
    /// The same on any thread: soon.
    void abort();
    /// No exchange is under way, and no part of a request has come.
    [[nodiscard]] bool idle();

    /// Queues a frame; with the last one the exchange has ended. False: it is over.
    [[nodiscard]] bool queue(WorkerExchange& exchange, ReplyFrame frame, bool last);
    /// Sends what is queued, as far as the agent takes it.
    void write();
    /// The same at the next flush of the batch.
    void add_to(SendBatch& batch);
    [[nodiscard]] bool wait_writable(const WorkerExchange& exchange);
    [[nodiscard]] bool full();

    WorkerServer& server() noexcept { return server_; }

private:
    using Frames = std::vector<ReplyFrame>;
    using Lock = std::unique_lock<std::mutex>;

    void read();
    void go_on();
    [[nodiscard]] bool take(std::size_t in_room, std::string_view behind);
    void begin_next();
    void begin_awaited();
    [[nodiscard]] WorkerExchangePtr exchange_of(RequestFrame frame);
    [[nodiscard]] SharedMappingPtr next_memory(std::uint64_t bytes, bool writable);
    [[nodiscard]] bool busy();
    void sent(const Transfer& transfer) override;
    void write_locked(Frames& gone);
    [[nodiscard]] std::span<const iovec> unsent();
    [[nodiscard]] bool wrote(const Transfer& transfer, Frames& gone);
    [[nodiscard]] WorkerExchangePtr caught_up() noexcept;
    void watch_for_room();
    void watch_for(std::uint32_t events);
    [[nodiscard]] bool full_locked() const noexcept;

    WorkerServer& server_;
    // The loop's thread's alone.
    std::uint32_t watched_for_ = 0;  // 0: the loop does not know it
    RequestReader reader_;
    std::vector<RequestFrame> taken_;
    std::deque<RequestFrame> early_;  // requests before their turn
    std::size_t early_bytes_ = 0;
    std::deque<Fd> descriptors_;  // for requests that have not begun

    std::mutex mutex_;
    std::condition_variable room_;
    Fd socket_;
    WorkerExchangePtr exchange_;  // under way
    std::deque<ReplyFrame> out_;
    std::size_t out_bytes_ = 0;  // in `out_`, with what of the first is sent
    std::size_t sent_ = 0;       // of the first
    std::vector<iovec> parts_;
    bool blocked_ = false;   // the agent is behind: the loop's thread goes on when it is not
    bool in_batch_ = false;  // the batch goes on
    bool told_full_ = false;
    bool awaited_ = false;  // a request waits for the end of the exchange, and for room behind its reply
};

}  // namespace anyserve
