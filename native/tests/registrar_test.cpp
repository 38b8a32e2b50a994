#include "registrar.hpp"

#include <gtest/gtest.h>

#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "anyserve/management_messages.hpp"
#include "worker_client_peer.hpp"

namespace anyserve {
namespace {

using namespace std::chrono_literals;
using testing::Driver;

const std::string kTaken = write_message(messages::RegisterModelResponse{true, {}, false});
const std::string kHealthy = write_message(messages::HeartbeatResponse{true});
const std::string kUnknown = write_message(messages::HeartbeatResponse{false});

/// An agent that answers as the test says: with what `answers` has for a method, else well.
class RegistrarTest : public ::testing::Test {
protected:
    void make(std::chrono::milliseconds orphan_timeout = 60s) {
        registrar.emplace(
            driver.loop,
            [this](std::string_view method, std::string_view request, std::chrono::milliseconds, CallDone done) {
                calls.emplace_back(std::string(method) + " " + first_field(request));
                if (hold) {
                    held.push_back(std::move(done));
                    return;
                }
                driver.loop.defer([this, done = std::move(done), answer = answer_to(method)] {
                    done(answer);
                    driver.loop.stop();
                });
            },
            RegistrarOptions{"w",
                             {request_of("a"), request_of("b")},
                             {"a", "b"},
                             2ms,
                             orphan_timeout,
                             [this](bool agreed) { agreements.push_back(agreed); }},
            [this](Registrar::Reason reason, std::string) { ended = reason; }, [](const LogRecord&) {});
        driver.loop.defer([this] { registrar->start(); });
    }
    [[nodiscard]] bool until_called(std::size_t count) {
        return driver.until([&] { return calls.size() >= count; });
    }
    void leave() {
        registrar->leave([this] { left = true; });
        EXPECT_TRUE(driver.until([this] { return left; }));
    }

    static std::string request_of(std::string_view model) {
        messages::RegisterModelRequest request;
        request.model_name = model;
        return write_message(request);
    }
    /// The model that is registered, or the worker's id.
    static std::string first_field(std::string_view request) { return std::string(request.substr(2, 1)); }

    CallResult answer_to(std::string_view method) {
        for (auto& [name, waiting] : answers) {
            if (name != method || waiting.empty()) continue;
            CallResult next = std::move(waiting.front());
            waiting.pop_front();
            return next;
        }
        return {Code::ok, {}, method == "Heartbeat" ? kHealthy : kTaken};
    }

    Driver driver;
    std::vector<std::string> calls;
    std::vector<std::pair<std::string, std::deque<CallResult>>> answers;
    bool hold = false;
    std::vector<CallDone> held;
    std::vector<bool> agreements;
    std::optional<Registrar> registrar;
    std::optional<Registrar::Reason> ended;
    bool left = false;
};

using Calls = std::vector<std::string>;

TEST_F(RegistrarTest, RegistersAllAndThenSendsHeartbeats) {
    make();
    ASSERT_TRUE(until_called(5));
    calls.resize(5);
    EXPECT_EQ(calls, (Calls{"RegisterModel a", "RegisterModel b", "Heartbeat w", "Heartbeat w", "Heartbeat w"}));
}

TEST_F(RegistrarTest, RegistersAgainAtOnceWhenItIsUnknown) {
    answers = {{"Heartbeat", {{Code::ok, {}, kHealthy}, {Code::ok, {}, kUnknown}}}};
    make();
    ASSERT_TRUE(until_called(7));
    calls.resize(7);
    EXPECT_EQ(calls, (Calls{"RegisterModel a", "RegisterModel b", "Heartbeat w", "Heartbeat w", "RegisterModel a",
                            "RegisterModel b", "Heartbeat w"}));
}

TEST_F(RegistrarTest, TellsWhetherMemoryIsShared) {
    const std::string agreed = write_message(messages::RegisterModelResponse{true, {}, true});
    answers = {{"RegisterModel", {{Code::ok, {}, agreed}, {Code::ok, {}, agreed}, {Code::ok, {}, kTaken}}},
               {"Heartbeat", {{Code::ok, {}, kHealthy}, {Code::ok, {}, kUnknown}}}};
    make();
    ASSERT_TRUE(until_called(7));
    EXPECT_EQ(agreements, (std::vector<bool>{true, true, true, true, false, false}))
        << "taken until it is known, and again from the restarted agent, which then does not share";
}

TEST_F(RegistrarTest, TriesAgainWhenTheAgentDoesNotAnswer) {
    answers = {{"RegisterModel", {{Code::unavailable, "refused", {}}, {Code::ok, {}, kTaken}}},
               {"Heartbeat", {{Code::deadline_exceeded, {}, {}}}}};
    make();
    ASSERT_TRUE(until_called(7));
    calls.resize(7);
    EXPECT_EQ(calls, (Calls{"RegisterModel a", "RegisterModel a", "RegisterModel b", "Heartbeat w", "RegisterModel a",
                            "RegisterModel b", "Heartbeat w"}));
    EXPECT_FALSE(ended);
}

TEST_F(RegistrarTest, EndsWhenItIsRefusedAndSaysNothingMoreButItsLeave) {
    const std::vector<CallResult> refusals{
        {Code::ok, {}, write_message(messages::RegisterModelResponse{false, "no", false})},
        {Code::invalid_argument, {}, {}},
        {Code::unauthenticated, {}, {}},
        {Code::unimplemented, {}, {}},
        {Code::resource_exhausted, {}, {}}};
    for (const CallResult& refusal : refusals) {
        calls.clear();
        ended.reset();
        left = false;
        answers = {{"RegisterModel", {{Code::ok, {}, kTaken}, refusal}}};
        make();
        ASSERT_TRUE(driver.until([this] { return ended.has_value(); }));
        EXPECT_EQ(*ended, Registrar::Reason::refused);
        leave();
        EXPECT_EQ(calls, (Calls{"RegisterModel a", "RegisterModel b", "UnregisterWorker w"}));
    }
}

TEST_F(RegistrarTest, EndsWithoutAnAgent) {
    answers = {{"RegisterModel", std::deque<CallResult>(1000, {Code::unavailable, "refused", {}})}};
    make(20ms);
    const auto begun = EventLoop::Clock::now();
    ASSERT_TRUE(driver.until([this] { return ended.has_value(); }));
    EXPECT_EQ(*ended, Registrar::Reason::orphaned);
    EXPECT_GE(EventLoop::Clock::now() - begun, 20ms);
}

TEST_F(RegistrarTest, TakesItsLeaveBehindTheCallUnderWay) {
    make();
    ASSERT_TRUE(until_called(3));
    hold = true;
    const std::size_t before = calls.size();
    ASSERT_TRUE(until_called(before + 1));
    registrar->leave([this] { left = true; });
    EXPECT_EQ(calls.size(), before + 1) << "the heartbeat has no answer yet";
    std::exchange(held, {}).front()({Code::ok, {}, kHealthy});
    EXPECT_EQ(calls.back(), "UnregisterWorker w");
    EXPECT_FALSE(left);
    held.front()({Code::unavailable, {}, {}});
    EXPECT_TRUE(left) << "also without an answer";
}

TEST_F(RegistrarTest, CallsThatEndBehindItAreNobodysBusiness) {
    hold = true;
    make();
    ASSERT_TRUE(until_called(1));
    registrar.reset();
    held.front()({Code::ok, {}, kTaken});
    EXPECT_EQ(calls.size(), 1u);
}

}  // namespace
}  // namespace anyserve
