#include "anyserve/message_fields.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "anyserve/kserve_messages.hpp"
#include "anyserve/management_messages.hpp"
#include "anyserve/standard_messages.hpp"

namespace anyserve {
namespace {

using namespace std::string_literals;
using messages::RegisterModelRequest;
using messages::ServerReflectionRequest;

/// Field 1 (`worker_id`) and field 2 (`model_names`) of a HeartbeatRequest; its other fields are unknown.
std::optional<messages::HeartbeatRequest> heartbeat(std::string_view bytes) {
    return read_message<messages::HeartbeatRequest>(bytes);
}

TEST(Messages, AreReadAsProtobufWritesThem) {
    // Written by protobuf of a registration with a value in each field.
    const std::string bytes =
        "\x0a\x01m\x12\x01"
        "2\x1a\x09unix:///s\x22\x01w\x2a\x0c\x0a\x04type\x12\x04"
        "chat\x30\x01\x38\x07"
        "\x40\xfb\xff\xff\xff\xff\xff\xff\xff\xff\x01\x4a\x16\x0a\x01"
        "a\x12\x04"
        "FP32\x1a\x0b"
        "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x03\x52\x00\x5a\x04onnx"s;
    const auto read = read_message<RegisterModelRequest>(bytes);
    ASSERT_TRUE(read);
    EXPECT_EQ(read->model_name, "m");
    EXPECT_EQ(read->model_version, "2");
    EXPECT_EQ(read->worker_address, "unix:///s");
    EXPECT_EQ(read->worker_id, "w");
    EXPECT_EQ(read->capability, (messages::CapabilityMap{{"type", "chat"}}));
    EXPECT_TRUE(read->stream);
    EXPECT_EQ(read->max_concurrency, 7u);
    EXPECT_EQ(read->priority, -5);
    ASSERT_EQ(read->inputs.size(), 1u);
    EXPECT_EQ(read->inputs[0].shape, (std::vector<std::int64_t>{-1, 3}));
    ASSERT_EQ(read->outputs.size(), 1u) << "an empty message is there";
    EXPECT_EQ(read->platform, "onnx");
    EXPECT_EQ(write_message(*read), bytes);
}

TEST(Messages, AreReadOrRefusedWhereverTheyAreCut) {
    RegisterModelRequest request;
    request.model_name = "name";
    request.capability = {{"k", "v"}, {"type", "chat"}};
    request.max_concurrency = 300;
    request.inputs = {{"a", "FP32", {1, 300, -1}}};
    const std::string bytes = write_message(request);
    std::size_t whole = 0;
    for (std::size_t size = 0; size <= bytes.size(); ++size) {
        // In memory of its own, so that sanitizers see a byte too many.
        const std::vector<char> cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
        whole += read_message<RegisterModelRequest>({cut.data(), cut.size()}).has_value();
    }
    EXPECT_EQ(whole, 6u) << "between its five fields, before and behind them";
}

TEST(Messages, TakeTheLastOfFieldsThatComeAgain) {
    const auto read = heartbeat(
        "\x0a\x01"
        "a\x12\x01x\x0a\x01"
        "b\x12\x01y");
    ASSERT_TRUE(read);
    EXPECT_EQ(read->worker_id, "b");
    EXPECT_EQ(read->model_names, (std::vector<std::string_view>{"x", "y"}));
    const auto map = read_message<RegisterModelRequest>(
        "\x2a\x06\x0a\x01k\x12\x01"
        "1\x2a\x06\x0a\x01k\x12\x01"
        "2\x2a\x03\x0a\x01l\x2a\x06\x12\x01"
        "3\x0a\x01m");
    ASSERT_TRUE(map);
    EXPECT_EQ(map->capability, (messages::CapabilityMap{{"k", "2"}, {"l", ""}, {"m", "3"}}));
}

TEST(Messages, MergeMessagesThatComeAgain) {
    const auto read = read_message<messages::Event>("\x2a\x03\x0a\x01m\x2a\x02\x20\x01");
    ASSERT_TRUE(read && read->registration);
    EXPECT_EQ(read->registration->model_name, "m");
    EXPECT_TRUE(read->registration->stream);
}

TEST(Messages, TakeTheLastChoiceOfAOneof) {
    const auto nothing = read_message<ServerReflectionRequest>("");
    ASSERT_TRUE(nothing);
    EXPECT_EQ(nothing->message_request.index(), ServerReflectionRequest::kNothing);
    const auto read = read_message<ServerReflectionRequest>(
        "\x1a\x01"
        "f\x22\x01s\x3a\x00"s);
    ASSERT_TRUE(read);
    EXPECT_EQ(read->message_request.index(), ServerReflectionRequest::kListServices) << "also if it is empty";
    EXPECT_EQ(write_message(*read), "\x3a\x00"s);
}

TEST(Messages, TakeNumbersPackedAndNot) {
    const auto read = read_message<messages::TensorMetadata>("\x18\x01\x1a\x02\x02\x03\x18\x04\x1a\x00"s);
    ASSERT_TRUE(read);
    EXPECT_EQ(read->shape, (std::vector<std::int64_t>{1, 2, 3, 4}));
    EXPECT_FALSE(read_message<messages::TensorMetadata>("\x1a\x02\x02\x83")) << "cut inside a number";
}

TEST(Messages, CutNumbersToTheirField) {
    // 2^32 + 5, and a bool in two bytes of which the first is 0.
    const auto read =
        read_message<RegisterModelRequest>("\x38\x85\x80\x80\x80\x10\x40\x85\x80\x80\x80\x10\x30\x80\x01");
    ASSERT_TRUE(read);
    EXPECT_EQ(read->max_concurrency, 5u);
    EXPECT_EQ(read->priority, 5);
    EXPECT_TRUE(read->stream);
    const auto zero = read_message<RegisterModelRequest>("\x30\x80\x00"s);
    ASSERT_TRUE(zero);
    EXPECT_FALSE(zero->stream);
}

TEST(Messages, SkipWhatTheyDoNotKnow) {
    const std::vector<std::string> unknown{
        "\x98\x06\x05"s,  // a varint
        "\x99\x06"
        "12345678"s,  // 64 bits
        "\x9d\x06"
        "1234"s,                       // 32 bits
        "\x9a\x06\x02\xff\xff"s,       // bytes, which need not be UTF-8
        "\x9b\x06\x08\x01\x9c\x06"s,   // a group
        "\x9b\x06\x0b\x0c\x9c\x06"s,   // a group in a group
        "\xc2\xa3\x09\x01x"s,          // a number that protobuf keeps for itself
        "\xfa\xff\xff\xff\x0f\x01x"s,  // the greatest number
        "\x08\x01\x09"
        "12345678\x0d"
        "1234\x10\x01"s,  // ours, in other wire types
        "\x0b\x0c"s,
    };
    for (const std::string& bytes : unknown) {
        const std::string all =
            "\x0a\x01"
            "a" +
            bytes + "\x12\x01x";
        const auto read = heartbeat(all);
        ASSERT_TRUE(read) << ::testing::PrintToString(bytes);
        EXPECT_EQ(read->worker_id, "a");
        EXPECT_EQ(read->model_names.size(), 1u);
    }
}

TEST(Messages, AreRefusedIfTheyAreMalformed) {
    const std::vector<std::string> malformed{
        "\x0a"s,  // no length
        "\x0a\x02"
        "a"s,                                             // too short
        "\x0a\x01\xff"s,                                  // no UTF-8
        "\x12\x03\xed\xa0\x80"s,                          // a surrogate
        "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"s,  // a length of 2^64 - 1
        "\x0a\x81\x80\x80\x80\x10"
        "a"s,  // of 2^32 + 1, which is no 1
        "\x0a\x81\x80\x80\x80\x80\x00"
        "a"s,                                                 // of 1, in six bytes
        "\x00"s,                                              // field 0
        "\x02\x00"s,                                          // field 0
        "\x8a\x80\x80\x80\x10\x00"s,                          // a field number of 2^29 + 1
        "\x8a\x80\x80\x80\x80\x00\x00"s,                      // a tag in six bytes
        "\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"s,  // a varint of eleven bytes
        "\x18\x80"s,                                          // a varint that is cut
        "\x19"
        "1234567"s,  // 64 bits that are cut
        "\x1d"
        "123"s,           // 32 bits that are cut
        "\x1e"s,          // wire type 6
        "\x1f"s,          // wire type 7
        "\x0c"s,          // the end of no group
        "\x1b\x08\x01"s,  // a group without an end
        "\x1b\x24"s,      // the end of another group
        "\x1b\x0a\x05"
        "a\x1c"s,                                             // a group with something malformed
        std::string(101, '\x1b') + std::string(101, '\x1c'),  // deeper than protobuf goes
    };
    for (const std::string& bytes : malformed) {
        EXPECT_FALSE(heartbeat(bytes)) << ::testing::PrintToString(bytes);
        EXPECT_FALSE(
            heartbeat("\x0a\x01"
                      "a" +
                      bytes))
            << ::testing::PrintToString(bytes);
    }
    EXPECT_TRUE(heartbeat(std::string(99, '\x1b') + std::string(99, '\x1c')));
    EXPECT_FALSE(read_message<messages::ListWorkersRequest>("\x0a\x05")) << "a message without fields is checked too";
    EXPECT_FALSE(read_message<RegisterModelRequest>("\x2a\x03\x0a\x01\xff")) << "the key of a map";
    EXPECT_FALSE(read_message<RegisterModelRequest>("\x4a\x03\x12\x01\xff")) << "a text in a message";
    EXPECT_FALSE(read_message<messages::RepositoryModelLoadRequest>("\x1a\x08\x0a\x01k\x12\x03\x1a\x01\xff"));
    EXPECT_TRUE(read_message<messages::RepositoryModelLoadRequest>("\x1a\x08\x0a\x01k\x12\x03\x22\x01\xff"));
}

TEST(Messages, LeaveOutDefaults) {
    EXPECT_EQ(write_message(messages::HeartbeatResponse{false}), "");
    EXPECT_EQ(write_message(messages::HeartbeatResponse{true}), "\x08\x01");
    EXPECT_EQ(write_message(messages::UnregisterModelResponse{false, "why"}), "\x12\x03why");
    EXPECT_EQ(write_message(messages::ModelConfigResponse{}), "\x0a\x03\x9a\x01\x00"s) << "but not messages";
    EXPECT_EQ(write_message(messages::HealthListResponse{{{"", {messages::ServingStatus::serving}}}}),
              "\x0a\x06\x0a\x00\x12\x02\x08\x01"s)
        << "nor the parts of a map's entry";
    EXPECT_EQ(write_message(messages::ServerReflectionResponse{"", {""}, messages::ListServiceResponse{}}),
              "\x12\x00\x32\x00"s)
        << "nor a choice";
}

}  // namespace
}  // namespace anyserve
