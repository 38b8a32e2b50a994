#include "anyserve/http2_session.hpp"

#include <gtest/gtest.h>

#include <string>

#include "http2_wire.hpp"

namespace anyserve {
namespace {

using namespace std::chrono_literals;
using namespace wire;

class Identity final : public UnaryHandler {
public:
    using UnaryHandler::UnaryHandler;
    void on_request(Payload bytes) override { reply(std::move(bytes)); }
};

std::unique_ptr<CallHandler> identity(ServerCall& call) { return std::make_unique<Identity>(call); }

std::string call(std::uint32_t stream, std::string_view body = "x") {
    return open(stream) + frame(data, kEndStream, stream, message(body));
}

constexpr std::uint32_t kEnhanceYourCalm = 11;

std::uint32_t goaway_code(const Memory& memory) {
    return memory.goaways.empty() ? 0 : static_cast<unsigned char>(memory.goaways.back().second[3]);
}

TEST(Http2Session, ServesBytesCutAnywhere) {
    Memory memory(identity);
    const std::string bytes = std::string(kPreface) + frame(settings, 0, 0, {}) + call(1, "first") + call(3, "second");
    for (const char byte : bytes) memory.send({&byte, 1});
    EXPECT_EQ(memory.answers[1].data, message("first"));
    EXPECT_EQ(memory.answers[3].data, message("second"));
}

TEST(Http2Session, SendsLargeBodiesWhole) {
    for (const std::size_t size : {8'000u, 8'187u, 8'192u, 16'379u, 16'384u, 65'531u, 65'536u, 1'000'000u}) {
        Memory memory(identity);
        memory.begin();
        std::string body;
        for (std::size_t i = 0; body.size() < size; ++i) body += std::to_string(i);
        body.resize(size);
        std::string bytes = message(body);
        memory.send(open(1));
        for (std::size_t at = 0; at < bytes.size(); at += 16'384)
            memory.send(frame(data, 0, 1, bytes.substr(at, 16'384)));
        memory.send(frame(data, kEndStream, 1, {}));
        EXPECT_EQ(memory.answers[1].data, bytes) << size;
        EXPECT_EQ(memory.answers[1].status(), "0");
    }
}

TEST(Http2Session, SendsLargeBodiesThroughWindowsOfAFewBytes) {
    const std::string bytes = message(std::string(20'000, 'b'));
    for (std::uint32_t window = 1; window <= 6; ++window) {  // the prefix has five
        Memory memory(identity);
        memory.begin(window);
        memory.send(open(1) + frame(data, 0, 1, bytes.substr(0, 16'384)));
        memory.send(frame(data, kEndStream, 1, bytes.substr(16'384)));
        EXPECT_EQ(memory.answers[1].data, bytes.substr(0, window));
        for (int count = 2; count <= 7; ++count) {
            memory.send(frame(window_update, 0, 1, number(window)));
            EXPECT_EQ(memory.answers[1].data.size(), std::size_t{window} * static_cast<std::size_t>(count));
        }
        memory.send(frame(window_update, 0, 1, number(1u << 20)));
        EXPECT_EQ(memory.answers[1].data, bytes);
        EXPECT_EQ(memory.answers[1].status(), "0");
    }
}

TEST(Http2Session, LetsLargeAnswersTakeTurns) {
    Memory memory(identity);
    memory.begin(0);
    const std::string large(200'000, 'l');
    for (const std::uint32_t stream : {1u, 3u}) {
        memory.send(open(stream));
        const std::string bytes = message(large);
        for (std::size_t at = 0; at < bytes.size(); at += 16'384)
            memory.send(frame(data, 0, stream, bytes.substr(at, 16'384)));
        memory.send(frame(data, kEndStream, stream, {}));
    }
    OutputQueue output;
    memory.session.receive(frame(settings, 0, 0, setting(4, 1u << 30)), memory.now);
    memory.session.pump(output, memory.now);  // of which 256 KiB are made at once
    EXPECT_LT(output.size(), 300'000u);
    EXPECT_EQ(memory.session.streams(), 2u) << "neither is through yet";
}

TEST(Http2Session, ClosesWithoutAPreface) {
    Memory memory(identity);
    memory.send("GET / HTTP/1.1\r\n\r\n");
    EXPECT_TRUE(memory.session.done());
}

TEST(Http2Session, EndsAConnectionThatDoesNotBegin) {
    for (const std::string& begin :
         {std::string(), std::string(kPreface), std::string(kPreface) + frame(settings, 0, 0, {})}) {
        Memory memory(identity);
        memory.send(begin);
        memory.pass(19s);
        EXPECT_FALSE(memory.session.done());
        memory.pass(2s);
        EXPECT_TRUE(memory.session.done());
    }
}

TEST(Http2Session, EndsAConnectionWhoseHeaderBlockDoesNotEnd) {
    Memory memory(identity);
    memory.begin();
    memory.send(frame(headers, 0, 1, request()));
    memory.pass(59s);
    EXPECT_FALSE(memory.session.done());
    memory.pass(2s);
    EXPECT_TRUE(memory.session.done());
}

TEST(Http2Session, GoesOnAfterAMalformedHeaderBlock) {
    Memory memory(identity);
    memory.begin();
    memory.send(open(1, literal("X-Upper-Case", "1")));
    EXPECT_EQ(memory.answers[1].reset, 1u);
    memory.pass(61s);
    EXPECT_FALSE(memory.session.done());
    memory.send(call(3));
    EXPECT_EQ(memory.answers[3].status(), "0");
}

TEST(Http2Session, EndsAnIdleConnection) {
    Memory memory(identity);
    memory.begin();
    memory.pass(59min);
    memory.send(call(1));
    memory.pass(59min);
    EXPECT_FALSE(memory.session.done());
    memory.pass(2min);
    EXPECT_TRUE(memory.session.done());
    EXPECT_EQ(memory.goaways.size(), 1u);
    EXPECT_EQ(goaway_code(memory), 0u);
}

TEST(Http2Session, ResetsAnAnswerThatNobodyTakes) {
    Memory memory(identity);
    memory.begin(0);
    memory.send(call(1));
    memory.pass(299s);
    EXPECT_FALSE(memory.answers[1].reset);
    memory.pass(2s);
    EXPECT_EQ(memory.answers[1].reset, 8u);
    EXPECT_EQ(memory.server.totals->held_bytes.value(), 0u);
}

TEST(Http2Session, EndsFloods) {
    const std::map<std::string, std::string> floods{
        {"PING", frame(ping, 0, 0, "12345678")},
        {"SETTINGS", frame(settings, 0, 0, {})},
        {"empty DATA", frame(data, 0, 1, {})},
        {"PRIORITY", frame(priority, 0, 9, number(0) + "x")},
        {"WINDOW_UPDATE", frame(window_update, 0, 1, number(1))},
    };
    for (const auto& [name, flood] : floods) {
        Memory memory(identity);
        memory.begin();
        memory.send(open(1));
        for (int i = 0; i < 9'000; ++i) memory.send(flood);
        EXPECT_FALSE(memory.session.done()) << name;
        for (int i = 0; i < 2'000; ++i) memory.send(flood);
        EXPECT_TRUE(memory.session.done()) << name;
        ASSERT_FALSE(memory.goaways.empty());
        EXPECT_EQ(goaway_code(memory), kEnhanceYourCalm) << name;
        EXPECT_EQ(memory.goaways.back().second.ends_with("too_many_pings"), name == "PING");
    }
}

TEST(Http2Session, CountsNoFloodWhereWorkIsDone) {
    Memory memory(identity);
    memory.begin();
    for (std::uint32_t stream = 1; stream < 30'000; stream += 2) {
        memory.send(call(stream) + frame(window_update, 0, 0, number(1)) + frame(window_update, 0, 0, number(1)));
    }
    EXPECT_FALSE(memory.session.done());
    EXPECT_EQ(memory.answers[29'999].status(), "0");
}

TEST(Http2Session, EndsRapidResetAboveItsLimit) {
    ServerLimits limits;
    limits.resets = {100, 1};
    Memory memory(identity, limits);
    memory.begin();
    std::uint32_t stream = 1;
    for (; stream < 200; stream += 2) memory.send(open(stream) + frame(rst_stream, 0, stream, number(8)));
    EXPECT_FALSE(memory.session.done());
    for (; stream < 230; stream += 2) memory.send(open(stream) + frame(rst_stream, 0, stream, number(8)));
    EXPECT_TRUE(memory.session.done());
}

TEST(Http2Session, EndsMistakesThatMakeItResetStreams) {
    ServerLimits limits;
    limits.resets = {100, 1};
    Memory memory(identity, limits);
    memory.begin();
    for (std::uint32_t stream = 1; stream < 230; stream += 2) {
        memory.send(open(stream, literal("X-Upper-Case", "1")));
    }
    EXPECT_TRUE(memory.session.done());
    EXPECT_EQ(goaway_code(memory), kEnhanceYourCalm);
}

TEST(Http2Session, DrainsInTwoSteps) {
    Memory memory(identity);
    memory.begin();
    memory.send(open(1));
    memory.session.go_away(false);
    memory.pump();
    ASSERT_EQ(memory.goaways.size(), 1u);
    EXPECT_EQ(memory.goaways[0].first, 0x7FFFFFFFu) << "nothing is refused yet";
    memory.send(call(3));
    EXPECT_EQ(memory.answers[3].status(), "0") << "a call that was on its way";
    memory.session.go_away(true);
    memory.pump();
    EXPECT_EQ(memory.goaways[1].first, 3u);
    memory.send(call(5));
    EXPECT_TRUE(memory.answers[5].blocks.empty());
    EXPECT_FALSE(memory.session.done()) << "the first call is under way";
    memory.send(frame(data, kEndStream, 1, message("late")));
    EXPECT_EQ(memory.answers[1].status(), "0");
    EXPECT_TRUE(memory.session.done());
}

TEST(Http2Session, RefusesStreamsBeyondItsNumber) {
    ServerLimits limits;
    limits.max_streams = 2;
    Memory memory(identity, limits);
    memory.send(std::string(kPreface) + frame(settings, 0, 0, {}) + open(1) + open(3) + open(5));
    EXPECT_EQ(memory.answers[5].reset, 7u) << "a client that cannot know the number yet";
    memory.send(frame(settings, kAck, 0, {}) + frame(data, kEndStream, 1, message("x")));
    EXPECT_EQ(memory.answers[1].status(), "0");
    memory.send(open(7));
    EXPECT_FALSE(memory.session.done());
    memory.send(open(9));
    EXPECT_TRUE(memory.session.done()) << "a client that knows it";
}

}  // namespace
}  // namespace anyserve
