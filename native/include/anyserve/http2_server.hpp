// The gRPC server: sockets that listen, connections, their times and their end. What is said on a connection is the
// business of `http2_session`, what a call is that of `grpc_protocol`.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "anyserve/event_loop.hpp"
#include "anyserve/fd.hpp"
#include "anyserve/grpc_protocol.hpp"
#include "anyserve/http2_limits.hpp"
#include "anyserve/tls.hpp"

namespace anyserve {

/// Serves gRPC on any number of listening sockets. All functions on the loop's thread.
///
/// Several servers, each on a thread of its own, serve as one: one of them listens and deals out the connections among
/// all, and all of them keep the limits together.
class Http2Server {
public:
    /// What has been since the start, and is now.
    struct Counts {
        std::size_t connections = 0;    ///< open
        std::size_t calls = 0;          ///< under way; with those of the other servers
        std::size_t held_bytes = 0;     ///< of messages, see `ByteBudget`; the same
        std::uint64_t accepted = 0;     ///< connections in all
        std::uint64_t turned_away = 0;  ///< of them, beyond `max_connections`
    };

    /// `totals`: shared with the other servers; null: there are none. `memory`: see `MessageReader`; outlives the
    /// server.
    Http2Server(EventLoop& loop, const ServerLimits& limits, Router router,
                std::shared_ptr<ServerTotals> totals = nullptr, SharedMemoryPool* memory = nullptr);
    /// Closes everything at once. Not from inside a call.
    ~Http2Server();
    Http2Server(const Http2Server&) = delete;
    Http2Server& operator=(const Http2Server&) = delete;

    /// Accepts connections from a listening socket (TCP or Unix), which the server owns from now on. With `tls` they
    /// are served by TLS alone.
    void serve(Fd listener, std::shared_ptr<const TlsContext> tls = nullptr);

    /// From now on connections go to this server and to the others in turn. They must outlive this one's loop.
    void deal_to(std::vector<Http2Server*> others);

    /// Stops listening, lets the calls under way end, and closes their connections: a first GOAWAY that only announces,
    /// `goaway_notice` later the one that ends, and after `grace` what is left is cut. Then calls `drained`.
    void drain(std::chrono::milliseconds grace, std::function<void()> drained);

    [[nodiscard]] Counts counts() const noexcept;

private:
    class Connection;
    class Listener;
    friend class Connection;

    void accepted(Fd socket, std::string peer, const std::shared_ptr<const TlsContext>& tls);
    void take(Fd socket, std::string peer, const std::shared_ptr<const TlsContext>& tls);
    void wants_flush(Connection& connection);
    void flush();
    void sweep();
    void check_drained();

    EventLoop& loop_;
    GrpcServerState state_;
    std::vector<std::unique_ptr<Listener>> listeners_;
    std::vector<Http2Server*> dealt_to_{this};
    std::size_t next_ = 0;  // of those
    std::vector<std::unique_ptr<Connection>> connections_;
    std::vector<Connection*> dirty_;  // to be pumped at the end of this turn
    std::string read_buffer_;         // of whichever connection is read
    EventLoop::Timer sweep_timer_;
    EventLoop::Timer notice_timer_;
    EventLoop::Timer grace_timer_;
    std::function<void()> drained_;
    bool draining_ = false;
    std::uint64_t accepted_ = 0;
    std::uint64_t turned_away_ = 0;
    std::shared_ptr<bool> alive_;  // for what is deferred: whether there still is a server
};

}  // namespace anyserve
