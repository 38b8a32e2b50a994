#include "anyserve/grpc_protocol.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "http2_wire.hpp"

namespace anyserve {
namespace {

using namespace std::chrono_literals;
using namespace wire;

/// What happened to a call, and the call.
struct Log {
    ServerCall* call = nullptr;
    std::vector<std::string> events;
    std::function<void(std::string)> on_message = [](const std::string&) {};
    std::function<void()> on_half_close = [] {};
};

class Recorder final : public CallHandler {
public:
    explicit Recorder(Log& log) : log_(log) {}
    ~Recorder() override { log_.events.emplace_back("destroyed"); }
    void on_message(Payload message) override {
        std::string bytes = std::move(message).take();
        log_.events.push_back("message " + bytes.substr(0, 20));
        log_.on_message(std::move(bytes));
    }
    void on_half_close() override {
        log_.events.emplace_back("half-close");
        log_.on_half_close();
    }
    void on_cancel() override { log_.events.emplace_back("cancel"); }

private:
    Log& log_;
};

Router recording(Log& log) {
    return [&log](ServerCall& call) -> std::unique_ptr<CallHandler> {
        log.call = &call;
        return std::make_unique<Recorder>(log);
    };
}

class Identity final : public UnaryHandler {
public:
    using UnaryHandler::UnaryHandler;
    void on_request(Payload bytes) override { reply(std::move(bytes)); }
};

std::unique_ptr<CallHandler> identity(ServerCall& call) { return std::make_unique<Identity>(call); }

using Events = std::vector<std::string>;

TEST(UnaryHandler, AnswersOneMessage) {
    Memory memory(identity);
    memory.begin();
    memory.send(open(1) + frame(data, kEndStream, 1, message("hello")));
    const Answer& answer = memory.answers[1];
    EXPECT_EQ(answer.data, message("hello"));
    EXPECT_EQ(answer.status(), "0");
    EXPECT_EQ(answer.blocks.size(), 2u);
    EXPECT_TRUE(answer.ended);
    EXPECT_FALSE(answer.reset) << "the request had ended";
    EXPECT_EQ(memory.server.totals->calls.value(), 0u);
    EXPECT_EQ(memory.server.totals->held_bytes.value(), 0u);
}

TEST(UnaryHandler, RefusesAnythingElse) {
    const std::map<std::string, std::string> bodies{{"", "12"},
                                                    {message("a") + message("b"), "12"},
                                                    {message("cut").substr(0, 3), "13"},
                                                    {message("cut", 9), "13"}};
    for (const auto& [body, status] : bodies) {
        Memory memory(identity);
        memory.begin();
        memory.send(open(1) + frame(data, kEndStream, 1, body));
        EXPECT_EQ(memory.answers[1].status(), status);
        EXPECT_EQ(memory.answers[1].blocks.size(), 1u) << "an error is one header block";
        EXPECT_EQ(memory.server.totals->held_bytes.value(), 0u);
    }
}

TEST(GrpcCall, RefusesByTheHeaders) {
    Memory memory(identity);
    memory.begin();
    const std::string fields = literal(":method", "POST") + literal(":scheme", "http") + literal(":path", kPath) +
                               literal(":authority", "test");
    memory.send(frame(headers, kEndHeaders, 1, fields));
    EXPECT_EQ(memory.answers[1].field(":status"), "415");
    memory.send(open(3, literal("grpc-timeout", "1x")));
    EXPECT_EQ(memory.answers[3].status(), "13");
    EXPECT_EQ(memory.answers[3].reset, 0u) << "an early answer is followed by RST_STREAM with NO_ERROR";
}

TEST(GrpcCall, RefusesMetadataAboveTheLimitAlone) {
    ServerLimits limits;
    limits.max_header_list_bytes = 1000;
    Memory memory(identity, limits);
    memory.begin();
    std::string more;
    for (int i = 0; i < 10; ++i) more += literal("x-note", std::string(100, 'v'));
    memory.send(open(1, more) + open(3) + frame(data, kEndStream, 3, message("x")));
    EXPECT_EQ(memory.answers[1].status(), "8");
    EXPECT_EQ(memory.answers[3].status(), "0");
}

TEST(GrpcCall, TellsTheServiceWhatTheHeadersSay) {
    Log log;
    Memory memory(recording(log));
    memory.begin();
    memory.send(open(1, literal("x-note", "1") + literal("x-data-bin", "YQ,Yg==") + literal("grpc-timeout", "10S") +
                            literal("grpc-encoding", "gzip") + literal("x-note", "2")));
    ASSERT_NE(log.call, nullptr);
    const CallFacts& facts = log.call->facts();
    EXPECT_EQ(facts.path, kPath);
    EXPECT_EQ(facts.peer, "unix:");
    EXPECT_EQ(facts.metadata, (Metadata{{"x-note", "1"}, {"x-data-bin", "a"}, {"x-data-bin", "b"}, {"x-note", "2"}}));
    EXPECT_EQ(facts.deadline, memory.loop.now() + 10s);
}

TEST(GrpcCall, ReadsNoMoreThanIsAskedFor) {
    Log log;
    Memory memory(recording(log));
    memory.begin();
    memory.send(open(1) + frame(data, kEndStream, 1, message("one") + message("two") + message("three")));
    EXPECT_EQ(log.events, Events{});
    log.call->read();
    EXPECT_EQ(log.events, (Events{"message one"}));
    log.on_message = [&](const std::string&) { log.call->read(); };
    log.call->read();
    EXPECT_EQ(log.events, (Events{"message one", "message two", "message three", "half-close"}));
    log.call->finish(Code::ok, "");
    memory.pump();
    EXPECT_EQ(log.events.back(), "destroyed");
    EXPECT_EQ(memory.server.totals->held_bytes.value(), 0u);
}

TEST(GrpcCall, KeepsTheWindowOfWhatIsNotRead) {
    Log log;
    ServerLimits limits;
    limits.stream_window = 100'000;
    Memory memory(recording(log), limits);
    memory.begin();
    memory.send(open(1));
    for (int i = 0; i < 10; ++i) memory.send(frame(data, 0, 1, message(std::string(9'000, 'x'))));
    EXPECT_EQ(memory.updates[1], 0u) << "nothing is read";
    EXPECT_EQ(memory.server.totals->held_bytes.value(), 90'050u);
    for (int i = 0; i < 10; ++i) log.call->read();
    memory.pump();
    EXPECT_GE(memory.updates[1], 50'000u) << "it is given back as it is read";
    EXPECT_EQ(memory.server.totals->held_bytes.value(), 9'000u) << "the last message";
}

TEST(GrpcCall, TellsWhenAMessageIsTaken) {
    Log log;
    Memory memory(recording(log));
    memory.begin(0);
    memory.send(open(1));
    int taken = 0;
    log.call->send(std::string(10, 'a'), [&] { ++taken; });
    log.call->send(std::string(100'000, 'b'), [&] { ++taken; });
    memory.pump();
    EXPECT_EQ(memory.answers[1].blocks.size(), 1u) << "the headers need no window";
    EXPECT_EQ(taken, 0);
    memory.send(frame(window_update, 0, 1, number(14)));
    EXPECT_EQ(taken, 0);
    memory.send(frame(window_update, 0, 1, number(1)));
    EXPECT_EQ(taken, 1);
    memory.send(frame(window_update, 0, 1, number(50'000)));
    EXPECT_EQ(taken, 1);
    EXPECT_EQ(memory.server.totals->held_bytes.value(), 100'000u);
    memory.send(frame(window_update, 0, 1, number(50'005)));
    EXPECT_EQ(taken, 2);
    EXPECT_EQ(memory.server.totals->held_bytes.value(), 0u);
    EXPECT_EQ(memory.answers[1].data, message(std::string(10, 'a')) + message(std::string(100'000, 'b')));
    log.call->finish(Code::ok, "");
    memory.pump();
    EXPECT_EQ(memory.answers[1].status(), "0");
}

TEST(GrpcCall, MaySendFromWithinTaken) {
    Log log;
    Memory memory(recording(log));
    memory.begin();
    memory.send(open(1));
    int left = 1000;
    std::function<void()> next = [&] {
        if (left-- > 0) return log.call->send("message", next);
        log.call->finish(Code::ok, "");
    };
    next();
    while (left >= 0) memory.pump();
    memory.pump();
    EXPECT_EQ(memory.answers[1].data.size(), 12'000u);
    EXPECT_EQ(memory.answers[1].status(), "0");
}

TEST(GrpcCall, IsCancelledByReset) {
    Log log;
    Memory memory(recording(log));
    memory.begin();
    memory.send(open(1) + frame(data, 0, 1, message("x", 100)));
    log.call->read();
    memory.send(frame(rst_stream, 0, 1, number(8)));
    EXPECT_EQ(log.events, (Events{"cancel", "destroyed"}));
    EXPECT_EQ(memory.server.totals->calls.value(), 0u);
    EXPECT_EQ(memory.server.totals->held_bytes.value(), 0u);
}

TEST(GrpcCall, IsCancelledWithItsConnection) {
    Log log;
    Memory memory(recording(log));
    memory.begin();
    memory.send(open(1));
    memory.session.close();
    memory.connection.ended.clear();
    EXPECT_EQ(log.events, (Events{"cancel", "destroyed"}));
    EXPECT_EQ(memory.server.totals->calls.value(), 0u);
}

TEST(GrpcCall, EndsAtItsDeadline) {
    Log log;
    Memory memory(recording(log));
    memory.begin(0);
    memory.send(open(1, literal("grpc-timeout", "20m")) + open(3, literal("grpc-timeout", "20m")));
    log.call->send("waits for a window", nullptr);
    memory.pump();
    memory.run(60ms);
    EXPECT_EQ(memory.answers[1].status(), "4");
    EXPECT_EQ(memory.answers[3].status(), "4") << "the message that waited is taken back";
    EXPECT_EQ(memory.answers[3].reset, 0u);
    EXPECT_EQ(log.events, (Events{"cancel", "cancel", "destroyed", "destroyed"}));
    EXPECT_EQ(memory.server.totals->held_bytes.value(), 0u);
}

TEST(GrpcCall, IsResetAtItsDeadlineInsideAMessage) {
    for (const std::size_t size : {1'000u, 100'000u}) {
        Log log;
        Memory memory(recording(log));
        memory.begin(500);
        memory.send(open(1, literal("grpc-timeout", "20m")));
        log.call->send(std::string(size, 'x'), nullptr);
        memory.pump();
        memory.run(60ms);
        EXPECT_EQ(memory.answers[1].data.size(), 500u);
        EXPECT_EQ(memory.answers[1].reset, 8u);
        EXPECT_EQ(memory.server.totals->held_bytes.value(), 0u);
    }
}

TEST(GrpcCall, IsRefusedBeyondTheBudget) {
    ServerLimits limits;
    limits.max_connection_held_bytes = 1000;
    Memory memory(identity, limits);
    memory.begin();
    memory.send(open(1) + frame(data, 0, 1, message("x", 900)) + open(3) + frame(data, 0, 3, message("x", 101)));
    EXPECT_EQ(memory.answers[3].status(), "8");
    EXPECT_TRUE(memory.answers[1].blocks.empty());
    memory.send(frame(rst_stream, 0, 1, number(8)) + open(5) + frame(data, kEndStream, 5, message("y")));
    EXPECT_EQ(memory.answers[5].status(), "0");
}

TEST(GrpcCall, IsRefusedBeyondTheNumberOfCalls) {
    Log log;
    ServerLimits limits;
    limits.max_calls = 2;
    Memory memory(recording(log), limits);
    memory.begin();
    memory.send(open(1) + open(3) + open(5));
    EXPECT_EQ(memory.answers[5].status(), "8");
    log.call->finish(Code::ok, "");
    memory.send(open(7));
    EXPECT_TRUE(memory.answers[7].blocks.empty()) << "it is open";
}

TEST(GrpcCall, IsResetWhenItsMessageDoesNotGoOn) {
    Memory memory(identity);
    memory.begin();
    memory.send(open(1) + frame(data, 0, 1, message("x", 100)) + open(3));
    memory.pass(61s);
    EXPECT_EQ(memory.answers[1].reset, 8u);
    EXPECT_FALSE(memory.answers[3].reset) << "a call may wait before its message";
}

TEST(GrpcCall, RefusesAMessageAtItsPrefixAndGoesOn) {
    Memory memory(identity);
    memory.begin();
    memory.send(open(1) + frame(data, 0, 1, message("x", (64u << 20) + 1)));
    EXPECT_EQ(memory.answers[1].status(), "8");
    EXPECT_EQ(memory.answers[1].reset, 0u);
    memory.send(frame(data, kEndStream, 1, "late") + open(3) + frame(data, kEndStream, 3, message("y")));
    EXPECT_EQ(memory.answers[3].status(), "0");
}

}  // namespace
}  // namespace anyserve
