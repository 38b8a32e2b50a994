#include "handler_threads.hpp"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "anyserve/scan.hpp"
#include "worker_peer.hpp"

namespace anyserve {
namespace {

using testing::framed;
using testing::Gate;
using testing::Peer;

std::string request(std::string_view model, std::string_view id = {}) {
    std::string bytes;
    append_bytes_field(bytes, 1, model);
    append_bytes_field(bytes, 3, id);
    return bytes;
}

Served served(std::string_view name, std::size_t places, bool in_threads = true) {
    return {"name=" + std::string(name), std::string(name), "", places, false, in_threads};
}

/// Threads that run handlers as a program does: what they reply is sent with the next turn of the loop.
class Program {
public:
    using Handler = std::function<void(const WorkerExchangePtr&)>;

    explicit Program(std::vector<Served> all) : handlers(loop, std::move(all), sink) {
        handlers.listen(socket.listen());
    }
    ~Program() {
        gate.open();
        handlers.close();
        handlers.loop().stop();
        join();
    }
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;

    void start() {
        const std::lock_guard lock(mutex_);
        threads_.emplace_back([this] { run(); });
    }
    void join() {
        for (;;) {
            std::thread next;
            {
                const std::lock_guard lock(mutex_);
                if (threads_.empty()) return;
                next = std::move(threads_.back());
                threads_.pop_back();
            }
            next.join();
        }
    }
    [[nodiscard]] std::size_t threads() {
        const std::lock_guard lock(mutex_);
        return threads_.size();
    }
    [[nodiscard]] Peer connect() const { return socket.connect(); }
    /// As Python does it: what takes no waiting first.
    [[nodiscard]] HandlerThreads::Taken take() {
        auto taken = handlers.try_take();
        return taken ? std::move(*taken) : handlers.take();
    }

    EventLoop loop;
    testing::WorkerRecorder sink;
    testing::WorkerSocket socket;
    Gate gate;  // for handlers; open at the end
    HandlerThreads handlers;
    Handler handler = [](const WorkerExchangePtr& exchange) { exchange->reply(ReplyFrame(exchange->notes.head.id)); };

private:
    void run() {
        while (true) {
            const auto taken = take();
            if (!taken.exchange) return;
            if (taken.start_thread) start();
            handler(taken.exchange);
            handlers.ended(taken.exchange);
        }
    }

    std::mutex mutex_;
    std::vector<std::thread> threads_;
};

std::vector<Peer> connected(const Program& program, std::size_t count) {
    std::vector<Peer> peers;
    for (std::size_t n = 0; n < count; ++n) peers.push_back(program.connect());
    return peers;
}

/// Replies with the id, once the gate is open.
Program::Handler held_by(Gate& gate) {
    return [&gate](const WorkerExchangePtr& exchange) {
        gate.pass();
        exchange->reply(ReplyFrame(exchange->notes.head.id));
    };
}

TEST(HandlerThreads, AnswersOneAfterTheOther) {
    Program program({served("m", 1)});
    program.start();
    Peer peer = program.connect();
    for (int n = 0; n < 100; ++n) {
        peer.send(framed(request("m", std::to_string(n))));
        EXPECT_EQ(peer.frame(), std::to_string(n));
    }
}

TEST(HandlerThreads, NoMoreHandlersRunThanThereArePlaces) {
    Program program({served("m", 2)});
    Gate& gate = program.gate;
    std::atomic<std::size_t> running{0}, most{0};
    program.handler = [&](const WorkerExchangePtr& exchange) {
        const std::size_t now = ++running;
        std::size_t before = most;
        while (before < now && !most.compare_exchange_weak(before, now)) {
        }
        gate.pass();
        --running;
        exchange->reply(ReplyFrame(exchange->notes.head.id));
    };
    program.start();
    auto peers = connected(program, 8);
    for (Peer& peer : peers) peer.send(framed(request("m", "id")));
    EXPECT_TRUE(gate.reached_by(2));
    gate.open();
    for (Peer& peer : peers) EXPECT_EQ(peer.frame(), "id");
    EXPECT_EQ(most, 2U);
    EXPECT_EQ(gate.arrived(), 8U);
}

TEST(HandlerThreads, SlowHandlersRunInParallel) {
    constexpr std::size_t kMany = 16;
    Program program({served("m", kMany)});
    Gate& gate = program.gate;
    program.handler = held_by(gate);
    program.start();
    auto peers = connected(program, kMany);
    for (Peer& peer : peers) peer.send(framed(request("m", "id")));
    EXPECT_TRUE(gate.reached_by(kMany)) << "all of them at once";
    gate.open();
    for (Peer& peer : peers) EXPECT_EQ(peer.frame(), "id");
    EXPECT_LE(program.threads(), kMany + 1);
}

TEST(HandlerThreads, PlacesAreOfEachHandler) {
    Program program({served("slow", 1), served("quick", 1)});
    Gate& gate = program.gate;
    program.handler = [&](const WorkerExchangePtr& exchange) {
        if (exchange->notes.served == 0) gate.pass();
        exchange->reply(ReplyFrame(exchange->notes.head.id));
    };
    program.start();
    auto peers = connected(program, 3);
    peers[0].send(framed(request("slow", "1")));
    peers[1].send(framed(request("slow", "2")));
    EXPECT_TRUE(gate.reached_by(1));
    for (int n = 0; n < 100; ++n) {
        peers[2].send(framed(request("quick", std::to_string(n))));
        EXPECT_EQ(peers[2].frame(), std::to_string(n)) << "while one runs, and one waits";
    }
    EXPECT_EQ(gate.arrived(), 1U);
}

TEST(HandlerThreads, AQuickHandlersThreadIsTheOnlyOneThatIsWoken) {
    constexpr int kRequests = 1000;
    Program program({served("m", 8)});
    std::thread::id last;
    int changes = 0;  // one request after the other: no two threads are here at once
    program.handler = [&](const WorkerExchangePtr& exchange) {
        changes += std::exchange(last, std::this_thread::get_id()) == std::this_thread::get_id() ? 0 : 1;
        exchange->reply(ReplyFrame(exchange->notes.head.id));
    };
    program.start();
    Peer peer = program.connect();
    for (int n = 0; n < kRequests; ++n) {
        peer.send(framed(request("m", "id")));
        ASSERT_EQ(peer.frame(), "id");
    }
    // A machine under load may keep a thread in its handler for longer than `kPatience`: then another one goes on.
    EXPECT_LT(changes, kRequests / 4);
}

TEST(HandlerThreads, AHandlerThatBlocksOutOfTheBlueHoldsUpNobodyElse) {
    Program program({served("m", 4)});
    Gate& gate = program.gate;
    program.handler = [&](const WorkerExchangePtr& exchange) {
        if (exchange->notes.head.id == "held") gate.pass();
        exchange->reply(ReplyFrame(exchange->notes.head.id));
    };
    program.start();
    auto peers = connected(program, 2);
    for (int n = 0; n < 50; ++n) {  // it is known to be quick
        peers[0].send(framed(request("m", "quick")));
        EXPECT_EQ(peers[0].frame(), "quick");
    }
    peers[0].send(framed(request("m", "held")));
    EXPECT_TRUE(gate.reached_by(1));
    for (int n = 0; n < 50; ++n) {
        peers[1].send(framed(request("m", "quick")));
        EXPECT_EQ(peers[1].frame(), "quick");
    }
    gate.open();
    EXPECT_EQ(peers[0].frame(), "held");
}

TEST(HandlerThreads, AReplyThatIsHeldIsSentAlthoughTheNextHandlerBlocks) {
    Program program({served("m", 2)});
    Gate& gate = program.gate;
    std::atomic<int> calls{0};
    program.handler = [&](const WorkerExchangePtr& exchange) {
        if (++calls == 2) gate.pass();
        exchange->reply(ReplyFrame(exchange->notes.head.id));
    };
    auto peers = connected(program, 2);
    for (Peer& peer : peers) peer.send(framed(request("m", "id")));  // found by one turn of the loop
    program.start();
    std::size_t answered = 2;
    while (answered == 2) {
        std::array<pollfd, 2> sockets{pollfd{peers[0].fd(), POLLIN, 0}, pollfd{peers[1].fd(), POLLIN, 0}};
        ASSERT_GT(poll(sockets.data(), sockets.size(), 20'000), 0);
        answered = (sockets[0].revents & POLLIN) != 0 ? 0 : 1;
    }
    EXPECT_EQ(peers[answered].frame(), "id");
    EXPECT_TRUE(gate.reached_by(1));
    gate.open();
    EXPECT_EQ(peers[1 - answered].frame(), "id");
}

TEST(HandlerThreads, ACancelledRequestThatWaitsForAPlaceIsDroppedAtOnce) {
    Program program({served("m", 1)});
    Gate& gate = program.gate;
    program.handler = held_by(gate);
    program.start();
    auto peers = connected(program, 3);
    peers[0].send(framed(request("m", "0")));
    EXPECT_TRUE(gate.reached_by(1));
    peers[1].send(framed(request("m", "1")));
    peers[1].close();
    ASSERT_TRUE(program.sink.wait([&] { return !program.sink.cancelled.empty(); }));
    const std::weak_ptr<WorkerExchange> dropped = program.sink.cancelled.front();
    ASSERT_TRUE(program.sink.wait([&] {
        program.sink.cancelled.clear();
        return true;
    }));
    while (!dropped.expired()) std::this_thread::yield();  // the loop's thread still has it in its hands
    peers[2].send(framed(request("m", "2")));
    gate.open();
    EXPECT_EQ(peers[0].frame(), "0");
    EXPECT_EQ(peers[2].frame(), "2");
    EXPECT_EQ(gate.arrived(), 2U) << "the one in between was never begun";
}

TEST(HandlerThreads, ACancelledExchangeKeepsItsPlaceUntilItsHandlerEnds) {
    Program program({served("m", 1)});
    Gate& gate = program.gate;
    program.handler = held_by(gate);
    program.start();
    auto peers = connected(program, 2);
    peers[0].send(framed(request("m", "0")));
    EXPECT_TRUE(gate.reached_by(1));
    peers[0].close();
    ASSERT_TRUE(program.sink.wait([&] { return !program.sink.cancelled.empty(); }));
    peers[1].send(framed(request("m", "1")));
    EXPECT_EQ(gate.arrived(), 1U);
    gate.open();
    EXPECT_EQ(peers[1].frame(), "1");
}

TEST(HandlerThreads, CloseWakesAllThatWait) {
    Program program({served("m", 8)});
    for (int n = 0; n < 9; ++n) program.start();
    Peer peer = program.connect();
    peer.send(framed(request("m", "id")));
    EXPECT_EQ(peer.frame(), "id");
    program.handlers.close();
    program.join();
    EXPECT_TRUE(peer.wait_for_end());
    EXPECT_EQ(program.sink.drained, 1U);
    EXPECT_FALSE(program.handlers.take().exchange);
}

TEST(HandlerThreads, CloseReachesThreadsInHandlersToo) {
    Program program({served("m", 2)});
    Gate& gate = program.gate;
    program.handler = [&](const WorkerExchangePtr& exchange) {
        gate.pass();
        EXPECT_TRUE(exchange->cancelled());
        EXPECT_EQ(exchange->queue(ReplyFrame("late"), true), WorkerExchange::Sent::over);
    };
    program.start();
    auto peers = connected(program, 2);
    for (Peer& peer : peers) peer.send(framed(request("m", "id")));
    EXPECT_TRUE(gate.reached_by(2)) << "all places are taken, and one thread more runs the loop";
    program.handlers.close();
    EXPECT_TRUE(program.sink.wait([&] { return program.sink.drained > 0; }));
    for (Peer& peer : peers) EXPECT_TRUE(peer.wait_for_end());
    gate.open();
    program.join();
}

TEST(HandlerThreads, DrainsBehindTheLastReply) {
    Program program({served("m", 2)});
    Gate& gate = program.gate;
    program.handler = held_by(gate);
    program.start();
    Peer peer = program.connect();
    peer.send(framed(request("m", "id")));
    EXPECT_TRUE(gate.reached_by(1));
    program.handlers.drain();
    gate.open();
    EXPECT_EQ(peer.frame(), "id");
    EXPECT_TRUE(program.sink.wait([&] { return program.sink.drained > 0; }));
}

TEST(HandlerThreads, AsksForAThreadWhereNobodyWaits) {
    Program program({served("m", 3)});
    auto peers = connected(program, 3);
    const auto take = [&](Peer& peer) {
        peer.send(framed(request("m", "id")));
        return program.take();
    };
    const auto first = take(peers[0]);
    EXPECT_TRUE(first.start_thread);
    program.handlers.thread_not_started();
    const auto second = take(peers[1]);
    EXPECT_TRUE(second.start_thread) << "there was none";
    const auto third = take(peers[2]);
    EXPECT_TRUE(third.start_thread);
    for (const auto* taken : {&first, &second, &third}) {
        taken->exchange->reply(ReplyFrame("reply"));
        program.handlers.ended(taken->exchange);
    }
    const auto fourth = take(peers[0]);
    EXPECT_TRUE(fourth.start_thread) << "one for each place, and one for the loop";
    fourth.exchange->reply(ReplyFrame("reply"));
    program.handlers.ended(fourth.exchange);
    EXPECT_FALSE(take(peers[0]).start_thread) << "but no more";
    EXPECT_EQ(peers[2].frame(), "reply");
}

TEST(HandlerThreads, TellsWhatIsNotServed) {
    Program program({served("m", 1), served("n", 1)});
    program.start();
    Peer peer = program.connect();
    peer.send(framed(request("other", "id")));
    const auto reply = peer.frame();
    ASSERT_TRUE(reply);
    MessageHead head;
    ASSERT_FALSE(scan_message(*reply, kResponseFields, head));
    ASSERT_NE(head.parameter("anyserve_error_code"), nullptr);
    EXPECT_EQ(std::get<std::int64_t>(*head.parameter("anyserve_error_code")), 5);
    EXPECT_EQ(std::get<std::string_view>(*head.parameter("anyserve_error_message")),
              "this worker does not serve 'other'");
    peer.send(framed(request("n", "id")));
    EXPECT_EQ(peer.frame(), "id") << "the connection stays";
}

TEST(HandlerThreads, ClosesWhereTheRequestIsNone) {
    Program program({served("m", 1)});
    program.start();
    Peer peer = program.connect();
    peer.send(framed("\x0a\x05cut"));
    EXPECT_TRUE(peer.wait_for_end());
    EXPECT_TRUE(program.sink.wait([&] { return program.sink.refused.size() == 1; }));
    EXPECT_TRUE(program.sink.requests.empty());
}

/// Handlers that somebody else runs, on the thread that polls.
class Polled : public ::testing::Test {
protected:
    template <class Predicate>
    void poll_until(const Predicate& predicate) {
        const auto limit = EventLoop::Clock::now() + testing::kPatience;
        while (!predicate()) {
            pollfd ready{program.loop.descriptor(), POLLIN, 0};
            ASSERT_LT(EventLoop::Clock::now(), limit);
            poll(&ready, 1, 1000);
            program.handlers.poll();
        }
    }
    Program program{{served("m", 2, false)}};
};

TEST_F(Polled, RequestsAreToldAsFarAsThereArePlaces) {
    auto& told = program.sink.requests;
    auto peers = connected(program, 4);
    for (std::size_t n = 0; n < peers.size(); ++n) peers[n].send(framed(request("m", std::to_string(n))));
    poll_until([&] { return told.size() == 2; });
    program.handlers.poll();
    EXPECT_EQ(told.size(), 2U);
    for (std::size_t n = 0; n < peers.size(); ++n) {
        ASSERT_GT(told.size(), n);
        told[n]->reply(ReplyFrame(told[n]->notes.head.id));
        program.handlers.ended(told[n]);
        program.handlers.ended(told[n]);  // once counts
    }
    EXPECT_EQ(told.size(), 4U);
    program.handlers.poll();
    for (std::size_t n = 0; n < peers.size(); ++n) EXPECT_EQ(peers[n].frame(), std::to_string(n));
}

TEST_F(Polled, ARequestWhoseAgentHasGoneLeavesTheLine) {
    auto& told = program.sink.requests;
    auto peers = connected(program, 4);
    for (std::size_t n = 0; n < peers.size(); ++n) {
        peers[n].send(framed(request("m", std::to_string(n))));
        program.handlers.poll();
    }
    poll_until([&] { return told.size() == 2; });
    peers[2].close();
    poll_until([&] { return program.sink.cancelled.size() == 1; });
    EXPECT_EQ(program.sink.cancelled.front().use_count(), 1) << "nobody else has it";
    program.handlers.ended(told[0]);
    ASSERT_EQ(told.size(), 3U);
    EXPECT_EQ(told[2]->notes.head.id, "3");
}

}  // namespace
}  // namespace anyserve
