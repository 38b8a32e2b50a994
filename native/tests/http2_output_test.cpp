#include "anyserve/http2_output.hpp"

#include <gtest/gtest.h>

#include <array>
#include <string>

#include "anyserve/http2_limits.hpp"

namespace anyserve {
namespace {

using namespace std::chrono_literals;

std::string contents(const OutputQueue& queue) {
    std::array<iovec, 100> vectors{};
    std::string out;
    const std::size_t count = queue.gather(vectors);
    for (std::size_t i = 0; i < count; ++i)
        out.append(static_cast<const char*>(vectors[i].iov_base), vectors[i].iov_len);
    return out;
}

TEST(OutputQueue, KeepsTheOrderOfCopiedAndBorrowedBytes) {
    OutputQueue queue;
    const auto owner = std::make_shared<const std::string>("0123456789");
    queue.append("ab");
    queue.append(owner, std::string_view(*owner).substr(2, 4));
    queue.append("");
    queue.append("cd");
    queue.append("ef");
    const std::string all = "ab2345cdef";
    EXPECT_EQ(contents(queue), all);
    for (std::size_t gone = 1; gone <= all.size(); ++gone) {
        queue.pop(1);
        EXPECT_EQ(queue.size(), all.size() - gone);
        EXPECT_EQ(contents(queue), all.substr(gone));
    }
    EXPECT_EQ(owner.use_count(), 1) << "what is gone is let go";
    queue.append("again");
    EXPECT_EQ(contents(queue), "again");
}

TEST(OutputQueue, PopsAcrossPieces) {
    OutputQueue queue;
    for (int i = 0; i < 10; ++i) queue.append(std::string(20'000, static_cast<char>('0' + i)));
    queue.pop(185'000);
    EXPECT_EQ(contents(queue), std::string(15'000, '9'));
}

TEST(TokenBucket, GivesABurstAndThenItsRate) {
    TokenBucket::Time now{1h};
    TokenBucket bucket({3, 10}, now);
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(bucket.take(now));
    EXPECT_FALSE(bucket.take(now));
    EXPECT_TRUE(bucket.take(now + 100ms));
    EXPECT_FALSE(bucket.take(now + 150ms));
    bucket.earn(1);
    EXPECT_TRUE(bucket.take(now + 150ms));
    bucket.earn(1000);
    EXPECT_FALSE(bucket.take(now + 150ms, 4)) << "no more than the burst";
}

TEST(ByteBudget, IsPartOfALargerOne) {
    SharedCount whole;
    ByteBudget one(80, whole, 100), other(80, whole, 100);
    EXPECT_TRUE(one.reserve(80));
    EXPECT_FALSE(one.reserve(1));
    EXPECT_FALSE(other.reserve(21)) << "the whole has no more";
    EXPECT_TRUE(other.reserve(20));
    other.add(50);
    EXPECT_EQ(whole.value(), 150u);
    EXPECT_FALSE(other.reserve(0 + 1));
    other.release(70);
    one.release(80);
    EXPECT_EQ(whole.value(), 0u);
    EXPECT_FALSE(one.reserve(static_cast<std::size_t>(-1)));
}

}  // namespace
}  // namespace anyserve
