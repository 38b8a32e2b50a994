#include "management_channel.hpp"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>

#include "anyserve/sockets.hpp"
#include "http2_server_peer.hpp"
#include "worker_client_peer.hpp"

namespace anyserve {
namespace {

using namespace std::chrono_literals;
using testing::Driver;
using testing::Running;

TEST(ParseHostPort, TakesThemApart) {
    EXPECT_EQ(parse_host_port("127.0.0.1:9000")->host, "127.0.0.1");
    EXPECT_EQ(parse_host_port("127.0.0.1:9000")->port, "9000");
    EXPECT_EQ(parse_host_port("[::1]:9000")->host, "::1");
    for (const std::string_view wrong : {"", "host", "host:", ":9000", "host:http", "host:-1"}) {
        EXPECT_FALSE(parse_host_port(wrong)) << wrong;
    }
}

class ManagementChannelTest : public ::testing::Test {
protected:
    /// A call, and how it ended.
    CallResult call(ManagementChannel& channel, std::string_view request, std::chrono::milliseconds limit = 20s) {
        std::optional<CallResult> result;
        channel.call("Heartbeat", {}, request, limit, [&](CallResult ended) {
            EXPECT_FALSE(result) << "told twice";
            result = std::move(ended);
        });
        EXPECT_FALSE(result) << "told at once";
        EXPECT_TRUE(driver.until([&] { return result.has_value(); }));
        return *result;
    }
    static HostPort at(std::uint16_t port) { return {"127.0.0.1", std::to_string(port)}; }

    Driver driver;
};

TEST_F(ManagementChannelTest, MakesCallsOnOneConnection) {
    Running server;
    ManagementChannel channel(driver.loop, at(server.port));
    EXPECT_EQ(call(channel, "first").reply, "first");
    EXPECT_EQ(call(channel, std::string(100'000, 'x')).reply.size(), 100'000u) << "more than the windows have";
    EXPECT_EQ(server.counts().accepted, 1u);
}

TEST_F(ManagementChannelTest, IsUnavailableWhereNobodyListens) {
    std::uint16_t port = 0;
    {
        const Listening free = listen_inet("127.0.0.1", 0);
        port = local_port(free.sockets.front());
    }
    ManagementChannel channel(driver.loop, at(port));
    EXPECT_EQ(call(channel, "x").code, Code::unavailable);
    EXPECT_EQ(call(channel, "x").code, Code::unavailable) << "and tries again";
    ManagementChannel nowhere(driver.loop, {"host.invalid", "1"});
    EXPECT_EQ(call(nowhere, "x").code, Code::unavailable);
}

TEST_F(ManagementChannelTest, ConnectsAgainWhenTheAgentIsBack) {
    auto server = std::make_optional<Running>();
    const std::uint16_t port = server->port;
    ManagementChannel channel(driver.loop, at(port));
    EXPECT_EQ(call(channel, "x").code, Code::ok);
    server.reset();
    EXPECT_EQ(call(channel, "x").code, Code::unavailable);
    const Listening again = listen_inet("127.0.0.1", port);
    ASSERT_EQ(again.error, "");
    EXPECT_EQ(call(channel, "x", 50ms).code, Code::deadline_exceeded) << "connected, and nobody answers";
}

TEST_F(ManagementChannelTest, ConnectsAgainAfterAGoaway) {
    Running server;
    ManagementChannel channel(driver.loop, at(server.port));
    EXPECT_EQ(call(channel, "x").code, Code::ok);
    std::future<void> drained = server.drain(0ms);
    driver.until_done(drained);
    EXPECT_EQ(call(channel, "x").code, Code::unavailable) << "nobody listens any more";
}

TEST_F(ManagementChannelTest, EndsACallThatHasNoAnswerInTime) {
    const Listening silent = listen_inet("127.0.0.1", 0);
    ManagementChannel channel(driver.loop, at(local_port(silent.sockets.front())));
    EXPECT_EQ(call(channel, "x", 20ms).code, Code::deadline_exceeded);
    EXPECT_EQ(call(channel, "x", 20ms).code, Code::deadline_exceeded);
}

TEST_F(ManagementChannelTest, IsUnavailableWhereNoHttp2IsSpoken) {
    const Listening listening = listen_inet("127.0.0.1", 0);
    ManagementChannel channel(driver.loop, at(local_port(listening.sockets.front())));
    std::optional<CallResult> result;
    channel.call("Heartbeat", {}, "x", 20s, [&](CallResult ended) { result = std::move(ended); });
    Fd peer;
    ASSERT_TRUE(driver.until([&] {
        peer = Fd(accept4(listening.sockets.front().get(), nullptr, nullptr, SOCK_CLOEXEC));
        return static_cast<bool>(peer);
    }));
    testing::Peer(std::move(peer)).send("HTTP/1.1 400 Bad Request\r\n\r\n");
    EXPECT_TRUE(driver.until([&] { return result.has_value(); }));
    EXPECT_EQ(result->code, Code::unavailable);
}

TEST_F(ManagementChannelTest, TakesItsEndWithACallUnderWay) {
    const Listening silent = listen_inet("127.0.0.1", 0);
    {
        ManagementChannel channel(driver.loop, at(local_port(silent.sockets.front())));
        channel.call("Heartbeat", {}, "x", 1ms, [](const CallResult&) { FAIL() << "nobody is there to be told"; });
        driver.turn();
    }
    EXPECT_TRUE(driver.until([end = EventLoop::Clock::now() + 5ms] { return EventLoop::Clock::now() > end; }));
}

}  // namespace
}  // namespace anyserve
