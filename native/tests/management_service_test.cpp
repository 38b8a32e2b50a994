#include "anyserve/management_service.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "service_calls.hpp"

namespace anyserve {
namespace {

using testing::Calls;
using testing::Outcome;

constexpr std::string_view kService = "/anyserve.WorkerManagement/";

std::string path(std::string_view method) { return std::string(kService) + std::string(method); }

messages::RegisterModelRequest request(std::string_view worker, std::string_view model) {
    messages::RegisterModelRequest made;
    made.model_name = model;
    made.worker_address = "unix:///s";
    made.worker_id = worker;
    return made;
}

class ManagementServiceTest : public ::testing::Test {
protected:
    Outcome add(const messages::RegisterModelRequest& registration) {
        return calls.call_with(path("RegisterModel"), registration);
    }
    std::uint32_t watch(bool existing = false) {
        return calls.start(path("WatchEvents"), write_message(messages::WatchEventsRequest{existing}));
    }
    bool healthy(std::string_view worker) {
        return calls.call_with(path("Heartbeat"), messages::HeartbeatRequest{worker, {}, {}}).reply() == "\x08\x01";
    }

    AgentConfig config = [] {
        AgentConfig made;
        made.max_workers = 3;
        made.max_registrations = 4;
        made.max_watchers = 2;
        return made;
    }();
    std::optional<SharedState> state;
    std::optional<ManagementService> service;
    Calls calls{[this](ServerCall& call) { return service->route(call); }};

    void SetUp() override {
        state.emplace(calls.memory.loop, config, [](const WorkerEndpointPtr&, ClientEnd) {}, Log());
        service.emplace(calls.memory.loop, config, *state);
    }
};

TEST_F(ManagementServiceTest, TakesARegistrationOfTheFirstFourFields) {
    auto minimal = request("w", "m");
    minimal.model_version = "2";
    EXPECT_EQ(add(minimal).reply(), write_message(messages::RegisterModelResponse{true, "registered"}));
    const auto made = state->registry.named("m").at(0);
    EXPECT_EQ(made->capability.encoded(), "model=2,type=m");
    EXPECT_FALSE(made->annotate);
    EXPECT_FALSE(made->stream);
    EXPECT_EQ(made->max_concurrency, 0u);
    EXPECT_EQ(made->priority, 0);
    EXPECT_EQ(made->socket_path, "/s");
}

TEST_F(ManagementServiceTest, KeepsEachFieldOfARegistration) {
    auto full = request("w", "m");
    full.capability = {{"type", "chat"}};
    full.stream = true;
    full.max_concurrency = 1024;
    full.priority = -3;
    full.inputs = {{"a", "FP32", {-1, 3}}};
    full.outputs = {{"b", "BYTES", {1}}};
    full.platform = "onnx";
    EXPECT_EQ(add(full).code, "0");
    const auto made = state->registry.named("m").at(0);
    EXPECT_EQ(made->capability.encoded(), "type=chat");
    EXPECT_TRUE(made->annotate);
    EXPECT_TRUE(made->stream);
    EXPECT_EQ(made->max_concurrency, 1024u);
    EXPECT_EQ(made->priority, -3);
    EXPECT_EQ(made->inputs.at(0).shape, (std::vector<std::int64_t>{-1, 3}));
    EXPECT_EQ(made->outputs.at(0).datatype, "BYTES");
    EXPECT_EQ(made->platform, "onnx");
}

TEST_F(ManagementServiceTest, RefusesRegistrationsByTheirFieldAndChangesNothing) {
    const std::string long_text = [] {
        std::string text;
        for (int i = 0; i < 257; ++i) text += "é";
        return text;
    }();
    const std::string long_path = "unix:///" + std::string(107, 'x');
    using Request = messages::RegisterModelRequest;
    const std::vector<std::pair<std::string_view, std::function<void(Request&)>>> faults{
        {"worker_id is empty", [](Request& r) { r.worker_id = {}; }},
        {"model_name and capability", [](Request& r) { r.model_name = {}; }},
        {"model_name must", [&](Request& r) { r.model_name = long_text; }},
        {"model_version must", [](Request& r) { r.model_version = "1\n"; }},
        {"worker_id must", [](Request& r) { r.worker_id = "w\x7f"; }},
        {"platform must", [&](Request& r) { r.platform = long_text; }},
        {"max_concurrency is 1025", [](Request& r) { r.max_concurrency = 1025; }},
        {"worker_address", [](Request& r) { r.worker_address = {}; }},
        {"worker_address", [](Request& r) { r.worker_address = "unix://"; }},
        {"worker_address", [](Request& r) { r.worker_address = "unix://relative"; }},
        {"worker_address", [](Request& r) { r.worker_address = "tcp:///s"; }},
        {"worker_address", [](Request& r) { r.worker_address = std::string_view("unix:///s\0", 10); }},
        {"108", [&](Request& r) { r.worker_address = long_path; }},
        {"Type", [](Request& r) { r.capability = {{"Type", "x"}}; }},
    };
    ASSERT_EQ(add(request("w", "m")).code, "0");
    const auto before = state->registry.all();
    for (const auto& [named, spoil] : faults) {
        auto spoilt = request("w", "m");
        spoil(spoilt);
        const Outcome refused = add(spoilt);
        EXPECT_EQ(refused.code, "3") << named;
        EXPECT_TRUE(refused.says(named)) << named << " not in " << refused.message;
    }
    EXPECT_EQ(state->registry.all(), before);
    auto at_limit = request("w", "m");
    const std::string name = long_text.substr(2);
    const std::string address = long_path.substr(0, long_path.size() - 1);
    at_limit.platform = name;
    at_limit.worker_address = address;
    EXPECT_EQ(add(at_limit).code, "0") << "256 characters and a path of 107 bytes";
}

TEST_F(ManagementServiceTest, AnswersOtherRefusalsByTheirStatus) {
    for (const char* worker : {"a", "b", "c"}) ASSERT_EQ(add(request(worker, "m")).code, "0");
    EXPECT_EQ(add(request("d", "m")).code, "8");
    state->workers.ended("c", "crashed");
    EXPECT_EQ(add(request("c", "m")).code, "9");
    EXPECT_EQ(calls.call(path("RegisterModel"), "\x0a\x05").code, "3") << "malformed";
    EXPECT_EQ(calls.call(path("ListWorkers"), "\x0a\x05").code, "3");
    EXPECT_EQ(calls.call(path("WatchEvents"), "\x0a\x05").code, "3");
    EXPECT_EQ(calls.call(path("Register"), "").code, "12");
    EXPECT_EQ(calls.call("/other.Service/RegisterModel", "").code, "12");
}

TEST_F(ManagementServiceTest, Unregisters) {
    add(request("a", "m"));
    add(request("a", "n"));
    using messages::UnregisterModelRequest;
    using messages::UnregisterWorkerRequest;
    const auto success = [](const Outcome& outcome) { return outcome.reply().starts_with("\x08\x01"); };
    EXPECT_EQ(calls.call_with(path("UnregisterModel"), UnregisterModelRequest{"m", "", ""}).code, "3");
    EXPECT_EQ(calls.call_with(path("UnregisterWorker"), UnregisterWorkerRequest{""}).code, "3");
    EXPECT_TRUE(success(calls.call_with(path("UnregisterModel"), UnregisterModelRequest{"m", "", "a"})));
    const Outcome gone = calls.call_with(path("UnregisterModel"), UnregisterModelRequest{"m", "", "a"});
    EXPECT_EQ(gone.code, "0");
    EXPECT_FALSE(success(gone));
    EXPECT_NE(gone.reply().find("'m'"), std::string::npos);
    EXPECT_TRUE(healthy("a"));
    EXPECT_TRUE(success(calls.call_with(path("UnregisterWorker"), UnregisterWorkerRequest{"a"})));
    EXPECT_FALSE(success(calls.call_with(path("UnregisterWorker"), UnregisterWorkerRequest{"a"})));
    EXPECT_FALSE(healthy("a"));
}

TEST_F(ManagementServiceTest, CountsTheBatchesOfAHeartbeat) {
    auto unnamed = request("w", "");
    unnamed.capability = {{"model", "n"}, {"version", "2"}};
    add(request("w", "m"));
    add(unnamed);
    add(request("other", "o"));
    const auto tell = [&](std::string_view worker, std::vector<messages::BatchStatistics> batches) {
        return calls.call_with(path("Heartbeat"), messages::HeartbeatRequest{worker, {}, std::move(batches)}).reply();
    };
    const auto told = [&](std::string_view name, std::string_view version) {
        return state->statistics.of(name, version).calls;
    };
    EXPECT_EQ(tell("stranger", {{"m", "", 4, 1, 10}}), "");
    EXPECT_EQ(told("m", "").count, 0u);
    EXPECT_EQ(tell("w", {{"m", "", 4, 1, 10}, {"n", "2", 8, 2, 30}, {"m", "", 4, 1, 5}}), "\x08\x01");
    EXPECT_EQ(tell("w", {{"m", "", 0, 1, 1}, {"m", "", 4, 0, 1}, {"m", "1", 4, 1, 1}, {"o", "", 4, 1, 1}}), "\x08\x01");
    EXPECT_EQ(told("m", "").count, 2u);
    EXPECT_EQ(told("m", "").ns, 15u);
    EXPECT_EQ(told("n", "2").count, 2u);
    EXPECT_EQ(told("o", "").count, 0u);
}

TEST_F(ManagementServiceTest, ListsWorkers) {
    auto made = request("b", "m");
    made.max_concurrency = 4;
    made.priority = -1;
    made.platform = "onnx";
    add(made);
    add(request("a", ""));
    add(request("a", "n"));
    healthy("a");
    const std::string reply = calls.call(path("ListWorkers"), "").reply();
    const auto listed = read_message<messages::ListWorkersResponse>(reply);
    ASSERT_TRUE(listed);
    ASSERT_EQ(listed->workers.size(), 2u);
    const messages::Worker& b = listed->workers[0];
    EXPECT_EQ(b.worker_id, "b");
    EXPECT_EQ(b.address, "unix:///s");
    EXPECT_EQ(b.heartbeat_age_ms, -1);
    ASSERT_EQ(b.registrations.size(), 1u);
    EXPECT_EQ(b.registrations[0].capability, (messages::CapabilityMap{{"type", "m"}}));
    EXPECT_EQ(b.registrations[0].max_concurrency, 4u);
    EXPECT_EQ(b.registrations[0].priority, -1);
    EXPECT_EQ(b.registrations[0].platform, "onnx");
    EXPECT_GE(listed->workers[1].heartbeat_age_ms, 0);
}

TEST_F(ManagementServiceTest, DemandsTheToken) {
    config.management_token = "secret";
    service.emplace(calls.memory.loop, config, *state);
    const std::string message = write_message(request("w", "m"));
    for (const std::string_view given : {"", "secret", "Bearer secre", "Bearer secret2", "bearer secret", "Bearer"}) {
        const std::string header = given.empty() ? "" : wire::literal("authorization", given);
        EXPECT_EQ(calls.call(path("RegisterModel"), message, header).code, "16") << given;
        EXPECT_EQ(calls.call(path("WatchEvents"), "", header).code, "16") << given;
    }
    EXPECT_EQ(state->registry.size(), 0u);
    EXPECT_EQ(calls.call(path("RegisterModel"), message, wire::literal("authorization", "Bearer secret")).code, "0");
}

/// The events of a call by now: sequence, worker and model.
std::vector<std::string> told(const Outcome& outcome) {
    std::vector<std::string> lines;
    for (const std::string& reply : outcome.replies) {
        const auto event = read_message<messages::Event>(reply);
        if (!event) return {"malformed"};
        EXPECT_GT(event->time_unix_ms, 1'600'000'000'000);
        std::string line = std::to_string(event->sequence) + " " + std::to_string(static_cast<int>(event->type)) + " ";
        line += event->worker_id;
        if (event->registration) line.append(" ").append(event->registration->model_name);
        lines.push_back(line + std::string(event->message));
    }
    return lines;
}

using Lines = std::vector<std::string>;

TEST_F(ManagementServiceTest, TellsEventsFromTheInitialMetadataOn) {
    add(request("a", "m"));
    const std::uint32_t watching = watch();
    EXPECT_TRUE(calls.outcome(watching).began);
    EXPECT_EQ(told(calls.outcome(watching)), Lines());
    add(request("b", "m"));
    state->workers.drop("a", "why");
    EXPECT_EQ(told(calls.outcome(watching)), (Lines{"2 1 b m", "3 3 awhy", "4 2 a m"}));
    state->events.close();
    EXPECT_EQ(calls.outcome(watching).code, "0");
    EXPECT_EQ(calls.outcome(watch()).code, "0") << "there will be nothing more";
}

TEST_F(ManagementServiceTest, TellsWhatExistsFirst) {
    add(request("a", "m"));
    add(request("b", "n"));
    const std::uint32_t watching = watch(true);
    add(request("c", "m"));
    EXPECT_EQ(told(calls.outcome(watching)), (Lines{"2 1 a m", "2 1 b n", "3 1 c m"}));
}

TEST_F(ManagementServiceTest, TakesNoMoreWatchersThanItsLimit) {
    const std::uint32_t first = watch();
    watch();
    const Outcome third = calls.outcome(watch());
    EXPECT_EQ(third.code, "8");
    EXPECT_TRUE(third.says("--max-watchers"));
    calls.cancel(first);
    EXPECT_EQ(calls.outcome(watch()).code, "") << "there is room again";
    add(request("a", "m"));  // nothing is told to the one that has gone
}

TEST_F(ManagementServiceTest, EndsTheCallOfAWatcherThatIsTooSlow) {
    calls.memory.send(wire::frame(wire::settings, 0, 0, wire::setting(4, 0)));  // the window of a stream
    const std::uint32_t watching = watch();
    EXPECT_TRUE(calls.outcome(watching).began);
    const auto publish = [this](std::size_t count) {
        for (std::size_t i = 0; i < count; ++i) {
            Event event;
            event.type = EventType::server_ready;
            event.time_unix_ms = 1'700'000'000'000;
            state->events.publish(event);
        }
    };
    publish(1);
    EXPECT_EQ(told(calls.outcome(watching)), Lines()) << "it is on the way to a client that does not read";
    publish(Watcher::kBuffer + 1);
    EXPECT_EQ(calls.outcome(watching).code, "") << "it gets first what has waited";
    calls.memory.send(wire::frame(wire::window_update, 0, watching, wire::number(1u << 20)));
    Outcome outcome = calls.outcome(watching);
    while (outcome.code.empty() && outcome.replies.size() <= Watcher::kBuffer) {
        const std::size_t before = outcome.replies.size();
        outcome = calls.outcome(watching);
        ASSERT_TRUE(!outcome.code.empty() || outcome.replies.size() > before) << "nothing goes on";
    }
    EXPECT_EQ(outcome.code, "8");
    EXPECT_TRUE(outcome.says("call WatchEvents again"));
    EXPECT_EQ(outcome.replies.size(), Watcher::kBuffer + 1);
}

}  // namespace
}  // namespace anyserve
