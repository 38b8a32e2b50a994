// Memory that is shared with workers, and payloads that lie in it.
#include "anyserve/shared_memory.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "anyserve/payload.hpp"

namespace anyserve {
namespace {

constexpr std::size_t kLarge = std::size_t{64} << 10;

/// A pool for which a worker has registered.
struct Pool {
    explicit Pool(const SharedMemoryLimits& limits = {})
        : pool(SharedMemoryPool::create(limits)), taker(pool->taker()) {}

    std::shared_ptr<SharedMemoryPool> pool;
    std::shared_ptr<const SharedMemoryTaker> taker;
};

ino_t inode(const SharedMemory& memory) {
    struct stat status {};
    EXPECT_EQ(fstat(memory.descriptor().get(), &status), 0);
    return status.st_ino;
}

TEST(SharedMemory, GoesToNobodyUnlessAWorkerTakesIt) {
    const auto pool = SharedMemoryPool::create({});
    EXPECT_EQ(pool->body(kLarge), nullptr);
    {
        const auto taker = pool->taker();
        EXPECT_NE(pool->body(kLarge), nullptr);
        EXPECT_EQ(pool->body(kLarge - 1), nullptr) << "it is small";
    }
    EXPECT_EQ(pool->body(kLarge), nullptr);
}

TEST(SharedMemory, CanBeTurnedOff) {
    for (const SharedMemoryLimits& limits : {SharedMemoryLimits{0, 1 << 20}, SharedMemoryLimits{kLarge, 0}}) {
        const auto pool = SharedMemoryPool::create(limits);
        EXPECT_FALSE(pool->usable());
        EXPECT_EQ(pool->taker(), nullptr);
        EXPECT_FALSE(pool->is_large(1 << 30));
        EXPECT_EQ(pool->room(1, kLarge), nullptr);
    }
}

TEST(SharedMemory, NobodyElseWritesABodyOrChangesItsSize) {
    const Pool of;
    const SharedMemoryPtr body = of.pool->body(kLarge);
    const int fd = body->descriptor().get();
    EXPECT_EQ(mmap(nullptr, kLarge, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
    EXPECT_EQ(pwrite(fd, "x", 1, 0), -1);
    EXPECT_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
    EXPECT_EQ(ftruncate(fd, 0), -1);
    EXPECT_EQ(ftruncate(fd, 1 << 20), -1);
    EXPECT_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
    void* mapped = mmap(nullptr, kLarge, PROT_READ, MAP_SHARED, fd, 0);
    ASSERT_NE(mapped, MAP_FAILED);
    EXPECT_EQ(mprotect(mapped, kLarge, PROT_READ | PROT_WRITE), -1);
    std::memcpy(body->data(), "ours", 4);
    EXPECT_EQ(std::memcmp(mapped, "ours", 4), 0);
    munmap(mapped, kLarge);
}

TEST(SharedMemory, ARoomIsWrittenAndKeepsItsSize) {
    const Pool of;
    const SharedMemoryPtr room = of.pool->room(1, kLarge);
    EXPECT_GT(room->size(), kLarge) << "there is room behind a reply like the last";
    const int fd = room->descriptor().get();
    EXPECT_EQ(pwrite(fd, "reply", 5, 0), 5);
    EXPECT_EQ(std::string_view(room->data(), 5), "reply");
    EXPECT_EQ(ftruncate(fd, 0), -1);
    EXPECT_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
    // A worker may take its pages away: then zeros are read, and nothing fails.
    EXPECT_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(room->size())), 0);
    EXPECT_EQ(room->data()[0], 0);
}

TEST(SharedMemory, IsUsedAgainOnceAnExchangeHasEndedWell) {
    const Pool of;
    SharedMemoryPtr body = of.pool->body(kLarge);
    const ino_t first = inode(*body);
    body->lend();
    body->give_back();
    body.reset();
    body = of.pool->body(kLarge - 1 + 1);
    EXPECT_EQ(inode(*body), first);
    EXPECT_NE(inode(*of.pool->body(kLarge)), first) << "two at once";
}

TEST(SharedMemory, IsNotUsedAgainAfterAnExchangeThatEndedOtherwise) {
    const Pool of;
    SharedMemoryPtr body = of.pool->body(kLarge);
    const ino_t first = inode(*body);
    body->lend();
    body.reset();
    EXPECT_EQ(of.pool->bytes(), 0U);
    body = of.pool->body(kLarge);
    EXPECT_NE(inode(*body), first);
    body->lend();
    body->lend();  // to a second worker, since the first did not take it
    body->give_back();
    body.reset();
    EXPECT_EQ(of.pool->bytes(), 0U) << "the first worker may still have it";
}

TEST(SharedMemory, RoomsOfWorkersAreTheirOwn) {
    const Pool of;
    SharedMemoryPtr room = of.pool->room(1, kLarge);
    const ino_t first = inode(*room);
    room.reset();
    EXPECT_NE(inode(*of.pool->room(2, kLarge)), first);
    EXPECT_EQ(inode(*of.pool->room(1, kLarge)), first);
}

TEST(SharedMemory, HasABoundAndMakesRoomOfWhatNobodyUses) {
    const Pool of({kLarge, 4 * kLarge});
    std::vector<SharedMemoryPtr> held;
    for (int i = 0; i < 4; ++i) held.push_back(of.pool->body(kLarge));
    EXPECT_EQ(of.pool->body(kLarge), nullptr);
    EXPECT_EQ(of.pool->bytes(), 4 * kLarge);
    held.resize(2);
    EXPECT_EQ(of.pool->bytes(), 4 * kLarge) << "kept for use";
    const SharedMemoryPtr larger = of.pool->body(2 * kLarge);
    ASSERT_NE(larger, nullptr) << "of another size, in place of two that were free";
    EXPECT_EQ(larger->size(), 2 * kLarge);
    EXPECT_EQ(of.pool->bytes(), 4 * kLarge);
    EXPECT_EQ(of.pool->body(kLarge), nullptr);
    EXPECT_EQ(of.pool->body(8 * kLarge), nullptr);
}

TEST(SharedMemory, HasABoundOfDescriptors) {
    const Pool of({4096, std::size_t{1} << 30});
    std::vector<SharedMemoryPtr> held;
    for (std::size_t i = 0; i < SharedMemoryPool::kMost; ++i) held.push_back(of.pool->body(4096));
    EXPECT_NE(held.back(), nullptr);
    EXPECT_EQ(of.pool->body(4096), nullptr);
    held.pop_back();
    EXPECT_NE(of.pool->room(1, 100), nullptr);
}

TEST(SharedMemory, IsForAllThreads) {
    const Pool of({kLarge, 8 * kLarge});
    std::vector<std::thread> threads;
    for (std::uint64_t worker = 1; worker <= 4; ++worker) {
        threads.emplace_back([&of, worker] {
            for (std::size_t i = 0; i < 200; ++i) {
                const SharedMemoryPtr body = of.pool->body(kLarge);
                const SharedMemoryPtr room = of.pool->room(worker, kLarge);
                for (SharedMemory* memory : {body.get(), room.get()}) {
                    if (memory == nullptr) continue;
                    std::memset(memory->data(), static_cast<int>(worker), kLarge);
                    memory->lend();
                    if (i % 7 != 0) memory->give_back();
                    EXPECT_EQ(memory->data()[kLarge - 1], static_cast<char>(worker));
                }
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_LE(of.pool->bytes(), 8 * kLarge);
}

TEST(SharedMemory, OutlivesItsOwnersPool) {
    SharedMemoryPtr body;
    {
        const Pool of;
        body = of.pool->body(kLarge);
    }
    std::memset(body->data(), 'x', kLarge);
}

TEST(Payload, IsAString) {
    Payload payload = std::string("abc");
    payload.append("def");
    EXPECT_EQ(payload.view(), "abcdef");
    EXPECT_EQ(payload.shared(), nullptr);
    EXPECT_EQ(std::move(payload).take(), "abcdef");
    EXPECT_TRUE(Payload().empty());
}

TEST(Payload, LiesInSharedMemory) {
    const Pool of;
    SharedMemoryPtr memory = of.pool->room(1, kLarge);
    std::memcpy(memory->data(), "abc?", 4);
    const char* where = memory->data();
    Payload payload(std::move(memory), 3);
    EXPECT_EQ(payload.text(), nullptr);
    payload.append("def");
    EXPECT_EQ(payload.view(), "abcdef");
    EXPECT_EQ(payload.view().data(), where) << "it went behind the rest";
    const Payload moved = std::move(payload);
    EXPECT_EQ(moved.view().data(), where);
}

TEST(Payload, LeavesSharedMemoryThatIsFull) {
    const Pool of;
    SharedMemoryPtr memory = of.pool->body(kLarge);
    std::memset(memory->data(), 'x', kLarge);
    Payload payload(std::move(memory), kLarge);
    payload.append("y");
    EXPECT_EQ(payload.shared(), nullptr);
    EXPECT_EQ(std::move(payload).take(), std::string(kLarge, 'x') + "y");
}

}  // namespace
}  // namespace anyserve
