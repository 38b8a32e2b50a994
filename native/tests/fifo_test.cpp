#include "anyserve/fifo.hpp"

#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <random>

namespace anyserve {
namespace {

TEST(Fifo, GivesWhatADequeGives) {
    std::mt19937 random(7);
    Fifo<std::unique_ptr<int>> fifo;  // what cannot be copied
    std::deque<int> model;
    int next = 0;
    for (int step = 0; step < 20'000; ++step) {
        const bool grows = (step / 500) % 2 == 0;
        if (random() % 4 < (grows ? 3U : 1U)) {
            fifo.push(std::make_unique<int>(next));
            model.push_back(next++);
        } else if (!model.empty()) {
            EXPECT_EQ(*fifo.front(), model.front());
            EXPECT_EQ(*fifo.pop(), model.front());
            model.pop_front();
        }
        if (random() % 1000 == 0) {
            fifo.clear();
            model.clear();
        }
        ASSERT_EQ(fifo.size(), model.size());
        ASSERT_EQ(fifo.empty(), model.empty());
    }
    auto expected = model.begin();
    for (const auto& each : fifo) EXPECT_EQ(*each, *expected++);
    EXPECT_EQ(expected, model.end());
}

}  // namespace
}  // namespace anyserve
