// A server on a thread of its own, and a client with a blocking socket: what tests of the server share.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <future>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "anyserve/http2_server.hpp"
#include "anyserve/sockets.hpp"
#include "http2_wire.hpp"

namespace anyserve::testing {

class Echo final : public UnaryHandler {
public:
    using UnaryHandler::UnaryHandler;
    void on_request(Payload bytes) override { reply(std::move(bytes)); }
};

/// A client with a blocking socket that gives up after some seconds.
class Client {
public:
    explicit Client(std::uint16_t port, int receive_buffer = 0)
        : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.sin_port = htons(port);
        const timeval limit{10, 0};
        setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        if (receive_buffer > 0) setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(int));
        connected_ = connect(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    }
    bool connected() const { return connected_; }
    /// False if the server has gone.
    bool send(std::string_view bytes) {
        while (!bytes.empty()) {
            const ssize_t size = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (size <= 0) return false;
            bytes.remove_prefix(static_cast<std::size_t>(size));
        }
        return true;
    }
    void begin() {
        using namespace wire;
        send(std::string(kPreface) + frame(settings, 0, 0, {}) + frame(settings, kAck, 0, {}));
    }
    /// Reads until `bytes` have come; false if the connection ends before.
    bool expect(std::string_view bytes) {
        while (received.find(bytes) == std::string::npos) {
            if (!read()) return false;
        }
        return true;
    }
    /// Reads to the end; true if it is an orderly one.
    bool closed() {
        while (read()) {
        }
        return last_ == 0;
    }
    /// Reads what comes next; false at the end.
    bool read() {
        char buffer[16'384];
        last_ = recv(socket_.get(), buffer, sizeof buffer, 0);
        if (last_ > 0) received.append(buffer, static_cast<std::size_t>(last_));
        return last_ > 0;
    }
    std::string received;

private:
    Fd socket_;
    bool connected_ = false;
    ssize_t last_ = -1;
};

/// A server of `Echo` on a thread of its own.
class Running {
public:
    explicit Running(ServerLimits limits = {}, std::shared_ptr<const TlsContext> tls = nullptr) {
        Listening listening = listen_inet("127.0.0.1", 0);
        EXPECT_EQ(listening.error, "");
        port = local_port(listening.sockets.front());
        thread_ = std::thread([this, limits, tls, socket = std::move(listening.sockets.front())]() mutable {
            server_.emplace(loop_, limits, [](ServerCall& call) { return std::make_unique<Echo>(call); });
            server_->serve(std::move(socket), std::move(tls));
            loop_.run();
            server_.reset();
        });
    }
    ~Running() {
        loop_.stop();
        thread_.join();
    }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;

    Http2Server::Counts counts() {
        std::promise<Http2Server::Counts> counts;
        loop_.post([&] { counts.set_value(server_->counts()); });
        return counts.get_future().get();
    }
    std::future<void> drain(std::chrono::milliseconds grace) {
        auto done = std::make_shared<std::promise<void>>();
        loop_.post([this, grace, done] { server_->drain(grace, [done] { done->set_value(); }); });
        return done->get_future();
    }
    std::uint16_t port = 0;

private:
    EventLoop loop_;
    std::optional<Http2Server> server_;
    std::thread thread_;
};

}  // namespace anyserve::testing
