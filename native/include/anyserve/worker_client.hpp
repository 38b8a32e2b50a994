// Connections to workers and the exchanges on them.
//
// A `WorkerClient` keeps the connections to one worker's socket; an `Exchange` is one request frame and its reply
// frames on one of them. Which worker gets a request, and what its replies mean, is decided elsewhere. Rules:
// `frame.*`.
//
// Everything here happens on the loop's thread. No function of this file calls a sink: sinks are called from the loop.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "anyserve/event_loop.hpp"
#include "anyserve/fd.hpp"
#include "anyserve/payload.hpp"
#include "anyserve/send_batch.hpp"
#include "anyserve/worker_client_table.hpp"
#include "anyserve/worker_endpoint.hpp"

namespace anyserve {

class Exchange;
class WorkerClient;
class WorkerConnection;

/// What a request frame is made of, one behind the other: the client's bytes, and what the agent adds to them.
struct RequestParts {
    std::string_view payload;
    std::string_view annotations = {};
    SharedMemory* body = nullptr;    ///< the payload's, from which the worker can read it; null: it is sent
    SharedMemoryPtr room = nullptr;  ///< where the worker can put its one reply; null: it is sent

    [[nodiscard]] std::size_t size() const noexcept { return payload.size() + annotations.size(); }
};

/// Who gets the replies. In each of its functions the exchange may be finished, left, paused and destroyed, another one
/// started, and the client let go.
class ReplySink {
public:
    /// The payload of the next reply frame.
    virtual void on_frame(Payload frame) = 0;
    /// The exchange has ended by a failure; the last call. Frames that came before it have been given.
    virtual void on_failed(Failure failure) = 0;

protected:
    ~ReplySink() = default;
};

/// One request and its replies. Ends with `finish` after the last reply; in any case with its destruction.
class Exchange {
public:
    ~Exchange() { leave(); }
    Exchange(const Exchange&) = delete;
    Exchange& operator=(const Exchange&) = delete;

    /// No more calls of the sink until `resume`. Frames that come in the meantime wait, and beyond `kReadAheadFrames`
    /// or `kReadAheadBytes` the socket is not read.
    void pause() noexcept { paused_ = true; }
    void resume();

    /// Ends the exchange after its last reply and keeps the connection for the next. Returns the violation if bytes
    /// have come behind that reply (`frame.violation.trailing`). The sink is not called any more.
    [[nodiscard]] std::optional<Failure> finish();

    /// Ends an exchange that was not finished by closing the connection, which tells the worker to stop
    /// (`frame.cancel.*`). The sink is not called any more.
    void leave() noexcept;

private:
    friend class WorkerClient;
    friend class WorkerConnection;
    Exchange(std::shared_ptr<WorkerClient> client, RequestParts parts, ReplySink& sink);

    void begin();
    void connect();
    void begin_on(WorkerConnection& connection, bool kept);
    void deliver_soon();
    void fail_soon(Failure failure);
    void failed(Failure failure);

    std::shared_ptr<WorkerClient> client_;
    RequestParts parts_;
    ReplySink* sink_;
    WorkerConnection* connection_ = nullptr;
    EventLoop::Timer later_;  // the next attempt to connect, or to tell the sink
    EventLoop::Clock::time_point give_up_{};
    bool kept_ = false;  // on a connection from an earlier exchange
    bool may_reuse_ = true;
    bool paused_ = false;
};

/// Reply frames that wait for their sink; beyond either, the socket is not read. One read may exceed them by what it
/// brings: the rest of one frame and 32 KiB.
inline constexpr std::size_t kReadAheadFrames = 16;
inline constexpr std::size_t kReadAheadBytes = std::size_t{1} << 20;

/// How often it is tried again to connect to a worker whose backlog is full.
inline constexpr std::chrono::milliseconds kConnectRetryInterval{5};

struct WorkerClientOptions {
    std::size_t max_frame_bytes = std::size_t{64}
                                  << 20;  ///< the greatest reply frame that is taken (`frame.limit.reply`)
    std::chrono::milliseconds connect_timeout{
        1000};  ///< for room in the worker's backlog (`frame.connections.timeout`)
};

/// The connections of one thread to one worker.
///
/// There are never more of them than exchanges that run at once, which the caller bounds; idle ones are reused, last
/// used first, also those of other threads (`ConnectionShare`). Exchanges under way keep their client alive: the owner
/// may let go of it at any time, after `retire` or `close`.
class WorkerClient : public std::enable_shared_from_this<WorkerClient> {
    struct Private {
        explicit Private() = default;
    };

public:
    using OnViolation = std::function<void(const Failure&)>;

    /// `path`: the worker's socket. `on_violation` is called each time the worker breaks the framing, also from inside
    /// `Exchange::finish`; it may close the client. `share`: with the clients of other threads; null: there are none.
    [[nodiscard]] static std::shared_ptr<WorkerClient> create(EventLoop& loop, SendBatch& sends, std::string path,
                                                              const WorkerClientOptions& options,
                                                              OnViolation on_violation,
                                                              std::shared_ptr<ConnectionShare> share = nullptr);
    WorkerClient(Private, EventLoop& loop, SendBatch& sends, std::string path, const WorkerClientOptions& options,
                 OnViolation on_violation, std::shared_ptr<ConnectionShare> share);
    ~WorkerClient();
    WorkerClient(const WorkerClient&) = delete;
    WorkerClient& operator=(const WorkerClient&) = delete;

    /// Sends a request frame at the end of the turn. The bytes of its parts and the sink must stay until the exchange
    /// is destroyed or has failed; the bytes no longer than until the first reply frame.
    ///
    /// On a kept connection a request that was not taken is sent once more on a new one (`frame.retry.kept`).
    [[nodiscard]] std::unique_ptr<Exchange> start(RequestParts parts, ReplySink& sink);

    /// The worker is lost: closes every connection. Exchanges under way fail with `gone`, or `not_taken` where the
    /// request was not wholly written.
    void close();
    /// The worker's process has ended: exchanges under way still get what it has sent, and then its end, whoever holds
    /// the other end of their connections.
    void read_out();
    /// Closes the connections that carry no exchange now, and each of the others when its exchange has ended.
    void retire();

    /// How many connections are open, over all threads.
    [[nodiscard]] std::size_t connections() const noexcept { return share_->open(); }

private:
    friend class ConnectionShare;
    friend class Exchange;
    friend class WorkerConnection;

    using HandOver = ConnectionShare::HandOver;

    struct Attempt {
        WorkerConnection* connection = nullptr;
        bool again = false;  // the backlog is full
        Failure failure{FailureKind::unreachable, {}};
    };

    Attempt connect();
    [[nodiscard]] bool reuse(Exchange& exchange);
    void idle(WorkerConnection& connection);
    void give_up_idle(HandOver hand_over);
    void taken_over(Fd socket);
    WorkerConnection* keep(Fd socket);
    void closed(WorkerConnection& connection) noexcept;
    void discard(WorkerConnection& connection);
    void violated(const Failure& violation);

    EventLoop& loop_;
    SendBatch& sends_;
    std::string path_;
    WorkerClientOptions options_;
    OnViolation on_violation_;
    const std::shared_ptr<ConnectionShare> share_;
    std::size_t member_ = 0;  // of the share
    std::vector<std::unique_ptr<WorkerConnection>> all_;
    std::vector<std::unique_ptr<WorkerConnection>> discarded_;  // until the end of the turn: they may be on the stack
    std::vector<WorkerConnection*> idle_;                       // last used last
    // Connections that other threads are handing over to this one, exchanges that wait for them, and threads that do:
    // `share_` counts those that nobody waits for as idle here.
    std::size_t coming_ = 0;
    std::deque<Exchange*> waiting_;
    std::deque<HandOver> owed_;
    bool retired_ = false;
    bool lost_ = false;
};

}  // namespace anyserve
