// One socket to a worker: the private part of `worker_client`.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "anyserve/event_loop.hpp"
#include "anyserve/fd.hpp"
#include "anyserve/framing.hpp"
#include "anyserve/payload.hpp"
#include "anyserve/send_batch.hpp"
#include "anyserve/worker_client_table.hpp"

namespace anyserve {

class Exchange;
class WorkerClient;
struct RequestParts;

/// Between `begin` and `end` it carries an exchange, else it is idle. Once closed it only gives what it has read, and
/// is discarded when its exchange has gone too. Owned by its client.
class WorkerConnection final : public EventLoop::Handler, private SendBatch::Sender {
public:
    WorkerConnection(WorkerClient& client, Fd socket);
    ~WorkerConnection();
    WorkerConnection(const WorkerConnection&) = delete;
    WorkerConnection& operator=(const WorkerConnection&) = delete;

    /// Has the loop watch the socket; false if it cannot.
    [[nodiscard]] bool watch();
    [[nodiscard]] bool is_open() const noexcept { return static_cast<bool>(socket_); }
    [[nodiscard]] bool has_news() const noexcept { return !frames_.empty() || failure_.has_value(); }

    void ready(std::uint32_t events) override;

    /// Sends a request frame made of the parts, whose bytes stay until it is written.
    void begin(RequestParts& parts, Exchange& exchange);
    /// Gives the exchange what there is for it, as long as it is not paused.
    void deliver();
    /// The exchange is over: what came beyond its last frame is a violation.
    [[nodiscard]] std::optional<Failure> end();
    /// Closes at once; a worker in the middle of an exchange sees it as cancelled.
    void abort() noexcept;
    /// Closes at once because the worker is lost.
    void drop();
    /// An idle connection's socket, which another thread carries on with.
    [[nodiscard]] Fd give_up() noexcept;
    /// What the worker has sent is still read, and then an end.
    void read_out() noexcept;

private:
    void read();
    void write();
    void sent(const Transfer& transfer) override;
    void wrote(const Transfer& sent);
    bool received(std::size_t in_room, std::string_view behind);
    void ended(Ending ending);
    void violate(std::string what);
    void fail(Failure failure);
    void close() noexcept;
    void watch_for(std::uint32_t events);
    void pop_sent(std::size_t size) noexcept;
    [[nodiscard]] Payload pop_frame();
    void frame_by_reference(RequestParts& parts);
    void frame_inline(const RequestParts& parts);
    [[nodiscard]] std::span<const int> descriptors() const noexcept { return {descriptors_.data(), descriptor_count_}; }
    [[nodiscard]] Progress progress() const noexcept;
    [[nodiscard]] bool writing() const noexcept { return unsent_ < out_.size(); }
    [[nodiscard]] bool read_ahead() const noexcept;

    WorkerClient& client_;
    Fd socket_;
    Exchange* exchange_ = nullptr;   // null: idle, or its exchange has gone
    std::uint32_t watched_for_ = 0;  // 0: the loop does not know it
    bool replied_ = false;           // a byte of a reply has come in this exchange
    bool unread_ = false;            // the socket may hold more than was read

    std::array<char, kReferenceHeaderBytes> header_{};
    std::array<iovec, 3> out_{};        // the request frame
    std::size_t unsent_ = out_.size();  // the first of `out_` that is not wholly sent
    std::array<int, 2> descriptors_{};  // that go with its first byte
    std::size_t descriptor_count_ = 0;  // which has not gone

    FrameReader reader_;
    std::vector<std::string> frames_;  // complete, for the exchange; those before `next_frame_` are given
    std::size_t next_frame_ = 0;
    std::size_t held_bytes_ = 0;  // in frames_
    std::optional<Failure> failure_;
};

}  // namespace anyserve
