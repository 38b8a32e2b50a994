#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "request_state.hpp"
#include "worker_messages.hpp"

namespace anyserve {
namespace {

using testing::raw_of;
using testing::RequestText;

/// A request as a handler gets it.
class Received {
public:
    explicit Received(std::string bytes)
        : exchange_(testing::exchange_of(std::move(bytes))), state_(exchange_, capability_, cancellations_) {
        EXPECT_FALSE(scan_message(exchange_->request()->bytes(), kRequestFields, exchange_->notes.head));
        exchange_->notes.arrived = EventLoop::Clock::time_point(std::chrono::seconds(100));
        state_.read_tensors();
    }
    const Request* operator->() const { return &request_; }
    RequestState& state() { return state_; }

private:
    const std::map<std::string, std::string> capability_{{"type", "echo"}};
    Cancellations cancellations_;
    WorkerExchangePtr exchange_;
    RequestState state_;
    Request request_{state_};
};

/// Why a request is refused: what comes of it, or of looking at it.
std::string refusal(const std::string& bytes, const std::function<void(const Request&)>& look = nullptr) {
    try {
        const Received received(bytes);
        if (look) look(*received.operator->());
    } catch (const InferenceError& error) {
        EXPECT_EQ(error.code, Code::invalid_argument);
        return error.message;
    }
    return "none";
}

TEST(WorkerRequest, TellsWhatTheClientSaid) {
    const Received request(RequestText("m")
                               .id("7")
                               .parameter("n", std::int64_t{3})
                               .parameter("text", std::string_view("é"))
                               .parameter("yes", true)
                               .parameter("half", 0.5)
                               .parameter("anyserve_capability", std::string_view("type=echo"))
                               .parameter("anyserve_timeout_ms", std::int64_t{1500})
                               .parameter("traceparent", std::string_view("00-1")));
    EXPECT_EQ(request->id(), "7");
    EXPECT_EQ(request->model_name(), "m");
    EXPECT_EQ(request->model_version(), "");
    EXPECT_EQ(request->capability().at("type"), "echo");
    EXPECT_EQ(request->traceparent(), "00-1");
    EXPECT_EQ(request->parameter("n", 0), 3);
    EXPECT_EQ(request->parameter("text", "otherwise"), "é");
    EXPECT_TRUE(request->parameter("yes", false));
    EXPECT_EQ(request->parameter("half", 1.0), 0.5);
    EXPECT_EQ(request->parameter("none", 9), 9);
    EXPECT_EQ(request->parameter("anyserve_capability"), nullptr) << "is the agent's";
    EXPECT_EQ(request->deadline()->time_since_epoch(), std::chrono::milliseconds(101'500));
    EXPECT_FALSE(request->cancelled());
    EXPECT_FALSE(request->cancellation().stop_requested());
    EXPECT_EQ(refusal(RequestText("m").parameter("n", std::string_view("x")),
                      [](const Request& each) { static_cast<void>(each.parameter("n", 0)); }),
              "parameter 'n' takes an int64");
}

TEST(WorkerRequest, HasNoDeadlineWhereNoneIsTold) {
    EXPECT_FALSE(Received(RequestText("m"))->deadline());
    EXPECT_TRUE(Received(RequestText("m").parameter("anyserve_timeout_ms", INT64_MAX))->deadline());
}

TEST(WorkerRequest, GivesElementsOnTheirBoundaryWithoutACopyWhereTheyLieThere) {
    const std::vector<float> numbers{1.5F, -2.0F, 3.0F};
    std::size_t copied = 0;
    for (std::size_t shift = 0; shift < 4; ++shift) {
        Received request(RequestText(std::string(shift + 1, 'm')).input({"x", "FP32", {3}, {}}).raw(raw_of(numbers)));
        const Tensor& tensor = request->tensor("x");
        const auto values = tensor.values<float>();
        EXPECT_EQ(std::vector<float>(values.begin(), values.end()), numbers);
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(values.data()) % alignof(float), 0u);
        EXPECT_EQ(tensor.values<float>().data(), values.data()) << "copied once";
        EXPECT_TRUE(request.state().owns(tensor.bytes()));
        copied += request.state().owns(std::as_bytes(values)) ? 0 : 1;
    }
    EXPECT_EQ(copied, 3u) << "one of four lies on its boundary";
}

TEST(WorkerRequest, HasTensorsInTheirOrderByName) {
    const Received request(RequestText("m")
                               .input({"a", "INT8", {2, 1}, {}})
                               .input({"b", "BYTES", {2}, {}})
                               .input({"c", "BF16", {1}, {}})
                               .raw("\x01\xff")
                               .raw(std::string("\1\0\0\0x\0\0\0\0", 9))
                               .raw("ab"));
    ASSERT_EQ(request->tensors().size(), 3u);
    EXPECT_EQ(request->tensors()[0].name(), "a");
    EXPECT_EQ(request->tensors()[0].shape()[1], 1);
    EXPECT_EQ(request->tensor("a").values<std::int8_t>()[1], -1);
    EXPECT_EQ(request->tensor("b").texts(), (std::vector<std::string_view>{"x", ""}));
    EXPECT_EQ(request->tensor("c").values<std::uint16_t>()[0], 0x6261);
    EXPECT_EQ(request->find("d"), nullptr);
}

TEST(WorkerRequest, ReadsTypedContentsAsRawOnes) {
    const auto read = [](std::string_view datatype, std::int64_t size, std::string_view contents) {
        const Received request(RequestText("m").input({"x", datatype, {size}, {contents}}));
        const auto bytes = request->tensor("x").bytes();
        return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    };
    EXPECT_EQ(read("BOOL", 2, std::string_view("\x0a\x02\x01\x00", 4)), std::string("\1\0", 2));
    EXPECT_EQ(read("INT8", 1, "\x12\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "\xff");
    EXPECT_EQ(read("INT16", 1, "\x10\x01"), std::string("\1\0", 2)) << "not packed";
    EXPECT_EQ(read("UINT64", 1, "\x2a\x01\x05"), raw_of<std::uint64_t>({5}));
    EXPECT_EQ(read("FP32", 1, std::string_view("\x32\x04\0\0\x80\x3f", 6)), raw_of<float>({1}));
    EXPECT_EQ(read("FP64", 1, std::string("\x39") + raw_of<double>({2})), raw_of<double>({2}));
    EXPECT_EQ(read("BYTES", 1, "\x42\x02hi"), std::string("\2\0\0\0hi", 6));
}

TEST(WorkerRequest, RefusesWhatIsNoMessage) {
    const auto with = [](std::string_view rest) { return std::string(RequestText("m")).append(rest); };
    EXPECT_EQ(refusal(with("\x2a\x03\xff\xff\xff")), "an input of the request cannot be parsed");
    EXPECT_EQ(refusal(with("\x2a\x03\x0a\x01\xff")), "an input of the request cannot be parsed") << "no UTF-8";
    EXPECT_EQ(refusal(RequestText("m").input({"x", "FP32", {1}, {}}).raw("1234").raw("1234")),
              "raw_input_contents needs 1 entries, one for each input, got 2");
    EXPECT_EQ(refusal(RequestText("m").input({"x", "INT64", {1}, {"\x1a\x01\x05"}}).raw("12345678")),
              "input 'x': a message takes typed or raw contents, not both");
    for (const auto& [datatype, contents] :
         std::vector<std::pair<std::string_view, std::string_view>>{{"INT8", "\x10\x80\x01"},
                                                                    {"UINT8", "\x20\x80\x02"},
                                                                    {"FP32", "\x10\x01"},
                                                                    {"FP16", "\x10\x01"},
                                                                    {"INT64", "\x1a\x01\xff"},
                                                                    {"BOOL", "\x08\x02"}}) {
        EXPECT_EQ(refusal(RequestText("m").input({"x", datatype, {1}, {contents}})),
                  "input 'x': the contents are not " + std::string(datatype));
    }
}

TEST(WorkerRequest, RefusesElementsThatAreNotWhatTheyAreTakenFor) {
    const auto look = [](std::string_view datatype, std::vector<std::int64_t> shape, std::string_view raw, auto take) {
        return refusal(RequestText("m").input({"x", datatype, std::move(shape), {}}).raw(raw),
                       [&](const Request& request) { take(request.tensor("x")); });
    };
    const auto floats = [](const Tensor& tensor) { static_cast<void>(tensor.values<float>()); };
    const auto bools = [](const Tensor& tensor) { static_cast<void>(tensor.values<bool>()); };
    const auto texts = [](const Tensor& tensor) { static_cast<void>(tensor.texts()); };
    EXPECT_EQ(look("FP32", {1}, "1234", floats), "none");
    EXPECT_EQ(look("FP64", {1}, "12345678", floats), "input 'x': expected FP32, got FP64");
    const std::string much = "input 'x': FP32 with shape [2] does not have the 4 bytes that came";
    EXPECT_EQ(look("FP32", {2}, "1234", floats), much);
    EXPECT_NE(look("FP32", {-1}, "1234", floats), "none");
    EXPECT_NE(look("FP32", {INT64_MAX, INT64_MAX, 4}, "1234", floats), "none");
    EXPECT_EQ(look("FP32", {INT64_MAX, INT64_MAX, 0}, "", floats), "none");
    EXPECT_EQ(look("BOOL", {2}, std::string_view("\0\1", 2), bools), "none");
    EXPECT_NE(look("BOOL", {1}, "\2", bools), "none");
    EXPECT_NE(look("FP32", {1}, "1234", texts), "none");
    EXPECT_EQ(look("BYTES", {0}, "", texts), "none");
    for (const std::string_view raw : {std::string_view("\2\0\0\0x", 5), std::string_view("\0\0\0", 3),
                                       std::string_view("\0\0\0\0\0\0\0\0", 8), std::string_view("", 0)}) {
        EXPECT_NE(look("BYTES", {1}, raw, texts), "none");
    }
    EXPECT_EQ(refusal(RequestText("m"), [](const Request& request) { static_cast<void>(request.tensor("x")); }),
              "there is no input 'x'");
}

TEST(Cancellations, TellThoseWhoAsked) {
    Cancellations cancellations;
    const WorkerExchangePtr made = testing::exchange_of("");
    const WorkerExchange& exchange = *made;
    cancellations.cancelled(exchange);
    const std::stop_token token = cancellations.token(exchange);
    EXPECT_FALSE(token.stop_requested());
    cancellations.cancelled(exchange);
    EXPECT_TRUE(token.stop_requested());
    const std::stop_token other = cancellations.token(exchange);
    cancellations.forget(exchange);
    cancellations.cancelled(exchange);
    EXPECT_FALSE(other.stop_requested()) << "its handler had ended";
}

}  // namespace
}  // namespace anyserve
