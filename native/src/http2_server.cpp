#include "anyserve/http2_server.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace anyserve {
namespace {

constexpr std::size_t kReadBytes = std::size_t{256} << 10;
constexpr int kAcceptedAtOnce = 64;
constexpr std::size_t kMostOnWire = 4 * TlsConnection::kWireBytes;  // what the session says takes less than half
constexpr std::chrono::milliseconds kAcceptPause{100};  // when there are no descriptors: others may be closed

std::string peer_name(const sockaddr_storage& address) {
    std::array<char, INET6_ADDRSTRLEN> text{};
    if (address.ss_family == AF_INET) {
        const auto& ip = reinterpret_cast<const sockaddr_in&>(address);
        inet_ntop(AF_INET, &ip.sin_addr, text.data(), text.size());
        return "ipv4:" + std::string(text.data()) + ":" + std::to_string(ntohs(ip.sin_port));
    }
    if (address.ss_family == AF_INET6) {
        const auto& ip = reinterpret_cast<const sockaddr_in6&>(address);
        inet_ntop(AF_INET6, &ip.sin6_addr, text.data(), text.size());
        return "ipv6:[" + std::string(text.data()) + "]:" + std::to_string(ntohs(ip.sin6_port));
    }
    return "unix:";
}

/// Options of a client's socket; those that a Unix socket does not have fail without harm.
void set_options(int socket) {
    const int on = 1;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);  // finds clients that went without a word
}

}  // namespace

/// One client's socket around a session, with TLS between them or without: reads, pumps at the end of a turn, writes,
/// lingers, ends.
class Http2Server::Connection final : public EventLoop::Handler {
public:
    Connection(Http2Server& server, Fd socket, std::string peer, const std::shared_ptr<const TlsContext>& tls)
        : server_(server),
          socket_(std::move(socket)),
          grpc_(server.state_, std::move(peer)),
          session_(
              server.state_.limits, server.loop_.now(),
              [this](Http2Stream& stream) { return make_grpc_call(grpc_, stream); },
              [this] { server_.wants_flush(*this); }),
          tls_(tls ? std::make_unique<TlsConnection>(tls, output_) : nullptr),
          began_(server.loop_.now()),
          wrote_(began_) {
        server_.loop_.add(socket_.get(), events_, *this);
    }
    ~Connection() {
        close();
        server_.state_.totals->connections.subtract(1);
    }
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    void ready(std::uint32_t events) override;
    void flush();
    void sweep(EventLoop::Clock::time_point now);
    void go_away(bool final) {
        if (!is_open()) return;
        if (final && tls_ && !tls_->established()) return close();  // there is no way yet to say it
        session_.go_away(final);
    }
    /// Cancels all calls, at once.
    void close();

    bool is_open() const noexcept { return static_cast<bool>(socket_); }
    bool dirty = false;  // the server's: it is in `dirty_`

private:
    void read();
    void receive(std::string_view bytes);
    void pump(EventLoop::Clock::time_point now);
    void write();
    void discard_input();
    bool done() const noexcept { return (tls_ && tls_->failed()) || session_.done(); }
    void watch(std::uint32_t events);

    Http2Server& server_;
    Fd socket_;
    GrpcConnectionState grpc_;
    Http2Session session_;
    OutputQueue output_;                  // what the socket is to take
    std::unique_ptr<TlsConnection> tls_;  // null: what the session says goes there as it is
    std::uint32_t events_ = EPOLLIN;
    EventLoop::Clock::time_point began_;
    EventLoop::Clock::time_point wrote_;      // when the socket last took something, or had nothing to take
    EventLoop::Clock::time_point lingers_{};  // since when
    bool lingering_ = false;                  // our last byte has been sent
};

void Http2Server::Connection::ready(std::uint32_t events) {
    if (!is_open()) return;
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
        if (lingering_) {
            discard_input();
        } else {
            read();
        }
    }
    if (is_open() && (events & EPOLLOUT) != 0) server_.wants_flush(*this);
}

void Http2Server::Connection::read() {
    std::string& buffer = server_.read_buffer_;
    std::size_t left = server_.state_.limits.read_bytes_per_turn;
    while (left > 0 && is_open()) {
        const ssize_t size = recv(socket_.get(), buffer.data(), std::min(buffer.size(), left), 0);
        if (size < 0 && errno == EINTR) continue;
        if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        if (size <= 0) return close();
        const auto count = static_cast<std::size_t>(size);
        if (tls_) {
            receive({buffer.data(), count});
        } else {
            session_.receive({buffer.data(), count}, server_.loop_.now());
        }
        left -= count;
        if (count < buffer.size()) return;  // the socket had no more
    }
}

/// Takes bytes of TLS.
void Http2Server::Connection::receive(std::string_view bytes) {
    std::array<char, TlsConnection::kRecordBytes> room;
    const auto now = server_.loop_.now();
    tls_->feed(bytes);
    for (std::string_view plain = tls_->read(room); !plain.empty(); plain = tls_->read(room)) {
        session_.receive(plain, now);
    }
    // Some records are answered by TLS itself (KeyUpdate): not without end for a client that takes no answers.
    if (tls_->ended() || output_.size() > kMostOnWire) return close();
    server_.wants_flush(*this);  // for handshakes and alerts
}

/// Makes output of what the session has.
void Http2Server::Connection::pump(EventLoop::Clock::time_point now) {
    if (!tls_) return session_.pump(output_, now);
    if (!tls_->established()) return;
    session_.pump(tls_->plain(), now);
    tls_->seal();
    if (output_.empty() && session_.done()) tls_->close();
}

/// Sends what the session has, as far as the socket takes it.
void Http2Server::Connection::flush() {
    const auto now = server_.loop_.now();
    bool more = is_open() && !lingering_;
    while (more) {
        pump(now);
        if (output_.empty()) break;
        const std::size_t before = output_.size();
        write();
        if (!is_open()) break;
        if (output_.size() < before) wrote_ = now;
        more = output_.empty();
    }
    grpc_.ended.clear();
    if (!is_open() || lingering_) return;
    if (output_.empty()) wrote_ = now;
    watch(output_.empty() ? EPOLLIN : EPOLLIN | EPOLLOUT);
    if (output_.empty() && done()) {
        session_.close();
        grpc_.ended.clear();
        shutdown(socket_.get(), SHUT_WR);
        lingering_ = true;
        lingers_ = now;
    }
}

void Http2Server::Connection::write() {
    std::array<iovec, 64> vectors{};
    while (!output_.empty()) {
        msghdr message{};
        message.msg_iov = vectors.data();
        message.msg_iovlen = output_.gather(vectors);
        const ssize_t size = sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
        if (size < 0 && errno == EINTR) continue;
        if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        if (size < 0) return close();
        output_.pop(static_cast<std::size_t>(size));
    }
}

/// Closing a socket with unread bytes sends RST, which may overtake our GOAWAY: so they are read for a moment.
void Http2Server::Connection::discard_input() {
    std::string& buffer = server_.read_buffer_;
    const ssize_t size = recv(socket_.get(), buffer.data(), buffer.size(), 0);
    const bool later = size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
    if (size <= 0 && !later) close();
}

void Http2Server::Connection::sweep(EventLoop::Clock::time_point now) {
    if (!is_open()) return;
    const ServerLimits& limits = server_.state_.limits;
    if (lingering_) {
        if (now - lingers_ > limits.linger) close();
    } else if (tls_ && !tls_->established()) {
        if (now - began_ > limits.handshake_timeout) close();
    } else if (!output_.empty() && now - wrote_ > limits.write_timeout) {
        close();
    } else {
        session_.sweep(now);
    }
}

void Http2Server::Connection::watch(std::uint32_t events) {
    if (std::exchange(events_, events) != events) server_.loop_.modify(socket_.get(), events, *this);
}

void Http2Server::Connection::close() {
    if (!is_open()) return;
    server_.loop_.remove(socket_.get());
    socket_ = Fd();
    session_.close();
    server_.wants_flush(*this);  // which drops it
}

/// A listening socket.
class Http2Server::Listener final : public EventLoop::Handler {
public:
    Listener(Http2Server& server, Fd socket, std::shared_ptr<const TlsContext> tls)
        : server_(server), socket_(std::move(socket)), tls_(std::move(tls)) {
        resume();
    }
    ~Listener() { pause(); }
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;

    void ready(std::uint32_t) override {
        for (int count = 0; count < kAcceptedAtOnce; ++count) {
            sockaddr_storage address{};
            socklen_t size = sizeof address;
            Fd client(
                accept4(socket_.get(), reinterpret_cast<sockaddr*>(&address), &size, SOCK_NONBLOCK | SOCK_CLOEXEC));
            if (client) {
                server_.accepted(std::move(client), peer_name(address), tls_);
            } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                pause();
                retry_ = server_.loop_.at(server_.loop_.now() + kAcceptPause, [this] { resume(); });
                return;
            } else if (errno != EINTR && errno != ECONNABORTED) {
                return;
            }
        }
    }

private:
    void resume() {
        server_.loop_.add(socket_.get(), EPOLLIN, *this);
        listening_ = true;
    }
    void pause() noexcept {
        if (std::exchange(listening_, false)) server_.loop_.remove(socket_.get());
    }

    Http2Server& server_;
    Fd socket_;
    std::shared_ptr<const TlsContext> tls_;
    EventLoop::Timer retry_;
    bool listening_ = false;
};

Http2Server::Http2Server(EventLoop& loop, const ServerLimits& limits, Router router,
                         std::shared_ptr<ServerTotals> totals, SharedMemoryPool* memory)
    : loop_(loop),
      state_(loop, limits, std::move(router), totals ? std::move(totals) : std::make_shared<ServerTotals>(), memory),
      read_buffer_(kReadBytes, '\0'),
      alive_(std::make_shared<bool>(true)) {
    sweep();
}

Http2Server::~Http2Server() {
    *alive_ = false;
    listeners_.clear();
    for (const auto& connection : connections_) connection->close();
}

void Http2Server::serve(Fd listener, std::shared_ptr<const TlsContext> tls) {
    listeners_.push_back(std::make_unique<Listener>(*this, std::move(listener), std::move(tls)));
}

void Http2Server::deal_to(std::vector<Http2Server*> others) {
    dealt_to_ = std::move(others);
    dealt_to_.push_back(this);
}

void Http2Server::accepted(Fd socket, std::string peer, const std::shared_ptr<const TlsContext>& tls) {
    ++accepted_;
    if (!state_.totals->connections.add_within(1, state_.limits.max_connections)) {
        ++turned_away_;
        return;  // which closes it
    }
    Http2Server& server = *dealt_to_[next_++ % dealt_to_.size()];
    if (&server == this) return take(std::move(socket), std::move(peer), tls);
    server.loop_.post([&server, socket = std::make_shared<Fd>(std::move(socket)), peer = std::move(peer), tls] {
        server.take(std::move(*socket), peer, tls);
    });
}

/// A connection more, which is counted already.
void Http2Server::take(Fd socket, std::string peer, const std::shared_ptr<const TlsContext>& tls) {
    if (draining_) return state_.totals->connections.subtract(1);  // and closes it
    set_options(socket.get());
    connections_.push_back(std::make_unique<Connection>(*this, std::move(socket), std::move(peer), tls));
}

void Http2Server::wants_flush(Connection& connection) {
    if (std::exchange(connection.dirty, true)) return;
    dirty_.push_back(&connection);
    if (dirty_.size() > 1) return;
    loop_.defer([this, alive = alive_] {
        if (*alive) flush();
    });
}

/// One flush of each connection that has something to say, at the end of a turn.
void Http2Server::flush() {
    bool closed = false;
    for (Connection* connection : std::exchange(dirty_, {})) {
        connection->dirty = false;
        connection->flush();
        closed = closed || !connection->is_open();
    }
    if (!closed) return;
    std::erase_if(dirty_, [](const Connection* connection) { return !connection->is_open(); });
    std::erase_if(connections_, [](const auto& connection) { return !connection->is_open(); });
    check_drained();
}

void Http2Server::sweep() {
    const auto now = loop_.now();
    for (const auto& connection : connections_) connection->sweep(now);
    sweep_timer_ = loop_.at(now + state_.limits.sweep_interval, [this] { sweep(); });
}

void Http2Server::drain(std::chrono::milliseconds grace, std::function<void()> drained) {
    draining_ = true;
    drained_ = std::move(drained);
    listeners_.clear();
    for (const auto& connection : connections_) connection->go_away(false);
    const auto now = loop_.now();
    notice_timer_ = loop_.at(now + state_.limits.goaway_notice, [this] {
        for (const auto& connection : connections_) connection->go_away(true);
    });
    grace_timer_ = loop_.at(now + grace, [this] {
        for (const auto& connection : connections_) connection->close();
    });
    loop_.defer([this, alive = alive_] {
        if (*alive) check_drained();
    });
}

void Http2Server::check_drained() {
    if (!draining_ || !connections_.empty() || !drained_) return;
    notice_timer_ = {};
    grace_timer_ = {};
    std::exchange(drained_, nullptr)();
}

Http2Server::Counts Http2Server::counts() const noexcept {
    const ServerTotals& totals = *state_.totals;
    return {connections_.size(), totals.calls.value(), totals.held_bytes.value(), accepted_, turned_away_};
}

}  // namespace anyserve
