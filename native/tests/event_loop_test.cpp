#include "anyserve/event_loop.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <csignal>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace anyserve {
namespace {

using namespace std::chrono_literals;

/// A handler made of a function.
class On final : public EventLoop::Handler {
public:
    explicit On(std::function<void(std::uint32_t)> act) : act_(std::move(act)) {}
    void ready(std::uint32_t events) override { act_(events); }

private:
    std::function<void(std::uint32_t)> act_;
};

struct Pair {
    Pair() {
        std::array<int, 2> fds{};
        EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds.data()), 0);
        ours = Fd(fds[0]);
        theirs = Fd(fds[1]);
    }
    void poke() const { EXPECT_EQ(::write(theirs.get(), "x", 1), 1); }
    Fd ours, theirs;
};

/// Lets a loop make one turn; it must have something to do.
void turn(EventLoop& loop) {
    loop.stop();
    loop.run();
}

TEST(TimerQueue, FiresInTheOrderOfTimesAndThenOfCalls) {
    TimerQueue queue;
    const TimerQueue::Time start{1h};
    std::string log;
    std::vector<TimerQueue::Timer> timers;
    for (const auto& [name, at] : {std::pair('c', 3), {'a', 1}, {'d', 3}, {'b', 2}, {'e', 9}}) {
        timers.push_back(queue.add(start + std::chrono::seconds(at), [&log, name = name] { log += name; }));
    }
    EXPECT_EQ(queue.next(), start + 1s);
    queue.fire(start);
    EXPECT_EQ(log, "");
    queue.fire(start + 3s);
    EXPECT_EQ(log, "abcd");
    EXPECT_FALSE(timers[0]);
    EXPECT_TRUE(timers[4]);
    timers.clear();
    EXPECT_EQ(queue.next(), std::nullopt);
}

TEST(TimerQueue, ATaskMayCancelAnotherThatIsDueAndReplaceItself) {
    TimerQueue queue;
    const TimerQueue::Time now{1h};
    int fired = 0;
    TimerQueue::Timer again;
    TimerQueue::Timer victim;
    const std::function<void()> arm = [&] {
        ++fired;
        victim = {};
        again = queue.add(now, arm);
    };
    again = queue.add(now, arm);
    victim = queue.add(now, [&] { fired += 100; });
    queue.fire(now);
    EXPECT_EQ(fired, 1) << "what is set by a task waits, and what is cancelled by one does not fire";
    queue.fire(now);
    EXPECT_EQ(fired, 2);
    again = {};
    queue.fire(now);
    EXPECT_EQ(fired, 2);
}

TEST(TimerQueue, ATimerMayOutliveIt) {
    TimerQueue::Timer timer;
    {
        TimerQueue queue;
        timer = queue.add(TimerQueue::Time{}, [] { FAIL(); });
    }
    EXPECT_FALSE(timer);
}

/// Against the obvious model: a multimap.
TEST(TimerQueue, DoesAsAnOrderedMapDoes) {
    std::mt19937 random(20261124);
    for (int round = 0; round < 50; ++round) {
        TimerQueue queue;
        std::multimap<TimerQueue::Time, int> model;
        std::map<int, TimerQueue::Timer> timers;
        std::vector<int> fired;
        TimerQueue::Time now{};
        for (int step = 0; step < 400; ++step) {
            if (random() % 3 != 0) {
                const auto when = now + std::chrono::milliseconds(random() % 50);
                model.emplace(when, step);
                timers[step] = queue.add(when, [&fired, step] { fired.push_back(step); });
            } else if (random() % 2 != 0 && !model.empty()) {
                const auto victim = std::next(model.begin(), static_cast<int>(random() % model.size()));
                timers.erase(victim->second);
                model.erase(victim);
            } else {
                now += std::chrono::milliseconds(random() % 30);
                std::vector<int> expected;
                while (!model.empty() && model.begin()->first <= now) {
                    expected.push_back(model.begin()->second);
                    model.erase(model.begin());
                }
                fired.clear();
                queue.fire(now);
                ASSERT_EQ(fired, expected);
            }
            ASSERT_EQ(queue.size(), model.size());
            ASSERT_EQ(queue.next(), model.empty() ? std::nullopt : std::optional(model.begin()->first));
        }
    }
}

TEST(EventLoop, TellsWhatADescriptorIsReadyFor) {
    EventLoop loop;
    const Pair pair;
    std::uint32_t seen = 0;
    On on([&](std::uint32_t events) { seen |= events, loop.stop(); });
    ASSERT_TRUE(loop.add(pair.ours.get(), EPOLLIN, on));
    EXPECT_FALSE(loop.add(pair.ours.get(), EPOLLIN, on)) << "twice";
    EXPECT_FALSE(loop.add(-1, EPOLLIN, on));
    pair.poke();
    loop.run();
    EXPECT_EQ(seen, EPOLLIN);
    loop.modify(pair.ours.get(), EPOLLOUT, on);
    seen = 0;
    loop.run();
    EXPECT_EQ(seen, EPOLLOUT);
    loop.remove(pair.ours.get());
    loop.remove(pair.ours.get());
    seen = 0;
    turn(loop);
    EXPECT_EQ(seen, 0U);
}

TEST(EventLoop, TellsThoseThatComeFirstBeforeTheOthers) {
    EventLoop loop;
    Pair early;
    Pair late;
    std::string log;
    On log_early([&](std::uint32_t) { log += 'e'; });
    On log_late([&](std::uint32_t) { log += 'l'; });
    ASSERT_TRUE(loop.add(late.ours.get(), EPOLLIN, log_late));
    ASSERT_TRUE(loop.add(early.ours.get(), EPOLLIN, log_early, EventLoop::Order::first));
    late.poke();
    early.poke();
    turn(loop);
    EXPECT_EQ(log, "el");
    loop.modify(early.ours.get(), EPOLLIN | EPOLLOUT, log_early);  // it stays first
    turn(loop);
    EXPECT_EQ(log, "elel");
    loop.remove(early.ours.get());
    loop.remove(late.ours.get());
}

TEST(EventLoop, AHandlerMayRemoveAnyDescriptorOfTheSameTurn) {
    EventLoop loop;
    const Pair one;
    const Pair two;
    int calls = 0;
    On remove_both([&](std::uint32_t) {
        ++calls;
        loop.remove(one.ours.get());
        loop.remove(two.ours.get());
        loop.stop();
    });
    loop.add(one.ours.get(), EPOLLIN, remove_both);
    loop.add(two.ours.get(), EPOLLIN, remove_both);
    one.poke();
    two.poke();
    loop.run();
    turn(loop);
    EXPECT_EQ(calls, 1);
}

TEST(EventLoop, AnEventOfAClosedDescriptorIsNotThatOfANewOneWithItsNumber) {
    EventLoop loop;
    Pair one;
    Pair two;
    Pair fresh;
    int wrong = 0;
    int calls = 0;
    On never([&](std::uint32_t) { ++wrong; });
    On reuse([&](std::uint32_t) {
        ++calls;
        // Both have an event in this turn. Their numbers go to a socket that has nothing to read.
        for (Pair* pair : {&one, &two}) {
            const int number = pair->ours.get();
            loop.remove(number);
            ASSERT_EQ(dup3(fresh.ours.get(), number, O_CLOEXEC), number);
            ASSERT_TRUE(loop.add(number, EPOLLIN, never));
        }
        loop.stop();
    });
    loop.add(one.ours.get(), EPOLLIN, reuse);
    loop.add(two.ours.get(), EPOLLIN, reuse);
    one.poke();
    two.poke();
    loop.run();
    turn(loop);
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(wrong, 0);
}

TEST(EventLoop, PostsFromOtherThreadsInTheirOrder) {
    EventLoop loop;
    constexpr int kThreads = 4;
    constexpr int kTasks = 2000;
    std::array<int, kThreads> next{};
    int left = kThreads * kTasks;
    std::vector<std::thread> threads;
    for (std::size_t thread = 0; thread < kThreads; ++thread) {
        threads.emplace_back([&, thread] {
            for (int number = 0; number < kTasks; ++number) {
                loop.post([&, thread, number] {
                    EXPECT_EQ(next[thread]++, number);
                    if (--left == 0) loop.stop();
                });
            }
        });
    }
    loop.run();
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(left, 0);
}

TEST(EventLoop, AStopBeforeTheRunIsNotLost) {
    EventLoop loop;
    loop.stop();
    loop.run();
    std::thread other([&] { loop.stop(); });
    loop.run();
    other.join();
}

TEST(EventLoop, RunsTimersNeverEarlyAndKeepsOneTimePerTurn) {
    EventLoop loop;
    const auto when = EventLoop::Clock::now() + 5ms;
    EventLoop::Clock::time_point first{};
    EventLoop::Clock::time_point second{};
    const auto one = loop.at(when, [&] { first = loop.now(); });
    const auto two = loop.at(when, [&] { second = loop.now(), loop.stop(); });
    loop.run();
    EXPECT_GE(first, when);
    EXPECT_EQ(first, second);
}

TEST(EventLoop, DefersToTheEndOfTheTurnAndDoesNotWaitForTheNext) {
    EventLoop loop;
    std::string log;
    loop.post([&] {
        loop.defer([&] {
            log += 'c';
            loop.defer([&] { log += 'd', loop.stop(); });
        });
        log += 'a';
    });
    loop.post([&] { log += 'b'; });
    loop.run();
    EXPECT_EQ(log, "abcd");
    loop.defer([&] { loop.stop(); });
    loop.run();  // nothing else would wake it
}

TEST(EventLoop, TasksThatFeedThemselvesDoNotKeepItFromItsDescriptors) {
    EventLoop loop;
    const Pair pair;
    On on([&](std::uint32_t) { loop.stop(); });
    loop.add(pair.ours.get(), EPOLLIN, on);
    EventLoop::Timer timer;
    const std::function<void()> again_timer = [&] { timer = loop.at(loop.now(), again_timer); };
    const std::function<void()> again_deferred = [&] { loop.defer(again_deferred); };
    const std::function<void()> again_posted = [&] { loop.post(again_posted); };
    again_timer();
    again_deferred();
    again_posted();
    pair.poke();
    loop.run();
}

TEST(EventLoop, SurvivesSignals) {
    struct sigaction action {};
    struct sigaction before {};
    action.sa_handler = [](int) {};
    ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
    EventLoop loop;
    std::atomic<bool> done{false};
    const pthread_t runner = pthread_self();
    std::thread other([&] {
        for (int count = 0; count < 200; ++count) pthread_kill(runner, SIGUSR1);
        done = true;
        loop.stop();
    });
    loop.run();
    EXPECT_TRUE(done);
    other.join();
    sigaction(SIGUSR1, &before, nullptr);
}

TEST(EventLoop, EndsWithTasksThatOwnWhatNeedsIt) {
    const Pair pair;
    On on([](std::uint32_t) {});
    auto loop = std::make_unique<EventLoop>();
    loop->add(pair.ours.get(), EPOLLIN, on);
    struct Owner {
        EventLoop& loop;
        int fd;
        EventLoop::Timer timer = loop.at(loop.now() + 1h, [] {});
        Owner(EventLoop& event_loop, int watched) : loop(event_loop), fd(watched) {}
        ~Owner() {
            loop.remove(fd);
            loop.defer([] { FAIL(); });
        }
    };
    auto owner = std::make_shared<Owner>(*loop, pair.ours.get());
    loop->post([owner] { FAIL(); });
    loop->defer([owner] { FAIL(); });
    owner.reset();
    loop.reset();
}

}  // namespace
}  // namespace anyserve
