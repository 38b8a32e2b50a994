// The worker's side of the framing: requests come in on a Unix socket, reply frames go out (`frame.*`).
//
// Knows neither protobuf nor the management port: what a reply holds is the handler's affair, and who tells agents of
// the socket is the program's.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "anyserve/event_loop.hpp"
#include "anyserve/fd.hpp"

namespace anyserve {

/// The reply frames of one exchange, made one by one as the agent takes them. Destroyed when the last one is sent, or
/// when the agent has closed the connection: the exchange is cancelled then (`frame.cancel.stop`).
class Replies {
public:
    virtual ~Replies() = default;
    /// Puts the payload of the next frame into `parts`, which is empty; its bytes stay until the next call. Returns
    /// whether another frame follows. There is at least one frame: a unary reply, or the empty end of a stream.
    [[nodiscard]] virtual bool next(std::vector<std::string_view>& parts) = 0;
};

/// Answers a request frame's payload. None: it cannot be answered, and the connection is closed.
using RequestHandler = std::function<std::unique_ptr<Replies>(std::string request)>;

struct WorkerServerOptions {
    /// The longest request: what an agent takes by default and what it may append (`frame.limit.request`).
    std::size_t max_frame_bytes = (std::size_t{64} << 20) + (std::size_t{128} << 10);
    std::size_t max_connections = 1024;  ///< one beyond is closed at once
};

/// Serves any number of connections on the loop's thread, one exchange at a time on each.
///
/// One frame of each exchange a turn: streams on different connections take turns, and an agent that does not read
/// stops only its own (`stream.flow.worker`).
class WorkerServer final : private EventLoop::Handler {
public:
    /// `listener`: a Unix socket that listens.
    WorkerServer(EventLoop& loop, Fd listener, RequestHandler handler, const WorkerServerOptions& options = {});
    ~WorkerServer();
    WorkerServer(const WorkerServer&) = delete;
    WorkerServer& operator=(const WorkerServer&) = delete;

private:
    class Connection;

    void ready(std::uint32_t events) override;
    [[nodiscard]] bool accept_one();
    void closed(int fd);

    EventLoop& loop_;
    Fd listener_;
    RequestHandler handler_;
    WorkerServerOptions options_;
    std::unordered_map<int, std::unique_ptr<Connection>> connections_;  // by descriptor
    std::vector<std::unique_ptr<Connection>> ended_;  // until the end of the turn: they may be on the stack
    EventLoop::Timer pause_;
};

}  // namespace anyserve
