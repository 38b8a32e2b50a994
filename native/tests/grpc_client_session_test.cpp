#include "grpc_client_session.hpp"

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "http2_wire.hpp"

namespace anyserve {
namespace {

using namespace wire;

constexpr std::string_view kMethod = "/test.Service/Method";

/// A service that answers as the first word of the request says, and notes what becomes of its calls.
class Scripted final : public UnaryHandler {
public:
    Scripted(ServerCall& call, std::vector<std::string>& notes) : UnaryHandler(call), notes_(notes) {
        for (const auto& [name, value] : call.facts().metadata) notes_.push_back(name + "=" + value);
    }
    void on_request(Payload request) override {
        const std::string message = std::move(request).take();
        if (message == "fail") return call().finish(Code::not_found, "größe: 100%");
        if (message == "long") return reply(std::string(GrpcClientSession::kMaxReplyBytes + 1, 'x'));
        if (message != "wait") reply(message);
    }
    void on_cancel() override { notes_.emplace_back("cancelled"); }

private:
    std::vector<std::string>& notes_;
};

/// A client and our own server, joined in memory.
class GrpcClientSessionTest : public ::testing::Test {
protected:
    std::optional<CallResult>& call(std::string_view request, const Metadata& metadata = {}) {
        auto& result = results.emplace_back(std::make_unique<std::optional<CallResult>>());
        numbers.push_back(client.call(kMethod, metadata, request, [to = result.get()](CallResult ended) {
            EXPECT_FALSE(*to) << "told twice";
            *to = std::move(ended);
        }));
        return *result;
    }
    /// Carries bytes to and fro until there are none.
    void exchange() {
        std::string to_server;
        for (client.pump(to_server); !to_server.empty(); client.pump(to_server)) {
            server.session.receive(std::exchange(to_server, {}), server.now);
            OutputQueue output;
            do {
                output.pop(output.size());
                server.session.pump(output, server.now);
                std::array<iovec, 64> parts{};
                for (std::size_t i = 0, count = output.gather(parts); i < count; ++i) {
                    client.receive({static_cast<const char*>(parts[i].iov_base), parts[i].iov_len});
                }
            } while (!output.empty());
        }
    }

    std::vector<std::string> notes;
    Memory server{[this](ServerCall& call) { return std::make_unique<Scripted>(call, notes); }};
    GrpcClientSession client{"agent:9000"};
    std::vector<std::unique_ptr<std::optional<CallResult>>> results;
    std::vector<std::int32_t> numbers;
};

TEST_F(GrpcClientSessionTest, HasACallAnswered) {
    const auto& result = call("hello", {{"authorization", "Bearer x"}});
    exchange();
    ASSERT_TRUE(result);
    EXPECT_EQ(result->code, Code::ok);
    EXPECT_EQ(result->reply, "hello");
    EXPECT_EQ(notes, std::vector<std::string>{"authorization=Bearer x"});
}

TEST_F(GrpcClientSessionTest, TellsStatusAndMessageOfAFailure) {
    const auto& result = call("fail");
    exchange();
    ASSERT_TRUE(result);
    EXPECT_EQ(result->code, Code::not_found);
    EXPECT_EQ(result->message, "größe: 100%");
}

TEST_F(GrpcClientSessionTest, HasSeveralCallsUnderWay) {
    const auto& first = call("wait");
    const auto& second = call("second");
    const auto& empty = call("");
    exchange();
    EXPECT_FALSE(first);
    EXPECT_EQ(second->reply, "second");
    EXPECT_EQ(empty->code, Code::ok);
    EXPECT_EQ(empty->reply, "");
}

TEST_F(GrpcClientSessionTest, CancelsACall) {
    const auto& result = call("wait");
    exchange();
    client.cancel(numbers.at(0));
    exchange();
    EXPECT_FALSE(result);
    EXPECT_EQ(notes, std::vector<std::string>{"cancelled"});
    const auto& next = call("next");
    exchange();
    EXPECT_EQ(next->reply, "next");
}

TEST_F(GrpcClientSessionTest, CutsOffAnAnswerThatIsTooLong) {
    const auto& result = call("long");
    exchange();
    ASSERT_TRUE(result);
    EXPECT_EQ(result->code, Code::resource_exhausted);
}

TEST_F(GrpcClientSessionTest, EndsItsCallsWithTheConnection) {
    const auto& result = call("wait");
    client.close("the agent has gone");
    ASSERT_TRUE(result);
    EXPECT_EQ(result->code, Code::unavailable);
    EXPECT_EQ(result->message, "the agent has gone");
}

TEST_F(GrpcClientSessionTest, TakesNoCallsAfterAGoaway) {
    call("first");
    exchange();
    EXPECT_TRUE(client.takes_calls());
    EXPECT_FALSE(client.over());
    client.receive(frame(goaway, 0, 0, number(1) + number(0)));
    EXPECT_FALSE(client.takes_calls());
    EXPECT_TRUE(client.over()) << "nothing is under way";
}

TEST_F(GrpcClientSessionTest, KnowsWhatIsNotHttp2) {
    client.receive("HTTP/1.1 400 Bad Request\r\n\r\n");
    std::string output;
    client.pump(output);
    EXPECT_TRUE(client.over());
}

/// What a server's frames on the first stream make of a call.
CallResult answered(std::string_view frames) {
    GrpcClientSession client("agent:9000");
    CallResult result{Code::data_loss, "no end", {}};
    client.call(kMethod, {}, "", [&](CallResult ended) { result = std::move(ended); });
    std::string request;
    client.pump(request);
    client.receive(frame(settings, 0, 0, {}) + std::string(frames));
    return result;
}

std::string head(std::string_view fields, unsigned flags = 0) { return frame(headers, kEndHeaders | flags, 1, fields); }

TEST(GrpcAnswer, IsJudgedByItsStatus) {
    const std::string begin = head(literal(":status", "200") + literal("content-type", "application/grpc"));
    const auto end = [](std::string_view status) { return head(literal("grpc-status", status), kEndStream); };
    EXPECT_EQ(answered(begin + frame(data, 0, 1, message("x")) + end("0")).reply, "x");
    EXPECT_EQ(answered(begin + frame(data, 0, 1, message("x")) + end("5")).code, Code::not_found);
    EXPECT_EQ(answered(begin + frame(data, 0, 1, message("x")) + end("17")).code, Code::unknown);
    EXPECT_EQ(answered(begin + frame(data, 0, 1, message("x")) + end("x")).code, Code::unknown);
    EXPECT_EQ(answered(begin + frame(data, kEndStream, 1, message("x"))).code, Code::unknown);
    EXPECT_EQ(answered(begin + end("0")).code, Code::internal) << "no message";
    EXPECT_EQ(answered(begin + frame(data, 0, 1, message("x", 2)) + end("0")).code, Code::internal) << "a cut one";
    EXPECT_EQ(answered(begin + frame(data, 0, 1, message("x") + message("y")) + end("0")).code, Code::internal);
    EXPECT_EQ(answered(head(literal(":status", "404"), kEndStream)).code, Code::unavailable);
    EXPECT_EQ(answered(begin + frame(rst_stream, 0, 1, number(7))).code, Code::unavailable);
    EXPECT_EQ(answered(begin).message, "no end");
}

}  // namespace
}  // namespace anyserve
