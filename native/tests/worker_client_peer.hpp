// The other end of worker connections, for tests: scripted workers in threads of their own, and a client side that
// records.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "anyserve/event_loop.hpp"
#include "anyserve/fd.hpp"
#include "anyserve/framing.hpp"
#include "anyserve/worker_client.hpp"

namespace anyserve::testing {

inline constexpr std::chrono::seconds kPatience{20};  // that a test waits for what must come

inline std::string framed(std::string_view payload) {
    const auto header = frame_header(static_cast<std::uint32_t>(payload.size()));
    return std::string(header.data(), header.size()) + std::string(payload);
}

/// A directory with a short path, removed with all that is in it.
class TemporaryDirectory {
public:
    TemporaryDirectory() {
        std::string pattern = "/tmp/io-XXXXXX";
        path_ = mkdtemp(pattern.data());
    }
    ~TemporaryDirectory() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
    [[nodiscard]] std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

private:
    std::string path_;
};

/// A connection as the worker sees it; all calls block, but not for ever.
class Peer {
public:
    explicit Peer(Fd socket) : socket_(std::move(socket)) {
        const timeval limit{kPatience.count(), 0};
        setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        setsockopt(socket_.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    }
    /// The payload of the next frame; nothing at the end of the stream.
    std::optional<std::string> frame() {
        const auto header = bytes(kFrameHeaderBytes);
        if (!header) return std::nullopt;
        std::size_t length = 0;
        for (const char digit : *header) length = length << 8 | static_cast<unsigned char>(digit);
        return bytes(length);
    }
    std::optional<std::string> bytes(std::size_t size) {
        std::string all(size, '\0');
        std::size_t got = 0;
        while (got < size) {
            const ssize_t now = recv(socket_.get(), all.data() + got, size - got, 0);
            if (now <= 0) return std::nullopt;
            got += static_cast<std::size_t>(now);
        }
        return all;
    }
    void send(std::string_view data) {
        while (!data.empty()) {
            const ssize_t size = ::send(socket_.get(), data.data(), data.size(), MSG_NOSIGNAL);
            if (size <= 0) return;
            data.remove_prefix(static_cast<std::size_t>(size));
        }
    }
    void reply(std::string_view payload) { send(framed(payload)); }
    /// Waits until there is something to read, and leaves it.
    void wait_for_bytes() const {
        pollfd poll_fd{socket_.get(), POLLIN, 0};
        EXPECT_EQ(poll(&poll_fd, 1, static_cast<int>(kPatience.count()) * 1000), 1);
    }
    /// Waits until the agent has closed; true if no byte came before.
    bool wait_for_end() {
        char byte = 0;
        return recv(socket_.get(), &byte, 1, 0) == 0;
    }
    /// Waits until the agent has closed, whatever comes before.
    void drain() {
        std::string all(65536, '\0');
        while (recv(socket_.get(), all.data(), all.size(), 0) > 0) {
        }
    }
    /// Waits until the agent has closed, and reads nothing: what it has not written stays so.
    void wait_for_hang_up() const {
        pollfd poll_fd{socket_.get(), 0, 0};
        EXPECT_EQ(poll(&poll_fd, 1, static_cast<int>(kPatience.count()) * 1000), 1);
    }
    void half_close() { shutdown(socket_.get(), SHUT_WR); }
    void refuse_bytes() { shutdown(socket_.get(), SHUT_RD); }
    void close() { socket_.reset(); }
    [[nodiscard]] int fd() const { return socket_.get(); }

private:
    Fd socket_;
};

/// A socket that listens, as a worker has one.
class ListeningWorker {
public:
    explicit ListeningWorker(std::string path, int backlog = 64) : path_(std::move(path)) {
        socket_ = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path, path_.data(), path_.size());
        EXPECT_EQ(bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
        EXPECT_EQ(listen(socket_.get(), backlog), 0);
    }
    /// The next connection.
    Peer accept() const {
        pollfd poll_fd{socket_.get(), POLLIN, 0};
        EXPECT_EQ(poll(&poll_fd, 1, static_cast<int>(kPatience.count()) * 1000), 1) << "no connection came";
        return Peer(Fd(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC)));
    }
    /// Whether a connection waits to be accepted.
    [[nodiscard]] bool has_connection() const {
        pollfd poll_fd{socket_.get(), POLLIN, 0};
        return poll(&poll_fd, 1, 0) == 1;
    }
    void close() { socket_.reset(); }
    [[nodiscard]] const std::string& path() const { return path_; }

private:
    std::string path_;
    Fd socket_;
};

/// What a worker does, in a thread of its own, which is waited for.
class Script {
public:
    template <class Act>
    explicit Script(Act act) : thread_(std::move(act)) {}
    ~Script() { thread_.join(); }
    Script(const Script&) = delete;
    Script& operator=(const Script&) = delete;

private:
    std::thread thread_;
};

/// The client side: a loop that runs until something is so.
class Driver {
public:
    EventLoop loop;
    SendBatch sends{loop};

    /// Lets the loop run until the predicate holds; false if it never did. It is asked whenever the loop was stopped,
    /// as recorders do at each call, and each millisecond for what happens without a call.
    template <class Predicate>
    [[nodiscard]] bool until(const Predicate& predicate) {
        const auto limit = EventLoop::Clock::now() + kPatience;
        while (!predicate()) {
            if (EventLoop::Clock::now() > limit) return false;
            const auto look = loop.at(EventLoop::Clock::now() + std::chrono::milliseconds(1), [this] { loop.stop(); });
            loop.run();
        }
        return true;
    }

    /// Lets the loop run until a thread has said so.
    void until_done(std::future<void>& done) {
        EXPECT_TRUE(until([&] { return done.wait_for(std::chrono::seconds(0)) == std::future_status::ready; }));
    }

    /// One turn, without waiting.
    void turn() {
        loop.stop();
        loop.run();
    }
};

/// A sink that records, and does what the test wants.
class Recorder final : public ReplySink {
public:
    explicit Recorder(EventLoop& loop) : loop_(loop) {}

    void on_frame(Payload frame) override {
        EXPECT_FALSE(failure) << "a frame behind the failure";
        frames.push_back(std::move(frame).take());
        loop_.stop();
        if (act) act();
    }
    void on_failed(Failure given) override {
        EXPECT_FALSE(failure) << "a second failure";
        failure = std::move(given);
        loop_.stop();
    }
    [[nodiscard]] bool failed_with(FailureKind kind) const { return failure && failure->kind == kind; }

    std::vector<std::string> frames;
    std::optional<Failure> failure;
    std::function<void()> act;  // at each frame

private:
    EventLoop& loop_;
};

}  // namespace anyserve::testing
