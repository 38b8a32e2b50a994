// A relay of bytes from TCP to a Unix socket and back: what forwarding costs at least, with no protocol at all.
//
// Usage: relay PATH. Connects each of its clients to the Unix socket PATH; prints its port. One epoll thread, buffers
// of the size that the agent reads with.
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "anyserve/event_loop.hpp"
#include "anyserve/sockets.hpp"

namespace {

using anyserve::EventLoop;
using anyserve::Fd;
using anyserve::Transfer;

constexpr std::size_t kBufferBytes = std::size_t{256} << 10;

/// Bytes on their way from one socket to the other.
class Direction {
public:
    Direction(const Fd& from, const Fd& to) : from_(from), to_(to), buffer_(std::make_unique<char[]>(kBufferBytes)) {}

    /// Moves what there is; false: an end.
    [[nodiscard]] bool move() {
        for (;;) {
            if (begin_ < end_ && !send()) return false;
            if (begin_ < end_ || !may_have_more_) return may_have_more_ = true;
            if (!receive()) return false;
        }
    }
    [[nodiscard]] bool is_full() const noexcept { return begin_ < end_; }

private:
    bool receive() {
        const iovec part{buffer_.get(), kBufferBytes};
        const Transfer got = anyserve::receive_parts(from_, {&part, 1});
        may_have_more_ = got.size == kBufferBytes;  // a short read has emptied the socket
        begin_ = 0;
        end_ = got.size;
        return got.size > 0 || got.would_block();
    }
    bool send() {
        const iovec part{buffer_.get() + begin_, end_ - begin_};
        const Transfer sent = anyserve::send_parts(to_, {&part, 1});
        begin_ += sent.size;
        return sent.error == 0 || sent.would_block();
    }

    const Fd& from_;
    const Fd& to_;
    std::unique_ptr<char[]> buffer_;
    std::size_t begin_ = 0;
    std::size_t end_ = 0;
    bool may_have_more_ = true;
};

/// A client's socket and the one that it is connected to.
class Pair {
public:
    Pair(EventLoop& loop, Fd client, Fd server)
        : loop_(loop), client_(*this, std::move(client)), server_(*this, std::move(server)) {
        watch(client_, EPOLLIN);
        watch(server_, EPOLLIN);
    }
    ~Pair() { close(); }
    Pair(const Pair&) = delete;
    Pair& operator=(const Pair&) = delete;
    [[nodiscard]] bool is_open() const noexcept { return static_cast<bool>(client_.socket); }

private:
    struct Side final : EventLoop::Handler {
        Side(Pair& owner, Fd own) : pair(owner), socket(std::move(own)) {}
        void ready(std::uint32_t events) override { pair.ready(*this, events); }
        Pair& pair;
        Fd socket;
        std::uint32_t watched_for = 0;
    };

    void ready(Side& side, std::uint32_t events) {
        if (!is_open()) return;
        Direction& in = &side == &client_ ? up_ : down_;
        Direction& out = &side == &client_ ? down_ : up_;
        if ((events & ~std::uint32_t{EPOLLOUT}) != 0 && !in.is_full() && !in.move()) return close();
        if ((events & EPOLLOUT) != 0 && !out.move()) return close();
        watch(client_, wanted(up_, down_));
        watch(server_, wanted(down_, up_));
    }
    static std::uint32_t wanted(const Direction& in, const Direction& out) noexcept {
        return (in.is_full() ? 0U : EPOLLIN) | (out.is_full() ? EPOLLOUT : 0U);
    }
    void watch(Side& side, std::uint32_t events) {
        const std::uint32_t before = std::exchange(side.watched_for, events);
        if (events == before) return;
        if (before == 0) {
            loop_.add(side.socket.get(), events, side);
        } else if (events == 0) {
            loop_.remove(side.socket.get());
        } else {
            loop_.modify(side.socket.get(), events, side);
        }
    }
    void close() noexcept {
        for (Side* side : {&client_, &server_}) {
            loop_.remove(side->socket.get());
            side->socket.reset();
        }
    }

    EventLoop& loop_;
    Side client_;
    Side server_;
    Direction up_{client_.socket, server_.socket};
    Direction down_{server_.socket, client_.socket};
};

class Relay final : public EventLoop::Handler {
public:
    Relay(EventLoop& loop, Fd listener, std::string path)
        : loop_(loop), listener_(std::move(listener)), path_(std::move(path)) {
        loop_.add(listener_.get(), EPOLLIN, *this);
    }
    ~Relay() { loop_.remove(listener_.get()); }
    Relay(const Relay&) = delete;
    Relay& operator=(const Relay&) = delete;

    void ready(std::uint32_t) override {
        Fd client(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
        anyserve::Connected server = anyserve::connect_unix(path_);
        if (!client || !server.socket) return;
        std::erase_if(pairs_, [](const auto& pair) { return !pair->is_open(); });
        pairs_.push_back(std::make_unique<Pair>(loop_, std::move(client), std::move(server.socket)));
    }

private:
    EventLoop& loop_;
    Fd listener_;
    std::string path_;
    std::vector<std::unique_ptr<Pair>> pairs_;
};

}  // namespace

int main(int argc, char** argv) {
    anyserve::Listening listening = anyserve::listen_inet("127.0.0.1", 0);
    if (argc != 2 || !listening.error.empty()) {
        std::fprintf(stderr, "usage: relay PATH\n%s\n", listening.error.c_str());
        return EXIT_FAILURE;
    }
    std::printf("%u\n", static_cast<unsigned>(anyserve::local_port(listening.sockets.front())));
    std::fflush(stdout);
    EventLoop loop;
    const Relay relay(loop, std::move(listening.sockets.front()), argv[1]);
    loop.run();
    return EXIT_SUCCESS;
}
