// The RPCs about the server and its models, from the bytes of a request to those of the response.
#include "anyserve/model_calls.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "anyserve/kserve_messages.hpp"
#include "registry_vectors.hpp"
#include "service_calls.hpp"

namespace anyserve {
namespace {

using testing::Calls;
using testing::Outcome;
using vectors::Json;

std::string path(std::string_view method) { return "/inference.GRPCInferenceService/" + std::string(method); }

/// Answers when the test says so.
class SlowLifecycle final : public Lifecycle {
public:
    void load(std::string model, Done done) override { ask("load " + model, std::move(done)); }
    void unload(std::string model, Done done) override { ask("unload " + model, std::move(done)); }

    std::vector<std::string> asked;
    std::vector<Done> waiting;

private:
    void ask(std::string what, Done done) {
        asked.push_back(std::move(what));
        waiting.push_back(std::move(done));
    }
};

class ModelCallsTest : public ::testing::Test {
protected:
    std::shared_ptr<Registration> made(const char* json) {
        return std::make_shared<Registration>(*vectors::registration(Json::parse(json)));
    }
    void add(RegistrationPtr registration) {
        ASSERT_TRUE(std::holds_alternative<RegistrationPtr>(registry.add(std::move(registration))));
    }
    Outcome ask(std::string_view method, std::string_view name, std::string_view version = {}) {
        return calls.call_with(path(method), messages::ModelReadyRequest{name, version});
    }
    Outcome repository(std::string_view what, std::string_view field1, std::string_view field2) {
        return calls.call_with(path("RepositoryModel" + std::string(what)),
                               messages::RepositoryModelLoadRequest{field1, field2, {}});
    }

    EventLoop loop;  // of the workers, of which there are none
    AgentConfig config;
    SharedState state{loop, config, {}, {}};
    Registry& registry = state.registry;
    Statistics& statistics = state.statistics;
    bool is_ready = false;
    std::function<bool()> ready = [this] { return is_ready; };
    std::unique_ptr<ModelInfo> info;
    Calls calls{[this](ServerCall& call) { return route_model_call(call, *info, ready); }};

    void SetUp() override { info = std::make_unique<ModelInfo>(calls.memory.loop, state, "1.2.3"); }
    SlowLifecycle lifecycle;
};

TEST_F(ModelCallsTest, TellOfTheServer) {
    EXPECT_EQ(calls.call(path("ServerLive"), "").reply(), "\x08\x01");
    EXPECT_EQ(calls.call(path("ServerReady"), "").reply(), "");
    is_ready = true;
    EXPECT_EQ(calls.call(path("ServerReady"), "").reply(), "\x08\x01");
    const std::string reply = calls.call(path("ServerMetadata"), "").reply();
    const auto metadata = read_message<messages::ServerMetadataResponse>(reply);
    ASSERT_TRUE(metadata);
    EXPECT_EQ(metadata->name, "anyserve");
    EXPECT_EQ(metadata->version, "1.2.3");
    EXPECT_EQ(metadata->extensions,
              (std::vector<std::string_view>{"model_configuration", "model_repository", "statistics", "parameters"}));
}

TEST_F(ModelCallsTest, TellWhetherAModelIsReady) {
    add(made(R"({"worker": "a", "model_name": "served", "model_version": "2"})"));
    add(made(R"({"worker": "b", "model_name": "", "capability": {"model": "by-capability", "version": "5"}})"));
    const std::string yes = "\x08\x01";
    EXPECT_EQ(ask("ModelReady", "served").reply(), yes);
    EXPECT_EQ(ask("ModelReady", "served", "2").reply(), yes);
    EXPECT_EQ(ask("ModelReady", "by-capability", "5").reply(), yes);
    for (const auto& [name, version] : std::vector<std::pair<const char*, const char*>>{
             {"served", "3"}, {"by-capability", "6"}, {"unknown", ""}, {"", ""}}) {
        EXPECT_EQ(ask("ModelReady", name, version).reply(), "") << name << version;
    }
}

TEST_F(ModelCallsTest, TellWhatWasRegistered) {
    for (const char* version : {"10", "9", "beta"}) {
        const auto registration = made(R"({"worker": "a", "model_name": "served"})");
        registration->model_version = version;
        registration->platform = "onnx";
        registration->stream = true;
        registration->inputs = {{"a", "FP32", {-1, 3}}};
        registration->outputs = {{"b", "BYTES", {1}}, {"c", "BF16", {2}}, {"d", "FLOAT", {}}};
        add(registration);
    }
    const std::string reply = ask("ModelMetadata", "served", "9").reply();
    EXPECT_EQ(reply, write_message(messages::ModelMetadataResponse{
                         "served",
                         {"9", "10", "beta"},
                         "onnx",
                         {{"a", "FP32", {-1, 3}}},
                         {{"b", "BYTES", {1}}, {"c", "BF16", {2}}, {"d", "FLOAT", {}}}}));
    using messages::DataType;
    EXPECT_EQ(
        ask("ModelConfig", "served").reply(),
        write_message(messages::ModelConfigResponse{
            {"served",
             "onnx",
             {{"a", DataType::type_fp32, {-1, 3}}},
             {{"b", DataType::type_string, {1}}, {"c", DataType::type_bf16, {2}}, {"d", DataType::type_invalid, {}}},
             "anyserve",
             {true}}}));
}

TEST_F(ModelCallsTest, DoNotFindWhatIsUnknown) {
    add(made(R"({"worker": "a", "model_name": "served", "model_version": "1"})"));
    for (const char* method : {"ModelMetadata", "ModelConfig", "ModelStatistics"}) {
        const Outcome unknown = ask(method, "unknown");
        EXPECT_EQ(unknown.code, "5") << method;
        EXPECT_TRUE(unknown.says("'unknown'")) << unknown.message;
        const Outcome version = ask(method, "served", "9");
        EXPECT_EQ(version.code, "5") << method;
        EXPECT_TRUE(version.says("'served' version '9'")) << version.message;
    }
    EXPECT_EQ(ask("ModelMetadata", "").code, "5");
}

TEST_F(ModelCallsTest, CountWhatWasServed) {
    const auto one = made(R"({"worker": "a", "model_name": "m", "model_version": "1"})");
    add(one);
    add(made(R"({"worker": "a", "model_name": "m", "model_version": "2"})"));
    add(made(R"({"worker": "a", "model_name": "l"})"));
    add(made(R"({"worker": "a", "model_name": "", "capability": {"type": "echo"}})"));
    statistics.exchanged(*one, {true, 5, 7, 1000});
    statistics.exchanged(*one, {false, 1, 2, 2000});
    const auto names = [this](std::string_view name, std::string_view version) {
        const std::string reply = ask("ModelStatistics", name, version).reply();
        const auto response = read_message<messages::ModelStatisticsResponse>(reply);
        std::vector<std::string> lines;
        if (!response) return lines;
        for (const auto& model : response->model_stats) {
            lines.push_back(std::string(model.name).append(" ").append(model.version));
        }
        return lines;
    };
    EXPECT_EQ(names("", ""), (std::vector<std::string>{"l ", "m 1", "m 2"}));
    EXPECT_EQ(names("m", ""), (std::vector<std::string>{"m 1", "m 2"}));
    EXPECT_EQ(ask("ModelStatistics", "m", "1").reply(),
              write_message(
                  messages::ModelStatisticsResponse{{{"m", "1", 2000, 1, 1, {{1, 12}, {1, 3}, {2, 6}, {1, 7}}, {}}}}));
    statistics.batched(*one, {.size = 8, .count = 1, .compute_ns = 20});
    statistics.batched(*one, {.size = 2, .count = 4, .compute_ns = 10});
    EXPECT_EQ(ask("ModelStatistics", "m", "1").reply(),
              write_message(messages::ModelStatisticsResponse{
                  {{"m", "1", 2000, 1, 5, {{1, 12}, {1, 3}, {2, 6}, {1, 7}}, {{2, {4, 10}}, {8, {1, 20}}}}}}));
}

TEST_F(ModelCallsTest, ListEachModelOnce) {
    add(made(R"({"worker": "a", "model_name": "b", "model_version": "1"})"));
    add(made(R"({"worker": "b", "model_name": "b", "model_version": "1"})"));
    add(made(R"({"worker": "a", "model_name": "", "capability": {"model": "a", "version": "3"}})"));
    add(made(R"({"worker": "a", "model_name": "", "capability": {"type": "echo"}})"));
    const std::string wanted =
        write_message(messages::RepositoryIndexResponse{{{"a", "3", "READY"}, {"b", "1", "READY"}}});
    for (const bool only_ready : {false, true}) {
        EXPECT_EQ(calls.call_with(path("RepositoryIndex"), messages::RepositoryIndexRequest{"any", only_ready}).reply(),
                  wanted);
    }
}

TEST_F(ModelCallsTest, LoadAndUnloadWithoutALifecycle) {
    add(made(R"({"worker": "a", "model_name": "served"})"));
    const std::string loaded = write_message(messages::RepositoryModelLoadResponse{"served", true});
    EXPECT_EQ(repository("Load", "", "served").reply(), loaded) << "Triton's form";
    EXPECT_EQ(repository("Load", "served", "").reply(), loaded) << "KServe's form";
    EXPECT_EQ(repository("Load", "elsewhere", "served").reply(), loaded);
    for (const char* what : {"Load", "Unload"}) {
        EXPECT_EQ(repository(what, "", "").code, "3");
        EXPECT_EQ(repository(what, "served", "unknown").code, "5");
        EXPECT_TRUE(repository(what, "unknown", "").says("'unknown'"));
    }
    EXPECT_EQ(repository("Unload", "", "served").code, "9");
    EXPECT_TRUE(repository("Unload", "served", "").says("'served'"));
}

TEST_F(ModelCallsTest, LoadAndUnloadByTheLifecycle) {
    info->lifecycle = &lifecycle;
    const std::string message = write_message(messages::RepositoryModelLoadRequest{"", "m", {}});
    const std::uint32_t load = calls.start(path("RepositoryModelLoad"), message);
    const std::uint32_t unload = calls.start(path("RepositoryModelUnload"), message);
    const std::uint32_t fails = calls.start(path("RepositoryModelLoad"), message);
    const std::uint32_t others = calls.start(path("RepositoryModelUnload"), message);
    EXPECT_EQ(lifecycle.asked, (std::vector<std::string>{"load m", "unload m", "load m", "unload m"}));
    EXPECT_EQ(calls.outcome(load).code, "");
    lifecycle.waiting[0](true);
    lifecycle.waiting[1](true);
    lifecycle.waiting[2](InferenceError{Code::internal, "it does not start"});
    lifecycle.waiting[3](false);
    const std::string done = write_message(messages::RepositoryModelLoadResponse{"m", true});
    EXPECT_EQ(calls.outcome(load).reply(), done);
    EXPECT_EQ(calls.outcome(unload).reply(), done);
    EXPECT_EQ(calls.outcome(fails).code, "13");
    EXPECT_TRUE(calls.outcome(fails).says("it does not start"));
    EXPECT_EQ(calls.outcome(others).code, "5");
}

TEST_F(ModelCallsTest, MayEndBeforeTheLifecycleAnswers) {
    info->lifecycle = &lifecycle;
    const std::string message = write_message(messages::RepositoryModelLoadRequest{"", "m", {}});
    calls.cancel(calls.start(path("RepositoryModelLoad"), message));
    calls.start(path("RepositoryModelLoad"), message);
    lifecycle.waiting.at(0)(true);
    calls.memory.session.close();
    calls.memory.connection.ended.clear();
    info.reset();
    lifecycle.waiting.at(1)(false);
}

TEST_F(ModelCallsTest, RefuseWhatIsNotBuiltByItsName) {
    for (const char* method : {"SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister",
                               "CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister",
                               "TraceSetting", "LogSettings"}) {
        const Outcome outcome = calls.call(path(method), "");
        EXPECT_EQ(outcome.code, "12");
        EXPECT_TRUE(outcome.says(std::string(method) + " is not implemented by this server"));
    }
    EXPECT_EQ(calls.call(path("ModelDream"), "").code, "12");
    EXPECT_EQ(calls.call("/other.Service/ServerLive", "").code, "12");
}

TEST_F(ModelCallsTest, RefuseMalformedRequests) {
    for (const char* method : {"ServerLive", "ModelReady", "RepositoryIndex", "RepositoryModelLoad"}) {
        EXPECT_EQ(calls.call(path(method), "\x0a\x05").code, "3") << method;
    }
}

}  // namespace
}  // namespace anyserve
