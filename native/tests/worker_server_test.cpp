#include "worker_server.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "worker_peer.hpp"

namespace anyserve {
namespace {

using testing::bytes_of;
using testing::framed;
using testing::Peer;
using Sent = WorkerExchange::Sent;

constexpr std::size_t kLimit = std::size_t{1} << 20;
constexpr std::size_t kEarlyFrames = 16;  // of agent_connection.cpp

class WorkerServerTest : public ::testing::Test {
protected:
    explicit WorkerServerTest(std::size_t max_connections = 1024)
        : server(driver.loop, sink, options(max_connections)) {
        server.listen(socket.listen());
    }

    static WorkerServerOptions options(std::size_t max_connections) {
        WorkerServerOptions options;
        options.max_frame_bytes = kLimit;
        options.max_connections = max_connections;
        return options;
    }
    [[nodiscard]] Peer connect() const { return socket.connect(); }
    /// Lets the loop run until so many requests have come; the last of them.
    WorkerExchangePtr request(std::size_t count = 1) {
        EXPECT_TRUE(driver.until([&] { return sink.requests.size() >= count; })) << "request " << count;
        EXPECT_EQ(sink.requests.size(), count);
        return sink.requests.back();
    }
    /// An exchange under way.
    WorkerExchangePtr begin(Peer& peer, std::string_view payload = "request") {
        const std::size_t count = sink.requests.size() + 1;
        peer.send(framed(payload));
        return request(count);
    }
    void reply(const WorkerExchangePtr& exchange, std::string_view payload) {
        exchange->reply(ReplyFrame(payload));
        server.flush();
    }
    /// Frames until no more are taken; how many.
    std::size_t fill(const WorkerExchangePtr& exchange, std::string_view payload) {
        for (std::size_t count = 1; count < 10'000; ++count) {
            if (exchange->send(ReplyFrame(payload), false) == Sent::full) return count;
        }
        ADD_FAILURE() << "it takes without end";
        return 0;
    }
    /// Reads on a thread of its own, while the loop sends.
    std::string read(Peer& peer, std::size_t size) {
        std::string bytes;
        std::promise<void> done;
        auto ended = done.get_future();
        std::thread reader([&] {
            bytes = peer.bytes(size).value_or("the end");
            done.set_value();
        });
        driver.until_done(ended);
        reader.join();
        return bytes;
    }

    testing::WorkerSocket socket;
    testing::Driver driver;
    testing::WorkerRecorder sink;
    WorkerServer server;
};

TEST_F(WorkerServerTest, FramesMayComeInAnyPieces) {
    const std::string big(FrameReader::kRoomBytes + 1000, 'b');
    const std::array<std::string, 4> payloads{"one", "", "three", big};
    sink.act = [](const WorkerExchangePtr& exchange) { exchange->send(ReplyFrame(bytes_of(exchange)), true); };
    std::string stream;
    for (const std::string& payload : payloads) stream += framed(payload);
    Peer peer = connect();
    std::vector<std::size_t> splits(stream.size() - big.size() + 20);
    std::iota(splits.begin(), splits.end(), std::size_t{1});
    splits.insert(splits.end(), {FrameReader::kRoomBytes, stream.size() - 1000, stream.size() - 1});
    for (const std::size_t split : splits) {
        std::thread writer([&] {
            peer.send(stream.substr(0, split));
            peer.send(stream.substr(split));
        });
        EXPECT_TRUE(read(peer, stream.size()) == stream) << "split at " << split;
        writer.join();
    }
    EXPECT_EQ(sink.requests.size(), 4 * splits.size());
}

TEST_F(WorkerServerTest, FramesMayComeByteByByte) {
    sink.act = [](const WorkerExchangePtr& exchange) { exchange->send(ReplyFrame(bytes_of(exchange)), true); };
    Peer peer = connect();
    const std::string stream = framed("one") + framed("") + framed("three");
    for (const char byte : stream) {
        peer.send({&byte, 1});
        driver.turn();
        driver.turn();
    }
    EXPECT_EQ(read(peer, stream.size()), stream);
}

TEST_F(WorkerServerTest, OneExchangeIsUnderWayAtATime) {
    Peer peer = connect();
    std::string stream;
    for (std::size_t n = 0; n <= kEarlyFrames; ++n) stream += framed(std::to_string(n));
    peer.send(stream);
    for (std::size_t n = 0; n <= kEarlyFrames; ++n) {
        const auto exchange = request(n + 1);
        EXPECT_EQ(bytes_of(exchange), std::to_string(n)) << "in order";
        driver.turn();
        EXPECT_EQ(sink.requests.size(), n + 1) << "the next one waits for the reply";
        reply(exchange, "reply " + std::to_string(n));
        EXPECT_EQ(peer.frame(), "reply " + std::to_string(n));
    }
    EXPECT_TRUE(sink.refused.empty());
}

TEST_F(WorkerServerTest, TooManyEarlyRequestsEndTheConnection) {
    Peer peer = connect();
    const auto exchange = begin(peer);
    for (std::size_t n = 0; n <= kEarlyFrames; ++n) peer.send(framed("early"));
    EXPECT_TRUE(driver.until([&] { return !sink.refused.empty(); }));
    EXPECT_EQ(sink.refused.front(), "requests came before their turn");
    EXPECT_TRUE(exchange->cancelled());
    EXPECT_EQ(sink.cancelled, std::vector{exchange});
    peer.wait_for_hang_up();
}

TEST_F(WorkerServerTest, TooManyEarlyBytesEndTheConnection) {
    Peer peer = connect();
    const auto exchange = begin(peer);
    std::thread writer([&] { peer.send(framed(std::string((std::size_t{1} << 18) + 1, 'e')).substr(0, 1 << 19)); });
    EXPECT_TRUE(driver.until([&] { return !sink.refused.empty(); }));
    EXPECT_TRUE(exchange->cancelled());
    writer.join();
}

TEST_F(WorkerServerTest, AnAgentThatAsksAndReadsNothingIsNotServedWithoutEnd) {
    sink.act = [](const WorkerExchangePtr& exchange) { exchange->reply(ReplyFrame(bytes_of(exchange))); };
    Peer peer = connect();
    std::string stream;
    for (int n = 0; n < 1000; ++n) stream += framed("");
    peer.send(stream);
    EXPECT_TRUE(driver.until([&] { return !sink.refused.empty(); }));
    EXPECT_EQ(sink.requests.size(), kWriteAheadFrames + 1);
}

TEST_F(WorkerServerTest, TheNextRequestWaitsForRoomBehindTheReply) {
    Peer peer = connect();
    const auto first = begin(peer, "first");
    const std::string big(std::size_t{4} << 20, 'b');
    reply(first, big);
    peer.send(framed("second"));
    driver.turn();
    driver.turn();
    EXPECT_EQ(sink.requests.size(), 1U);
    EXPECT_TRUE(read(peer, 4 + big.size()) == framed(big));
    EXPECT_EQ(bytes_of(request(2)), "second");
}

TEST_F(WorkerServerTest, AnEndOfTheStreamCancels) {
    for (const bool half : {false, true}) {
        Peer peer = connect();
        const auto exchange = begin(peer);
        half ? peer.half_close() : peer.close();
        EXPECT_TRUE(driver.until([&] { return !sink.cancelled.empty(); }));
        EXPECT_EQ(sink.cancelled, std::vector{exchange});
        EXPECT_TRUE(exchange->cancelled());
        EXPECT_EQ(exchange->queue(ReplyFrame("late"), true), Sent::over);
        EXPECT_EQ(exchange->send(ReplyFrame("late"), false), Sent::over);
        EXPECT_FALSE(exchange->wait_writable());
        EXPECT_FALSE(exchange->full());
        EXPECT_EQ(bytes_of(exchange), "request") << "its bytes stay as long as it does";
        if (half) {
            EXPECT_TRUE(peer.wait_for_end());
        }
        sink.cancelled.clear();
    }
}

TEST_F(WorkerServerTest, AnEndBeforeTheExchangeCancelsNothing) {
    Peer within = connect();
    within.send(framed("request").substr(0, 6));
    Peer between = connect();
    const auto exchange = begin(between);
    reply(exchange, "reply");
    driver.turn();
    within.close();
    between.close();
    server.drain();
    EXPECT_TRUE(driver.until([&] { return sink.drained > 0; }));
    EXPECT_TRUE(sink.cancelled.empty());
    EXPECT_FALSE(exchange->cancelled());
}

TEST_F(WorkerServerTest, AnAgentThatOnlyStopsReadingIsGoneToo) {
    Peer peer = connect();
    const auto exchange = begin(peer);
    peer.refuse_bytes();  // nothing tells who reads
    exchange->send(ReplyFrame("for nobody"), false);
    EXPECT_TRUE(driver.until([&] { return !sink.cancelled.empty(); }));
    EXPECT_TRUE(exchange->cancelled());
    EXPECT_TRUE(peer.wait_for_end());
}

TEST_F(WorkerServerTest, ARefusedRequestEndsTheConnection) {
    sink.act = [](const WorkerExchangePtr& exchange) { exchange->refuse(); };
    Peer peer = connect();
    peer.send(framed("one") + framed("two"));
    EXPECT_TRUE(driver.until([&] { return !sink.cancelled.empty(); }));
    EXPECT_EQ(sink.requests.size(), 1U);
    peer.wait_for_hang_up();
}

TEST_F(WorkerServerTest, AFrameAboveTheLimitEndsTheConnection) {
    Peer peer = connect();
    peer.send(std::string("\x00\x10\x00\x01", 4));
    EXPECT_TRUE(driver.until([&] { return !sink.refused.empty(); }));
    EXPECT_EQ(sink.refused.front(), "a frame of 1048577 bytes is above the limit of 1048576");
    EXPECT_TRUE(peer.wait_for_end());
}

TEST_F(WorkerServerTest, AFrameOfTheLimitIsTaken) {
    Peer peer = connect();
    std::thread writer([&] { peer.send(framed(std::string(kLimit, 'x'))); });
    EXPECT_EQ(bytes_of(request()).size(), kLimit);
    writer.join();
}

TEST_F(WorkerServerTest, TheLastReplyEndsTheExchange) {
    Peer peer = connect();
    const auto exchange = begin(peer);
    EXPECT_EQ(exchange->send(ReplyFrame("reply"), true), Sent::yes);
    EXPECT_EQ(exchange->send(ReplyFrame("another"), true), Sent::over);
    EXPECT_FALSE(exchange->cancelled());
    EXPECT_EQ(peer.frame(), "reply");
    peer.close();
    driver.turn();
    EXPECT_TRUE(sink.cancelled.empty());
}

TEST_F(WorkerServerTest, QueuedRepliesGoTogether) {
    std::vector<Peer> peers;
    for (std::size_t n = 0; n < 2 * SendBatch::kMost + 3; ++n) {
        peers.push_back(connect());
        begin(peers.back());
    }
    for (std::size_t n = 0; n < peers.size(); ++n) sink.requests[n]->reply(ReplyFrame(std::to_string(n)));
    EXPECT_EQ(server.held(), peers.size());
    server.flush();
    EXPECT_EQ(server.held(), 0U);
    for (std::size_t n = 0; n < peers.size(); ++n) EXPECT_EQ(peers[n].frame(), std::to_string(n));
}

TEST_F(WorkerServerTest, QueuedRepliesMayGoOneByOneOnAnyThread) {
    std::array<Peer, 3> peers{connect(), connect(), connect()};
    for (Peer& peer : peers) begin(peer);
    for (const auto& exchange : sink.requests) exchange->reply(ReplyFrame("reply"));
    peers[1].close();
    std::thread([&] { server.write_held(); }).join();
    EXPECT_EQ(peers[0].frame(), "reply");
    EXPECT_EQ(peers[2].frame(), "reply");
}

TEST_F(WorkerServerTest, AReplyWaitsForASlowAgent) {
    const std::string big(std::size_t{8} << 20, 'b');
    auto keeper = std::make_shared<const std::string>(big);
    const std::weak_ptr<const std::string> kept = keeper;
    Peer peer = connect();
    const auto exchange = begin(peer);
    ReplyFrame frame;
    frame.append_view(*keeper);
    frame.keep(std::move(keeper));
    exchange->reply(std::move(frame));
    server.flush();
    driver.turn();
    EXPECT_FALSE(kept.expired()) << "it is sent from where it is";
    EXPECT_TRUE(read(peer, 4 + big.size()) == framed(big));
    EXPECT_TRUE(driver.until([&] { return kept.expired(); }));
}

TEST_F(WorkerServerTest, WhatAGoneAgentDidNotReadIsLetGo) {
    auto keeper = std::make_shared<const std::string>(std::size_t{8} << 20, 'b');
    const std::weak_ptr<const std::string> kept = keeper;
    Peer peer = connect();
    const auto exchange = begin(peer);
    ReplyFrame frame;
    frame.append_view(*keeper);
    frame.keep(std::move(keeper));
    exchange->send(std::move(frame), true);
    peer.close();
    EXPECT_TRUE(driver.until([&] { return kept.expired(); }));
}

TEST_F(WorkerServerTest, AStreamIsHeldUpWhileTheAgentIsBehind) {
    for (const std::size_t size : {std::size_t{1}, std::size_t{1} << 16}) {
        Peer peer = connect();
        const auto exchange = begin(peer);
        const std::string token(size, 't');
        const std::size_t frames = fill(exchange, token);
        EXPECT_TRUE(exchange->full());
        driver.turn();
        EXPECT_TRUE(sink.writable.empty());
        EXPECT_EQ(read(peer, frames * (4 + size)).size(), frames * (4 + size));
        EXPECT_TRUE(driver.until([&] { return !sink.writable.empty(); }));
        EXPECT_EQ(sink.writable, std::vector{exchange}) << "once";
        EXPECT_FALSE(exchange->full());
        EXPECT_EQ(exchange->send(ReplyFrame("last"), true), Sent::yes);
        EXPECT_EQ(peer.frame(), "last");
        sink.writable.clear();
    }
}

TEST_F(WorkerServerTest, QueuedFramesFillItToo) {
    Peer peer = connect();
    const auto exchange = begin(peer);
    std::size_t count = 1;
    while (exchange->queue(ReplyFrame("token"), false) == Sent::yes) ++count;
    EXPECT_EQ(count, kWriteAheadFrames + 1);
    server.flush();
    EXPECT_EQ(sink.writable, std::vector{exchange});
    for (std::size_t n = 0; n < count; ++n) EXPECT_EQ(peer.frame(), "token");
}

TEST_F(WorkerServerTest, AThreadWaitsUntilTheAgentReads) {
    Peer peer = connect();
    const auto exchange = begin(peer);
    const std::string token(1 << 16, 't');
    const std::size_t frames = fill(exchange, token);
    std::promise<void> done;
    auto ended = done.get_future();
    bool writable = false;
    std::thread handler([&] {
        writable = exchange->wait_writable();
        done.set_value();
    });
    driver.turn();
    EXPECT_NE(ended.wait_for(std::chrono::seconds(0)), std::future_status::ready);
    read(peer, frames * (4 + token.size()));
    driver.until_done(ended);
    handler.join();
    EXPECT_TRUE(writable);
}

TEST_F(WorkerServerTest, AThreadThatWaitsGoesOnWhenTheAgentHasGone) {
    Peer peer = connect();
    const auto exchange = begin(peer);
    fill(exchange, std::string(1 << 16, 't'));
    std::promise<void> done;
    auto ended = done.get_future();
    bool writable = true;
    std::thread handler([&] {
        writable = exchange->wait_writable();
        done.set_value();
    });
    peer.close();
    driver.until_done(ended);
    handler.join();
    EXPECT_FALSE(writable);
}

TEST_F(WorkerServerTest, ManyThreadsReplyWhileTheLoopRuns) {
    constexpr std::size_t kFrames = 2000;
    std::array<Peer, 4> peers{connect(), connect(), connect(), connect()};
    for (Peer& peer : peers) begin(peer);
    std::vector<std::thread> threads;
    for (std::size_t n = 0; n < peers.size(); ++n) {
        threads.emplace_back([exchange = sink.requests[n]] {
            for (std::size_t i = 0; i < kFrames; ++i) {
                if (exchange->send(ReplyFrame(std::to_string(i)), i + 1 == kFrames) == Sent::full &&
                    !exchange->wait_writable()) {
                    return;
                }
            }
        });
        threads.emplace_back([&peer = peers[n]] {
            for (std::size_t i = 0; i < kFrames; ++i) ASSERT_EQ(peer.frame(), std::to_string(i));
        });
    }
    std::promise<void> done;
    auto ended = done.get_future();
    std::thread joiner([&] {
        for (std::thread& each : threads) each.join();
        done.set_value();
    });
    driver.until_done(ended);
    joiner.join();
}

TEST_F(WorkerServerTest, DrainsAtOnceWhereNothingIsUnderWay) {
    Peer peer = connect();
    reply(begin(peer), "reply");
    server.drain();
    EXPECT_TRUE(driver.until([&] { return sink.drained > 0; }));
    EXPECT_EQ(connect_unix(socket.path()).error, ECONNREFUSED);
}

TEST_F(WorkerServerTest, DrainsWhenWhatIsUnderWayHasEnded) {
    std::array<Peer, 3> peers{connect(), connect(), connect()};
    const auto first = begin(peers[0]);
    const auto second = begin(peers[1]);
    peers[2].send(framed("request").substr(0, 5));  // a part of one
    server.drain();
    driver.turn();
    driver.turn();
    reply(first, "first");
    driver.turn();
    EXPECT_EQ(sink.drained, 0U);
    reply(second, "second");
    driver.turn();
    EXPECT_EQ(sink.drained, 0U);
    peers[2].send(framed("request").substr(5));
    reply(request(3), "third");
    EXPECT_TRUE(driver.until([&] { return sink.drained > 0; }));
    EXPECT_EQ(peers[2].frame(), "third");
}

TEST_F(WorkerServerTest, DrainWaitsForWhatTheAgentHasNotRead) {
    const std::string big(std::size_t{4} << 20, 'b');
    Peer peer = connect();
    reply(begin(peer), big);
    server.drain();
    driver.turn();
    driver.turn();
    driver.turn();
    EXPECT_EQ(sink.drained, 0U);
    EXPECT_TRUE(read(peer, 4 + big.size()) == framed(big));
    EXPECT_TRUE(driver.until([&] { return sink.drained > 0; }));
}

TEST_F(WorkerServerTest, WhatWasSentBeforeTheDrainIsServed) {
    Peer peer = connect();
    reply(begin(peer), "reply");
    EXPECT_EQ(peer.frame(), "reply");
    peer.send(framed("sent before"));
    server.drain();
    const auto exchange = request(2);
    EXPECT_EQ(bytes_of(exchange), "sent before");
    EXPECT_EQ(sink.drained, 0U);
    reply(exchange, "reply");
    EXPECT_TRUE(driver.until([&] { return sink.drained > 0; }));
}

TEST_F(WorkerServerTest, CloseCancelsWhatIsUnderWay) {
    std::array<Peer, 2> peers{connect(), connect()};
    const auto exchange = begin(peers[0]);
    reply(begin(peers[1]), "reply");
    server.close();
    EXPECT_EQ(sink.cancelled, std::vector{exchange});
    EXPECT_TRUE(peers[0].wait_for_end());
    EXPECT_EQ(peers[1].frame(), "reply");
    EXPECT_TRUE(peers[1].wait_for_end());
    EXPECT_EQ(connect_unix(socket.path()).error, ECONNREFUSED);
}

TEST_F(WorkerServerTest, MayListenAnew) {
    Peer before = connect();
    begin(before, "before");
    testing::WorkerSocket another;
    server.listen(another.listen());
    EXPECT_EQ(connect_unix(socket.path()).error, ECONNREFUSED);
    Peer after = another.connect();
    begin(after, "after");
    for (const auto& exchange : sink.requests) reply(exchange, bytes_of(exchange));
    EXPECT_EQ(before.frame(), "before") << "what is open stays";
    EXPECT_EQ(after.frame(), "after");
}

TEST(WorkerServer, ExchangesMayOutliveIt) {
    testing::WorkerSocket socket;
    testing::WorkerRecorder sink;
    {
        testing::Driver driver;
        WorkerServer server(driver.loop, sink);
        server.listen(socket.listen());
        Peer peer = socket.connect();
        peer.send(framed("request"));
        ASSERT_TRUE(driver.until([&] { return !sink.requests.empty(); }));
    }
    const auto& exchange = sink.requests.front();
    EXPECT_TRUE(exchange->cancelled());
    EXPECT_EQ(bytes_of(exchange), "request");
    EXPECT_EQ(exchange->send(ReplyFrame("late"), true), Sent::over);
}

class TwoConnections : public WorkerServerTest {
protected:
    TwoConnections() : WorkerServerTest(2) {}
};

TEST_F(TwoConnections, AThirdIsClosed) {
    Peer first = connect();
    begin(first);
    {
        Peer second = connect();
        begin(second);
        Peer third = connect();
        EXPECT_TRUE(driver.until([&] { return !sink.refused.empty(); }));
        EXPECT_EQ(sink.refused.front(), "2 connections are open");
        EXPECT_TRUE(third.wait_for_end());
    }
    EXPECT_TRUE(driver.until([&] { return !sink.cancelled.empty(); }));
    Peer fourth = connect();
    begin(fourth);
}

}  // namespace
}  // namespace anyserve
