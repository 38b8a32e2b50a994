// One request's way: waiting, exchange, retry, its end at every stage. Against scripted workers.
#include "anyserve/dispatcher.hpp"

#include <sys/socket.h>

#include <list>

#include "serving_fixture.hpp"
#include "vectors.hpp"

namespace anyserve {
namespace {

using namespace std::chrono_literals;
using testing::failure_of;
using testing::ListeningWorker;
using testing::message_of;
using testing::Peer;
using testing::Script;
using testing::stream_reply_of;

/// An inference, and all that came of it.
struct Recorded final : Outcome {
    Recorded(EventLoop& event_loop, Dispatcher& dispatcher) : loop(event_loop) { inference.emplace(dispatcher, *this); }

    bool on_reply(Payload reply) override {
        EXPECT_FALSE(done || error) << "a reply behind the end";
        replies.push_back(std::move(reply).take());
        loop.stop();
        return replies.size() % take_at_once != 0;
    }
    void on_done() override {
        EXPECT_FALSE(done || error) << "a second end";
        done = true;
        end();
    }
    void on_error(InferenceError given) override {
        EXPECT_FALSE(done || error) << "a second end";
        error = std::move(given);
        end();
    }
    void end() {
        if (destroy_at_end) inference.reset();
        if (at_end) at_end();
        loop.stop();
    }
    [[nodiscard]] bool ended() const { return done || error; }
    [[nodiscard]] bool failed(Code code) const { return error && error->code == code; }

    EventLoop& loop;
    std::optional<Inference> inference;
    std::vector<std::string> replies;
    std::size_t take_at_once = 1'000'000;  // then it waits for `resume`
    bool destroy_at_end = true;
    bool done = false;
    std::optional<InferenceError> error;
    std::function<void()> at_end;
};

class DispatcherTest : public testing::Serving {
protected:
    Recorded& make(std::string message, CallTerms terms = {}, bool unary_only = true) {
        Recorded& made = made_.emplace_back(driver.loop, dispatcher);
        EXPECT_FALSE(read_request(std::move(message), std::move(terms), unary_only, made.inference->request));
        return made;
    }
    Recorded& unary(std::string message = message_of("m"), CallTerms terms = {}) {
        Recorded& made = make(std::move(message), std::move(terms));
        if (auto error = dispatcher.unary(*made.inference)) {
            EXPECT_FALSE(made.ended()) << "told twice";
            made.error = std::move(error);
        }
        return made;
    }
    Recorded& stream(std::string message = message_of("m")) {
        Recorded& made = make(std::move(message), {}, false);
        if (auto error = dispatcher.stream(*made.inference)) made.error = std::move(error);
        return made;
    }
    void to_end(const Recorded& recorded) {
        ASSERT_TRUE(driver.until([&] { return recorded.ended(); }));
    }
    void add_streaming() {
        Registration registration;
        registration.stream = true;
        add(registration);
    }

    std::list<Recorded> made_;
};

TEST_F(DispatcherTest, ForwardsAndFills) {
    Registration registration;
    registration.model_version = "7";
    registration.capability = std::get<Capability>(Capability::make({{"type", "m"}}));
    const ListeningWorker listening = worker(registration);
    const std::string request = message_of("m", {}, "id");
    const Script script([&] {
        Peer peer = listening.accept();
        std::string wanted = request;
        append_parameter(wanted, "anyserve_capability", std::string_view("type=m"));
        append_parameter(wanted, "traceparent", std::string_view("trace"));
        EXPECT_EQ(peer.frame(), wanted);
        peer.reply(message_of("m"));
        EXPECT_TRUE(peer.wait_for_end());
    });
    CallTerms terms;
    terms.traceparent = "trace";
    const Recorded& recorded = unary(request, terms);
    to_end(recorded);
    EXPECT_TRUE(recorded.done);
    EXPECT_EQ(recorded.replies, std::vector{message_of("m", "7", "id")});
    EXPECT_EQ(statistics.of("m", "7").success.count, 1u);
    EXPECT_GT(statistics.of("m", "7").success.ns, 0u);
    EXPECT_GT(statistics.of("m", "7").last_inference_ms, 1'600'000'000'000u);
    EXPECT_EQ(admission.in_flight("w"), 0u);
    clients.close();
}

TEST_F(DispatcherTest, WhatIsKnownAtOnceIsToldAtOnce) {
    EXPECT_TRUE(unary().failed(Code::not_found));
    Registration registration;
    registration.max_concurrency = 1;
    const ListeningWorker listening = worker(registration);
    CallTerms late;
    late.deadline = driver.loop.now();
    const Recorded& too_late = unary(message_of("m"), late);
    EXPECT_TRUE(too_late.failed(Code::deadline_exceeded));
    EXPECT_EQ(too_late.error->message, "model 'm': the deadline passed before the reply was complete");
    EXPECT_FALSE(listening.has_connection());
    for (std::size_t count = 0; count <= config.queue_size; ++count) EXPECT_FALSE(unary().ended());
    const Recorded& refused = unary();
    EXPECT_TRUE(refused.failed(Code::resource_exhausted));
    EXPECT_EQ(refused.error->message, "model 'm': 4 requests are waiting already (--queue-size)");
    EXPECT_EQ(counts().rejected, 1u);
    EXPECT_EQ(admission.waiting(), config.queue_size);
    for (Recorded& each : made_) each.inference->withdraw();  // or each would be sent as the one before it goes
    made_.clear();
    EXPECT_EQ(admission.waiting(), 0u);
    EXPECT_EQ(admission.in_flight("w"), 0u);
    EXPECT_EQ(counts().fail.count, 1u) << "the one that was sent, and none that waited";
}

TEST_F(DispatcherTest, ThoseThatWaitAreServedInOrderOnTheOneConnection) {
    const ListeningWorker listening = worker();
    const Script script([&] {
        Peer peer = listening.accept();
        for (const auto* id : {"0", "1", "2"}) {
            EXPECT_EQ(peer.frame(), message_of("m", {}, id));
            peer.reply(message_of("m"));
        }
        EXPECT_TRUE(peer.wait_for_end());
    });
    std::vector<const Recorded*> all;
    for (const auto* id : {"0", "1", "2"}) all.push_back(&unary(message_of("m", {}, id)));
    EXPECT_EQ(admission.waiting(), 2u);
    to_end(*all.back());
    for (const Recorded* each : all) EXPECT_TRUE(each->done);
    EXPECT_FALSE(listening.has_connection());
    clients.close();
}

TEST_F(DispatcherTest, ThePlaceIsFreeBeforeTheReplyIsTold) {
    const ListeningWorker listening = worker();
    const Script script([&] {
        Peer peer = listening.accept();
        while (peer.frame()) peer.reply({});
    });
    Recorded& first = unary();
    const Recorded* second = nullptr;
    first.at_end = [&] {
        EXPECT_EQ(admission.in_flight("w"), 0u);
        second = &unary();
        EXPECT_EQ(admission.waiting(), 0u);
    };
    to_end(first);
    ASSERT_NE(second, nullptr);
    to_end(*second);
    EXPECT_TRUE(second->done);
    clients.close();
}

TEST_F(DispatcherTest, CancelledWhileItWaits) {
    const ListeningWorker listening = worker();
    const Script script([&] {
        Peer peer = listening.accept();
        EXPECT_EQ(peer.frame(), message_of("m", {}, "0"));
        peer.reply({});
        EXPECT_EQ(peer.frame(), message_of("m", {}, "2"));
        peer.reply({});
        EXPECT_TRUE(peer.wait_for_end());
    });
    unary(message_of("m", {}, "0"));
    Recorded& cancelled = unary(message_of("m", {}, "1"));
    const Recorded& last = unary(message_of("m", {}, "2"));
    cancelled.inference->withdraw();
    EXPECT_EQ(admission.waiting(), 1u);
    cancelled.inference->cancel();
    cancelled.inference.reset();
    to_end(last);
    EXPECT_TRUE(last.done);
    EXPECT_FALSE(cancelled.ended());
    clients.close();
}

TEST_F(DispatcherTest, CancelledInTheWorker) {
    const ListeningWorker listening = worker();
    const Script script([&] {
        Peer peer = listening.accept();
        EXPECT_TRUE(peer.frame());
        EXPECT_TRUE(peer.wait_for_end()) << "the worker is told by the end of the connection";
        Peer next = listening.accept();
        EXPECT_TRUE(next.frame());
        next.reply({});
        EXPECT_TRUE(next.wait_for_end());
    });
    Recorded& cancelled = unary();
    const Recorded& next = unary();
    driver.turn();
    cancelled.inference.reset();
    EXPECT_EQ(counts().fail.count, 1u);
    EXPECT_EQ(admission.waiting(), 0u) << "the place went to the next at once";
    to_end(next);
    EXPECT_TRUE(next.done);
    clients.close();
}

TEST_F(DispatcherTest, CancelledInsideOfTheEndOfAnother) {
    const ListeningWorker listening = worker();
    const Script script([&] {
        Peer peer = listening.accept();
        EXPECT_EQ(peer.frame(), message_of("m", {}, "0"));
        peer.reply({});
        peer.drain();
    });
    Recorded& first = unary(message_of("m", {}, "0"));
    Recorded& second = unary(message_of("m", {}, "1"));
    Recorded& third = unary(message_of("m", {}, "2"));
    first.at_end = [&] {
        // As a call does: all leave their queues, then they go. The second has the place already.
        second.inference->withdraw();
        third.inference->withdraw();
        second.inference.reset();
        third.inference.reset();
    };
    to_end(first);
    EXPECT_TRUE(first.done);
    EXPECT_EQ(admission.waiting(), 0u);
    EXPECT_EQ(admission.in_flight("w"), 0u);
    clients.close();
}

TEST_F(DispatcherTest, ADeadlineThatPassesWhileItWaitsKeepsItFromBeingSent) {
    const ListeningWorker listening = worker();
    std::promise<void> answer;
    const Script script([&] {
        Peer peer = listening.accept();
        EXPECT_EQ(peer.frame(), message_of("m", {}, "0"));
        answer.get_future().wait();
        peer.reply({});
        EXPECT_EQ(peer.frame(), message_of("m", {}, "2"));
        peer.reply({});
        EXPECT_TRUE(peer.wait_for_end());
    });
    unary(message_of("m", {}, "0"));
    CallTerms terms;
    terms.deadline = EventLoop::Clock::now() + 1ms;
    const Recorded& late = unary(message_of("m", {}, "1"), terms);
    const Recorded& last = unary(message_of("m", {}, "2"));
    ASSERT_TRUE(driver.until([&] { return driver.loop.now() > *terms.deadline; }));
    EXPECT_FALSE(late.ended()) << "the call has the clock";
    answer.set_value();
    to_end(last);
    EXPECT_TRUE(last.done);
    EXPECT_TRUE(late.failed(Code::deadline_exceeded));
    EXPECT_EQ(counts().queue.count, 2u) << "it was no exchange";
    clients.close();
}

TEST_F(DispatcherTest, WhoeverWaitsIsToldThatNothingIsLeft) {
    const ListeningWorker listening = worker();
    const Recorded& sent = unary();
    const Recorded& waits = unary();
    workers.drop("w", "test");
    to_end(waits);
    EXPECT_TRUE(waits.failed(Code::unavailable)) << "not NOT_FOUND: there was something";
    to_end(sent);
    EXPECT_TRUE(sent.failed(Code::unavailable));
}

TEST_F(DispatcherTest, AWorkerThatCannotBeReachedIsDroppedAndTheNextTried) {
    Registration better;
    better.worker_id = "better";
    better.priority = 1;
    add(better);
    const ListeningWorker listening = worker();
    const Script script([&] {
        Peer peer = listening.accept();
        EXPECT_TRUE(peer.frame());
        peer.reply({});
        EXPECT_TRUE(peer.wait_for_end());
    });
    const Recorded& recorded = unary();
    to_end(recorded);
    EXPECT_TRUE(recorded.done);
    EXPECT_EQ(workers.all().size(), 1u);
    EXPECT_EQ(counts().fail.count, 0u) << "an attempt that was not taken is none";
    clients.close();
}

TEST_F(DispatcherTest, ARetryWaitsInAQueueWithABound) {
    config.queue_size = 0;
    SharedState few(driver.loop, config, [](const WorkerEndpointPtr&, ClientEnd) {}, {});
    Dispatcher bounded(driver.loop, few, clients);
    const auto add_to_few = [&](std::string id, std::int32_t priority) {
        Registration registration;
        registration.worker_id = id;
        registration.socket_path = directory / id;
        registration.model_name = "m";
        registration.priority = priority;
        registration.capability = std::get<Capability>(Capability::make({{"type", "m"}}));
        EXPECT_FALSE(few.workers.add(std::make_shared<const Registration>(registration)).index());
    };
    const ListeningWorker busy(directory / "busy");
    add_to_few("busy", 0);
    Recorded first(driver.loop, bounded);
    ASSERT_FALSE(read_request(message_of("m"), {}, true, first.inference->request));
    EXPECT_FALSE(bounded.unary(*first.inference));
    add_to_few("gone", 1);
    Recorded second(driver.loop, bounded);
    ASSERT_FALSE(read_request(message_of("m"), {}, true, second.inference->request));
    EXPECT_FALSE(bounded.unary(*second.inference));
    to_end(second);
    EXPECT_TRUE(second.failed(Code::resource_exhausted));
    EXPECT_FALSE(first.ended());
}

TEST_F(DispatcherTest, ThirdViolationInARowDropsTheWorker) {
    const ListeningWorker listening = worker();
    const Script script([&] {
        for (int count = 0; count < 3; ++count) {
            Peer peer = listening.accept();
            EXPECT_TRUE(peer.frame());
            peer.send(testing::framed({}) + "x");
            EXPECT_TRUE(peer.wait_for_end());
        }
    });
    for (int count = 0; count < 3; ++count) {
        EXPECT_EQ(workers.all().size(), 1u);
        const Recorded& recorded = unary();
        to_end(recorded);
        EXPECT_TRUE(recorded.failed(Code::internal));
        EXPECT_EQ(recorded.error->message, "the worker broke the protocol: bytes after the reply");
    }
    EXPECT_TRUE(workers.all().empty());
    EXPECT_TRUE(unary().failed(Code::not_found));
    EXPECT_EQ(counts().fail.count, 3u);
}

TEST_F(DispatcherTest, AMalformedReplyIsNoViolation) {
    const ListeningWorker listening = worker();
    const Script script([&] {
        Peer peer = listening.accept();
        EXPECT_TRUE(peer.frame());
        peer.reply("\x0a\x05");
        EXPECT_TRUE(peer.frame()) << "the connection carries the next exchange";
        peer.reply(failure_of(10, "no"));
        EXPECT_TRUE(peer.wait_for_end());
    });
    const Recorded& malformed = unary();
    to_end(malformed);
    EXPECT_TRUE(malformed.failed(Code::internal));
    const Recorded& failing = unary();
    to_end(failing);
    EXPECT_TRUE(failing.failed(Code::aborted));
    EXPECT_EQ(failing.error->message, "no");
    EXPECT_EQ(counts().fail.count, 2u);
    clients.close();
}

TEST_F(DispatcherTest, AStreamInOrderAndItsEnd) {
    add_streaming();
    const ListeningWorker listening(directory / "w");
    const Script script([&] {
        Peer peer = listening.accept();
        EXPECT_TRUE(peer.frame());
        std::string all;
        for (const auto* id : {"0", "1", "2"}) all += testing::framed(stream_reply_of("m", id));
        peer.send(all + testing::framed({}));
        EXPECT_TRUE(peer.wait_for_end());
    });
    const Recorded& recorded = stream();
    to_end(recorded);
    EXPECT_TRUE(recorded.done);
    const std::vector wanted{stream_reply_of("m", "0"), stream_reply_of("m", "1"), stream_reply_of("m", "2")};
    EXPECT_EQ(recorded.replies, wanted);
    EXPECT_EQ(counts().success.count, 1u);
    clients.close();
}

TEST_F(DispatcherTest, AStreamGoesOnOnlyWhenItIsResumed) {
    add_streaming();
    const ListeningWorker listening(directory / "w");
    constexpr int kCount = 50;
    std::promise<void> sent;
    const Script script([&] {
        Peer peer = listening.accept();
        EXPECT_TRUE(peer.frame());
        for (int i = 0; i < kCount; ++i) peer.reply(stream_reply_of("m", std::to_string(i)));
        peer.reply({});
        sent.set_value();
        peer.drain();
    });
    Recorded& recorded = stream();
    recorded.take_at_once = 1;
    auto all_sent = sent.get_future();
    driver.until_done(all_sent);
    ASSERT_TRUE(driver.until([&] { return !recorded.replies.empty(); }));
    for (int i = 0; i < 10; ++i) driver.turn();
    EXPECT_EQ(recorded.replies.size(), 1u);
    for (std::size_t count = 2; count <= kCount; ++count) {
        recorded.inference->resume();
        ASSERT_TRUE(driver.until([&] { return recorded.replies.size() == count; }));
        driver.turn();
        EXPECT_EQ(recorded.replies.size(), count);
    }
    EXPECT_FALSE(recorded.ended());
    recorded.inference->resume();
    to_end(recorded);
    EXPECT_TRUE(recorded.done);
    clients.close();
}

TEST_F(DispatcherTest, AWorkerThatDiesBetweenRepliesIsNotAskedAgain) {
    add_streaming();
    const ListeningWorker listening(directory / "w");
    const Script script([&] {
        Peer peer = listening.accept();
        EXPECT_TRUE(peer.frame());
        peer.reply(stream_reply_of("m", "0"));
        peer.close();
    });
    const Recorded& recorded = stream();
    to_end(recorded);
    EXPECT_EQ(recorded.replies.size(), 1u);
    EXPECT_TRUE(recorded.failed(Code::unavailable));
    EXPECT_TRUE(recorded.error->message.starts_with("model 'm': ")) << recorded.error->message;
    EXPECT_EQ(counts().fail.count, 1u);
    EXPECT_FALSE(listening.has_connection());
}

TEST_F(DispatcherTest, AStreamReplyThatIsNoneEndsTheExchange) {
    add_streaming();
    const ListeningWorker listening(directory / "w");
    const Script script([&] {
        Peer peer = listening.accept();
        EXPECT_TRUE(peer.frame());
        peer.send(testing::framed("\x0a\x05") + testing::framed(stream_reply_of("m", "1")));
        EXPECT_TRUE(peer.wait_for_end());
    });
    const Recorded& recorded = stream();
    to_end(recorded);
    EXPECT_TRUE(recorded.failed(Code::internal));
    EXPECT_TRUE(recorded.replies.empty());
}

TEST_F(DispatcherTest, AnErrorInAStreamIsAReplyAndAFailure) {
    add_streaming();
    const ListeningWorker listening(directory / "w");
    std::string failing;
    append_bytes_field(failing, 1, "no");
    append_bytes_field(failing, 2, message_of("m"));
    const Script script([&] {
        Peer peer = listening.accept();
        EXPECT_TRUE(peer.frame());
        peer.send(testing::framed(failing) + testing::framed({}));
        EXPECT_TRUE(peer.wait_for_end());
    });
    const Recorded& recorded = stream();
    to_end(recorded);
    EXPECT_TRUE(recorded.done);
    EXPECT_EQ(recorded.replies, std::vector{failing});
    EXPECT_EQ(counts().fail.count, 1u);
    clients.close();
}

TEST_F(DispatcherTest, TheLastOfAStreamIsMarkedIfItIsAskedFor) {
    add_streaming();
    std::string asking = message_of("m", {}, "7");
    append_parameter(asking, "triton_enable_empty_final_response", true);
    const ListeningWorker listening(directory / "w");
    const Script script([&] {
        Peer peer = listening.accept();
        EXPECT_TRUE(peer.frame());
        peer.send(testing::framed(stream_reply_of("m", "7")) + testing::framed({}));
        EXPECT_TRUE(peer.wait_for_end());
    });
    Recorded& recorded = stream(asking);
    to_end(recorded);
    ASSERT_EQ(recorded.replies.size(), 2u);
    EXPECT_EQ(testing::in_band(recorded.replies[0]).final, false);
    EXPECT_EQ(testing::in_band(recorded.replies[1]).final, true);
    EXPECT_EQ(testing::in_band(recorded.replies[1]).id, "7");
    clients.close();
}

TEST_F(DispatcherTest, AUnaryWorkerInAStream) {
    const ListeningWorker listening = worker();
    const Script script([&] {
        Peer peer = listening.accept();
        EXPECT_TRUE(peer.frame());
        peer.reply(message_of("m", {}, "7"));
        EXPECT_TRUE(peer.wait_for_end());
    });
    const Recorded& recorded = stream();
    to_end(recorded);
    EXPECT_TRUE(recorded.done);
    EXPECT_EQ(recorded.replies, std::vector{stream_reply_of("m", "7")});
    clients.close();
}

/// The kind `exchange` of errors.json on real sockets, but for what needs another user or a full backlog.
class ExchangeVectors : public DispatcherTest {
protected:
    using Json = vectors::Json;

    static bool possible(const Json& attempt) {
        const std::string connect = attempt.value("connect", "");
        return connect != "backlog-full" && connect != "other-user";
    }
    /// What the worker does on a connection so that the agent sees that.
    static void act(Peer& peer, const Json& attempt) {
        const Json& sees = attempt.at("sees");
        const bool all = attempt.at("written") == "all";
        const bool reset = !sees.empty() && (sees.back() == "reset" || sees.back() == "broken-pipe");
        peer.wait_for_bytes();
        if (all && !reset) {
            EXPECT_TRUE(peer.frame());
        }
        for (const Json& what : sees) {
            if (what.is_object()) peer.send(vectors::bytes_of(what.at("bytes")));
        }
        if (sees.empty() || sees.back().is_object()) return;
        if (sees.back() == "end" && !all) return peer.half_close();
        peer.close();  // with bytes unread, if it is to be a reset
    }
    void run(const Json& vector);
};

void ExchangeVectors::run(const Json& vector) {
    const Json& attempts = vector.at("attempts");
    std::vector<std::string> names;
    std::map<std::string, std::unique_ptr<ListeningWorker>> listening;
    for (const Json& attempt : attempts) {
        const std::string name = attempt.at("worker");
        if (std::find(names.begin(), names.end(), name) != names.end()) continue;
        Registration registration;
        registration.worker_id = name;
        registration.priority = -static_cast<std::int32_t>(names.size());
        names.push_back(name);
        add(registration);
        if (attempt.value("connect", "") != "missing") {
            listening[name] = std::make_unique<ListeningWorker>(directory / name);
            if (attempt.value("connect", "") == "refused") listening[name]->close();
        }
    }
    bool part = false;
    for (const Json& attempt : attempts) part = part || attempt.value("written", "") == "part";
    const bool warming = attempts.front().value("kept", false);
    std::vector<std::string> tried;
    std::optional<InferenceError> error;
    {
        std::promise<void> finished;
        auto until_finished = finished.get_future();
        const Script script([&] {
            std::list<Peer> peers;  // which stay open to the end
            if (warming) {
                peers.push_back(listening.at(names.front())->accept());
                EXPECT_TRUE(peers.back().frame());
                peers.back().reply({});
            }
            for (std::size_t i = 0; i < vector.at("tried").size(); ++i) {
                const Json& attempt = attempts[i];
                tried.push_back(attempt.at("worker"));
                if (attempt.contains("connect")) continue;
                ListeningWorker& at = *listening.at(tried.back());
                if (!attempt.value("kept", false)) peers.push_back(at.accept());
                const bool refuses_next = i + 1 < attempts.size() &&
                                          attempts[i + 1].value("connect", "") == "refused" &&
                                          attempts[i + 1].at("worker") == tried.back();
                peers.back().wait_for_bytes();
                if (refuses_next) at.close();
                act(peers.back(), attempt);
            }
            until_finished.wait();
        });
        if (warming) {
            const Recorded& first = unary();
            to_end(first);
            EXPECT_TRUE(first.done);
        }
        std::string request = message_of("m");
        if (part) append_bytes_field(request, 7, std::string(std::size_t{4} << 20, 'r'));
        const Recorded& recorded = unary(std::move(request));
        to_end(recorded);
        error = recorded.error;
        for (const auto& [name, each] : listening) {
            EXPECT_FALSE(each->has_connection()) << "tried once more than it should be";
        }
        finished.set_value();
    }
    const std::string status(error ? code_name(error->code) : "OK");
    EXPECT_EQ(status, vector.at("status").get<std::string>()) << (error ? error->message : "");
    EXPECT_EQ(Json(tried), vector.at("tried"));
    for (const std::string& name : names) {
        workers.unregister_worker(name);
        std::filesystem::remove(directory / name);
    }
}

TEST_F(ExchangeVectors, AllThatCanBeMade) {
    int count = 0;
    for (const Json& vector : vectors::load("errors.json")) {
        if (vector.at("kind") != "exchange") continue;
        const Json& attempts = vector.at("attempts");
        if (!std::all_of(attempts.begin(), attempts.end(), possible)) continue;
        SCOPED_TRACE(vector.at("name").get<std::string>());
        run(vector);
        ++count;
    }
    EXPECT_GE(count, 30);
}

}  // namespace
}  // namespace anyserve
