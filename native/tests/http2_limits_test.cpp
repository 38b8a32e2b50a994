#include "anyserve/http2_limits.hpp"

#include <gtest/gtest.h>

#include <limits>

namespace anyserve {
namespace {

TEST(SetLimit, SetsEachKind) {
    ServerLimits limits;
    EXPECT_EQ(set_limit(limits, "max-connections", 7), "");
    EXPECT_EQ(limits.max_connections, 7U);
    EXPECT_EQ(set_limit(limits, "max-streams", 8), "");
    EXPECT_EQ(limits.max_streams, 8U);
    EXPECT_EQ(set_limit(limits, "idle-timeout", 1.5), "");
    EXPECT_EQ(limits.idle_timeout, std::chrono::milliseconds(1'500));
    EXPECT_EQ(set_limit(limits, "resets", 50), "");
    EXPECT_EQ(limits.resets.burst, 50U);
    EXPECT_EQ(limits.resets.per_second, 5U);
}

TEST(SetLimit, RefusesWhatIsUnknownOrOutOfRange) {
    ServerLimits limits;
    EXPECT_NE(set_limit(limits, "max-colours", 7), "");
    for (const double bad : {0.0, -1.0, 1e16, std::numeric_limits<double>::quiet_NaN()}) {
        EXPECT_NE(set_limit(limits, "max-connections", bad), "") << bad;
    }
    EXPECT_NE(set_limit(limits, "stream-window", 1e10), "") << "windows have 31 bits";
    EXPECT_NE(set_limit(limits, "stream-window", 100), "") << "less than the protocol's first window";
    EXPECT_EQ(limits.max_connections, ServerLimits().max_connections);
    EXPECT_EQ(limits.stream_window, ServerLimits().stream_window);
}

}  // namespace
}  // namespace anyserve
