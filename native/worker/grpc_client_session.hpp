// gRPC calls with one request and one reply, as a client, on one HTTP/2 connection. Sans-I/O: bytes in by `receive`,
// bytes out by `pump`. Sockets and times are the channel's.
//
// What workers ask of an agent is small: messages are never compressed, and replies beyond `kMaxReplyBytes` are cut
// off.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "anyserve/code.hpp"
#include "anyserve/grpc_metadata.hpp"

struct nghttp2_session;

namespace anyserve {

/// How a call has ended.
struct CallResult {
    Code code = Code::ok;
    std::string message;  ///< of the status
    std::string reply;    ///< the bytes of the reply, if the code is `ok`
};

using CallDone = std::function<void(CallResult)>;

class GrpcClientSession {
public:
    static constexpr std::size_t kMaxReplyBytes = std::size_t{1} << 20;

    /// `authority`: whom the connection is to, `127.0.0.1:9000`.
    explicit GrpcClientSession(std::string authority);
    /// Calls under way are dropped: see `close`.
    ~GrpcClientSession();
    GrpcClientSession(const GrpcClientSession&) = delete;
    GrpcClientSession& operator=(const GrpcClientSession&) = delete;

    /// Whether calls may be made; not after the server has said that it takes no more.
    [[nodiscard]] bool takes_calls() const noexcept;
    /// Begins a call; `done` is called once, at the end of `receive` or by `close`, and may do everything but destroy
    /// the session. Returns the call's number.
    std::int32_t call(std::string_view path, const Metadata& metadata, std::string_view request, CallDone done);
    /// Ends a call: `done` is not called any more.
    void cancel(std::int32_t call);

    /// Takes bytes of the server.
    void receive(std::string_view bytes);
    /// Appends what is to be sent.
    void pump(std::string& output);
    /// After `pump`: the server ends the connection, or does not speak HTTP/2.
    [[nodiscard]] bool over() const noexcept;
    /// Ends all calls with UNAVAILABLE: the connection is lost.
    void close(const std::string& why);

private:
    struct Call;
    struct Callbacks;

    [[nodiscard]] Call* find(std::int32_t id) noexcept;
    void end(std::int32_t id, CallResult result);
    void tell_ended();

    std::string authority_;
    std::unique_ptr<nghttp2_session, void (*)(nghttp2_session*)> session_;
    bool failed_ = false;
    std::map<std::int32_t, std::unique_ptr<Call>> calls_;  // by stream
    std::vector<std::pair<CallDone, CallResult>> ended_;   // of which nobody has been told yet
};

}  // namespace anyserve
