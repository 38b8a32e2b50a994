#include "reply_frame.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

namespace anyserve {
namespace {

std::string joined(const std::vector<iovec>& parts) {
    std::string all;
    for (const iovec& part : parts) all.append(static_cast<const char*>(part.iov_base), part.iov_len);
    return all;
}

std::string bytes_of(const ReplyFrame& frame) {
    std::vector<iovec> parts;
    frame.append_parts(0, 1000, parts);
    return joined(parts);
}

/// "own view more last": own bytes and others' in turn, and two views side by side.
class InTurn : public ::testing::Test {
protected:
    InTurn() {
        frame.own() += "own ";
        frame.append_view(first);
        frame.own() += " ";
        frame.append_view(second);
        frame.append_view(third);
        frame.seal();
    }
    const std::string first = "view", second = "more", third = " last";
    ReplyFrame frame;
    const std::string all = std::string("\0\0\0\x12", 4) + "own view more last";
};

TEST(ReplyFrame, IsAPrefixAlone) {
    ReplyFrame frame;
    frame.seal();
    EXPECT_EQ(bytes_of(frame), std::string(4, '\0'));
    EXPECT_EQ(frame.size(), 4U);
    EXPECT_EQ(frame.payload_size(), 0U);
}

TEST(ReplyFrame, HoldsAPayload) {
    ReplyFrame frame(std::string(0x1234, 'x'));
    frame.seal();
    EXPECT_EQ(bytes_of(frame), std::string("\0\0\x12\x34", 4) + std::string(0x1234, 'x'));
}

TEST_F(InTurn, IsOneFrame) {
    EXPECT_EQ(bytes_of(frame), all);
    EXPECT_EQ(frame.size(), all.size());
    EXPECT_EQ(frame.payload_size(), all.size() - 4);
    std::string payload(frame.payload_size() + 1, '.');
    frame.copy_payload_to(payload);
    EXPECT_EQ(payload, all.substr(4) + ".");
}

TEST_F(InTurn, SendsOthersBytesFromWhereTheyAre) {
    std::vector<iovec> parts;
    frame.append_parts(0, 1000, parts);
    ASSERT_EQ(parts.size(), 5U);
    EXPECT_EQ(parts[1].iov_base, first.data());
    EXPECT_EQ(parts[3].iov_base, second.data());
    EXPECT_EQ(parts[4].iov_base, third.data());
}

TEST_F(InTurn, GoesOnBehindWhatIsSent) {
    for (std::size_t skip = 0; skip <= all.size(); ++skip) {
        std::vector<iovec> parts;
        frame.append_parts(skip, 1000, parts);
        EXPECT_EQ(joined(parts), all.substr(skip)) << skip;
    }
}

TEST_F(InTurn, KeepsToTheRoomThatThereIs) {
    for (std::size_t most = 1; most <= 6; ++most) {
        // As a sender does it, who never has room for more.
        std::string sent;
        while (sent.size() < all.size()) {
            std::vector<iovec> parts;
            frame.append_parts(sent.size(), most, parts);
            ASSERT_FALSE(parts.empty());
            EXPECT_LE(parts.size(), most);
            sent += joined(parts);
        }
        EXPECT_EQ(sent, all);
    }
    std::vector<iovec> full(3);
    frame.append_parts(0, full.size(), full);
    EXPECT_EQ(full.size(), 3U);
}

TEST_F(InTurn, StaysItselfWhenItIsMoved) {
    const ReplyFrame moved = std::move(frame);
    EXPECT_EQ(bytes_of(moved), all);
}

TEST(ReplyFrame, MayBeAReference) {
    ReplyFrame frame = ReplyFrame::by_reference(0x1234);
    const std::string before = bytes_of(frame);
    frame.seal();
    EXPECT_EQ(bytes_of(frame), before) << "its prefix says more than a length";
    EXPECT_EQ(frame.size(), before.size());
}

TEST(ReplyFrame, EmptyViewsAreNoParts) {
    ReplyFrame frame;
    frame.append_view({});
    frame.own() += "x";
    frame.append_view({});
    frame.seal();
    std::vector<iovec> parts;
    frame.append_parts(0, 1000, parts);
    EXPECT_EQ(joined(parts), std::string("\0\0\0\x01x", 5));
    for (const iovec& part : parts) EXPECT_NE(part.iov_len, 0U);
}

TEST(ReplyFrame, LetsGoOfItsKeepersAtItsEnd) {
    auto keeper = std::make_shared<const int>(1);
    const std::weak_ptr<const int> kept = keeper;
    {
        ReplyFrame frame;
        frame.keep(std::move(keeper));
        const ReplyFrame moved = std::move(frame);
        EXPECT_FALSE(kept.expired());
    }
    EXPECT_TRUE(kept.expired());
}

}  // namespace
}  // namespace anyserve
