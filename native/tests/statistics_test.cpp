#include "anyserve/statistics.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "registry_vectors.hpp"

namespace anyserve {
namespace {

RegistrationPtr model(const char* name, const char* version = "") {
    return vectors::registration({{"worker", "w"}, {"model_name", name}, {"model_version", version}});
}

TEST(Statistics, CountsSuccessesAndFailures) {
    Statistics statistics(10);
    statistics.exchanged(*model("m", "1"), {.succeeded = true, .queue_ns = 5, .compute_ns = 7, .ended_ms = 100});
    statistics.exchanged(*model("m", "1"), {.succeeded = false, .queue_ns = 11, .compute_ns = 13, .ended_ms = 200});
    statistics.rejected(*model("m", "1"));
    const ModelCounts counts = statistics.of("m", "1");
    EXPECT_EQ(counts.success.count, 1U);
    EXPECT_EQ(counts.success.ns, 12U);
    EXPECT_EQ(counts.fail.count, 1U);
    EXPECT_EQ(counts.fail.ns, 24U);
    EXPECT_EQ(counts.queue.count, 2U);
    EXPECT_EQ(counts.queue.ns, 16U);
    EXPECT_EQ(counts.compute.count, 1U);
    EXPECT_EQ(counts.compute.ns, 7U);
    EXPECT_EQ(counts.rejected, 1U);
    EXPECT_EQ(counts.last_inference_ms, 200U);
    EXPECT_EQ(statistics.of("m", "2").queue.count, 0U);
}

TEST(Statistics, CountsByListedName) {
    Statistics statistics(10);
    const auto unnamed = vectors::registration({{"worker", "w"}, {"capability", {{"model", "m"}, {"version", "3"}}}});
    statistics.rejected(*unnamed);
    EXPECT_EQ(statistics.of("m", "3").rejected, 1U);
}

TEST(Statistics, SumsWhatWorkersTellByTheSizeOfTheBatch) {
    Statistics statistics(10);
    statistics.batched(*model("m"), {.size = 8, .count = 2, .compute_ns = 10});
    statistics.batched(*model("m"), {.size = 1, .count = 1, .compute_ns = 3});
    statistics.batched(*model("m"), {.size = 8, .count = 1, .compute_ns = 4});
    const ModelCounts counts = statistics.of("m", "");
    EXPECT_EQ(counts.calls.count, 4U);
    EXPECT_EQ(counts.calls.ns, 17U);
    ASSERT_EQ(counts.batches.size(), 2U);
    EXPECT_EQ(counts.batches.at(8).count, 3U);
    EXPECT_EQ(counts.batches.at(8).ns, 14U);
    EXPECT_EQ(counts.success.count, 0U);
}

TEST(Statistics, KeepsTheFirstSizesAndGreatestSums) {
    Statistics statistics(10);
    constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
    for (std::uint64_t size = 1; size <= kMaxBatchSizes + 2; ++size) {
        statistics.batched(*model("m"), {.size = size, .count = 1, .compute_ns = 1});
    }
    EXPECT_EQ(statistics.of("m", "").batches.size(), kMaxBatchSizes);
    EXPECT_EQ(statistics.of("m", "").batches.rbegin()->first, kMaxBatchSizes);
    EXPECT_EQ(statistics.of("m", "").calls.count, kMaxBatchSizes + 2);
    statistics.batched(*model("m"), {.size = 1, .count = most, .compute_ns = most});
    EXPECT_EQ(statistics.of("m", "").batches.at(1).count, most);
    EXPECT_EQ(statistics.of("m", "").calls.ns, most);
}

TEST(Statistics, ForgetsTheOneFirstCounted) {
    Statistics statistics(2);
    statistics.rejected(*model("a"));
    statistics.rejected(*model("b"));
    statistics.rejected(*model("a"));
    statistics.rejected(*model("c"));
    EXPECT_EQ(statistics.of("a", "").rejected, 0U);
    EXPECT_EQ(statistics.of("b", "").rejected, 1U);
    EXPECT_EQ(statistics.of("c", "").rejected, 1U);
    statistics.rejected(*model("a"));
    EXPECT_EQ(statistics.of("b", "").rejected, 0U);
}

}  // namespace
}  // namespace anyserve
