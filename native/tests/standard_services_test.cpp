#include "anyserve/standard_services.hpp"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "anyserve/descriptor_index.hpp"
#include "anyserve/descriptors.hpp"
#include "anyserve/standard_messages.hpp"
#include "service_calls.hpp"

namespace anyserve {
namespace {

using messages::ServerReflectionRequest;
using messages::ServingStatus;
using testing::Calls;
using testing::Outcome;
using Asked = ServerReflectionRequest;

constexpr std::string_view kOwn = "inference.GRPCInferenceService";
constexpr std::string_view kCheck = "/grpc.health.v1.Health/Check";
constexpr std::string_view kList = "/grpc.health.v1.Health/List";
constexpr std::string_view kWatch = "/grpc.health.v1.Health/Watch";

/// As the field of a HealthCheckResponse.
std::string status(ServingStatus value) { return write_message(messages::HealthCheckResponse{value}); }

std::string service(std::string_view name) { return write_message(messages::HealthCheckRequest{name}); }

template <std::size_t index, class Value>
ServerReflectionRequest asking(Value value) {
    ServerReflectionRequest request;
    request.message_request.emplace<index>(value);
    return request;
}

class HealthTest : public ::testing::Test {
protected:
    void SetUp() override { services.emplace(calls.memory.loop, std::vector<std::string>{std::string(kOwn)}); }

    std::optional<StandardServices> services;
    Calls calls{[this](ServerCall& call) { return services->route(call); }};
};

TEST_F(HealthTest, IsThatOfTheServer) {
    const std::string not_serving = status(ServingStatus::not_serving);
    const std::string serving = status(ServingStatus::serving);
    EXPECT_EQ(calls.call(kCheck, "").reply(), not_serving);
    services->set_serving(true);
    EXPECT_EQ(calls.call(kCheck, "").reply(), serving);
    EXPECT_EQ(calls.call(kCheck, service(kOwn)).reply(), serving);
    const Outcome unknown = calls.call(kCheck, service("no.such.Service"));
    EXPECT_EQ(unknown.code, "5");
    EXPECT_TRUE(unknown.says("'no.such.Service'"));
    EXPECT_EQ(calls.call(kList, "").reply(), write_message(messages::HealthListResponse{
                                                 {{"", {ServingStatus::serving}}, {kOwn, {ServingStatus::serving}}}}));
    services->set_serving(false);
    EXPECT_EQ(calls.call(kCheck, "").reply(), not_serving);
}

TEST_F(HealthTest, IsToldToWhoWatches) {
    const std::uint32_t watch = calls.start(kWatch, service(kOwn));
    const std::uint32_t unknown = calls.start(kWatch, service("no.such.Service"));
    services->set_serving(true);
    calls.outcome(watch);
    services->set_serving(true);
    calls.outcome(watch);
    services->set_serving(false);
    EXPECT_EQ(calls.outcome(watch).code, "");
    const std::vector<std::string> told{status(ServingStatus::not_serving), status(ServingStatus::serving),
                                        status(ServingStatus::not_serving)};
    EXPECT_EQ(calls.outcome(watch).replies, told);
    EXPECT_EQ(calls.outcome(unknown).replies, std::vector{status(ServingStatus::service_unknown)});
    services->close();
    EXPECT_EQ(calls.outcome(watch).code, "0");
    EXPECT_EQ(calls.outcome(unknown).code, "0");
    const Outcome late = calls.outcome(calls.start(kWatch, ""));
    EXPECT_EQ(late.code, "0");
    EXPECT_EQ(late.replies, std::vector{status(ServingStatus::not_serving)});
}

TEST_F(HealthTest, IsToldAsItIsInTheEndToWhoDoesNotRead) {
    calls.memory.send(wire::frame(wire::settings, 0, 0, wire::setting(4, 0)));
    const std::uint32_t watch = calls.start(kWatch, "");
    calls.cancel(calls.start(kWatch, ""));
    for (int i = 0; i < 1000; ++i) services->set_serving(i % 2 == 0);
    services->set_serving(true);
    services->set_serving(false);
    services->close();
    EXPECT_EQ(calls.outcome(watch).replies.size(), 0u);
    EXPECT_EQ(calls.memory.server.totals->held_bytes.value(), status(ServingStatus::serving).size());
    calls.memory.send(wire::frame(wire::window_update, 0, watch, wire::number(1000)));
    const Outcome outcome = calls.outcome(watch);
    EXPECT_EQ(outcome.replies, std::vector{status(ServingStatus::not_serving)});
    EXPECT_EQ(outcome.code, "0");
}

TEST_F(HealthTest, RefusesMalformedRequests) {
    for (const std::string_view path : {kCheck, kList, kWatch}) EXPECT_EQ(calls.call(path, "\x0a\x05").code, "3");
    EXPECT_EQ(calls.call("/grpc.health.v1.Health/Checks", "").code, "12");
    EXPECT_EQ(calls.call("/grpc.health.v1.Healthy/Check", "").code, "12");
}

class ReflectionTest : public HealthTest, public ::testing::WithParamInterface<const char*> {
protected:
    static std::string reflection() {
        return std::string("/grpc.reflection.") + GetParam() + ".ServerReflection/ServerReflectionInfo";
    }
    /// The answer to one question, as its bytes.
    std::string reflect(const ServerReflectionRequest& request) {
        return calls.call_with(reflection(), request).reply();
    }
};
INSTANTIATE_TEST_SUITE_P(Versions, ReflectionTest, ::testing::Values("v1", "v1alpha"));

TEST_P(ReflectionTest, ListsTheServices) {
    const auto request = asking<Asked::kListServices>("");
    messages::ServerReflectionResponse wanted;
    const std::string bytes = write_message(request);
    wanted.original_request = {bytes};
    wanted.message_response = messages::ListServiceResponse{{{"grpc.health.v1.Health"},
                                                             {"grpc.reflection.v1.ServerReflection"},
                                                             {"grpc.reflection.v1alpha.ServerReflection"},
                                                             {kOwn}}};
    EXPECT_EQ(reflect(request), write_message(wanted));
}

TEST_P(ReflectionTest, FindsFilesByNamesAndSymbols) {
    const std::vector<std::pair<const char*, const char*>> symbols{
        {"grpc_predict_v2.proto", "inference.GRPCInferenceService"},
        {"grpc_predict_v2.proto", "inference.GRPCInferenceService.ModelInfer"},
        {"grpc_predict_v2.proto", "inference.ModelInferRequest"},
        {"grpc_predict_v2.proto", "inference.ModelInferRequest.InferInputTensor"},
        {"grpc_predict_v2.proto", "inference.ModelInferRequest.id"},
        {"grpc_predict_v2.proto", "inference.InferParameter.parameter_choice"},
        {"grpc_predict_v2.proto", "inference.DataType"},
        {"grpc_predict_v2.proto", "inference.TYPE_BF16"},
        {"grpc/health/v1/health.proto", "grpc.health.v1.Health"},
        {"grpc/health/v1/health.proto", "grpc.health.v1.HealthCheckResponse.ServingStatus"},
        {"grpc/health/v1/health.proto", "grpc.health.v1.HealthCheckResponse.SERVING"},
        {"grpc/reflection/v1/reflection.proto", "grpc.reflection.v1.ServerReflection"},
        {"grpc/reflection/v1/reflection.proto", "grpc.reflection.v1.ErrorResponse"},
        {"grpc/reflection/v1alpha/reflection.proto", "grpc.reflection.v1alpha.ServerReflection"},
    };
    for (const auto& [file, symbol] : symbols) {
        const std::string reply = reflect(asking<Asked::kFileContainingSymbol>(symbol));
        const auto response = read_message<messages::ServerReflectionResponse>(reply);
        ASSERT_TRUE(response) << symbol;
        const auto* found = std::get_if<messages::FileDescriptorResponse>(&response->message_response);
        ASSERT_TRUE(found != nullptr && found->file_descriptor_proto.size() == 1) << symbol;
        const auto descriptor = read_message<messages::FileDescriptorProto>(found->file_descriptor_proto[0].value);
        ASSERT_TRUE(descriptor);
        EXPECT_EQ(descriptor->name, file) << symbol;
        const std::string by_name = reflect(asking<Asked::kFileByFilename>(file));
        EXPECT_NE(by_name.find(found->file_descriptor_proto[0].value), std::string::npos);
    }
}

TEST_P(ReflectionTest, TellsFailuresInItsAnswers) {
    const auto code = [this](const ServerReflectionRequest& request) {
        const std::string reply = reflect(request);
        const auto response = read_message<messages::ServerReflectionResponse>(reply);
        const auto* error = response ? std::get_if<messages::ErrorResponse>(&response->message_response) : nullptr;
        return error != nullptr && !error->error_message.empty() ? error->error_code : 0;
    };
    EXPECT_EQ(code({}), 3) << "it asks nothing";
    for (const char* name :
         {"", "no.such.Thing", "inference", "ModelInferRequest", "inference.ModelInferRequest.nope"}) {
        EXPECT_EQ(code(asking<Asked::kFileContainingSymbol>(name)), 5) << name;
        EXPECT_EQ(code(asking<Asked::kFileByFilename>(name)), 5) << name;
        EXPECT_EQ(code(asking<Asked::kAllExtensionNumbersOfType>(name)), 5) << name;
    }
    EXPECT_EQ(code(asking<Asked::kAllExtensionNumbersOfType>("inference.DataType")), 5) << "no message";
    EXPECT_EQ(code(asking<Asked::kFileContainingExtension>(messages::ExtensionRequest{"inference.ModelConfig", 5})), 5);
    const std::string none = reflect(asking<Asked::kAllExtensionNumbersOfType>("inference.ModelConfig"));
    const auto response = read_message<messages::ServerReflectionResponse>(none);
    ASSERT_TRUE(response);
    EXPECT_EQ(std::get<messages::ExtensionNumberResponse>(response->message_response).base_type_name,
              "inference.ModelConfig");
}

TEST_P(ReflectionTest, AnswersOneQuestionAfterTheOther) {
    const std::uint32_t stream = calls.open(reflection());
    ServerReflectionRequest request = asking<Asked::kListServices>("*");
    request.host = "here";
    calls.send(stream, write_message(request));
    calls.send(stream, write_message(request));
    Outcome outcome = calls.outcome(stream);
    ASSERT_EQ(outcome.replies.size(), 2u);
    EXPECT_TRUE(outcome.replies[0].starts_with("\x0a\x04here"));
    EXPECT_EQ(outcome.code, "");
    calls.half_close(stream);
    EXPECT_EQ(calls.outcome(stream).code, "0");
    EXPECT_EQ(calls.call(reflection(), "\x0a\x05").code, "3");
    EXPECT_EQ(calls.call(reflection() + "s", "").code, "12");
}

TEST_P(ReflectionTest, EndsItsCalls) {
    const std::uint32_t stream = calls.open(reflection());
    const std::uint32_t gone = calls.open(reflection());
    calls.cancel(gone);
    services->close();
    EXPECT_EQ(calls.outcome(stream).code, "0");
    EXPECT_EQ(calls.outcome(calls.open(reflection())).code, "0");
}

TEST(DescriptorIndex, HasNothingOfAMalformedSet) {
    const DescriptorIndex index("\x0a\x05");
    EXPECT_EQ(index.file("grpc_predict_v2.proto"), "");
    const DescriptorIndex whole(descriptor_set());
    EXPECT_NE(whole.file("grpc_predict_v2.proto"), "");
    EXPECT_EQ(whole.file("worker_management.proto"), "") << "that is no service of the client port";
    EXPECT_TRUE(whole.is_message("inference.ModelInferRequest.ParametersEntry"));
    EXPECT_FALSE(whole.is_message("inference.DataType"));
}

}  // namespace
}  // namespace anyserve
