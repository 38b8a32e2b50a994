#include "anyserve/message_room.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace anyserve {
namespace {

TEST(MakeRoom, ForAllOfAMessageUpToALimit) {
    for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, std::size_t{5000}, kHugeBytes - 1, kHugeBytes,
                                    kHugeBytes + 4097, kReservedBytes, std::size_t{1} << 40}) {
        std::string message;
        make_room(message, bytes);
        EXPECT_TRUE(message.empty());
        EXPECT_GE(message.capacity(), std::min(bytes, kReservedBytes));
        EXPECT_LE(message.capacity(), kReservedBytes + 4096);
        message.resize(std::min(bytes, 2 * kHugeBytes), 'm');  // which it bears
        EXPECT_EQ(message.find_first_not_of('m'), std::string::npos);
    }
}

}  // namespace
}  // namespace anyserve
