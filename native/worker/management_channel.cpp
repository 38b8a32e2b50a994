#include "management_channel.hpp"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>

#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

#include "anyserve/sockets.hpp"

namespace anyserve {
namespace {

constexpr std::string_view kService = "/anyserve.WorkerManagement/";
constexpr std::size_t kReadBytes = std::size_t{16} << 10;

std::string error_text(int error) { return std::generic_category().message(error); }

using Addresses = std::unique_ptr<addrinfo, void (*)(addrinfo*)>;

/// None, and why, where there are none.
Addresses addresses_of(const HostPort& target, std::string& why) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* list = nullptr;
    if (const int error = getaddrinfo(target.host.c_str(), target.port.c_str(), &hints, &list); error != 0) {
        why = gai_strerror(error);
    }
    return {list, freeaddrinfo};
}

}  // namespace

std::optional<HostPort> parse_host_port(std::string_view text) {
    const std::size_t colon = text.rfind(':');
    if (colon == std::string_view::npos) return std::nullopt;
    std::string_view host = text.substr(0, colon);
    const std::string_view port = text.substr(colon + 1);
    if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
    const bool is_number = port.find_first_not_of("0123456789") == std::string_view::npos;
    if (host.empty() || port.empty() || !is_number) return std::nullopt;
    return HostPort{std::string(host), std::string(port)};
}

ManagementChannel::ManagementChannel(EventLoop& loop, HostPort target)
    : loop_(loop), target_(std::move(target)), alive_(std::make_shared<bool>(true)) {}

ManagementChannel::~ManagementChannel() {
    *alive_ = false;
    if (socket_) loop_.remove(socket_.get());
}

void ManagementChannel::call(std::string_view method, const Metadata& metadata, std::string_view request,
                             std::chrono::milliseconds limit, CallDone done) {
    if (session_ && !session_->takes_calls()) lose("the agent closes the connection");
    std::string why;
    if (!session_ && !connect(why)) {
        loop_.defer([done = std::move(done), why = std::move(why)] { done({Code::unavailable, why, {}}); });
        return;
    }
    const std::uint64_t number = next_++;
    const std::int32_t id = session_->call(std::string(kService).append(method), metadata, request,
                                           [this, number](CallResult result) { ended(number, std::move(result)); });
    auto timer = loop_.at(EventLoop::Clock::now() + limit,
                          [this, number, id, session = std::weak_ptr(session_)] { late(number, id, session); });
    limits_.emplace(number, Limit{std::move(timer), std::move(done)});
    flush();
}

/// At the first address to which a connection can be begun; whether it comes is told later.
bool ManagementChannel::connect(std::string& why) {
    const Addresses addresses = addresses_of(target_, why);
    for (const addrinfo* found = addresses.get(); found != nullptr; found = found->ai_next) {
        Fd socket(::socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
        if (!socket || (::connect(socket.get(), found->ai_addr, found->ai_addrlen) != 0 && errno != EINPROGRESS)) {
            why = error_text(errno);
            continue;
        }
        const int on = 1;
        setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watched_for_ = EPOLLIN | EPOLLOUT;
        if (!loop_.add(socket.get(), watched_for_, *this)) {
            why = error_text(errno);
            continue;
        }
        socket_ = std::move(socket);
        connected_ = false;
        session_ = std::make_shared<GrpcClientSession>(target_.host + ":" + target_.port);
        return true;
    }
    return false;
}

void ManagementChannel::ready(std::uint32_t events) {
    if (!connected_) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &size);
        if (error != 0) return lose(error_text(error));
        if ((events & EPOLLOUT) == 0) return;
        connected_ = true;
    }
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) read();
    if (socket_) flush();
}

void ManagementChannel::read() {
    std::array<char, kReadBytes> buffer;  // NOLINT(*-member-init): filled by the kernel
    while (socket_) {
        const std::array<iovec, 1> room{{{buffer.data(), buffer.size()}}};
        const Transfer got = receive_parts(socket_, room);
        if (got.would_block()) return;
        if (got.error != 0) return lose(error_text(got.error));
        if (got.size == 0) return lose("the agent has closed the connection");
        const std::shared_ptr<GrpcClientSession> session = session_;
        session->receive({buffer.data(), got.size});
        if (session != session_) return;  // whoever was told of an end has made a call, and the connection was lost
    }
}

void ManagementChannel::flush() {
    session_->pump(output_);
    if (connected_) write();
    if (socket_ && session_->over()) lose("the agent ends the connection, or does not speak HTTP/2");
    if (socket_ && std::exchange(watched_for_, wanted()) != wanted()) loop_.modify(socket_.get(), wanted(), *this);
}

std::uint32_t ManagementChannel::wanted() const noexcept {
    return !connected_ || !output_.empty() ? EPOLLIN | EPOLLOUT : EPOLLIN;
}

void ManagementChannel::write() {
    while (!output_.empty()) {
        const std::array<iovec, 1> rest{{{output_.data(), output_.size()}}};
        const Transfer sent = send_parts(socket_, rest);
        if (sent.would_block()) return;
        if (sent.error != 0) return lose(error_text(sent.error));
        output_.erase(0, sent.size);
    }
}

/// The session is dropped at the end of the turn: it may be on the stack.
void ManagementChannel::lose(const std::string& why) {
    loop_.remove(socket_.get());
    socket_.reset();
    connected_ = false;
    output_.clear();
    loop_.defer([alive = alive_, lost = std::exchange(session_, nullptr), why] {
        if (*alive) lost->close(why);
    });
}

void ManagementChannel::late(std::uint64_t number, std::int32_t call, const std::weak_ptr<GrpcClientSession>& session) {
    if (const auto its_own = session.lock()) {
        its_own->cancel(call);
        if (its_own == session_) flush();
    }
    ended(number, {Code::deadline_exceeded, "the agent does not answer", {}});
}

void ManagementChannel::ended(std::uint64_t number, CallResult result) {
    const auto found = limits_.find(number);
    if (found == limits_.end()) return;
    Limit limit = std::move(found->second);
    limits_.erase(found);
    limit.done(std::move(result));
}

}  // namespace anyserve
