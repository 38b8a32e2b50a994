// gRPC's semantics of a call on an HTTP/2 stream, and the seam to the services: `ServerCall`, `CallHandler`, `Router`.
//
// Everything here happens on the thread of the connection's loop.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "anyserve/code.hpp"
#include "anyserve/event_loop.hpp"
#include "anyserve/grpc_metadata.hpp"
#include "anyserve/http2_limits.hpp"
#include "anyserve/http2_session.hpp"
#include "anyserve/payload.hpp"

namespace anyserve {

/// What is known of a call when it begins.
struct CallFacts {
    std::string path;   ///< `/package.Service/Method`
    Metadata metadata;  ///< in the order of arrival, `-bin` decoded; without the fields that are gRPC's own
    std::optional<EventLoop::Clock::time_point> deadline;
    std::string_view peer;  ///< `ipv4:1.2.3.4:5`, `ipv6:[::1]:5` or `unix:`; lives as long as the call
};

/// One gRPC call, owned by its stream.
class ServerCall {
public:
    virtual const CallFacts& facts() const = 0;
    /// Asks for one further message. What is not asked for stays in the client, but for a window's worth.
    virtual void read() = 0;
    /// Sends the headers of the response now; otherwise they go with the first message.
    virtual void send_initial_metadata() = 0;
    /// Sends a message. `taken` is called when it has gone to the client's socket: a service that waits for it
    /// never holds more for a slow client than it likes. It may be empty. It is not called when the call has ended.
    virtual void send(Payload message, std::function<void()> taken) = 0;
    /// Ends the call, once. The handler hears nothing after it; it is destroyed soon, not inside this function.
    virtual void finish(Code code, std::string_view message) = 0;

protected:
    ~ServerCall() = default;
};

/// What a service does with a call; destroyed when the call has ended.
class CallHandler {
public:
    virtual ~CallHandler() = default;
    virtual void on_message(Payload message) = 0;
    /// The client sends no more messages. Comes after the last of them.
    virtual void on_half_close() = 0;
    /// The client has gone, the call was reset or refused, or its deadline has passed. No function of the `ServerCall`
    /// may be called any more.
    virtual void on_cancel() = 0;
};

/// Finds the handler of a call by its facts; null is UNIMPLEMENTED. It may call `ServerCall::finish` at once.
using Router = std::function<std::unique_ptr<CallHandler>(ServerCall&)>;

/// A call with exactly one request message: neither none nor two (UNIMPLEMENTED), nor one that is cut (INTERNAL).
class UnaryHandler : public CallHandler {
public:
    explicit UnaryHandler(ServerCall& call);
    void on_message(Payload message) final;
    void on_half_close() final;
    void on_cancel() override {}

protected:
    /// The request is there and whole. Answer by `reply` or `ServerCall::finish`, now or later.
    virtual void on_request(Payload message) = 0;
    ServerCall& call() noexcept { return call_; }
    /// Sends the one response and OK.
    void reply(Payload message);

private:
    ServerCall& call_;
    std::optional<Payload> request_;
};

/// What the calls of one server share.
struct GrpcServerState {
    GrpcServerState(EventLoop& event_loop, ServerLimits server_limits, Router call_router,
                    std::shared_ptr<ServerTotals> server_totals, SharedMemoryPool* large_messages = nullptr)
        : loop(event_loop),
          limits(server_limits),
          router(std::move(call_router)),
          totals(std::move(server_totals)),
          memory(large_messages) {}

    EventLoop& loop;
    const ServerLimits limits;
    const Router router;
    const std::shared_ptr<ServerTotals> totals;  ///< with the servers of other threads
    SharedMemoryPool* const memory;              ///< see `MessageReader`
};

/// What the calls of one connection share. Must outlive them.
struct GrpcConnectionState {
    GrpcConnectionState(GrpcServerState& server_state, std::string peer_name)
        : server(server_state),
          peer(std::move(peer_name)),
          held(server.limits.max_connection_held_bytes, server.totals->held_bytes, server.limits.max_held_bytes) {}

    GrpcServerState& server;
    const std::string peer;
    ByteBudget held;
    /// Handlers of calls that have ended, which may still be on the stack: to be cleared from outside of any call.
    std::vector<std::unique_ptr<CallHandler>> ended;
};

/// Makes the gRPC side of a stream.
[[nodiscard]] std::unique_ptr<StreamHandler> make_grpc_call(GrpcConnectionState& connection, Http2Stream& stream);

}  // namespace anyserve
