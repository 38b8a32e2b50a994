// A worker's connection to the management port: connects when a call needs it, and again after it is lost. No TLS,
// since the port is on this machine's loopback.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "anyserve/event_loop.hpp"
#include "anyserve/fd.hpp"
#include "grpc_client_session.hpp"

namespace anyserve {

/// HOST:PORT, taken apart; `[::1]:9000` for IPv6.
struct HostPort {
    std::string host;
    std::string port;
};

/// Nothing if the text is not HOST:PORT.
[[nodiscard]] std::optional<HostPort> parse_host_port(std::string_view text);

/// Everything on the loop's thread.
class ManagementChannel final : private EventLoop::Handler {
public:
    ManagementChannel(EventLoop& loop, HostPort target);
    ~ManagementChannel();
    ManagementChannel(const ManagementChannel&) = delete;
    ManagementChannel& operator=(const ManagementChannel&) = delete;

    /// Makes a call of `/anyserve.WorkerManagement/`. `done` is called once and later, never inside of this, unless the
    /// channel ends before; with UNAVAILABLE when there is no connection, with DEADLINE_EXCEEDED when there is no
    /// answer within `limit`. It may do everything but destroy the channel.
    void call(std::string_view method, const Metadata& metadata, std::string_view request,
              std::chrono::milliseconds limit, CallDone done);

private:
    /// What ends a call that gets no answer.
    struct Limit {
        EventLoop::Timer timer;
        CallDone done;
    };

    void ready(std::uint32_t events) override;
    [[nodiscard]] bool connect(std::string& why);
    [[nodiscard]] std::uint32_t wanted() const noexcept;
    void read();
    void write();
    void flush();
    void lose(const std::string& why);
    void late(std::uint64_t number, std::int32_t call, const std::weak_ptr<GrpcClientSession>& session);
    void ended(std::uint64_t number, CallResult result);

    EventLoop& loop_;
    HostPort target_;
    Fd socket_;
    bool connected_ = false;  // or it is on the way
    std::uint32_t watched_for_ = 0;
    std::shared_ptr<GrpcClientSession> session_;  // as long as there is a socket
    std::string output_;
    std::map<std::uint64_t, Limit> limits_;  // by numbers of our own: those of calls begin anew with each connection
    std::uint64_t next_ = 0;
    std::shared_ptr<bool> alive_;  // for what is deferred: whether there still is a channel
};

}  // namespace anyserve
