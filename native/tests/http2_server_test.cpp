#include "anyserve/http2_server.hpp"

#include <gtest/gtest.h>

#include <future>
#include <string>
#include <thread>

#include "http2_server_peer.hpp"

namespace anyserve {
namespace {

using namespace std::chrono_literals;
using namespace wire;
using testing::Client;
using testing::Running;

std::string call(std::string_view body) { return open(1) + frame(data, kEndStream, 1, message(body)); }

TEST(Http2Server, ServesCalls) {
    Running server;
    Client one(server.port), other(server.port);
    one.begin();
    other.begin();
    one.send(call("hello"));
    other.send(call("world"));
    EXPECT_TRUE(other.expect(message("world")));
    EXPECT_TRUE(one.expect(message("hello")));
    EXPECT_EQ(server.counts().connections, 2u);
}

TEST(Http2Server, LetsItsLastWordArriveBeforeItCloses) {
    Running server;
    Client client(server.port);
    client.begin();
    client.send(frame(data, 0, 0, "x"));     // an error of the connection
    client.send(std::string(100'000, 'x'));  // which nobody reads as frames any more
    EXPECT_TRUE(client.closed()) << "no RST";
    EXPECT_NE(client.received.find(frame(goaway, 0, 0, number(0) + number(1)).substr(3, 14)), std::string::npos);
}

TEST(Http2Server, ClosesConnectionsBeyondTheirNumber) {
    ServerLimits limits;
    limits.max_connections = 1;
    Running server(limits);
    Client first(server.port);
    first.begin();
    first.send(call("hello"));
    EXPECT_TRUE(first.expect(message("hello")));
    Client second(server.port);
    EXPECT_TRUE(second.closed());
    EXPECT_EQ(server.counts().turned_away, 1u);
}

TEST(Http2Server, ClosesASilentConnection) {
    ServerLimits limits;
    limits.handshake_timeout = 50ms;
    limits.sweep_interval = 10ms;
    limits.linger = 10ms;
    Running server(limits);
    Client silent(server.port);
    EXPECT_TRUE(silent.closed());
}

TEST(Http2Server, DrainsWhenTheCallsUnderWayHaveEnded) {
    ServerLimits limits;
    limits.goaway_notice = 10ms;
    Running server(limits);
    Client client(server.port);
    client.begin();
    client.send(open(1));
    client.send(frame(ping, 0, 0, "12345678"));
    EXPECT_TRUE(client.expect("12345678"));
    const std::future<void> drained = server.drain(10s);
    EXPECT_TRUE(client.expect(frame(goaway, 0, 0, number(1) + number(0))));
    EXPECT_EQ(drained.wait_for(20ms), std::future_status::timeout) << "a call is under way";
    EXPECT_FALSE(Client(server.port).connected()) << "nobody listens";
    client.send(frame(data, kEndStream, 1, message("late")));
    EXPECT_TRUE(client.expect(message("late")));
    EXPECT_TRUE(client.closed());
    EXPECT_EQ(drained.wait_for(10s), std::future_status::ready);
}

TEST(Http2Server, CutsWhatIsLeftAfterTheGrace) {
    ServerLimits limits;
    limits.goaway_notice = 10ms;
    Running server(limits);
    Client client(server.port);
    client.begin();
    client.send(open(1));
    client.send(frame(ping, 0, 0, "12345678"));
    EXPECT_TRUE(client.expect("12345678"));
    EXPECT_EQ(server.drain(50ms).wait_for(10s), std::future_status::ready);
    EXPECT_EQ(server.counts().calls, 0u);
}

TEST(Http2Server, ClosesASocketThatTakesNothing) {
    ServerLimits limits;
    limits.write_timeout = 50ms;
    limits.sweep_interval = 10ms;
    Running server(limits);
    Client client(server.port);
    client.send(std::string(kPreface) + frame(settings, 0, 0, setting(4, 1u << 30)) + frame(settings, kAck, 0, {}) +
                frame(window_update, 0, 0, number(1u << 30)) + open(1));
    const std::string bytes = message(std::string(8u << 20, 'x'));
    for (std::size_t at = 0; at < bytes.size(); at += 16'384) client.send(frame(data, 0, 1, bytes.substr(at, 16'384)));
    client.send(frame(data, kEndStream, 1, {}));
    for (int i = 0; i < 1000 && server.counts().connections > 0; ++i) std::this_thread::sleep_for(10ms);
    EXPECT_EQ(server.counts().connections, 0u);
    EXPECT_EQ(server.counts().held_bytes, 0u);
}

}  // namespace
}  // namespace anyserve
