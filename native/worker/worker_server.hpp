// The worker's side of the framing: requests come in on a Unix socket, reply frames go out (`frame.*`).
//
// Reads no request and knows no management port: what a reply holds is the handler's affair, and who tells agents of
// the socket is the program's. Requests are told on the loop's thread; replies may come from any.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "anyserve/event_loop.hpp"
#include "anyserve/fd.hpp"
#include "anyserve/scan.hpp"
#include "anyserve/send_batch.hpp"
#include "reply_frame.hpp"
#include "shared_payloads.hpp"

namespace anyserve {

class AgentConnection;
class WorkerServer;

/// The payload of a request frame, where its bytes came to. Whoever holds it has them, and they do not change.
class RequestPayload {
public:
    explicit RequestPayload(std::string bytes) : bytes_(std::move(bytes)) {}
    /// `size` bytes of shared memory, and behind them others.
    RequestPayload(SharedMappingPtr body, std::size_t size, std::string bytes)
        : bytes_(std::move(bytes)), body_(std::move(body)), size_(size) {}

    /// The payload, or the part of it that is in shared memory.
    [[nodiscard]] std::string_view bytes() const noexcept {
        return body_ ? std::string_view(body_->data(), size_) : std::string_view(bytes_);
    }
    /// What stands behind it.
    [[nodiscard]] std::string_view rest() const noexcept {
        return body_ ? std::string_view(bytes_) : std::string_view();
    }
    /// The shared memory; null: it is all our own.
    [[nodiscard]] SharedMapping* shared() const noexcept { return body_.get(); }
    [[nodiscard]] std::string whole() const { return std::string(bytes()).append(rest()); }

private:
    std::string bytes_;
    SharedMappingPtr body_;
    std::size_t size_ = 0;
};

/// One request and its replies. Any thread, but one at a time.
class WorkerExchange {
public:
    WorkerExchange(std::shared_ptr<AgentConnection> connection, std::shared_ptr<const RequestPayload> request,
                   std::span<char> room = {}, SharedMappingPtr room_mapping = nullptr)
        : connection_(std::move(connection)),
          request_(std::move(request)),
          room_(room),
          room_mapping_(std::move(room_mapping)) {}

    [[nodiscard]] const std::shared_ptr<const RequestPayload>& request() const noexcept { return request_; }
    /// Brings a payload that is in pieces into one; not once somebody reads it.
    void join();

    /// A last frame that is long enough is copied at once, so that whoever has its bytes may change them then.
    [[nodiscard]] bool copies(std::size_t payload_bytes) const noexcept;

    /// What became of a frame.
    enum class Sent : std::uint8_t {
        over,  ///< nothing: the exchange is over
        yes,
        full,  ///< it waits with others, and so should the next: see `full`
    };

    /// Queues a frame, which `WorkerServer::flush` or `write_held` sends; with the last one the exchange has ended.
    Sent queue(ReplyFrame frame, bool last);
    void reply(ReplyFrame frame) { queue(std::move(frame), true); }
    /// Sends a frame at once, as far as the agent takes it; the rest is sent when it does.
    Sent send(ReplyFrame frame, bool last);
    /// Waits while more than `kWriteAheadFrames` or `kWriteAheadBytes` wait for the agent. False: the exchange is over.
    bool wait_writable();
    /// Whether so much waits. Whoever was told so, by this or by `Sent`, gets `WorkerSink::on_writable` when it does
    /// not.
    [[nodiscard]] bool full();

    /// The handler has ended, and holds what it wants to keep of the request: the last frame can go. Needed where the
    /// request came by shared memory, harmless elsewhere.
    void release();
    /// Closes the connection: the request cannot be answered. On the loop's thread.
    void refuse();

    /// The agent has closed the connection: nobody wants the reply (`frame.cancel.stop`).
    [[nodiscard]] bool cancelled() const noexcept { return cancelled_.load(std::memory_order_relaxed); }

    /// What whoever takes the request notes of it. `head` is of the request's bytes.
    struct Notes {
        MessageHead head;
        std::size_t served = 0;
        EventLoop::Clock::time_point arrived;
        EventLoop::Clock::time_point begun;
        bool in_place = false;
    };
    Notes notes;

private:
    friend class AgentConnection;

    [[nodiscard]] ReplyFrame referred(const ReplyFrame& frame) const;

    const std::shared_ptr<AgentConnection> connection_;
    std::shared_ptr<const RequestPayload> request_;
    std::span<char> room_;  // for the reply, in shared memory
    SharedMappingPtr room_mapping_;
    std::optional<ReplyFrame> last_;  // waits for `release`
    bool last_at_once_ = false;       // it is to be sent then, else held
    std::atomic<bool> cancelled_{false};
};

using WorkerExchangePtr = std::shared_ptr<WorkerExchange>;

/// Replies from here on go into the room that the agent has offered, if they fit (`frame.shared.reply`).
inline constexpr std::size_t kReferenceBytes = std::size_t{16} << 10;

/// Reply frames that wait for an agent that is behind (`stream.flow.worker`).
inline constexpr std::size_t kWriteAheadFrames = 16;
inline constexpr std::size_t kWriteAheadBytes = std::size_t{1} << 20;

/// Who gets the requests. Its functions are called on the loop's thread.
class WorkerSink {
public:
    virtual void on_request(WorkerExchangePtr exchange) = 0;
    /// The agent closed the connection before the last reply frame was queued.
    virtual void on_cancelled(const WorkerExchangePtr& exchange) = 0;
    /// An exchange that was told to be `full` is not any more. On whatever thread has written.
    virtual void on_writable(const WorkerExchangePtr& exchange) = 0;
    /// After `drain`: no connection carries an exchange, or a part of one.
    virtual void on_drained() = 0;
    /// A connection was refused or closed for a reason, for the log.
    virtual void on_refused(const std::string& reason) = 0;

protected:
    ~WorkerSink() = default;
};

struct WorkerServerOptions {
    /// The longest request: what an agent takes by default and what it may append (`frame.limit.request`).
    std::size_t max_frame_bytes = (std::size_t{64} << 20) + (std::size_t{128} << 10);
    std::size_t max_connections = 1024;  ///< one beyond is closed at once
    SendBatch::Sigpipe sigpipe = SendBatch::Sigpipe::block;
};

/// Serves any number of connections, one exchange at a time on each. Its functions are for the loop's thread.
class WorkerServer final : private EventLoop::Handler {
public:
    WorkerServer(EventLoop& loop, WorkerSink& sink, const WorkerServerOptions& options = {});
    ~WorkerServer();
    WorkerServer(const WorkerServer&) = delete;
    WorkerServer& operator=(const WorkerServer&) = delete;

    /// Accepts connections from a Unix socket that listens, in place of one given before.
    void listen(Fd listener);
    /// Sends the replies that wait, those to several agents together. Any thread that runs the loop.
    void flush();
    /// Sends them one by one. Any thread.
    void write_held();
    /// How many replies wait. Any thread.
    [[nodiscard]] std::size_t held() const noexcept { return held_count_.load(std::memory_order_relaxed); }

    /// Whether requests by reference to shared memory are taken (`frame.shared.*`), which are not at first: whoever
    /// serves them calls `WorkerExchange::release`. Any thread.
    void share_memory(bool agreed) noexcept { shares_memory_ = agreed; }
    [[nodiscard]] bool shares_memory() const noexcept { return shares_memory_; }

    /// Accepts no more; tells the sink when no exchange is under way.
    void drain();
    /// Closes everything; exchanges under way are cancelled.
    void close();

private:
    friend class AgentConnection;
    friend class WorkerExchange;

    void ready(std::uint32_t events) override;
    [[nodiscard]] bool accept_one();
    void stop_listening();
    void hold(std::shared_ptr<AgentConnection> connection);
    [[nodiscard]] std::vector<std::shared_ptr<AgentConnection>> take_held();
    void closed(int fd);
    void exchange_ended();
    void check_drained();
    [[nodiscard]] SharedMappingPtr map(const Fd& descriptor, std::uint64_t bytes, bool writable);
    void check_mappings();

    EventLoop& loop_;
    WorkerSink& sink_;
    const WorkerServerOptions options_;
    SendBatch sends_;
    Fd listener_;
    std::unordered_map<int, std::shared_ptr<AgentConnection>> connections_;  // by descriptor
    EventLoop::Timer pause_;
    SharedMappings mappings_;
    EventLoop::Timer mappings_check_;
    std::atomic<bool> shares_memory_{false};
    std::atomic<bool> draining_{false};

    std::mutex held_mutex_;
    std::vector<std::shared_ptr<AgentConnection>> held_;
    std::atomic<std::size_t> held_count_{0};
};

}  // namespace anyserve
