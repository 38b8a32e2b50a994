#include "anyserve/fd.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <utility>

namespace anyserve {
namespace {

bool is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }

TEST(Fd, ClosesWhatItOwnsOnce) {
    int number = -1;
    {
        Fd fd(open("/dev/null", O_RDONLY | O_CLOEXEC));
        ASSERT_TRUE(fd);
        number = fd.get();
        Fd other = std::move(fd);
        EXPECT_FALSE(fd);  // NOLINT(bugprone-use-after-move): that is the question
        EXPECT_TRUE(is_open(number));
        fd = std::move(other);
        EXPECT_EQ(fd.get(), number);
    }
    EXPECT_FALSE(is_open(number));
}

TEST(Fd, ClosesWhatIsOverwrittenAndGivesAwayWhatIsReleased) {
    Fd fd(open("/dev/null", O_RDONLY | O_CLOEXEC));
    const int first = fd.get();
    const int second = fcntl(first, F_DUPFD_CLOEXEC, 0);
    fd = Fd(second);
    EXPECT_FALSE(is_open(first));
    EXPECT_EQ(fd.release(), second);
    EXPECT_FALSE(fd);
    EXPECT_TRUE(is_open(second));
    ::close(second);
    EXPECT_FALSE(Fd(-1));
}

}  // namespace
}  // namespace anyserve
