#include "anyserve/workers.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "registry_vectors.hpp"
#include "worker_client_peer.hpp"

namespace anyserve {
namespace {

using namespace std::chrono_literals;
using Lines = std::vector<std::string>;
using Ends = std::vector<std::pair<std::string, ClientEnd>>;

RegistrationPtr registration(std::string worker, std::string model, std::string path = "/s", std::string version = "") {
    auto made = std::make_shared<Registration>();
    made->worker_id = std::move(worker);
    made->socket_path = std::move(path);
    made->model_name = std::move(model);
    made->model_version = std::move(version);
    made->capability = vectors::capability({{"type", made->model_name}});
    return made;
}

class WorkersTest : public ::testing::Test {
protected:
    WorkersTest() {
        config.max_workers = 3;
        watcher = std::get<std::unique_ptr<Watcher>>(events.watch([] {}));
    }

    bool add(const RegistrationPtr& made) { return std::holds_alternative<Workers::Registered>(workers.add(made)); }

    /// What was told since the last call, `TYPE worker model message`.
    Lines told() {
        static const std::vector<std::string> names{"?", "+model", "-model", "lost", "left", "ready", "draining"};
        Lines lines;
        for (;;) {
            const Watcher::Taken taken = watcher->take();
            const auto* event = std::get_if<EventPtr>(&taken);
            if (event == nullptr) return lines;
            std::string line = names[static_cast<std::size_t>((*event)->type)] + " " + (*event)->worker_id;
            if ((*event)->registration) line += " " + (*event)->registration->model_name;
            if (!(*event)->message.empty()) line += ": " + (*event)->message;
            lines.push_back(line);
        }
    }
    bool known(std::string_view worker_id) { return workers.endpoint(worker_id) != nullptr; }
    /// Lets the loop's time pass.
    void pass(std::chrono::milliseconds time) {
        const auto until = driver.loop.now() + time;
        EXPECT_TRUE(driver.until([&] { return driver.loop.now() > until; }));
    }

    testing::Driver driver;
    AgentConfig config;
    Registry registry{3, 5};
    Admission admission{10, 10};
    EventLog events{4};
    Lines logged;
    std::vector<std::pair<std::string, ClientEnd>> ended;
    Workers workers{
        driver.loop,
        config,
        registry,
        admission,
        events,
        [this](const WorkerEndpointPtr& endpoint, ClientEnd how) { ended.emplace_back(endpoint->path, how); },
        [this](const LogRecord& record) {
            logged.push_back(std::string(record.message) + " " + record.fields.at(0).second);
        }};
    std::unique_ptr<Watcher> watcher;
};

TEST_F(WorkersTest, ComeAndAreListedInOrder) {
    EXPECT_TRUE(add(registration("b", "m")));
    EXPECT_TRUE(add(registration("a", "m")));
    EXPECT_TRUE(add(registration("b", "n")));
    ASSERT_EQ(workers.all().size(), 2u);
    EXPECT_EQ(workers.all()[0]->worker_id, "b");
    EXPECT_FALSE(workers.all()[0]->last_heartbeat);
    EXPECT_EQ(told(), (Lines{"+model b m", "+model a m", "+model b n"}));
    EXPECT_EQ(logged, (Lines{"registered b", "registered a", "registered b"}));
    EXPECT_EQ(workers.endpoint("nobody"), nullptr);
}

TEST_F(WorkersTest, ChangeNothingWhenTheRegistryIsFull) {
    for (const char* worker : {"a", "b", "c"}) add(registration(worker, "m"));
    told();
    const auto refused = workers.add(registration("d", "m"));
    EXPECT_NE(std::get<RegistryFull>(refused).message.find("--max-workers"), std::string::npos);
    EXPECT_FALSE(known("d"));
    EXPECT_EQ(told(), Lines());
}

TEST_F(WorkersTest, GetNewConnectionsWhenTheyMove) {
    add(registration("a", "m", "/one"));
    const auto before = workers.endpoint("a");
    add(registration("a", "n", "/one"));
    EXPECT_EQ(workers.endpoint("a"), before);
    EXPECT_EQ(ended.size(), 0u);
    add(registration("a", "m", "/two"));
    EXPECT_NE(workers.endpoint("a"), before);
    EXPECT_EQ(workers.endpoint("a")->path, "/two");
    EXPECT_EQ(ended, (Ends{{"/one", ClientEnd::retire}}));
    EXPECT_EQ(workers.all().size(), 1u);
}

TEST_F(WorkersTest, AreForgottenWithTheirLastRegistration) {
    add(registration("a", "m", "/s", "1"));
    add(registration("a", "m", "/s", "2"));
    add(registration("b", "m", "/s", "1"));
    told();
    EXPECT_FALSE(workers.unregister_model("a", "m", "3"));
    EXPECT_FALSE(workers.unregister_model("nobody", "m", "1"));
    EXPECT_TRUE(workers.unregister_model("a", "m", "1"));
    EXPECT_TRUE(known("a"));
    EXPECT_TRUE(workers.unregister_model("a", "m", "2"));
    EXPECT_FALSE(known("a"));
    EXPECT_FALSE(workers.heartbeat("a"));
    EXPECT_TRUE(known("b"));
    EXPECT_EQ(told(), (Lines{"-model a m", "-model a m"}));
}

TEST_F(WorkersTest, TakeTheirLeave) {
    add(registration("a", "m"));
    add(registration("a", "n"));
    told();
    EXPECT_FALSE(workers.unregister_worker("b"));
    EXPECT_TRUE(workers.unregister_worker("a"));
    EXPECT_FALSE(workers.unregister_worker("a"));
    EXPECT_EQ(told(), (Lines{"-model a m", "-model a n", "left a"}));
    EXPECT_EQ(ended, (Ends{{"/s", ClientEnd::retire}}));
    EXPECT_EQ(registry.size(), 0u);
}

TEST_F(WorkersTest, AreDroppedWithTheReasonFirst) {
    add(registration("a", "m"));
    told();
    workers.drop("a", "why");
    workers.drop("a", "again");
    EXPECT_EQ(told(), (Lines{"lost a: why", "-model a m"}));
    EXPECT_EQ(ended, (Ends{{"/s", ClientEnd::close}}));
    EXPECT_FALSE(known("a"));
    EXPECT_TRUE(add(registration("a", "m"))) << "it may come back";
}

TEST_F(WorkersTest, CannotRegisterWhenTheirProcessHasEnded) {
    add(registration("a", "m"));
    workers.ended("a", "exit status 1");
    EXPECT_FALSE(known("a"));
    EXPECT_NE(std::get<WorkerEnded>(workers.add(registration("a", "m"))).message.find("'a'"), std::string::npos);
    EXPECT_EQ(told(), (Lines{"+model a m", "lost a: exit status 1", "-model a m"}));
    EXPECT_EQ(ended, (Ends{{"/s", ClientEnd::read_out}})) << "replies that it had sent still count";
    for (std::size_t i = 0; i < kEndedRemembered; ++i) workers.ended("e" + std::to_string(i), "");
    EXPECT_TRUE(add(registration("a", "m"))) << "so many are remembered";
    EXPECT_FALSE(add(registration("e0", "m")));
    EXPECT_EQ(told(), Lines{"+model a m"}) << "the others were not known";
}

TEST_F(WorkersTest, AreDroppedWhenTheirHeartbeatsStop) {
    add(registration("silent", "m"));
    add(registration("stopped", "m"));
    add(registration("alive", "m"));
    told();
    EXPECT_TRUE(workers.heartbeat("stopped"));
    pass(5ms);
    workers.sweep();
    EXPECT_EQ(told(), Lines());
    EXPECT_TRUE(workers.heartbeat("alive"));
    config.heartbeat_timeout = 5ms;
    workers.sweep();
    EXPECT_EQ(told(), (Lines{"lost stopped: no heartbeat for 0.005 s", "-model stopped m"}));
}

TEST_F(WorkersTest, AreDroppedWhenTheyRefuseConnectionsAndNeverSentAHeartbeat) {
    add(registration("a", "m"));
    add(registration("b", "m"));
    workers.heartbeat("b");
    told();
    const Failure busy{FailureKind::unreachable, "its backlog is full", false};
    const Failure refused{FailureKind::unreachable, "nobody listens", true};
    workers.unreachable("a", busy);
    workers.unreachable("b", refused);
    workers.unreachable("nobody", refused);
    EXPECT_EQ(told(), Lines());
    workers.unreachable("a", refused);
    EXPECT_EQ(told(), (Lines{"lost a: refuses connections: nobody listens", "-model a m"}));
}

TEST_F(WorkersTest, AreDroppedAfterThreeViolationsInARow) {
    add(registration("a", "m"));
    told();
    const WorkerEndpointPtr endpoint = workers.endpoint("a");
    const auto violate = [&] { workers.violated(endpoint, {FailureKind::violation, "a frame is too long"}); };
    violate();
    violate();
    endpoint->violations = 0;  // an exchange went by the rules
    violate();
    violate();
    EXPECT_EQ(told(), Lines());
    violate();
    EXPECT_EQ(told(), (Lines{"lost a: broke the protocol 3 times in a row: a frame is too long", "-model a m"}));
    EXPECT_FALSE(known("a"));
    violate();
    EXPECT_EQ(told(), Lines()) << "it has gone";
}

TEST_F(WorkersTest, AreReadyOnceEachThatWasLaunchedHasSentAHeartbeat) {
    int ready = 0;
    workers.on_all_launched_registered = [&] { ++ready; };
    EXPECT_TRUE(workers.all_launched_registered());
    const std::vector<std::string> launched{"a", "b", "c"};
    workers.expect(launched);
    for (const std::string& worker : launched) add(registration(worker, "m"));
    workers.heartbeat("a");
    workers.heartbeat("a");
    workers.expect_no_more(std::vector<std::string>{"c", "stranger"});
    EXPECT_FALSE(workers.all_launched_registered());
    EXPECT_EQ(ready, 0);
    workers.heartbeat("b");
    EXPECT_TRUE(workers.all_launched_registered());
    workers.heartbeat("b");
    EXPECT_EQ(ready, 1);
}

TEST_F(WorkersTest, AreExpectedBackWhileTheyAreKept) {
    const Target target{"m", "", {}, false};
    workers.keep("place", "a");
    add(registration("a", "m"));
    workers.heartbeat("a");
    EXPECT_FALSE(workers.expected_to_serve(target));
    workers.ended("a", "crashed");
    EXPECT_TRUE(workers.expected_to_serve(target));
    add(registration("b", "m"));
    EXPECT_TRUE(workers.expected_to_serve(target)) << "it has not registered all";
    workers.heartbeat("b");
    workers.keep("place", "b");
    EXPECT_FALSE(workers.expected_to_serve(target));
    workers.unregister_worker("b");
    EXPECT_TRUE(workers.expected_to_serve(target));
    workers.keep("place", std::nullopt);
    EXPECT_FALSE(workers.expected_to_serve(target));
}

}  // namespace
}  // namespace anyserve
