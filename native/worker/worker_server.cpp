#include "worker_server.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <span>
#include <utility>

#include "anyserve/framing.hpp"
#include "anyserve/sockets.hpp"

namespace anyserve {
namespace {

constexpr std::size_t kScratchBytes = std::size_t{32} << 10;
constexpr int kReadsAtOnce = 8;  // then others have their turn
constexpr std::chrono::milliseconds kAcceptPause{100};

iovec part_of(std::string_view bytes) noexcept { return {const_cast<char*>(bytes.data()), bytes.size()}; }

}  // namespace

/// One connection of an agent: reads a request, then sends its replies, then reads the next.
class WorkerServer::Connection final : public EventLoop::Handler {
public:
    Connection(WorkerServer& server, Fd socket)
        : server_(server), socket_(std::move(socket)), reader_(server.options_.max_frame_bytes) {}
    ~Connection() { close(); }
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    [[nodiscard]] bool watch() { return server_.loop_.add(socket_.get(), watched_for_, *this); }

    void ready(std::uint32_t events) override {
        // Reading first, also in the middle of a reply: an end of the stream is how an agent cancels.
        if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) read();
        if ((events & EPOLLOUT) != 0 && socket_) write();
    }

private:
    void read();
    [[nodiscard]] bool take(std::size_t in_room, std::string_view behind);
    void send_next();
    void write();
    void watch_for(std::uint32_t events);
    void end();
    void close() noexcept;

    WorkerServer& server_;
    Fd socket_;
    std::uint32_t watched_for_ = EPOLLIN;
    FrameReader reader_;
    std::vector<std::string> frames_;
    std::unique_ptr<Replies> replies_;  // of the exchange under way
    bool more_ = false;                 // frames follow the one that is being sent
    std::array<char, kFrameHeaderBytes> header_{};
    std::vector<std::string_view> parts_;
    std::vector<iovec> out_;
    std::size_t unsent_ = 0;  // the first of `out_` that is not wholly sent
};

void WorkerServer::Connection::read() {
    std::array<char, kScratchBytes> scratch;  // NOLINT(*-member-init): filled by the kernel
    for (int count = 0; count < kReadsAtOnce && socket_; ++count) {
        const std::span<char> room = reader_.room();
        const std::array<iovec, 2> parts{{{room.data(), room.size()}, {scratch.data(), scratch.size()}}};
        const Transfer got = receive_parts(socket_, room.empty() ? std::span(parts).subspan(1) : std::span(parts));
        if (got.would_block()) return;
        if (got.size == 0) return end();  // an end of the stream, or an error
        const std::size_t in_room = std::min(got.size, room.size());
        if (!take(in_room, {scratch.data(), got.size - in_room})) return end();
        if (got.size < room.size() + scratch.size()) return;  // the socket had no more
    }
}

/// False: the agent breaks the rules of the framing, or the request cannot be answered.
bool WorkerServer::Connection::take(std::size_t in_room, std::string_view behind) {
    if (replies_) return false;  // `frame.connections.early`
    if (!reader_.take(in_room, behind, frames_) || frames_.size() > 1) return false;
    if (frames_.empty()) return true;
    replies_ = server_.handler_(std::move(frames_.front()));
    frames_.clear();
    if (!replies_) return false;
    send_next();
    return true;
}

void WorkerServer::Connection::send_next() {
    if (!replies_) return;  // cancelled since it was deferred
    parts_.clear();
    more_ = replies_->next(parts_);
    std::size_t length = 0;
    out_.assign(1, {header_.data(), header_.size()});
    for (const std::string_view part : parts_) {
        if (!part.empty()) out_.push_back(part_of(part));
        length += part.size();
    }
    header_ = frame_header(static_cast<std::uint32_t>(length));
    unsent_ = 0;
    write();
}

void WorkerServer::Connection::write() {
    Transfer sent = send_parts(socket_, std::span(out_).subspan(unsent_));
    if (sent.error != 0 && !sent.would_block()) return end();
    while (unsent_ < out_.size() && sent.size >= out_[unsent_].iov_len) sent.size -= out_[unsent_++].iov_len;
    if (unsent_ < out_.size()) {
        out_[unsent_].iov_base = static_cast<char*>(out_[unsent_].iov_base) + sent.size;
        out_[unsent_].iov_len -= sent.size;
        return watch_for(EPOLLIN | EPOLLOUT);
    }
    watch_for(EPOLLIN);
    if (more_) {
        server_.loop_.defer([this] { send_next(); });
    } else {
        replies_.reset();
    }
}

void WorkerServer::Connection::watch_for(std::uint32_t events) {
    if (std::exchange(watched_for_, events) != events) server_.loop_.modify(socket_.get(), events, *this);
}

/// Discarded at the end of the turn, behind what it may have deferred itself.
void WorkerServer::Connection::end() {
    const int fd = socket_.get();
    close();
    server_.closed(fd);
}

void WorkerServer::Connection::close() noexcept {
    if (!socket_) return;
    server_.loop_.remove(socket_.get());
    socket_.reset();
    replies_.reset();
}

WorkerServer::WorkerServer(EventLoop& loop, Fd listener, RequestHandler handler, const WorkerServerOptions& options)
    : loop_(loop), listener_(std::move(listener)), handler_(std::move(handler)), options_(options) {
    loop_.add(listener_.get(), EPOLLIN, *this);
}

WorkerServer::~WorkerServer() { loop_.remove(listener_.get()); }

void WorkerServer::ready(std::uint32_t) {
    while (accept_one()) {
    }
}

bool WorkerServer::accept_one() {
    Fd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            // What is not accepted would be told again at once, and again.
            loop_.remove(listener_.get());
            pause_ = loop_.at(loop_.now() + kAcceptPause, [this] { loop_.add(listener_.get(), EPOLLIN, *this); });
            return false;
        }
        return errno == EINTR || errno == ECONNABORTED;
    }
    if (connections_.size() >= options_.max_connections || untrusted_peer(socket)) return true;
    const int fd = socket.get();
    auto connection = std::make_unique<Connection>(*this, std::move(socket));
    if (connection->watch()) connections_.emplace(fd, std::move(connection));
    return true;
}

void WorkerServer::closed(int fd) {
    const auto found = connections_.find(fd);
    if (ended_.empty()) {
        loop_.defer([this] { ended_.clear(); });
    }
    ended_.push_back(std::move(found->second));
    connections_.erase(found);
}

}  // namespace anyserve
