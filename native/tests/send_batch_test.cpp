#include "anyserve/send_batch.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace anyserve {
namespace {

iovec part(std::string_view bytes) { return {const_cast<char*>(bytes.data()), bytes.size()}; }

/// A socket whose other end is read by the test.
class Sending final : public SendBatch::Sender {
public:
    Sending() {
        std::array<int, 2> fds{};
        EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds.data()), 0);
        ours = Fd(fds[0]);
        theirs = Fd(fds[1]);
    }
    void sent(const Transfer& given) override {
        EXPECT_FALSE(transfer);
        transfer = given;
        if (act) act();
    }
    void add_to(SendBatch& batch, std::string_view first, std::string_view second = {}) {
        parts = {part(first), part(second)};
        batch.add(*this, ours, parts);
    }
    [[nodiscard]] std::string received() const {
        std::string bytes(1 << 20, '\0');
        const ssize_t size = recv(theirs.get(), bytes.data(), bytes.size(), 0);
        return size < 0 ? "nothing" : bytes.substr(0, static_cast<std::size_t>(size));
    }

    Fd ours, theirs;
    std::vector<iovec> parts;
    std::optional<Transfer> transfer;
    std::function<void()> act;
};

class SendBatchTest : public ::testing::Test {
protected:
    void turn() {
        loop.stop();
        loop.run();
    }
    static std::vector<std::unique_ptr<Sending>> make(std::size_t count) {
        std::vector<std::unique_ptr<Sending>> all(count);
        for (auto& each : all) each = std::make_unique<Sending>();
        return all;
    }

    EventLoop loop;
    SendBatch batch{loop};
};

TEST_F(SendBatchTest, SendsAtTheEndOfTheTurnHoweverManyThereAre) {
    for (const std::size_t count : {std::size_t{1}, std::size_t{2}, SendBatch::kMost, 2 * SendBatch::kMost + 1}) {
        const auto all = make(count);
        for (const auto& each : all) each->add_to(batch, "some", " bytes");
        EXPECT_EQ(all.front()->received(), "nothing") << "it is not the end of the turn";
        turn();
        for (const auto& each : all) {
            ASSERT_TRUE(each->transfer);
            EXPECT_EQ(each->transfer->error, 0);
            EXPECT_EQ(each->transfer->size, 10U);
            EXPECT_EQ(each->received(), "some bytes");
        }
    }
}

TEST_F(SendBatchTest, TellsHowFarEachHasCome) {
    const std::string big(std::size_t{8} << 20, 'b');  // more than a socket takes
    const auto all = make(4);
    all[0]->add_to(batch, big);
    all[1]->theirs.reset();
    all[1]->add_to(batch, "for nobody");
    all[3]->add_to(batch, "a", "b");
    while (send(all[2]->ours.get(), big.data(), big.size(), 0) > 0) {
    }
    all[2]->add_to(batch, "no room");
    turn();
    EXPECT_EQ(all[0]->transfer->error, 0);
    EXPECT_GT(all[0]->transfer->size, 0U);
    EXPECT_LT(all[0]->transfer->size, big.size());
    EXPECT_EQ(all[1]->transfer->error, EPIPE) << "and no signal";
    EXPECT_TRUE(all[2]->transfer->would_block());
    EXPECT_EQ(all[3]->transfer->size, 2U);
    EXPECT_EQ(all[3]->received(), "ab");
}

TEST_F(SendBatchTest, WhatTheKernelDoesNotTakeTogetherIsSentByItself) {
    for (const std::size_t bad : {0U, 1U}) {  // the kernel stops before it, or takes none
        const auto all = make(3);
        all[bad]->ours.reset();
        for (const auto& each : all) each->add_to(batch, "bytes");
        turn();
        for (std::size_t i = 0; i < all.size(); ++i) {
            ASSERT_TRUE(all[i]->transfer);
            EXPECT_EQ(all[i]->transfer->error, i == bad ? EBADF : 0);
            if (i != bad) {
                EXPECT_EQ(all[i]->received(), "bytes");
            }
        }
    }
    const auto later = make(2);
    for (const auto& each : later) each->add_to(batch, "later");
    turn();
    EXPECT_EQ(later[1]->received(), "later");
}

TEST_F(SendBatchTest, WhatIsRemovedIsNeitherSentNorTold) {
    auto all = make(4);
    for (const auto& each : all) each->add_to(batch, "bytes");
    batch.remove(*all[2]);
    const Fd other_end = std::move(all[2]->theirs);
    all[2].reset();
    all[0]->act = [&] { batch.remove(*all[1]); };  // which has been sent by then
    turn();
    EXPECT_FALSE(all[1]->transfer);
    EXPECT_TRUE(all[3]->transfer);
    char byte = 0;
    EXPECT_EQ(recv(other_end.get(), &byte, 1, 0), 0) << "closed, and nothing before";
}

TEST_F(SendBatchTest, OneThatIsToldMayEndOneThatIsStillToBeSent) {
    auto all = make(2 * SendBatch::kMost);  // more than one call takes
    for (const auto& each : all) each->add_to(batch, "bytes");
    all[0]->act = [&] {
        auto& later = all[SendBatch::kMost + 1];
        batch.remove(*later);
        later.reset();
    };
    turn();
    for (const auto& each : all) {
        if (each) {
            EXPECT_EQ(each->received(), "bytes");
        }
    }
}

TEST_F(SendBatchTest, ASenderMaySendAgainWhenItIsTold) {
    const auto all = make(2);
    all[0]->act = [&] {
        all[0]->transfer.reset();
        all[0]->act = nullptr;
        all[0]->add_to(batch, " twice");
    };
    for (const auto& each : all) each->add_to(batch, "once");
    turn();
    EXPECT_EQ(all[0]->received(), "once");
    turn();
    EXPECT_EQ(all[0]->received(), " twice");
}

TEST(SendBatch, MayEndWithSomethingToSend) {
    EventLoop loop;
    Sending sending;
    {
        SendBatch batch(loop);
        sending.add_to(batch, "bytes");
    }
    loop.stop();
    loop.run();
    EXPECT_EQ(sending.received(), "nothing");
}

}  // namespace
}  // namespace anyserve
