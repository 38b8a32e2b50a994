// What a worker does with its connections, and what the exchanges make of it: every row of the retry table among
// others.
#include "anyserve/worker_client.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>
#include <atomic>
#include <ctime>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "anyserve/sockets.hpp"
#include "worker_client_peer.hpp"

namespace anyserve {
namespace {

using namespace std::chrono_literals;
using testing::framed;
using testing::ListeningWorker;
using testing::Peer;
using testing::Recorder;
using testing::Script;

const std::string kBig(std::size_t{4} << 20, 'b');  // more than a socket takes while nobody reads

class WorkerClientTest : public ::testing::Test {
protected:
    std::shared_ptr<WorkerClient> make_client(const WorkerClientOptions& options = {}) {
        return WorkerClient::create(driver.loop, driver.sends, worker.path(), options,
                                    [this](const Failure& violation) { violations.push_back(violation.text); });
    }
    std::unique_ptr<Exchange> start(std::string_view payload, Recorder& recorder) {
        return client->start({payload}, recorder);
    }
    /// One exchange of one reply, to its end.
    void exchange(std::string_view request, std::string_view reply) {
        Recorder recorder(driver.loop);
        const auto exchange = start(request, recorder);
        ASSERT_TRUE(driver.until([&] { return !recorder.frames.empty() || recorder.failure; }));
        ASSERT_FALSE(recorder.failure) << recorder.failure->text;
        EXPECT_EQ(recorder.frames.front(), reply);
        EXPECT_FALSE(exchange->finish());
    }
    /// One exchange that fails, and how.
    Failure failing(std::string_view request) {
        Recorder recorder(driver.loop);
        const auto exchange = start(request, recorder);
        EXPECT_TRUE(driver.until([&] { return recorder.failure.has_value(); }));
        return recorder.failure.value_or(Failure{FailureKind::unreachable, "nothing came"});
    }

    testing::Driver driver;
    testing::TemporaryDirectory directory;
    ListeningWorker worker{directory / "w"};
    std::vector<std::string> violations;
    std::shared_ptr<WorkerClient> client = make_client();
};

TEST(RetryTable, IsTheOneOfTheSpec) {
    using enum FailureKind;
    EXPECT_EQ(failure_kind(Progress::writing, Ending::end_of_stream), not_taken);
    EXPECT_EQ(failure_kind(Progress::writing, Ending::reset), not_taken);
    EXPECT_EQ(failure_kind(Progress::written, Ending::end_of_stream), gone);
    EXPECT_EQ(failure_kind(Progress::written, Ending::reset), not_taken);
    EXPECT_EQ(failure_kind(Progress::in_frame, Ending::end_of_stream), violation);
    EXPECT_EQ(failure_kind(Progress::in_frame, Ending::reset), violation);
    EXPECT_EQ(failure_kind(Progress::between_frames, Ending::end_of_stream), gone);
    EXPECT_EQ(failure_kind(Progress::between_frames, Ending::reset), gone);
}

TEST_F(WorkerClientTest, SendsThePartsAsOneFrame) {
    const Script script([&] {
        Peer peer = worker.accept();
        EXPECT_EQ(peer.frame(), "abc");
        peer.reply("reply");
        EXPECT_EQ(peer.frame(), "");
        peer.reply("");
    });
    Recorder recorder(driver.loop);
    const auto exchange = client->start({"a", "bc"}, recorder);
    ASSERT_TRUE(driver.until([&] { return !recorder.frames.empty(); }));
    EXPECT_EQ(recorder.frames, std::vector<std::string>{"reply"});
    EXPECT_FALSE(exchange->finish());
    this->exchange("", "");
    EXPECT_EQ(client->connections(), 1U);
}

TEST_F(WorkerClientTest, AThousandExchangesOnOneConnection) {
    const Script script([&] {
        Peer peer = worker.accept();
        while (const auto request = peer.frame()) peer.reply(*request + "!");
    });
    for (int number = 0; number < 1000; ++number) {
        const std::string request(static_cast<std::size_t>(number * 37 % 3000), 'r');
        exchange(request, request + "!");
    }
    EXPECT_EQ(client->connections(), 1U);
    EXPECT_FALSE(worker.has_connection());
    client->retire();
}

TEST_F(WorkerClientTest, TheNextExchangeMayBeginInTheReplyOfTheOneBefore) {
    const Script script([&] {
        Peer peer = worker.accept();
        while (const auto request = peer.frame()) peer.reply(*request);
    });
    Recorder recorder(driver.loop);
    std::unique_ptr<Exchange> exchange;
    recorder.act = [&] {
        EXPECT_FALSE(exchange->finish());
        exchange.reset();
        if (recorder.frames.size() < 200) exchange = start("again", recorder);
    };
    exchange = start("again", recorder);
    ASSERT_TRUE(driver.until([&] { return recorder.frames.size() == 200; }));
    EXPECT_EQ(client->connections(), 1U);
    client->close();
}

TEST_F(WorkerClientTest, TheConnectionUsedLastIsUsedFirst) {
    const Script script([&] {
        std::vector<Peer> peers;
        for (int count = 0; count < 3; ++count) peers.push_back(worker.accept());
        for (Peer& peer : peers) EXPECT_EQ(peer.frame(), "first");
        for (Peer& peer : peers) peer.reply("");
        EXPECT_EQ(peers[1].frame(), "second");
        peers[1].reply("");
        for (Peer& peer : peers) peer.drain();
    });
    std::vector<std::unique_ptr<Recorder>> recorders;
    std::vector<std::unique_ptr<Exchange>> exchanges;
    for (int count = 0; count < 3; ++count) {
        recorders.push_back(std::make_unique<Recorder>(driver.loop));
        exchanges.push_back(start("first", *recorders.back()));
    }
    ASSERT_TRUE(driver.until([&] {
        return std::all_of(recorders.begin(), recorders.end(), [](const auto& each) { return !each->frames.empty(); });
    }));
    for (const std::size_t index : {2U, 0U, 1U}) EXPECT_FALSE(exchanges[index]->finish());
    exchange("second", "");
    EXPECT_EQ(client->connections(), 3U);
    client->close();
}

TEST_F(WorkerClientTest, ExchangesRunAtOnceEachOnItsConnection) {
    constexpr std::size_t kCount = 40;
    const Script script([&] {
        std::vector<Peer> peers;
        for (std::size_t count = 0; count < kCount; ++count) peers.push_back(worker.accept());
        std::vector<std::string> requests;
        for (Peer& peer : peers) requests.push_back(peer.frame().value_or("none"));
        for (std::size_t index = kCount; index-- > 0;) peers[index].reply(requests[index]);  // the last one first
        for (Peer& peer : peers) peer.drain();
    });
    std::vector<std::string> requests;
    std::vector<std::unique_ptr<Recorder>> recorders;
    std::vector<std::unique_ptr<Exchange>> exchanges;
    requests.reserve(kCount);
    for (std::size_t number = 0; number < kCount; ++number) {
        requests.push_back("request " + std::to_string(number));
        recorders.push_back(std::make_unique<Recorder>(driver.loop));
        exchanges.push_back(start(requests.back(), *recorders.back()));
    }
    EXPECT_EQ(client->connections(), kCount);
    ASSERT_TRUE(driver.until([&] {
        return std::all_of(recorders.begin(), recorders.end(), [](const auto& each) { return !each->frames.empty(); });
    }));
    for (std::size_t number = 0; number < kCount; ++number) {
        EXPECT_EQ(recorders[number]->frames.front(), requests[number]);
        EXPECT_FALSE(exchanges[number]->finish());
    }
    client->close();
    driver.turn();
    EXPECT_EQ(client->connections(), 0U);
}

TEST_F(WorkerClientTest, BytesInEverySplit) {
    const std::string reply = framed("") + framed("x") + framed("0123456789");
    const Script script([&] {
        Peer peer = worker.accept();
        for (std::size_t cut = 0; cut <= reply.size(); ++cut) {
            EXPECT_EQ(peer.frame(), "go");
            peer.send(std::string_view(reply).substr(0, cut));
            peer.send(std::string_view(reply).substr(cut));
        }
        EXPECT_EQ(peer.frame(), "go");
        for (const char& byte : reply) peer.send({&byte, 1});
        peer.drain();
    });
    for (std::size_t round = 0; round < reply.size() + 2; ++round) {
        Recorder recorder(driver.loop);
        const auto exchange = start("go", recorder);
        ASSERT_TRUE(driver.until([&] { return recorder.frames.size() == 3 || recorder.failure; }));
        EXPECT_EQ(recorder.frames, (std::vector<std::string>{"", "x", "0123456789"}));
        EXPECT_FALSE(exchange->finish());
    }
    EXPECT_EQ(client->connections(), 1U);
    client->retire();
}

TEST_F(WorkerClientTest, BigFramesBothWays) {
    const Script script([&] {
        Peer peer = worker.accept();
        for (int count = 0; count < 3; ++count) {
            const auto request = peer.frame();
            peer.reply(request.value_or("none") + "!");
        }
        peer.drain();
    });
    std::string request(std::size_t{5} << 20, '\0');
    for (std::size_t index = 0; index < request.size(); ++index) request[index] = static_cast<char>(index * 13 % 255);
    for (int count = 0; count < 3; ++count) exchange(request, request + "!");
    client->retire();
}

TEST_F(WorkerClientTest, AReplyOfTheLimitIsTakenAndALongerOneIsAViolation) {
    client = make_client({.max_frame_bytes = 100});
    const Script script([&] {
        Peer peer = worker.accept();
        peer.frame();
        peer.reply(std::string(100, 'x'));
        peer.frame();
        peer.send(std::string("\0\0\0\x65", 4));
        EXPECT_TRUE(peer.wait_for_end()) << "without waiting for the payload";
    });
    exchange("a", std::string(100, 'x'));
    const Failure failure = failing("b");
    EXPECT_EQ(failure.kind, FailureKind::violation);
    EXPECT_EQ(failure.text, "a frame of 101 bytes is above the limit of 100");
    EXPECT_EQ(violations.size(), 1U);
    EXPECT_EQ(client->connections(), 0U);
}

// Rows of the retry table, by real sockets. Column 1: before the whole frame is written.

TEST_F(WorkerClientTest, NobodyListens) {
    worker.close();
    const Failure refused = failing("a");
    EXPECT_EQ(refused.kind, FailureKind::unreachable);
    EXPECT_TRUE(refused.refused);
    EXPECT_EQ(refused.text, "Connection refused");
    std::filesystem::remove(worker.path());
    const Failure missing = failing("a");
    EXPECT_EQ(missing.kind, FailureKind::unreachable);
    EXPECT_TRUE(missing.refused);
    EXPECT_TRUE(violations.empty());
}

TEST_F(WorkerClientTest, NoFailureIsToldFromInsideStart) {
    worker.close();
    Recorder recorder(driver.loop);
    const auto exchange = start("a", recorder);
    EXPECT_FALSE(recorder.failure);
    {
        Recorder left(driver.loop);
        const auto destroyed = start("a", left);
    }
    ASSERT_TRUE(driver.until([&] { return recorder.failure.has_value(); }));
}

TEST_F(WorkerClientTest, APathThatNoSocketHasIsUnreachableButNotRefused) {
    client = WorkerClient::create(driver.loop, driver.sends, std::string(300, 'p'), {}, {});
    const Failure failure = failing("a");
    EXPECT_EQ(failure.kind, FailureKind::unreachable);
    EXPECT_FALSE(failure.refused);
}

TEST_F(WorkerClientTest, ASocketOfAnotherUserGetsNothing) {
    if (getuid() != 0) GTEST_SKIP() << "needs root, to listen as another user";
    worker.close();
    std::filesystem::remove(worker.path());
    // The peer's credentials are those of the thread that called listen(2). By system call: libc changes all threads.
    constexpr uid_t kStranger = 65534;
    std::unique_ptr<ListeningWorker> stranger;
    std::filesystem::permissions(std::filesystem::path(worker.path()).parent_path(), std::filesystem::perms::all);
    ASSERT_EQ(syscall(SYS_setresuid, -1, kStranger, -1), 0);
    stranger = std::make_unique<ListeningWorker>(worker.path());
    ASSERT_EQ(syscall(SYS_setresuid, -1, 0, -1), 0);
    const Failure failure = failing("secret");
    EXPECT_EQ(failure.kind, FailureKind::unreachable);
    EXPECT_FALSE(failure.refused);
    EXPECT_EQ(failure.text, "its socket belongs to uid 65534, neither ours nor root's");
    EXPECT_TRUE(stranger->accept().wait_for_end());
    EXPECT_EQ(client->connections(), 0U);
}

TEST_F(WorkerClientTest, EpipeWhileWriting) {
    std::promise<void> seen;
    const Script script([&] {
        Peer peer = worker.accept();
        peer.wait_for_bytes();
        peer.refuse_bytes();
        peer.bytes(kBig.size());  // as far as they came: a full socket does not say that nobody will read
        seen.get_future().wait_for(testing::kPatience);
    });
    EXPECT_EQ(failing(kBig).kind, FailureKind::not_taken);
    seen.set_value();
}

TEST_F(WorkerClientTest, ResetWhileWriting) {
    const Script script([&] {
        Peer peer = worker.accept();
        EXPECT_TRUE(peer.bytes(1000));
        peer.close();
    });
    EXPECT_EQ(failing(kBig).kind, FailureKind::not_taken);
    EXPECT_TRUE(violations.empty());
}

TEST_F(WorkerClientTest, EndOrHalfCloseWhileWriting) {
    std::promise<void> seen;
    const Script script([&] {
        Peer peer = worker.accept();
        peer.wait_for_bytes();
        peer.half_close();
        seen.get_future().wait_for(testing::kPatience);
    });
    EXPECT_EQ(failing(kBig).kind, FailureKind::not_taken);
    seen.set_value();
}

TEST_F(WorkerClientTest, BytesWhileWriting) {
    const Script script([&] {
        Peer peer = worker.accept();
        EXPECT_TRUE(peer.bytes(10));
        peer.send(std::string(1, '\0'));
        peer.wait_for_hang_up();
    });
    const Failure failure = failing(kBig);
    EXPECT_EQ(failure.kind, FailureKind::violation);
    EXPECT_EQ(failure.text, "a reply before the whole request was sent");
    EXPECT_EQ(violations.size(), 1U);
}

// Column 2: written, and no byte of a reply.

TEST_F(WorkerClientTest, ResetAfterWriting) {
    const Script script([&] {
        Peer peer = worker.accept();
        EXPECT_TRUE(peer.bytes(5));
        peer.wait_for_bytes();
        peer.close();
    });
    EXPECT_EQ(failing("request").kind, FailureKind::not_taken);
}

TEST_F(WorkerClientTest, EndAfterWriting) {
    const Script script([&] {
        for (int count = 0; count < 2; ++count) {
            Peer peer = worker.accept();
            EXPECT_EQ(peer.frame(), "request");
            if (count == 0) continue;
            peer.half_close();
            EXPECT_TRUE(peer.wait_for_end());
        }
    });
    EXPECT_EQ(failing("request").kind, FailureKind::gone);
    EXPECT_EQ(failing("request").kind, FailureKind::gone) << "half-closed";
    EXPECT_TRUE(violations.empty());
}

// Column 3: after a byte of a reply.

TEST_F(WorkerClientTest, AnEndWithinAFrame) {
    const std::string reply = framed("abcd");
    const Script script([&] {
        for (std::size_t size = 1; size < reply.size(); ++size) {
            Peer peer = worker.accept();
            EXPECT_EQ(peer.frame(), "request");
            peer.send(std::string_view(reply).substr(0, size));
        }
    });
    for (std::size_t size = 1; size < reply.size(); ++size) {
        const Failure failure = failing("request");
        EXPECT_EQ(failure.kind, FailureKind::violation);
        EXPECT_EQ(failure.text, "a reply frame was cut off");
        EXPECT_EQ(violations.size(), size);
    }
}

TEST_F(WorkerClientTest, AResetBehindBytesOfAReply) {
    for (const std::string& reply : {framed("one"), framed("one") + std::string(1, '\0')}) {
        const Script script([&] {
            Peer peer = worker.accept();
            peer.wait_for_bytes();  // which are left unread
            peer.send(reply);
        });
        Recorder recorder(driver.loop);
        const auto exchange = start("request", recorder);
        ASSERT_TRUE(driver.until([&] { return recorder.failure.has_value(); }));
        EXPECT_EQ(recorder.frames, std::vector<std::string>{"one"});
        EXPECT_EQ(recorder.failure->kind, violations.empty() ? FailureKind::gone : FailureKind::violation);
    }
    EXPECT_EQ(violations, std::vector<std::string>{"a reply frame was cut off"});
}

TEST_F(WorkerClientTest, AnEndBetweenFrames) {
    const Script script([&] {
        Peer peer = worker.accept();
        EXPECT_EQ(peer.frame(), "request");
        peer.reply("one");
    });
    Recorder recorder(driver.loop);
    const auto exchange = start("request", recorder);
    ASSERT_TRUE(driver.until([&] { return recorder.failure.has_value(); }));
    EXPECT_EQ(recorder.frames, std::vector<std::string>{"one"});
    EXPECT_EQ(recorder.failure->kind, FailureKind::gone);
    EXPECT_TRUE(violations.empty());
}

TEST_F(WorkerClientTest, AWorkerMayCloseWhenItHasAnswered) {
    std::promise<void> closed;
    const Script script([&] {
        {
            Peer peer = worker.accept();
            EXPECT_EQ(peer.frame(), "first");
            peer.reply("");
        }
        closed.set_value();
        Peer peer = worker.accept();
        EXPECT_EQ(peer.frame(), "second");
        peer.reply("");
        peer.drain();
    });
    exchange("first", "");
    closed.get_future().wait();
    ASSERT_TRUE(driver.until([&] { return client->connections() == 0; }));
    exchange("second", "");
    EXPECT_TRUE(violations.empty());
    client->retire();
}

// Violations around an exchange.

TEST_F(WorkerClientTest, BytesBehindTheReplyThatCameWithIt) {
    for (const std::string& reply : {framed("") + framed(""), framed("") + std::string(1, '\0')}) {
        const Script script([&] {
            Peer peer = worker.accept();
            EXPECT_EQ(peer.frame(), "request");
            peer.send(reply);
            peer.drain();
        });
        Recorder recorder(driver.loop);
        std::optional<Failure> violation;
        const auto exchange = start("request", recorder);
        recorder.act = [&] { violation = exchange->finish(); };
        ASSERT_TRUE(driver.until([&] { return !recorder.frames.empty(); }));
        ASSERT_TRUE(violation);
        EXPECT_EQ(violation->kind, FailureKind::violation);
        EXPECT_EQ(violation->text, "bytes after the reply");
        driver.turn();
        EXPECT_FALSE(recorder.failure) << "it was told by finish";
        EXPECT_EQ(recorder.frames.size(), 1U);
    }
    EXPECT_EQ(violations.size(), 2U);
    EXPECT_EQ(client->connections(), 0U);
}

TEST_F(WorkerClientTest, BytesBehindWhatOneReadTakes) {
    // One read takes 32 KiB, and with that many frames it is not followed by another: what is forged lies in the socket
    // when the exchange is finished, and must not pass for the reply of the next.
    std::promise<void> sent;
    const Script script([&] {
        Peer peer = worker.accept();
        EXPECT_EQ(peer.frame(), "request");
        std::string replies;
        for (std::size_t count = 0; count < kReadAheadFrames; ++count) replies += framed(std::string(2044, 'x'));
        peer.send(replies + framed("forged"));
        sent.set_value();
        peer.drain();
    });
    Recorder recorder(driver.loop);
    const auto exchange = start("request", recorder);
    driver.turn();  // which sends it
    sent.get_future().wait();
    std::optional<Failure> violation;
    recorder.act = [&] {
        if (recorder.frames.size() == kReadAheadFrames) violation = exchange->finish();
    };
    ASSERT_TRUE(driver.until([&] { return recorder.frames.size() >= kReadAheadFrames; }));
    ASSERT_TRUE(violation);
    EXPECT_EQ(violation->text, "bytes after the reply");
    EXPECT_EQ(violations.size(), 1U);
}

TEST_F(WorkerClientTest, ClosingBehindTooManyRepliesDoesNotMakeItRight) {
    const Script script([&] {
        Peer peer = worker.accept();
        EXPECT_EQ(peer.frame(), "request");
        peer.send(framed("a") + framed("b") + std::string(1, '\0'));
    });
    Recorder recorder(driver.loop);
    const auto exchange = start("request", recorder);
    exchange->pause();
    ASSERT_TRUE(driver.until([&] { return client->connections() == 0; }));
    EXPECT_EQ(violations.size(), 1U) << "cut off";
    exchange->resume();
    recorder.act = [&] { EXPECT_TRUE(exchange->finish()); };
    ASSERT_TRUE(driver.until([&] { return !recorder.frames.empty(); }));
    EXPECT_EQ(violations.size(), 1U) << "one fault counts once";
}

TEST_F(WorkerClientTest, BytesOnAnIdleConnection) {
    std::promise<void> go;
    const Script script([&] {
        Peer peer = worker.accept();
        EXPECT_EQ(peer.frame(), "request");
        peer.reply("");
        go.get_future().wait_for(testing::kPatience);
        peer.send("?");
        peer.drain();
    });
    exchange("request", "");
    go.set_value();
    ASSERT_TRUE(driver.until([&] { return !violations.empty(); }));
    EXPECT_EQ(violations, std::vector<std::string>{"bytes without a request"});
    EXPECT_EQ(client->connections(), 0U);
}

// Kept connections.

TEST_F(WorkerClientTest, AKeptConnectionThatDoesNotTakeTheRequestIsTriedOnceMore) {
    const Script script([&] {
        {
            Peer kept = worker.accept();
            EXPECT_EQ(kept.frame(), "first");
            kept.reply("");
            kept.wait_for_bytes();
        }
        Peer peer = worker.accept();
        EXPECT_EQ(peer.frame(), "second");
        peer.reply("yes");
        peer.wait_for_bytes();
        peer.close();
        Peer last = worker.accept();
        last.wait_for_bytes();
        last.close();
    });
    exchange("first", "");
    exchange("second", "yes");
    EXPECT_EQ(failing("third").kind, FailureKind::not_taken) << "once more, not for ever";
    EXPECT_TRUE(violations.empty());
}

TEST_F(WorkerClientTest, TheSecondTryIsOnANewConnectionNotOnAnotherKeptOne) {
    const Script script([&] {
        Peer one = worker.accept();
        Peer two = worker.accept();
        for (Peer* peer : {&one, &two}) {
            EXPECT_EQ(peer->frame(), "first");
            peer->reply("");
        }
        pollfd used[] = {{one.fd(), POLLIN, 0}, {two.fd(), POLLIN, 0}};
        EXPECT_EQ(poll(used, 2, 20'000), 1);
        (used[0].revents != 0 ? one : two).close();
        Peer fresh = worker.accept();
        EXPECT_EQ(fresh.frame(), "second");
        fresh.reply("yes");
        EXPECT_TRUE((used[0].revents != 0 ? two : one).wait_for_end()) << "nothing was sent on it";
    });
    Recorder one(driver.loop);
    Recorder two(driver.loop);
    const auto first = start("first", one);
    const auto second = start("first", two);
    ASSERT_TRUE(driver.until([&] { return !one.frames.empty() && !two.frames.empty(); }));
    EXPECT_FALSE(first->finish());
    EXPECT_FALSE(second->finish());
    exchange("second", "yes");
    client->close();
}

TEST_F(WorkerClientTest, ARequestThatAKeptConnectionTookIsNotSentAgain) {
    const Script script([&] {
        Peer kept = worker.accept();
        EXPECT_EQ(kept.frame(), "first");
        kept.reply("");
        EXPECT_EQ(kept.frame(), "second");
    });
    exchange("first", "");
    EXPECT_EQ(failing("second").kind, FailureKind::gone);
    EXPECT_FALSE(worker.has_connection());
}

// The backlog.

TEST_F(WorkerClientTest, AFullBacklogIsWaitedForAsLongAsTheOptionSays) {
    worker.close();
    std::filesystem::remove(worker.path());
    worker = ListeningWorker(worker.path(), 0);
    client = make_client({.connect_timeout = 30ms});
    Recorder first(driver.loop);
    Recorder second(driver.loop);
    const auto takes_the_room = start("first", first);
    const auto began = EventLoop::Clock::now();
    const auto waits = start("second", second);
    EXPECT_LT(EventLoop::Clock::now() - began, 25ms) << "it does not block";
    ASSERT_TRUE(driver.until([&] { return second.failure.has_value(); }));
    EXPECT_GE(EventLoop::Clock::now() - began, 25ms);
    EXPECT_EQ(second.failure->kind, FailureKind::unreachable);
    EXPECT_EQ(second.failure->text, "its accept backlog is full");
    EXPECT_FALSE(second.failure->refused);
    EXPECT_FALSE(first.failure);
}

TEST_F(WorkerClientTest, AFullBacklogThatEmptiesIsUsed) {
    worker.close();
    std::filesystem::remove(worker.path());
    worker = ListeningWorker(worker.path(), 0);
    client = make_client({.connect_timeout = 20s});
    Recorder first(driver.loop);
    Recorder second(driver.loop);
    const auto one = start("first", first);
    const auto two = start("second", second);
    {
        Recorder cancelled(driver.loop);
        const auto three = start("third", cancelled);
    }
    driver.turn();
    EXPECT_EQ(client->connections(), 1U);
    const Script script([&] {
        Peer peer = worker.accept();
        Peer other = worker.accept();
        EXPECT_EQ(peer.frame(), "first");
        EXPECT_EQ(other.frame(), "second");
        peer.reply("1");
        other.reply("2");
        peer.drain();
        other.drain();
    });
    ASSERT_TRUE(driver.until([&] { return !first.frames.empty() && !second.frames.empty(); }));
    client->close();
}

TEST_F(WorkerClientTest, WhoWaitsForTheBacklogTakesAConnectionThatBecomesIdle) {
    worker.close();
    std::filesystem::remove(worker.path());
    worker = ListeningWorker(worker.path(), 0);
    client = make_client({.connect_timeout = 20s});
    Recorder first(driver.loop);
    Recorder second(driver.loop);
    const auto one = start("first", first);
    Peer peer = worker.accept();
    const Connected blocks = connect_unix(worker.path());
    const auto two = start("second", second);
    driver.turn();  // which sends the first
    EXPECT_EQ(peer.frame(), "first");
    peer.reply("");
    ASSERT_TRUE(driver.until([&] { return !first.frames.empty(); }));
    EXPECT_FALSE(one->finish());
    const Script script([&] {
        EXPECT_EQ(peer.frame(), "second");
        peer.reply("");
    });
    ASSERT_TRUE(driver.until([&] { return !second.frames.empty(); }));
    EXPECT_EQ(client->connections(), 1U);
}

// Cancellation and backpressure.

TEST_F(WorkerClientTest, LeavingTellsTheWorker) {
    const Script script([&] {
        Peer peer = worker.accept();
        EXPECT_EQ(peer.frame(), "request");
        peer.reply("one");
        EXPECT_TRUE(peer.wait_for_end());
        Peer big = worker.accept();
        EXPECT_TRUE(big.bytes(1000));
        big.drain();
    });
    Recorder recorder(driver.loop);
    auto exchange = start("request", recorder);
    recorder.act = [&] { exchange.reset(); };
    ASSERT_TRUE(driver.until([&] { return !recorder.frames.empty(); }));
    EXPECT_EQ(client->connections(), 0U);
    exchange = start(kBig, recorder);
    driver.turn();
    exchange->leave();
    EXPECT_EQ(client->connections(), 0U);
    driver.turn();
    EXPECT_FALSE(recorder.failure);
}

TEST_F(WorkerClientTest, ASlowSinkStopsTheReading) {
    constexpr std::size_t kFrame = std::size_t{100} << 10;
    constexpr std::size_t kFrames = 200;
    std::atomic<std::size_t> sent{0};
    std::promise<void> all_sent;
    auto done = all_sent.get_future();
    const Script script([&] {
        Peer peer = worker.accept();
        EXPECT_EQ(peer.frame(), "request");
        for (std::size_t number = 0; number < kFrames; ++number) {
            peer.reply(std::string(kFrame, static_cast<char>(number)));
            ++sent;
            driver.loop.post([&] { driver.loop.stop(); });
        }
        all_sent.set_value();
        peer.drain();
    });
    Recorder recorder(driver.loop);
    const auto exchange = start("request", recorder);
    recorder.act = [&] { exchange->pause(); };
    // As long as the worker gets rid of frames the loop is woken. 1 MiB is read ahead, and one frame more may be read;
    // the socket holds some.
    std::size_t before = 0;
    do {
        before = sent;
        const auto limit = driver.loop.at(EventLoop::Clock::now() + 200ms, [&] { driver.loop.stop(); });
        driver.loop.run();
    } while (sent != before);
    EXPECT_EQ(recorder.frames.size(), 1U);
    EXPECT_LE(sent, 1 + (kReadAheadBytes + (std::size_t{1} << 20)) / kFrame);
    while (recorder.frames.size() < kFrames) {
        const std::size_t had = recorder.frames.size();
        exchange->resume();
        ASSERT_TRUE(driver.until([&] { return recorder.frames.size() > had; }));
        EXPECT_EQ(recorder.frames.size(), had + 1) << "a paused sink is not called";
    }
    for (std::size_t number = 0; number < kFrames; ++number) {
        ASSERT_EQ(recorder.frames[number], std::string(kFrame, static_cast<char>(number)));
    }
    EXPECT_FALSE(exchange->finish());
    driver.until_done(done);
    client->retire();
}

TEST_F(WorkerClientTest, AWorkerThatEndsBehindASlowSinkDoesNotSpinTheLoop) {
    std::promise<void> closed;
    auto done = closed.get_future();
    const Script script([&] {
        {
            Peer peer = worker.accept();
            EXPECT_EQ(peer.frame(), "request");
            for (int count = 0; count < 40; ++count) peer.reply(std::string(3000, 'f'));
        }
        closed.set_value();
    });
    Recorder recorder(driver.loop);
    const auto exchange = start("request", recorder);
    exchange->pause();
    driver.until_done(done);
    const auto cpu_time = [] {
        timespec used{};
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
        return std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec);
    };
    const auto limit = driver.loop.at(EventLoop::Clock::now() + 200ms, [&] { driver.loop.stop(); });
    const auto before = cpu_time();
    driver.loop.run();
    EXPECT_LT(cpu_time() - before, 50ms) << "the hang-up was told again and again";
    exchange->resume();
    ASSERT_TRUE(driver.until([&] { return recorder.failure.has_value(); }));
    EXPECT_EQ(recorder.frames.size(), 40U);
    EXPECT_EQ(recorder.failure->kind, FailureKind::gone);
}

// Workers that go.

TEST_F(WorkerClientTest, CloseFailsWhatIsUnderWay) {
    const Script script([&] {
        std::vector<Peer> peers;
        for (int count = 0; count < 3; ++count) peers.push_back(worker.accept());
        EXPECT_EQ(peers[0].frame(), "idle");
        peers[0].reply("");
        EXPECT_EQ(peers[1].frame(), "taken");
        EXPECT_TRUE(peers[0].wait_for_end());
        EXPECT_TRUE(peers[1].wait_for_end());
        peers[2].drain();
    });
    Recorder idle(driver.loop);
    Recorder taken(driver.loop);
    Recorder writing(driver.loop);
    const auto first = start("idle", idle);
    const auto second = start("taken", taken);
    const auto third = start(kBig, writing);
    ASSERT_TRUE(driver.until([&] { return !idle.frames.empty(); }));
    EXPECT_FALSE(first->finish());
    client->close();
    EXPECT_EQ(client->connections(), 0U);
    EXPECT_FALSE(taken.failure) << "told later";
    ASSERT_TRUE(driver.until([&] { return taken.failure && writing.failure; }));
    EXPECT_EQ(taken.failure->kind, FailureKind::gone);
    EXPECT_EQ(taken.failure->text, "the worker was lost");
    EXPECT_EQ(writing.failure->kind, FailureKind::not_taken);
    EXPECT_EQ(failing("late").text, "it was lost");
}

TEST_F(WorkerClientTest, ReadOutGivesWhatWasSentAndThenTheEnd) {
    std::promise<void> over;
    std::promise<void> sent;
    const Script script([&] {
        Peer peer = worker.accept();
        EXPECT_EQ(peer.frame(), "request");
        peer.reply("one");
        peer.reply("two");
        sent.set_value();
        over.get_future().wait_for(testing::kPatience);  // keeps its end open, as a child of the worker may
    });
    Recorder recorder(driver.loop);
    const auto exchange = start("request", recorder);
    driver.turn();  // which sends it
    sent.get_future().wait();
    client->read_out();
    ASSERT_TRUE(driver.until([&] { return recorder.failure.has_value(); }));
    EXPECT_EQ(recorder.frames, (std::vector<std::string>{"one", "two"}));
    EXPECT_EQ(recorder.failure->kind, FailureKind::gone);
    over.set_value();
}

TEST_F(WorkerClientTest, RetireLetsWhatIsUnderWayEnd) {
    const Script script([&] {
        Peer idle = worker.accept();
        Peer busy = worker.accept();
        EXPECT_EQ(idle.frame(), "idle");
        idle.reply("");
        EXPECT_EQ(busy.frame(), "busy");
        EXPECT_TRUE(idle.wait_for_end());
        busy.reply("done");
        EXPECT_TRUE(busy.wait_for_end());
    });
    Recorder idle(driver.loop);
    Recorder busy(driver.loop);
    auto first = start("idle", idle);
    auto second = start("busy", busy);
    ASSERT_TRUE(driver.until([&] { return !idle.frames.empty(); }));
    EXPECT_FALSE(first->finish());
    first.reset();
    client->retire();
    const std::weak_ptr<WorkerClient> weak = client;
    client.reset();  // the exchange keeps it
    EXPECT_EQ(weak.lock()->connections(), 1U);
    ASSERT_TRUE(driver.until([&] { return !busy.frames.empty(); }));
    EXPECT_FALSE(second->finish());
    EXPECT_EQ(weak.lock()->connections(), 0U);
    second.reset();
    EXPECT_TRUE(weak.expired());
}

TEST_F(WorkerClientTest, EverythingMayBeLetGoInsideOfACall) {
    const Script script([&] {
        Peer peer = worker.accept();
        EXPECT_EQ(peer.frame(), "request");
        peer.send(framed("a") + framed("b"));
        peer.drain();
        worker.accept().drain();
    });
    Recorder recorder(driver.loop);
    auto exchange = start("request", recorder);
    recorder.act = [&] {
        client->close();
        client.reset();
        exchange.reset();
    };
    ASSERT_TRUE(driver.until([&] { return !recorder.frames.empty(); }));
    driver.turn();
    EXPECT_EQ(recorder.frames.size(), 1U);
    EXPECT_FALSE(recorder.failure);
    client = make_client();
    exchange = start("request", recorder);
}

TEST_F(WorkerClientTest, TheWorkerMayBeDroppedAtItsViolation) {
    client = WorkerClient::create(driver.loop, driver.sends, worker.path(), {}, [this](const Failure& violation) {
        violations.push_back(violation.text);
        client->close();
    });
    const Script script([&] {
        Peer good = worker.accept();
        Peer bad = worker.accept();
        EXPECT_EQ(good.frame(), "good");
        EXPECT_EQ(bad.frame(), "bad");
        bad.send("\xff\xff\xff\xff");
        bad.drain();
        good.drain();
    });
    Recorder good(driver.loop);
    Recorder bad(driver.loop);
    const auto first = start("good", good);
    const auto second = start("bad", bad);
    ASSERT_TRUE(driver.until([&] { return good.failure && bad.failure; }));
    EXPECT_EQ(bad.failure->kind, FailureKind::violation);
    EXPECT_EQ(good.failure->kind, FailureKind::gone);
    EXPECT_EQ(violations.size(), 1U);
}

TEST_F(WorkerClientTest, NoDescriptorsIsUnreachable) {
    Recorder recorder(driver.loop);
    rlimit before{};
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    const rlimit none{static_cast<rlim_t>(Fd(dup(0)).get()), before.rlim_max};
    // No longer than for this call: UBSan looks at objects through a pipe, and without one takes them for invalid.
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    const auto exchange = start("a", recorder);
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    ASSERT_TRUE(driver.until([&] { return recorder.failure.has_value(); }));
    EXPECT_TRUE(recorder.failed_with(FailureKind::unreachable));
    EXPECT_FALSE(recorder.failure->refused);
    EXPECT_EQ(recorder.failure->text, "Too many open files");
}

}  // namespace
}  // namespace anyserve
