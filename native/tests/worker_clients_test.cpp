// The connections to a worker, over several threads: each is used again before another one is opened.
#include "anyserve/worker_clients.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "worker_client_peer.hpp"

namespace anyserve {
namespace {

using testing::ListeningWorker;
using testing::Peer;
using testing::Recorder;

/// A thread with a loop of its own, as an I/O thread is.
class IoThread {
public:
    explicit IoThread(const AgentConfig& config)
        : clients(loop, config, [](const WorkerEndpointPtr&, const Failure&) {}), thread_([this] { loop.run(); }) {}
    ~IoThread() {
        loop.stop();
        thread_.join();
    }
    IoThread(const IoThread&) = delete;
    IoThread& operator=(const IoThread&) = delete;

    /// Runs a task there, and waits for its end.
    void run(const std::function<void()>& task) {
        std::promise<void> done;
        loop.post([&] {
            task();
            done.set_value();
        });
        done.get_future().wait();
    }

    EventLoop loop;
    WorkerClients clients;

private:
    std::thread thread_;
};

/// An exchange on an I/O thread. The worker's side is the test's.
class OneExchange final : public ReplySink {
public:
    OneExchange(IoThread& on, WorkerEndpointPtr endpoint) : on_(on) {
        on_.run([&] { exchange_ = on_.clients.of(endpoint).start({"request"}, *this); });
    }
    ~OneExchange() {
        on_.run([&] { exchange_.reset(); });
    }
    OneExchange(const OneExchange&) = delete;
    OneExchange& operator=(const OneExchange&) = delete;

    void on_frame(Payload frame) override {
        EXPECT_FALSE(exchange_->finish());
        ended_.set_value(std::move(frame).take());
    }
    void on_failed(Failure failure) override { ended_.set_value("failed: " + failure.text); }

    std::string wait() { return ended_.get_future().get(); }

private:
    IoThread& on_;
    std::unique_ptr<Exchange> exchange_;
    std::promise<std::string> ended_;
};

class WorkerClientsTest : public ::testing::Test {
protected:
    /// One exchange on a connection that the worker has already.
    void exchange_on(Peer& peer, IoThread& thread) {
        OneExchange exchange(thread, endpoint);
        EXPECT_EQ(peer.frame(), "request");
        peer.reply("reply");
        EXPECT_EQ(exchange.wait(), "reply");
    }
    /// One exchange on a connection that is opened for it, and idle from then on.
    [[nodiscard]] Peer opened_by(IoThread& thread) {
        OneExchange exchange(thread, endpoint);
        Peer peer = worker.accept();
        EXPECT_EQ(peer.frame(), "request");
        peer.reply("reply");
        EXPECT_EQ(exchange.wait(), "reply");
        return peer;
    }

    testing::TemporaryDirectory directory;
    ListeningWorker worker{directory / "w"};
    WorkerEndpointPtr endpoint = std::make_shared<WorkerEndpoint>("w", directory / "w");
    AgentConfig config;
    IoThread one{config};
    IoThread two{config};
};

TEST_F(WorkerClientsTest, OneThreadTakesOverWhatIsIdleAtAnother) {
    Peer peer = opened_by(one);
    for (IoThread* thread : {&two, &one, &two}) {
        exchange_on(peer, *thread);
        EXPECT_EQ(endpoint->share->open(), 1u);
    }
}

TEST_F(WorkerClientsTest, AThreadOpensOneWhereNoneIsIdle) {
    OneExchange first(one, endpoint);
    Peer busy = worker.accept();
    EXPECT_EQ(busy.frame(), "request");
    OneExchange second(two, endpoint);
    Peer other = worker.accept();
    EXPECT_EQ(other.frame(), "request");
    EXPECT_EQ(endpoint->share->open(), 2u);
    other.reply("second");
    EXPECT_EQ(second.wait(), "second");
    busy.reply("first");
    EXPECT_EQ(first.wait(), "first");
}

TEST_F(WorkerClientsTest, WhatTheWorkerHasClosedIsNotTakenOver) {
    opened_by(one).close();
    const Peer peer = opened_by(two);
    EXPECT_EQ(endpoint->share->open(), 1u);
}

TEST_F(WorkerClientsTest, WhoGaveUpLeavesTheConnectionToTheNext) {
    Peer peer = opened_by(one);
    two.run([&] {
        Recorder nobody(two.loop);
        const auto given_up = two.clients.of(endpoint).start({"never sent"}, nobody);
    });
    exchange_on(peer, two);
}

TEST_F(WorkerClientsTest, NothingIsSentToAWorkerThatIsLost) {
    OneExchange first(one, endpoint);
    Peer peer = worker.accept();
    EXPECT_EQ(peer.frame(), "request");
    one.run([&] { one.clients.end(endpoint, ClientEnd::close); });
    EXPECT_EQ(first.wait(), "failed: the worker was lost");
    EXPECT_EQ(endpoint->share->open(), 0u);
}

TEST_F(WorkerClientsTest, ManyExchangesOnAllThreadsNeedNoMoreConnectionsThanRunAtOnce) {
    constexpr int kEach = 200;
    constexpr std::size_t kAtOnce = 2;  // one on each thread
    const testing::Script script([&] {
        Peer first = worker.accept();
        Peer second = worker.accept();
        const auto serve = [](Peer& peer) {
            while (peer.frame() == "request") peer.reply("reply");
        };
        const testing::Script at_once([&] { serve(first); });
        serve(second);
    });
    const auto work = [&](IoThread& thread) {
        for (int count = 0; count < kEach; ++count) {
            OneExchange exchange(thread, endpoint);
            EXPECT_EQ(exchange.wait(), "reply");
            EXPECT_LE(endpoint->share->open(), kAtOnce);
        }
    };
    {
        // Both connections are there, so that the worker's side comes to its end.
        OneExchange a(one, endpoint);
        OneExchange b(two, endpoint);
        EXPECT_EQ(a.wait() + b.wait(), "replyreply");
    }
    std::thread other([&] { work(two); });
    work(one);
    other.join();
    for (IoThread* thread : {&one, &two}) {
        thread->run([&] { thread->clients.close(); });
    }
}

}  // namespace
}  // namespace anyserve
