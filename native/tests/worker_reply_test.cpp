#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "failures.hpp"
#include "reply_state.hpp"
#include "worker_messages.hpp"

namespace anyserve {
namespace {

using testing::payload_of;
using testing::raw_of;
using testing::RequestText;
using testing::Response;

constexpr std::size_t kLimit = std::size_t{64} << 20;

ReplyFrame frame_of(Reply reply, bool in_stream = false, std::size_t limit = kLimit) {
    return reply_frame(ReplyState::of(std::move(reply)), in_stream, limit);
}

std::span<const std::byte> bytes_of(std::string_view text) {
    return std::as_bytes(std::span(text.data(), text.size()));
}

std::vector<iovec> parts_of(const ReplyFrame& frame) {
    std::vector<iovec> parts;
    frame.append_parts(0, 1024, parts);
    return parts;
}

TEST(WorkerReply, WritesElementsWhereTheyAreSentFrom) {
    Reply reply;
    const auto small = reply.add<std::int32_t>("small", {2});
    small[0] = 1;
    small[1] = -1;
    const auto large = reply.add<float>("large", {100, 100});
    std::ranges::fill(large, 0.5F);
    const ReplyFrame frame = frame_of(std::move(reply));
    const std::string payload = payload_of(frame);
    const auto read = read_message<Response>(payload);
    ASSERT_TRUE(read);
    ASSERT_EQ(read->outputs.size(), 2u);
    EXPECT_EQ(read->outputs[0].name, "small");
    EXPECT_EQ(read->outputs[0].datatype, "INT32");
    EXPECT_EQ(read->outputs[1].shape, (std::vector<std::int64_t>{100, 100}));
    EXPECT_EQ(read->raw[0].value, raw_of<std::int32_t>({1, -1}));
    EXPECT_EQ(read->raw[1].value, raw_of(std::vector<float>(10'000, 0.5F)));
    const auto parts = parts_of(frame);
    EXPECT_TRUE(std::ranges::any_of(parts, [&](const iovec& part) { return part.iov_base == large.data(); }));
    EXPECT_EQ(parts.size(), 2u) << "the small ones are copied together";
}

TEST(WorkerReply, CopiesBytesThatNobodyKeeps) {
    std::string passing(10'000, 'x');
    const auto kept = std::make_shared<const std::string>(10'000, 'y');
    Reply reply;
    reply.add("passing", "UINT8", {10'000}, bytes_of(passing));
    reply.add("kept", "UINT8", {10'000}, bytes_of(*kept), kept);
    passing.assign(10'000, 'z');
    auto frame = std::make_unique<ReplyFrame>(frame_of(std::move(reply)));
    const std::string payload = payload_of(*frame);
    EXPECT_EQ(read_message<Response>(payload)->raw[0].value, std::string(10'000, 'x'));
    const auto parts = parts_of(*frame);
    EXPECT_TRUE(std::ranges::any_of(parts, [&](const iovec& part) { return part.iov_base == kept->data(); }));
    EXPECT_EQ(kept.use_count(), 2);
    frame.reset();
    EXPECT_EQ(kept.use_count(), 1) << "let go of when the frame has gone";
}

TEST(WorkerReply, WritesTextsAndParameters) {
    const std::vector<std::string_view> texts{"é", ""};
    Reply reply;
    reply.add_texts("t", {2}, texts);
    reply.set_parameter("n", std::int64_t{5});
    reply.set_parameter("text", "x");
    const std::string payload = payload_of(frame_of(std::move(reply)));
    EXPECT_EQ(read_message<Response>(payload)->raw[0].value, std::string("\2\0\0\0\xc3\xa9\0\0\0\0", 10));
    MessageHead head;
    ASSERT_FALSE(scan_message(payload, kResponseFields, head));
    EXPECT_EQ(*head.parameter("n"), Parameter(std::int64_t{5}));
    EXPECT_EQ(*head.parameter("text"), Parameter(std::string_view("x")));
}

TEST(WorkerReply, RefusesContentsThatDoNotFit) {
    Reply reply;
    EXPECT_THROW(reply.add("x", "FP32", {2}, bytes_of("1234")), std::invalid_argument);
    EXPECT_THROW(reply.add("x", "FP32", {-1}, bytes_of("1234")), std::invalid_argument);
    EXPECT_THROW(static_cast<void>(reply.add<float>("x", {INT64_MAX})), std::invalid_argument);
    EXPECT_THROW(reply.add_texts("x", {2}, {}), std::invalid_argument);
    reply.add("x", "SOMETHING", {2}, bytes_of("1"));
    EXPECT_EQ(read_message<Response>(payload_of(frame_of(std::move(reply))))->outputs.size(), 1u)
        << "of refused ones nothing stays";
}

TEST(WorkerReply, KeepsToTheLimit) {
    const auto made = [](std::int64_t size) {
        Reply reply;
        static_cast<void>(reply.add<std::uint8_t>("x", {size}));
        return reply;
    };
    const std::size_t size = frame_of(made(10'000)).payload_size();
    EXPECT_EQ(frame_of(made(10'000), false, size).payload_size(), size);
    EXPECT_THROW(static_cast<void>(frame_of(made(10'000), false, size - 1)), std::length_error);
}

TEST(WorkerReply, IsWrappedInAStream) {
    EXPECT_EQ(payload_of(frame_of(Reply(), true)), std::string("\x12\0", 2)) << "`stream.reply.not-empty`";
    EXPECT_EQ(payload_of(frame_of(Reply())), "");
    Reply reply;
    std::ranges::fill(reply.add<std::uint8_t>("x", {5000}), std::uint8_t{1});
    const std::string payload = payload_of(frame_of(std::move(reply), true));
    StreamReply read;
    ASSERT_FALSE(scan_stream_reply(payload, read));
    ASSERT_EQ(read.parts.size(), 1u);
    EXPECT_EQ(read.parts[0].last, payload.size());
    EXPECT_EQ(read_message<Response>(std::string_view(payload).substr(read.parts[0].first))->raw[0].value.size(),
              5000u);
}

/// What an echo makes of a request.
std::string echoed(const std::string& bytes, std::size_t outside) {
    const auto exchange = testing::exchange_of(bytes);
    const std::map<std::string, std::string> capability;
    Cancellations cancellations;
    ReplyFrame frame;
    {
        RequestState state(exchange, capability, cancellations);
        state.read_tensors();
        const Request request(state);
        Reply reply(request);
        for (const Tensor& tensor : request.tensors()) reply.add(tensor);
        frame = frame_of(std::move(reply));
    }
    const std::string_view all = exchange->request()->bytes();
    std::size_t found = 0;
    for (const iovec& part : parts_of(frame)) {
        const auto* at = static_cast<const char*>(part.iov_base);
        if (at >= all.data() && at < all.data() + all.size()) found += part.iov_len;
    }
    EXPECT_EQ(found, outside) << "bytes sent from the request's memory";
    return payload_of(std::move(frame));
}

TEST(WorkerReply, SendsTheRequestsOwnBytesFromWhereTheyAre) {
    const std::string large(50'000, 'x');
    const std::string payload =
        echoed(RequestText("m").input({"a", "UINT8", {50'000}, {}}).input({"b", "UINT8", {1}, {}}).raw(large).raw("y"),
               50'000);
    const auto read = read_message<Response>(payload);
    EXPECT_EQ(read->outputs[0].shape, std::vector<std::int64_t>{50'000});
    EXPECT_EQ(read->raw[0].value, large);
    EXPECT_EQ(read->raw[1].value, "y");
}

TEST(WorkerReply, GivesTypedContentsBackAsTheyCame) {
    const std::string_view contents("\x1a\x01\x05");
    const std::string payload = echoed(RequestText("m").input({"a", "INT64", {1}, {contents}}), 0);
    const auto read = read_message<Response>(payload);
    EXPECT_EQ(read->outputs.at(0).contents.value, contents);
    EXPECT_TRUE(read->raw.empty());
}

TEST(Failures, HaveTheirCodeAndMessage) {
    const auto told = [](const auto& thrown) {
        const InferenceError error = as_inference_error(std::make_exception_ptr(thrown));
        return std::string(code_name(error.code)) + ": " + error.message;
    };
    EXPECT_EQ(told(InferenceError(Code::not_found, "x")), "NOT_FOUND: x");
    EXPECT_EQ(told(InferenceError(Code::ok, "x")), "INTERNAL: x");
    EXPECT_EQ(told(std::runtime_error("x")), "INTERNAL: x");
    EXPECT_EQ(told(5).substr(0, 8), "INTERNAL");
    const std::string payload = payload_of(failure_frame({Code::aborted, "bad \xff byte"}));
    MessageHead head;
    ASSERT_FALSE(scan_message(payload, kResponseFields, head));
    EXPECT_EQ(*head.parameter("anyserve_error_code"), Parameter(std::int64_t{10}));
    EXPECT_EQ(*head.parameter("anyserve_error_message"), Parameter(std::string_view("bad \\xff byte")));
}

TEST(Failures, InAStreamNameTheRequest) {
    MessageHead request;
    request.id = "7";
    const std::string payload = payload_of(stream_failure_frame(request, {Code::aborted, ""}));
    StreamReply read;
    ASSERT_FALSE(scan_stream_reply(payload, read));
    EXPECT_EQ(read.error_message, "ABORTED");
    EXPECT_EQ(read.response->id, "7");
    EXPECT_EQ(*read.response->parameter("anyserve_error_code"), Parameter(std::int64_t{10}));
}

}  // namespace
}  // namespace anyserve
