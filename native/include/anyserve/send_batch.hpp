// Sends on many sockets at the end of a turn, by one system call where the kernel has it.
//
// Who is sent a few bytes is woken by them. Where cores are few it runs at once, in place of the sender, finds one
// request, and sleeps again: two changes of the running process for each of the requests of a turn. Sent together they
// are there together (measured: a third of the CPU of a small request).
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "anyserve/event_loop.hpp"
#include "anyserve/sockets.hpp"

namespace anyserve {

/// What waits to be sent. On the loop's thread, which has SIGPIPE blocked from the first of them on, or ignores it: the
/// call that sends them all cannot be told to do without it.
class SendBatch {
public:
    /// Who sends. Not owned: `remove` comes before its end.
    class Sender {
    public:
        /// What became of it; called from the loop. May add and remove any sender.
        virtual void sent(const Transfer& transfer) = 0;

    protected:
        ~Sender() = default;
    };

    /// So many are sent by one call.
    static constexpr std::size_t kMost = 64;

    enum class Sigpipe : std::uint8_t { block, ignored };

    explicit SendBatch(EventLoop& loop, Sigpipe sigpipe = Sigpipe::block)
        : loop_(loop), sigpipe_(sigpipe), alive_(std::make_shared<bool>(true)) {}
    ~SendBatch();
    SendBatch(const SendBatch&) = delete;
    SendBatch& operator=(const SendBatch&) = delete;

    /// Sends the parts, as far as the socket takes them, at the end of this turn. Socket and parts stay until then.
    /// `descriptors` go with the first byte; they stay too.
    void add(Sender& sender, const Fd& socket, std::span<const iovec> parts, std::span<const int> descriptors = {});
    /// Sends them now.
    void flush();
    /// Takes back what was not sent yet.
    void remove(const Sender& sender) noexcept;

private:
    struct Waiting {
        Sender* sender;  // null: removed
        const Fd* socket;
        std::span<const iovec> parts;
        std::span<const int> descriptors;
    };

    void send(std::span<Waiting> batch);
    [[nodiscard]] std::size_t submit(std::span<const Waiting> batch, std::span<Transfer> transfers);
    [[nodiscard]] bool open() noexcept;

    EventLoop& loop_;
    Sigpipe sigpipe_;
    std::vector<Waiting> waiting_;
    std::vector<Waiting> flushed_;  // while their senders are told
    unsigned long context_ = 0;     // of io_submit(2); 0: none
    bool may_submit_ = true;        // false: the kernel does not have it, or gives us none
    std::shared_ptr<bool> alive_;   // for what is deferred: whether there still is a batch
};

}  // namespace anyserve
