// Calls of clients from their first message to their status: ModelInfer, ModelStreamInfer, and the drain of both.
#include "anyserve/kserve_service.hpp"

#include <array>
#include <atomic>
#include <future>
#include <list>

#include "anyserve/stream_call.hpp"
#include "http2_wire.hpp"
#include "serving_fixture.hpp"
#include "vectors.hpp"

namespace anyserve {
namespace {

using namespace std::chrono_literals;
using testing::failure_of;
using testing::FakeCall;
using testing::in_band;
using testing::kInfer;
using testing::kStreamInfer;
using testing::ListeningWorker;
using testing::message_of;
using testing::Peer;
using testing::Script;
using testing::stream_reply_of;

class KServeServiceTest : public testing::Serving {
protected:
    ~KServeServiceTest() override { clients.close(); }

    FakeCall& begin(std::string_view path, Metadata metadata = {}) {
        FakeCall& call = calls.emplace_back(driver.loop, path, std::move(metadata));
        call.begin([this](ServerCall& given) { return service.route(given); });
        return call;
    }
    FakeCall& infer(std::string bytes, Metadata metadata = {}) {
        FakeCall& call = begin(kInfer, std::move(metadata));
        if (call.status) return call;
        call.message(std::move(bytes));
        call.half_close();
        return call;
    }
    void to_end(const FakeCall& call) {
        ASSERT_TRUE(driver.until([&] { return call.status.has_value(); }));
    }
    void until_sent(const FakeCall& call, std::size_t count) {
        ASSERT_TRUE(driver.until([&] { return call.sent.size() >= count; }));
        EXPECT_EQ(call.sent.size(), count);
    }
    static Registration streaming(std::uint32_t max_concurrency = 0) {
        Registration registration;
        registration.stream = true;
        registration.max_concurrency = max_concurrency;
        return registration;
    }
    /// One exchange of a streaming worker: so many large replies, all of them with the request's id.
    static void answer(const ListeningWorker& listening, std::size_t replies, std::promise<void>& written);
    /// Whether the drain is over, told by `calls_ended`.
    std::shared_ptr<bool> watch_end(std::chrono::milliseconds grace = 10min) {
        auto ended = std::make_shared<bool>(false);
        service.calls_ended(grace, [this, ended] {
            EXPECT_FALSE(*ended);
            *ended = true;
            driver.loop.stop();
        });
        return ended;
    }

    ModelInfo info{driver.loop, state, "1"};
    KServeService service{driver.loop, config, dispatcher, info, [] { return true; }, "secret"};
    std::list<FakeCall> calls;
};

TEST_F(KServeServiceTest, ServesItsOwnPathsOnly) {
    for (const auto* path : {"/other.Service/ModelInfer", "/inference.GRPCInferenceService/Unknown", "/"}) {
        FakeCall call(driver.loop, path);
        EXPECT_FALSE(service.route(call));
        EXPECT_FALSE(call.status);
    }
}

TEST_F(KServeServiceTest, ModelInfer) {
    const ListeningWorker listening = worker();
    const Script script([&] {
        Peer peer = listening.accept();
        EXPECT_EQ(peer.frame(), message_of("m", {}, "7"));
        peer.reply({});
        peer.drain();
    });
    FakeCall& call = infer(message_of("m", {}, "7"));
    to_end(call);
    EXPECT_TRUE(call.finished(Code::ok));
    EXPECT_EQ(call.sent, std::vector{message_of("m", {}, "7")});
    driver.turn();
    EXPECT_EQ(call.untaken(), 1u) << "nothing of a call that has ended is told to its handler";
    clients.close();
}

TEST_F(KServeServiceTest, NotFoundAtOnce) {
    FakeCall& call = infer(message_of("unknown"));
    EXPECT_TRUE(call.finished(Code::not_found)) << "without a turn of the loop";
    EXPECT_EQ(call.status->message, "no worker serves model 'unknown'");
}

TEST_F(KServeServiceTest, AMessageAloneIsNotYetARequest) {
    FakeCall& call = begin(kInfer);
    call.message(message_of("unknown"));
    EXPECT_FALSE(call.status);
    call.message("another");
    EXPECT_TRUE(call.finished(Code::unimplemented));
    FakeCall& none = begin(kInfer);
    none.half_close();
    EXPECT_TRUE(none.finished(Code::unimplemented));
}

/// The kind `request` of errors.json.
TEST_F(KServeServiceTest, StatusOfEachRequestOfTheVectors) {
    int count = 0;
    for (const vectors::Json& vector : vectors::load("errors.json")) {
        if (vector.at("kind") != "request") continue;
        SCOPED_TRACE(vector.at("name").get<std::string>());
        ++count;
        KServeService fresh(driver.loop, config, dispatcher, info, [] { return true; }, "secret");
        std::vector<std::unique_ptr<ListeningWorker>> listening;
        for (const auto& each : vector.at("registrations")) {
            Registration registration;
            registration.worker_id = each.at("worker");
            registration.model_name = each.value("model_name", "");
            registration.model_version = each.value("model_version", "");
            registration.stream = each.value("stream", false);
            if (each.contains("capability")) {
                std::vector<Capability::Item> items;
                for (const auto& [key, value] : each.at("capability").items()) items.emplace_back(key, value);
                registration.capability = std::get<Capability>(Capability::make(std::move(items)));
            }
            listening.push_back(std::make_unique<ListeningWorker>(directory / registration.worker_id));
            add(registration);
        }
        Metadata metadata;
        for (const auto& pair : vector.value("metadata", vectors::Json::array()))
            metadata.emplace_back(pair[0], pair[1]);
        if (vector.value("draining", false)) fresh.begin_drain();
        const bool ok = vector.at("status") == "OK";
        const bool stream = vector.value("call", "ModelInfer") == "ModelStreamInfer";
        const auto serve = [&] {
            if (!ok) return;
            Peer peer = listening.front()->accept();
            EXPECT_TRUE(peer.frame());
            peer.reply({});
            peer.drain();
        };
        const Script script(serve);
        FakeCall& call = calls.emplace_back(driver.loop, stream ? kStreamInfer : kInfer, metadata);
        call.begin([&](ServerCall& given) { return fresh.route(given); });
        if (!call.status) call.message(vectors::bytes_of(vector.at("bytes")));
        if (!call.status) call.half_close();
        to_end(call);
        EXPECT_EQ(code_name(call.status->code), vector.at("status").get<std::string>()) << call.status->message;
        for (const auto& each : listening) EXPECT_FALSE(each->has_connection());
        driver.turn();
        for (const auto& each : vector.at("registrations")) {
            workers.unregister_worker(each.at("worker").get<std::string>());
            std::filesystem::remove(directory / each.at("worker").get<std::string>());
        }
        driver.turn();  // closes the connections to them
    }
    EXPECT_GE(count, 10);
}

/// The kind `stream` of errors.json.
TEST_F(KServeServiceTest, FailuresInAStreamOfTheVectors) {
    int count = 0;
    for (const vectors::Json& vector : vectors::load("errors.json")) {
        if (vector.at("kind") != "stream") continue;
        SCOPED_TRACE(vector.at("name").get<std::string>());
        ++count;
        std::optional<ListeningWorker> listening;
        if (vector.value("registered", true)) {
            Registration registration;
            registration.stream = vector.at("stream");
            listening.emplace(worker(registration));
        }
        const Script script([&] {
            if (!listening || vector.at("sees").empty()) return;
            Peer peer = listening->accept();
            EXPECT_TRUE(peer.frame());
            for (const auto& what : vector.at("sees")) {
                if (what.is_object()) peer.send(vectors::bytes_of(what.at("bytes")));
            }
            if (!vector.at("sees").back().is_object()) return peer.close();
            peer.drain();
        });
        FakeCall& call = begin(kStreamInfer);
        call.message(vectors::bytes_of(vector.at("bytes")));
        call.half_close();
        to_end(call);
        EXPECT_TRUE(call.finished(Code::ok));
        const auto& responses = vector.at("responses");
        ASSERT_EQ(call.sent.size(), responses.size());
        for (std::size_t i = 0; i < call.sent.size(); ++i) {
            const auto& wanted = responses[i];
            if (wanted.contains("reply")) {
                EXPECT_EQ(call.sent[i], vectors::bytes_of(wanted.at("reply")));
                continue;
            }
            const testing::InBand got = in_band(call.sent[i]);
            EXPECT_EQ(code_name(static_cast<Code>(got.code.value_or(0))), wanted.at("error").get<std::string>());
            EXPECT_EQ(got.id, wanted.value("id", ""));
            EXPECT_FALSE(got.error.empty());
            EXPECT_EQ(got.error, wanted.value("message", got.error));
            EXPECT_EQ(got.final, wanted.contains("final") ? std::optional(true) : std::nullopt);
        }
        workers.unregister_worker("w");
        driver.turn();  // closes the connections to it
        std::filesystem::remove(directory / "w");
    }
    EXPECT_GE(count, 20);
}

TEST_F(KServeServiceTest, ACallThatIsCancelledWaitsForNothing) {
    const ListeningWorker listening = worker();
    const Script script([&] {
        Peer peer = listening.accept();
        EXPECT_EQ(peer.frame(), message_of("m", {}, "0"));
        EXPECT_TRUE(peer.wait_for_end());
    });
    begin(kInfer).cancel();  // before its message
    FakeCall& half = begin(kInfer);
    half.message(message_of("m"));
    half.cancel();
    FakeCall& running = infer(message_of("m", {}, "0"));
    FakeCall& waiting = infer(message_of("m", {}, "1"));
    driver.turn();  // which sends the first
    EXPECT_EQ(admission.waiting(), 1u);
    waiting.cancel();
    EXPECT_EQ(admission.waiting(), 0u);
    EXPECT_EQ(admission.in_flight("w"), 1u);
    running.cancel();
    EXPECT_EQ(admission.in_flight("w"), 0u);
    const auto ended = watch_end();
    ASSERT_TRUE(driver.until([&] { return *ended; }));
}

TEST_F(KServeServiceTest, DeadlineWhileItWaitsAndInTheWorker) {
    const ListeningWorker listening = worker();
    {
        const Script script([&] {
            Peer peer = listening.accept();
            EXPECT_EQ(peer.frame(), message_of("m", {}, "0"));
            EXPECT_TRUE(peer.wait_for_end()) << "`frame.cancel.deadline`";
        });
        // The first one's place is given to the second, whose call does not know yet that its time has come too.
        const auto deadline = EventLoop::Clock::now() + 5ms;
        for (const auto* id : {"0", "1"}) {
            FakeCall& call = calls.emplace_back(driver.loop, kInfer);
            call.set_deadline(deadline);
            call.begin([this](ServerCall& given) { return service.route(given); });
            call.message(message_of("m", {}, id));
            call.half_close();
        }
        for (const FakeCall& call : calls) {
            to_end(call);
            EXPECT_TRUE(call.finished(Code::deadline_exceeded));
        }
    }
    EXPECT_EQ(admission.waiting(), 0u);
    EXPECT_FALSE(listening.has_connection()) << "the one that waited is never sent";
}

TEST_F(KServeServiceTest, ABadQueryEndsBothKindsOfCalls) {
    for (const auto path : {kInfer, kStreamInfer}) {
        EXPECT_TRUE(begin(path, {{"x-cap-type", "a"}, {"x-cap-type", "b"}}).finished(Code::invalid_argument));
    }
}

TEST_F(KServeServiceTest, AStreamEndsWhenAllIsAnswered) {
    EXPECT_FALSE(begin(kStreamInfer).status);
    FakeCall& nothing = begin(kStreamInfer);
    nothing.half_close();
    EXPECT_TRUE(nothing.finished(Code::ok));
    FakeCall& call = begin(kStreamInfer);
    call.message(message_of("unknown", {}, "7"));
    EXPECT_FALSE(call.status);
    ASSERT_EQ(call.sent.size(), 1u) << "at once";
    EXPECT_EQ(in_band(call.sent[0]).id, "7");
    call.half_close();
    EXPECT_TRUE(call.finished(Code::ok));
}

TEST_F(KServeServiceTest, RequestsOfAStreamRunAtTheSameTime) {
    const ListeningWorker listening = worker(streaming(2));
    FakeCall& call = begin(kStreamInfer);
    const Script script([&] {
        Peer one = listening.accept();
        Peer two = listening.accept();
        const auto first = one.frame();
        EXPECT_TRUE(first && two.frame());
        two.reply(stream_reply_of("m", "1"));
        two.reply({});
        two.wait_for_bytes();  // the third request
        one.reply(stream_reply_of("m", "0"));
        one.reply({});
        EXPECT_EQ(two.frame(), message_of("m", {}, "2"));
        two.reply({});
        one.drain();
        two.drain();
    });
    for (const auto* id : {"0", "1", "2"}) call.message(message_of("m", {}, id));
    call.half_close();
    to_end(call);
    EXPECT_TRUE(call.finished(Code::ok));
    EXPECT_EQ(call.sent, (std::vector{stream_reply_of("m", "1"), stream_reply_of("m", "0")}));
    clients.close();
}

TEST_F(KServeServiceTest, NoMoreRequestsAreTakenThanMayRun) {
    const ListeningWorker listening = worker(streaming());
    FakeCall& call = begin(kStreamInfer);
    for (int i = 0; i < 6; ++i) call.message(message_of("m", {}, std::to_string(i)));
    EXPECT_EQ(call.unread(), 2u) << "the rest stays with the client";
    const Script script([&] {
        Peer peer = listening.accept();
        for (int i = 0; i < 6; ++i) {
            EXPECT_EQ(peer.frame(), message_of("m", {}, std::to_string(i)));
            peer.reply({});
        }
        peer.drain();
    });
    call.half_close();
    to_end(call);
    EXPECT_TRUE(call.finished(Code::ok));
    EXPECT_TRUE(call.sent.empty());
    clients.close();
}

TEST_F(KServeServiceTest, ARequestThatFailsMakesRoomForTheNext) {
    FakeCall& call = begin(kStreamInfer);
    call.slow = true;
    for (int i = 0; i < 100; ++i) call.message(message_of("unknown", {}, std::to_string(i)));
    EXPECT_EQ(call.sent.size(), kSendAheadReplies);
    EXPECT_EQ(call.unread(), 100 - kSendAheadReplies - config.max_stream_requests)
        << "one that is not answered in full is not answered";
    call.half_close();
    ASSERT_TRUE(driver.until([&] {
        call.take();
        return call.status.has_value();
    }));
    EXPECT_TRUE(call.finished(Code::ok));
    ASSERT_EQ(call.sent.size(), 100u);
    for (int i = 0; i < 100; ++i) EXPECT_EQ(in_band(call.sent[static_cast<std::size_t>(i)]).id, std::to_string(i));
}

/// A reply of a streaming worker that waits alone for a slow client.
std::string large_reply(std::string_view id) {
    std::string response = message_of("m", {}, id);
    append_bytes_field(response, 6, std::string(kSendAheadBytes, 'b'));
    std::string out;
    append_bytes_field(out, 2, response);
    return out;
}

void KServeServiceTest::answer(const ListeningWorker& listening, std::size_t replies, std::promise<void>& written) {
    Peer peer = listening.accept();
    MessageHead head;
    const std::string request = peer.frame().value_or("");
    EXPECT_FALSE(scan_message(request, kRequestFields, head));
    for (std::size_t i = 0; i < replies; ++i) peer.reply(large_reply(head.id));
    peer.reply({});
    written.set_value();
    peer.drain();
}

TEST_F(KServeServiceTest, ASlowClientStopsItsWorker) {
    const ListeningWorker listening = worker(streaming());
    FakeCall& call = begin(kStreamInfer);
    call.slow = true;
    constexpr int kReplies = 100;  // far more than fits into sockets and read-ahead
    std::atomic<int> written = 0;
    const Script script([&] {
        Peer peer = listening.accept();
        EXPECT_TRUE(peer.frame());
        for (; written < kReplies; ++written) peer.reply(large_reply("0"));
        peer.reply({});
        peer.drain();
    });
    call.message(message_of("m"));
    call.half_close();
    until_sent(call, 1);
    for (int i = 0; i < 50; ++i) driver.turn();
    EXPECT_EQ(call.sent.size(), 1u) << "a large one waits alone for the client";
    EXPECT_LT(written, kReplies);
    ASSERT_TRUE(driver.until([&] {
        call.take();
        return call.status.has_value();
    }));
    EXPECT_TRUE(call.finished(Code::ok));
    EXPECT_EQ(call.sent.size(), static_cast<std::size_t>(kReplies));
    clients.close();
}

TEST_F(KServeServiceTest, RequestsThatWaitForASlowClientHaveTheirTurns) {
    const ListeningWorker listening = worker(streaming(2));
    FakeCall& call = begin(kStreamInfer);
    call.slow = true;
    constexpr std::size_t kReplies = 10;  // all of which fit into the read-ahead
    std::array<std::promise<void>, 2> written;
    std::array<Script, 2> scripts{Script([&] { answer(listening, kReplies, written[0]); }),
                                  Script([&] { answer(listening, kReplies, written[1]); })};
    for (const auto* id : {"a", "b"}) call.message(message_of("m", {}, id));
    call.half_close();
    for (auto& each : written) {
        auto done = each.get_future();
        driver.until_done(done);
    }
    for (int i = 0; i < 50; ++i) driver.turn();
    EXPECT_EQ(call.sent.size(), 1u);
    ASSERT_TRUE(driver.until([&] {
        call.take();
        return call.status.has_value();
    }));
    ASSERT_EQ(call.sent.size(), 2 * kReplies);
    // Whoever came first had sent one before the other was there, and so ends one before it.
    for (std::size_t i = 2; i + 1 < call.sent.size(); ++i) {
        EXPECT_NE(in_band(call.sent[i]).id, in_band(call.sent[i - 1]).id) << i << ": one after the other";
    }
    clients.close();
}

TEST_F(KServeServiceTest, SmallRepliesGoOutTogether) {
    const ListeningWorker listening = worker(streaming());
    FakeCall& call = begin(kStreamInfer);
    call.slow = true;
    constexpr std::size_t kReplies = 100;
    std::promise<void> written;
    const Script script([&] {
        Peer peer = listening.accept();
        EXPECT_TRUE(peer.frame());
        std::string all;
        for (std::size_t i = 0; i < kReplies; ++i) all += testing::framed(stream_reply_of("m", std::to_string(i)));
        peer.send(all + testing::framed({}));
        written.set_value();
        peer.drain();
    });
    call.message(message_of("m"));
    call.half_close();
    auto all_written = written.get_future();
    driver.until_done(all_written);
    ASSERT_TRUE(driver.until([&] { return call.sent.size() >= kSendAheadReplies; }));
    for (int i = 0; i < 10; ++i) driver.turn();
    EXPECT_EQ(call.sent.size(), kSendAheadReplies);
    ASSERT_TRUE(driver.until([&] {
        call.take(5);
        return call.status.has_value();
    }));
    ASSERT_EQ(call.sent.size(), kReplies);
    for (std::size_t i = 0; i < kReplies; ++i) EXPECT_EQ(call.sent[i], stream_reply_of("m", std::to_string(i)));
    clients.close();
}

TEST_F(KServeServiceTest, AStreamThatIsCancelledSendsNothingMore) {
    const ListeningWorker listening = worker();
    FakeCall& call = begin(kStreamInfer);
    for (const auto* id : {"0", "1", "2"}) call.message(message_of("m", {}, id));
    FakeCall& other = infer(message_of("m", {}, "other"));
    EXPECT_EQ(admission.waiting(), 3u);
    const Script script([&] {
        Peer peer = listening.accept();
        EXPECT_EQ(peer.frame(), message_of("m", {}, "0"));
        EXPECT_TRUE(peer.wait_for_end());
        Peer next = listening.accept();
        EXPECT_EQ(next.frame(), message_of("m", {}, "other")) << "not another one of the call that has gone";
        next.reply({});
        next.drain();
    });
    driver.turn();
    call.cancel();
    to_end(other);
    EXPECT_TRUE(other.finished(Code::ok));
    EXPECT_TRUE(call.sent.empty());
    clients.close();
}

TEST_F(KServeServiceTest, AStreamThatIsCancelledWithRepliesThatWait) {
    const ListeningWorker listening = worker(streaming(2));
    FakeCall& call = begin(kStreamInfer);
    call.slow = true;
    const Script script([&] {
        Peer peer = listening.accept();
        EXPECT_TRUE(peer.frame());
        for (int i = 0; i < 40; ++i) peer.reply(stream_reply_of("m", ""));
        peer.drain();
    });
    call.message(message_of("m"));
    until_sent(call, kSendAheadReplies);
    call.message(message_of("unknown"));
    call.half_close();
    driver.turn();
    call.cancel();
    driver.turn();
    EXPECT_EQ(admission.in_flight("w"), 0u);
    EXPECT_EQ(call.sent.size(), kSendAheadReplies);
}

TEST_F(KServeServiceTest, AWorkerThatIsLostInAStreamIsToldInIt) {
    const ListeningWorker listening = worker(streaming());
    FakeCall& call = begin(kStreamInfer);
    const Script script([&] {
        Peer peer = listening.accept();
        EXPECT_TRUE(peer.frame());
        peer.reply(stream_reply_of("m", "0"));
        peer.drain();
    });
    call.message(message_of("m", {}, "0"));
    call.message(message_of("m", {}, "1"));  // which waits
    until_sent(call, 1);
    workers.drop("w", "test");
    until_sent(call, 3);
    EXPECT_EQ(in_band(call.sent[1]).id, "1");
    EXPECT_EQ(in_band(call.sent[2]).id, "0");
    for (const std::size_t i : {1u, 2u}) {
        EXPECT_EQ(in_band(call.sent[i]).code, static_cast<std::int64_t>(Code::unavailable));
    }
    call.half_close();
    EXPECT_TRUE(call.finished(Code::ok));
}

TEST_F(KServeServiceTest, ADrainRefusesNewCallsAndLetsThoseUnderWayEnd) {
    const ListeningWorker listening = worker();
    FakeCall& before = infer(message_of("m", {}, "0"));
    FakeCall& waits = infer(message_of("m", {}, "1"));
    service.begin_drain();
    service.begin_drain();  // once is enough
    const auto ended = watch_end();
    for (const auto path : {kInfer, kStreamInfer}) {
        FakeCall& refused = begin(path);
        EXPECT_TRUE(refused.finished(Code::unavailable));
        EXPECT_EQ(refused.status->message, kDraining);
        EXPECT_TRUE(begin(path, {{"anyserve-instance", "secreT"}}).finished(Code::unavailable));
    }
    const Script script([&] {
        Peer peer = listening.accept();
        for (int i = 0; i < 3; ++i) {
            EXPECT_TRUE(peer.frame());
            peer.reply({});
        }
        peer.drain();
    });
    FakeCall& own = infer(message_of("m", {}, "2"), {{"anyserve-instance", "secret"}});
    to_end(own);
    for (const FakeCall* call : {&before, &waits, &own}) EXPECT_TRUE(call->finished(Code::ok));
    ASSERT_TRUE(driver.until([&] { return *ended; }));
    clients.close();
}

TEST_F(KServeServiceTest, TheEndOfNoCallsIsToldFromTheLoop) {
    const auto ended = watch_end();
    EXPECT_FALSE(*ended);
    driver.turn();
    EXPECT_TRUE(*ended);
}

TEST_F(KServeServiceTest, TheGraceEndsAWaitForCalls) {
    FakeCall& call = begin(kStreamInfer);
    const auto ended = watch_end(1ms);
    ASSERT_TRUE(driver.until([&] { return *ended; }));
    EXPECT_FALSE(call.status);
    call.cancel();
    driver.turn();
}

TEST_F(KServeServiceTest, ACallOfOnesOwnWorkerBeginsAsTheLastOneEnds) {
    FakeCall& last = begin(kInfer);
    service.begin_drain();
    const auto ended = watch_end();
    last.cancel();
    driver.loop.defer([&] { begin(kInfer, {{"anyserve-instance", "secret"}}); });  // right behind the handler's end
    driver.turn();
    driver.turn();
    driver.turn();
    EXPECT_FALSE(*ended);
    calls.back().cancel();
    ASSERT_TRUE(driver.until([&] { return *ended; }));
}

TEST_F(KServeServiceTest, DrainOfAStream) {
    const ListeningWorker listening = worker(streaming());
    std::promise<void> go_on;
    const Script script([&] {
        Peer peer = listening.accept();
        EXPECT_TRUE(peer.frame());
        go_on.get_future().wait();
        peer.reply(stream_reply_of("m", "0"));
        peer.reply({});
        peer.drain();
    });
    FakeCall& idle = begin(kStreamInfer);
    FakeCall& own = begin(kStreamInfer, {{"anyserve-instance", "secret"}});
    FakeCall& call = begin(kStreamInfer);
    call.message(message_of("m", {}, "0"));
    FakeCall& ending = begin(kStreamInfer);
    ending.message(message_of("m", {}, "1"));
    ending.message(message_of("unknown"));
    service.begin_drain();
    EXPECT_TRUE(idle.finished(Code::unavailable)) << "nothing of it is under way";
    EXPECT_FALSE(own.status);
    EXPECT_FALSE(call.status);
    call.message(message_of("m", {}, "behind"));  // asked for before the drain, and not taken any more
    call.message(message_of("m", {}, "far behind"));
    EXPECT_EQ(call.unread(), 1u);
    ending.half_close();
    own.message(message_of("unknown", {}, "own"));
    EXPECT_EQ(own.sent.size(), 1u) << "served as at all times";
    go_on.set_value();
    to_end(call);
    EXPECT_TRUE(call.finished(Code::unavailable));
    EXPECT_EQ(call.sent, std::vector{stream_reply_of("m", "0")});
    workers.drop("w", "test");
    to_end(ending);
    EXPECT_TRUE(ending.finished(Code::ok)) << "the client had ended its side";
    const auto ended = watch_end();
    driver.turn();
    EXPECT_FALSE(*ended);
    own.half_close();
    ASSERT_TRUE(driver.until([&] { return *ended; }));
}

TEST_F(KServeServiceTest, ALeftOutRequestIsNoSuccessThoughTheClientEndsItsSide) {
    const ListeningWorker listening = worker(streaming());
    FakeCall& call = begin(kStreamInfer);
    call.message(message_of("m", {}, "0"));
    service.begin_drain();
    call.message(message_of("m", {}, "1"));
    call.half_close();
    workers.drop("w", "test");
    to_end(call);
    EXPECT_TRUE(call.finished(Code::unavailable));
}

/// With HTTP/2 around it: what the fake call takes for granted holds of the real one.
class KServeOverHttp2 : public KServeServiceTest {
protected:
    static std::string open(std::uint32_t stream, std::string_view path, std::string_view more = {}) {
        return wire::frame(wire::headers, wire::kEndHeaders, stream, wire::request(path, more));
    }
    static std::string ask(std::uint32_t stream, std::string_view bytes, bool end = true) {
        return wire::frame(wire::data, end ? wire::kEndStream : 0u, stream, wire::message(bytes));
    }
};

TEST_F(KServeOverHttp2, AnswersAndErrors) {
    wire::Memory memory([this](ServerCall& call) { return service.route(call); });
    memory.begin();
    memory.send(open(1, kInfer) + ask(1, message_of("unknown")));
    EXPECT_EQ(memory.answers[1].status(), "5");
    EXPECT_TRUE(memory.answers[1].ended);
    memory.send(open(3, kInfer, wire::literal("x-cap-type", "50%")));
    EXPECT_EQ(memory.answers[3].status(), "3");
    memory.send(open(5, kStreamInfer) + ask(5, message_of("unknown", {}, "7"), false));
    EXPECT_FALSE(memory.answers[5].data.empty());
    memory.send(ask(5, message_of("unknown", {}, "8")));
    EXPECT_EQ(memory.answers[5].status(), "0");
    memory.send(open(7, "/inference.GRPCInferenceService/ServerLive") + ask(7, {}));
    EXPECT_EQ(memory.answers[7].status(), "0");
    memory.send(open(9, kStreamInfer) + ask(9, message_of("unknown"), false));
    service.begin_drain();
    memory.pump();
    EXPECT_EQ(memory.answers[9].status(), "14");
    memory.send(open(11, kInfer));
    EXPECT_EQ(memory.answers[11].status(), "14");
    EXPECT_EQ(memory.server.totals->calls.value(), 0u);
    EXPECT_EQ(memory.server.totals->held_bytes.value(), 0u);
    const auto ended = watch_end();
    ASSERT_TRUE(driver.until([&] { return *ended; }));
}

TEST_F(KServeOverHttp2, ManyRequestsAtOnceThatFail) {
    wire::Memory memory([this](ServerCall& call) { return service.route(call); });
    memory.begin();
    memory.send(open(1, kStreamInfer));
    std::string all;
    for (int i = 0; i < 200; ++i) all += ask(1, message_of("unknown", {}, std::to_string(i)), i == 199);
    memory.send(all);
    for (int turn = 0; turn < 400 && !memory.answers[1].ended; ++turn) {
        driver.turn();  // in which the stream asks for more
        memory.pump();
    }
    EXPECT_EQ(memory.answers[1].status(), "0");
    std::size_t count = 0;
    for (std::string_view left = memory.answers[1].data; left.size() >= 5; ++count) {
        left.remove_prefix(5 + static_cast<unsigned char>(left[4]));
    }
    EXPECT_EQ(count, 200u);
    EXPECT_EQ(memory.server.totals->held_bytes.value(), 0u);
}

}  // namespace
}  // namespace anyserve
