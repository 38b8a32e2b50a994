// Exchanges by reference: what goes over the socket, whose the memory is afterwards, and what a worker can do to it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "anyserve/shared_memory.hpp"
#include "anyserve/worker_client.hpp"
#include "worker_client_peer.hpp"

namespace anyserve {
namespace {

using testing::ListeningWorker;
using testing::Peer;
using testing::Script;

constexpr std::size_t kLarge = std::size_t{1} << 20;

/// A request as a worker gets it.
struct Got {
    std::string header;
    std::string in_line;
    std::vector<Fd> descriptors;
};

std::uint64_t number(std::string_view bytes) {
    std::uint64_t value = 0;
    for (const char byte : bytes) value = value << 8 | static_cast<unsigned char>(byte);
    return value;
}

/// The next frame by reference. Descriptors come with its first byte: a read of one byte must bring them.
Got receive(Peer& peer) {
    Got got;
    char first = 0;
    iovec part{&first, 1};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(8 * sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    EXPECT_EQ(recvmsg(peer.fd(), &message, MSG_CMSG_CLOEXEC), 1);
    for (cmsghdr* each = CMSG_FIRSTHDR(&message); each != nullptr; each = CMSG_NXTHDR(&message, each)) {
        std::array<int, 8> fds{};
        const std::size_t bytes = each->cmsg_len - CMSG_LEN(0);
        std::memcpy(fds.data(), CMSG_DATA(each), bytes);
        for (std::size_t i = 0; i < bytes / sizeof(int); ++i) got.descriptors.emplace_back(fds[i]);
    }
    got.header = std::string(1, first) + peer.bytes(kReferenceHeaderBytes - 1).value_or("");
    got.in_line = peer.bytes(number(std::string_view(got.header).substr(4, 4))).value_or("");
    return got;
}

std::string reply_by_reference(std::uint64_t bytes, std::string_view in_line = {}, std::uint64_t last = 0) {
    const auto header = reference_header(static_cast<std::uint32_t>(in_line.size()), bytes, last);
    return std::string(header.data(), header.size()) + std::string(in_line);
}

/// Keeps what came as it came.
class Keeping final : public ReplySink {
public:
    explicit Keeping(EventLoop& loop) : loop_(loop) {}
    void on_frame(Payload given) override {
        frame = std::move(given);
        loop_.stop();
        if (act) act();
    }
    void on_failed(Failure given) override {
        failure = std::move(given);
        loop_.stop();
    }
    [[nodiscard]] bool ended() const { return frame || failure; }
    std::optional<Payload> frame;
    std::optional<Failure> failure;
    std::function<void()> act;  // at the frame

private:
    EventLoop& loop_;
};

class SharedExchange : public ::testing::Test {
protected:
    SharedExchange() {
        client = WorkerClient::create(driver.loop, driver.sends, worker.path(), options,
                                      [this](const Failure& violation) { violations.push_back(violation.text); });
    }
    SharedMemoryPtr body(std::string_view bytes) const {
        SharedMemoryPtr memory = pool->body(bytes.size());
        std::memcpy(memory->data(), bytes.data(), bytes.size());
        return memory;
    }
    /// An exchange with a room that ends as the worker's frame has it.
    void exchange(Keeping& sink, const std::function<void(Peer&, Got&)>& answer) {
        const Script script([&] {
            Peer peer = worker.accept();
            Got got = receive(peer);
            answer(peer, got);
            peer.drain();
        });
        const auto exchange = client->start({"request", "", nullptr, pool->room(1, kLarge)}, sink);
        sink.act = [&] { finished = exchange->finish(); };
        EXPECT_TRUE(driver.until([&] { return sink.ended(); }));
        client->close();
    }

    testing::Driver driver;
    testing::TemporaryDirectory directory;
    ListeningWorker worker{directory / "w"};
    WorkerClientOptions options;
    std::shared_ptr<SharedMemoryPool> pool = SharedMemoryPool::create({});
    std::shared_ptr<const SharedMemoryTaker> taker = pool->taker();
    std::shared_ptr<WorkerClient> client;
    std::vector<std::string> violations;
    std::optional<Failure> finished;
};

TEST_F(SharedExchange, TellsWhereItsBytesAre) {
    const std::string request(kLarge, 'r');
    const Script script([&] {
        Peer peer = worker.accept();
        const Got got = receive(peer);
        ASSERT_EQ(got.descriptors.size(), 2U);
        const auto header = reference_header(10, kLarge, 2 * kLarge);
        EXPECT_EQ(got.header, std::string_view(header.data(), header.size()));
        EXPECT_EQ(got.in_line, "annotation");
        void* bytes = mmap(nullptr, kLarge, PROT_READ, MAP_SHARED, got.descriptors[0].get(), 0);
        ASSERT_NE(bytes, MAP_FAILED);
        EXPECT_EQ(std::string_view(static_cast<char*>(bytes), kLarge), request);
        munmap(bytes, kLarge);
        EXPECT_EQ(pwrite(got.descriptors[1].get(), "a large reply", 13, 0), 13);
        peer.send(reply_by_reference(13, " and more"));
        peer.drain();
    });
    SharedMemoryPtr memory = body(request);
    Keeping sink(driver.loop);
    const auto exchange =
        client->start({{memory->data(), kLarge}, "annotation", memory.get(), pool->room(1, kLarge)}, sink);
    ASSERT_TRUE(driver.until([&] { return sink.ended(); }));
    ASSERT_TRUE(sink.frame);
    EXPECT_EQ(sink.frame->view(), "a large reply and more");
    EXPECT_NE(sink.frame->shared(), nullptr);
    EXPECT_FALSE(exchange->finish());
    sink.frame->shared()->give_back();
    sink.frame.reset();
    memory.reset();
    EXPECT_EQ(pool->bytes(), 3 * kLarge) << "both are kept for the next exchange";
    client->close();
}

TEST_F(SharedExchange, ASmallRequestGoesInlineBesideItsRoom) {
    Keeping sink(driver.loop);
    exchange(sink, [](Peer& peer, const Got& got) {
        EXPECT_EQ(got.descriptors.size(), 1U);
        EXPECT_EQ(number(std::string_view(got.header).substr(8, 8)), 0U);
        EXPECT_EQ(got.in_line, "request");
        peer.reply("an inline reply");
    });
    ASSERT_TRUE(sink.frame);
    EXPECT_EQ(sink.frame->view(), "an inline reply");
    EXPECT_EQ(sink.frame->shared(), nullptr);
    EXPECT_FALSE(finished);
}

TEST_F(SharedExchange, AReplyMayHaveNothingInItsRoom) {
    Keeping sink(driver.loop);
    exchange(sink, [](Peer& peer, const Got&) { peer.send(reply_by_reference(0, "all of it")); });
    ASSERT_TRUE(sink.frame);
    EXPECT_EQ(sink.frame->view(), "all of it");
}

TEST_F(SharedExchange, ARepliesBytesComeInAnyPieces) {
    Keeping sink(driver.loop);
    exchange(sink, [](Peer& peer, const Got& got) {
        EXPECT_EQ(pwrite(got.descriptors[0].get(), "room", 4, 0), 4);
        for (const char byte : reply_by_reference(4, " and line")) peer.send({&byte, 1});
    });
    ASSERT_TRUE(sink.frame);
    EXPECT_EQ(sink.frame->view(), "room and line");
}

TEST_F(SharedExchange, ARoomIsClosedWhenItsReplyIsFollowedByMore) {
    Keeping sink(driver.loop);
    exchange(sink, [](Peer& peer, const Got&) { peer.send(reply_by_reference(4) + "more"); });
    ASSERT_TRUE(sink.frame);
    ASSERT_TRUE(finished);
    EXPECT_EQ(finished->kind, FailureKind::violation);
    sink.frame.reset();
    EXPECT_EQ(pool->bytes(), 0U);
}

TEST_F(SharedExchange, RefusesRepliesThatTellTooMuch) {
    const std::vector<std::string> replies{
        reply_by_reference(2 * kLarge + 1),
        reply_by_reference(~std::uint64_t{0}),
        reply_by_reference(4, {}, 1),
        reply_by_reference(~std::uint64_t{0} - 3, "1234"),
        reply_by_reference(kLarge, {}, ~std::uint64_t{0}),
    };
    for (const std::string& reply : replies) {
        client = WorkerClient::create(driver.loop, driver.sends, worker.path(), options,
                                      [this](const Failure& violation) { violations.push_back(violation.text); });
        Keeping sink(driver.loop);
        exchange(sink, [&](Peer& peer, const Got&) { peer.send(reply); });
        ASSERT_TRUE(sink.failure);
        EXPECT_EQ(sink.failure->kind, FailureKind::violation);
        EXPECT_EQ(pool->bytes(), 0U) << "the worker may still write there";
    }
    EXPECT_EQ(violations.size(), replies.size());
}

TEST_F(SharedExchange, RefusesAReplyByReferenceWithoutARoom) {
    const Script script([&] {
        Peer peer = worker.accept();
        EXPECT_TRUE(peer.frame());
        peer.send(reply_by_reference(1));
        peer.drain();
    });
    Keeping sink(driver.loop);
    const auto exchange = client->start({"request"}, sink);
    ASSERT_TRUE(driver.until([&] { return sink.ended(); }));
    ASSERT_TRUE(sink.failure);
    EXPECT_EQ(sink.failure->kind, FailureKind::violation);
    client->close();
}

TEST_F(SharedExchange, TheSecondAttemptOffersNoRoom) {
    const Script script([&] {
        {
            Peer peer = worker.accept();
            EXPECT_TRUE(peer.frame());
            peer.reply("first");
            peer.wait_for_bytes();
            peer.close();  // with the second request unread
        }
        Peer peer = worker.accept();
        const Got got = receive(peer);
        EXPECT_EQ(got.descriptors.size(), 1U) << "the body alone";
        EXPECT_EQ(number(std::string_view(got.header).substr(16, 8)), 0U);
        peer.reply("second");
        peer.drain();
    });
    {
        Keeping sink(driver.loop);
        const auto exchange = client->start({"request"}, sink);
        ASSERT_TRUE(driver.until([&] { return sink.ended(); }));
        EXPECT_FALSE(exchange->finish());
    }
    SharedMemoryPtr memory = body(std::string(kLarge, 'x'));
    Keeping sink(driver.loop);
    const auto exchange = client->start({{memory->data(), kLarge}, {}, memory.get(), pool->room(1, kLarge)}, sink);
    ASSERT_TRUE(driver.until([&] { return sink.ended(); }));
    ASSERT_TRUE(sink.frame);
    EXPECT_EQ(sink.frame->view(), "second");
    EXPECT_FALSE(exchange->finish());
    memory.reset();
    EXPECT_EQ(pool->bytes(), 0U) << "the first connection's end may still have body and room";
    client->close();
}

}  // namespace
}  // namespace anyserve
