#include "anyserve/events.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <variant>

namespace anyserve {
namespace {

std::unique_ptr<Watcher> watching(EventLog& log, std::function<void()> wake = [] {}) {
    auto result = log.watch(std::move(wake));
    if (auto* refused = std::get_if<TooManyWatchers>(&result)) throw std::runtime_error(refused->message);
    return std::get<std::unique_ptr<Watcher>>(std::move(result));
}

std::uint64_t taken_sequence(Watcher& watcher) {
    const auto taken = watcher.take();
    const auto* event = std::get_if<EventPtr>(&taken);
    return event ? (*event)->sequence : 0;
}

template <class Kind>
bool takes(Watcher& watcher) {
    return std::holds_alternative<Kind>(watcher.take());
}

Event ready() {
    return {.time_unix_ms = 5, .type = EventType::server_ready, .worker_id = "w", .registration = {}, .message = "m"};
}

TEST(EventLog, TellsEveryWatcherWhatComes) {
    EventLog log(2);
    log.publish(ready());
    const auto a = watching(log);
    log.publish(ready());
    const auto b = watching(log);
    log.publish(ready());
    EXPECT_EQ(log.sequence(), 3U);
    const auto taken = a->take();
    const Event& event = *std::get<EventPtr>(taken);
    EXPECT_EQ(event.sequence, 2U);
    EXPECT_EQ(event.time_unix_ms, 5);
    EXPECT_EQ(event.type, EventType::server_ready);
    EXPECT_EQ(event.worker_id, "w");
    EXPECT_EQ(event.message, "m");
    EXPECT_EQ(taken_sequence(*a), 3U);
    EXPECT_TRUE(takes<Watcher::Nothing>(*a));
    EXPECT_EQ(taken_sequence(*b), 3U);
    EXPECT_TRUE(takes<Watcher::Nothing>(*b));
}

TEST(EventLog, RefusesMoreWatchersThanItsLimit) {
    EventLog log(1);
    auto first = watching(log);
    const auto second = log.watch([] {});
    ASSERT_TRUE(std::holds_alternative<TooManyWatchers>(second));
    EXPECT_EQ(std::get<TooManyWatchers>(second).message, "1 watchers are there already (--max-watchers)");
    first.reset();
    EXPECT_NE(watching(log), nullptr);
}

TEST(EventLog, EndsAWatcherThatDoesNotTake) {
    EventLog log(2);
    const auto slow = watching(log);
    const auto quick = watching(log);
    for (std::uint64_t i = 1; i <= Watcher::kBuffer + 2; ++i) {
        log.publish(ready());
        EXPECT_EQ(taken_sequence(*quick), i);
    }
    for (std::uint64_t i = 1; i <= Watcher::kBuffer; ++i) ASSERT_EQ(taken_sequence(*slow), i);
    EXPECT_TRUE(takes<Watcher::TooSlow>(*slow));
    EXPECT_TRUE(takes<Watcher::TooSlow>(*slow));
    log.close();
    EXPECT_TRUE(takes<Watcher::TooSlow>(*slow)) << "it has missed events, whatever comes later";
    EXPECT_TRUE(takes<Watcher::Closed>(*quick));
}

TEST(EventLog, EndsBehindTheLastEvents) {
    EventLog log(2);
    const auto watcher = watching(log);
    log.publish(ready());
    log.close();
    log.publish(ready());
    EXPECT_EQ(taken_sequence(*watcher), 1U);
    EXPECT_TRUE(takes<Watcher::Closed>(*watcher));
    EXPECT_TRUE(takes<Watcher::Closed>(*watching(log))) << "who comes later";
}

TEST(EventLog, WakesWhoFoundNothing) {
    EventLog log(1);
    int woken = 0;
    const auto watcher = watching(log, [&] { ++woken; });
    log.publish(ready());
    EXPECT_EQ(woken, 0) << "nobody has looked yet";
    EXPECT_EQ(taken_sequence(*watcher), 1U);
    EXPECT_TRUE(takes<Watcher::Nothing>(*watcher));
    log.publish(ready());
    log.publish(ready());
    EXPECT_EQ(woken, 1);
    EXPECT_EQ(taken_sequence(*watcher), 2U);
    EXPECT_EQ(taken_sequence(*watcher), 3U);
    EXPECT_TRUE(takes<Watcher::Nothing>(*watcher));
    log.close();
    EXPECT_EQ(woken, 2);
}

TEST(EventLog, MayEndBeforeItsWatchers) {
    auto log = std::make_unique<EventLog>(1);
    const auto watcher = watching(*log);
    log->publish(ready());
    log.reset();
    EXPECT_EQ(taken_sequence(*watcher), 1U);
    EXPECT_TRUE(takes<Watcher::Closed>(*watcher));
}

}  // namespace
}  // namespace anyserve
