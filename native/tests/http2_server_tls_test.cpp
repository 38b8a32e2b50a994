#include <gtest/gtest.h>

#include <algorithm>
#include <future>
#include <optional>
#include <string>

#include "anyserve/http2_server.hpp"
#include "http2_server_peer.hpp"
#include "tls_peer.hpp"

namespace anyserve {
namespace {

using namespace std::chrono_literals;
using namespace wire;
using namespace testing;

class Http2ServerTls : public ::testing::Test {
protected:
    void start(const ServerLimits& limits = {}) {
        TlsLoaded loaded = TlsContext::load({identity_.cert_file, identity_.key_file, {}});
        ASSERT_EQ(loaded.error, "");
        server_.emplace(limits, loaded.context);
    }

    const TemporaryDirectory directory_;
    const testing::Identity root_{directory_, "root"};
    const testing::Identity identity_{directory_, "server", &root_};
    std::optional<Running> server_;
};

/// A client of TLS over a blocking socket.
class SecureClient {
public:
    SecureClient(std::uint16_t port, const testing::Identity& root, int receive_buffer = 0)
        : socket_(port, receive_buffer), tls_(root, {}) {}

    /// To the end of the handshake, and a connection's beginning behind it.
    bool begin(std::string_view settings_of_client = {}) {
        while (!tls_.shake_hands()) {
            socket_.send(tls_.take());
            if (!receive()) return false;
        }
        return send(std::string(kPreface) + frame(settings, 0, 0, settings_of_client) + frame(settings, kAck, 0, {}));
    }
    bool send(std::string_view bytes) {
        tls_.write(bytes);
        return socket_.send(tls_.take());
    }
    bool expect(std::string_view bytes) {
        while ((received += tls_.read()).find(bytes) == std::string::npos) {
            if (!receive()) return false;
        }
        return true;
    }
    /// Reads until so many such bytes have come.
    bool expect(std::size_t count, char byte) {
        while (static_cast<std::size_t>(std::count(received.begin(), received.end(), byte)) < count) {
            if (!receive()) return false;
            received += tls_.read();
        }
        return true;
    }
    /// Reads to the end; true if TLS said so before the socket did.
    bool closed() {
        while (receive()) received += tls_.read();
        return tls_.error == SSL_ERROR_ZERO_RETURN;
    }
    /// Asks for a new key, and for one of the server.
    bool update_keys() {
        SSL_key_update(tls_.ssl.get(), SSL_KEY_UPDATE_REQUESTED);
        tls_.shake_hands();
        return socket_.send(tls_.take());
    }
    std::string received;

private:
    bool receive() {
        socket_.received.clear();
        if (!socket_.read()) return false;
        tls_.feed(socket_.received);
        return true;
    }
    Client socket_;
    TlsClient tls_;
};

std::string call(std::string_view body) { return open(1) + frame(data, kEndStream, 1, message(body)); }

TEST_F(Http2ServerTls, ServesCalls) {
    start();
    SecureClient one(server_->port, root_);
    SecureClient other(server_->port, root_);
    ASSERT_TRUE(one.begin());
    ASSERT_TRUE(other.begin());
    one.send(call("hello"));
    other.send(call("world"));
    EXPECT_TRUE(other.expect(message("world")));
    EXPECT_TRUE(one.expect(message("hello")));
}

TEST_F(Http2ServerTls, CarriesLargeMessages) {
    start();
    SecureClient client(server_->port, root_);
    ASSERT_TRUE(client.begin(setting(4, 1u << 30) + setting(5, 1u << 20)));
    client.send(frame(window_update, 0, 0, number(1u << 30)) + open(1));
    const std::size_t size = std::size_t{3} << 20;
    const std::string bytes = message(std::string(size, 'x'));
    for (std::size_t at = 0; at < bytes.size(); at += 16'384) client.send(frame(data, 0, 1, bytes.substr(at, 16'384)));
    client.send(frame(data, kEndStream, 1, {}));
    EXPECT_TRUE(client.expect(size, 'x'));
}

TEST_F(Http2ServerTls, ClosesAClientThatSpeaksPlainText) {
    start();
    Client client(server_->port);
    client.begin();
    EXPECT_TRUE(client.closed());
    EXPECT_EQ(client.received.find(frame(settings, 0, 0, {}).substr(3)), std::string::npos);
    SecureClient other(server_->port, root_);
    ASSERT_TRUE(other.begin());
    other.send(call("hello"));
    EXPECT_TRUE(other.expect(message("hello")));
}

TEST_F(Http2ServerTls, ClosesAHandshakeThatDoesNotEnd) {
    ServerLimits limits;
    limits.handshake_timeout = 50ms;
    limits.sweep_interval = 10ms;
    start(limits);
    Client client(server_->port);
    client.send("\x16\x03\x01");
    EXPECT_TRUE(client.closed());
}

TEST_F(Http2ServerTls, LetsItsLastWordArriveBeforeItCloses) {
    start();
    SecureClient client(server_->port, root_);
    ASSERT_TRUE(client.begin());
    client.send(frame(data, 0, 0, "x") + std::string(100'000, 'x'));  // an error of the connection
    EXPECT_TRUE(client.closed()) << "no close_notify";
    EXPECT_NE(client.received.find(frame(goaway, 0, 0, number(0) + number(1)).substr(3, 14)), std::string::npos);
}

TEST_F(Http2ServerTls, DrainsWhenTheCallsUnderWayHaveEnded) {
    ServerLimits limits;
    limits.goaway_notice = 10ms;
    start(limits);
    Client silent(server_->port);  // is not waited for
    SecureClient client(server_->port, root_);
    ASSERT_TRUE(client.begin());
    client.send(open(1));
    client.send(frame(ping, 0, 0, "12345678"));
    EXPECT_TRUE(client.expect("12345678"));
    const std::future<void> drained = server_->drain(10s);
    EXPECT_TRUE(client.expect(frame(goaway, 0, 0, number(1) + number(0))));
    client.send(frame(data, kEndStream, 1, message("late")));
    EXPECT_TRUE(client.expect(message("late")));
    EXPECT_TRUE(client.closed());
    EXPECT_EQ(drained.wait_for(10s), std::future_status::ready);
}

TEST_F(Http2ServerTls, ClosesAClientThatHasKeysChangedAndTakesNoAnswers) {
    ServerLimits limits;
    limits.output_bytes = 4'096;
    start(limits);
    SecureClient client(server_->port, root_, 4'096);
    ASSERT_TRUE(client.begin());
    int updates = 0;
    while (updates < 1'000'000 && client.update_keys()) ++updates;
    EXPECT_LT(updates, 1'000'000);
}

}  // namespace
}  // namespace anyserve
