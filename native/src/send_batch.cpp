#include "anyserve/send_batch.hpp"

#include <linux/aio_abi.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <utility>

namespace anyserve {

SendBatch::~SendBatch() {
    *alive_ = false;
    if (context_ != 0) syscall(SYS_io_destroy, context_);
}

void SendBatch::add(Sender& sender, const Fd& socket, std::span<const iovec> parts, std::span<const int> descriptors) {
    waiting_.push_back({&sender, &socket, parts, descriptors});
    if (waiting_.size() > 1) return;
    loop_.defer([this, alive = alive_] {
        if (*alive) flush();
    });
}

void SendBatch::remove(const Sender& sender) noexcept {
    for (std::vector<Waiting>* list : {&waiting_, &flushed_}) {
        for (Waiting& each : *list) {
            if (each.sender == &sender) each.sender = nullptr;
        }
    }
}

void SendBatch::flush() {
    std::erase_if(waiting_, [](const Waiting& each) { return each.sender == nullptr; });
    flushed_.swap(waiting_);
    for (std::size_t begin = 0; begin < flushed_.size(); begin += kMost) {
        send(std::span(flushed_).subspan(begin, std::min(kMost, flushed_.size() - begin)));
    }
    flushed_.clear();
}

void SendBatch::send(std::span<Waiting> batch) {
    std::array<Transfer, kMost> transfers;
    // The call that sends them all takes no descriptors: payloads are large where there are some, and calls few.
    const bool plain = std::all_of(batch.begin(), batch.end(), [](const Waiting& w) { return w.descriptors.empty(); });
    std::size_t count = plain && batch.size() > 1 && open() ? submit(batch, transfers) : 0;
    for (; count < batch.size(); ++count) {
        const Waiting& each = batch[count];
        if (each.sender != nullptr) transfers[count] = send_parts(*each.socket, each.parts, each.descriptors);
    }
    for (std::size_t i = 0; i < batch.size(); ++i) {
        if (Sender* sender = std::exchange(batch[i].sender, nullptr)) sender->sent(transfers[i]);
    }
}

/// Returns how many of the batch the kernel has taken, from the first on.
std::size_t SendBatch::submit(std::span<const Waiting> batch, std::span<Transfer> transfers) {
    std::array<iocb, kMost> calls{};
    std::array<iocb*, kMost> pointers{};
    for (std::size_t i = 0; i < batch.size(); ++i) {
        iocb& call = calls[i];
        call.aio_data = i;
        call.aio_lio_opcode = IOCB_CMD_PWRITEV;
        // Of one that was removed the socket may be gone: the kernel stops there, and the rest is sent one by one.
        call.aio_fildes = static_cast<std::uint32_t>(batch[i].sender != nullptr ? batch[i].socket->get() : -1);
        call.aio_buf = reinterpret_cast<std::uintptr_t>(batch[i].parts.data());
        call.aio_nbytes = batch[i].parts.size();
        pointers[i] = &call;
    }
    const long taken = syscall(SYS_io_submit, context_, static_cast<long>(batch.size()), pointers.data());
    if (taken <= 0) return 0;
    std::fill_n(transfers.begin(), taken, Transfer{0, EIO});
    // Sockets that do not block are done with by then: this only fetches the results.
    std::array<io_event, kMost> events;  // NOLINT(*-member-init): filled by the kernel
    for (long done = 0; done < taken;) {
        const long count = syscall(SYS_io_getevents, context_, taken - done, taken - done, events.data(), nullptr);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) break;  // it cannot be, and what became of the rest nobody knows
        for (const io_event& event : std::span(events).first(static_cast<std::size_t>(count))) {
            const auto result = static_cast<ssize_t>(event.res);
            Transfer& transfer = transfers[event.data];
            transfer =
                result < 0 ? Transfer{0, static_cast<int>(-result)} : Transfer{static_cast<std::size_t>(result), 0};
        }
        done += count;
    }
    return static_cast<std::size_t>(taken);
}

bool SendBatch::open() noexcept {
    if (context_ != 0 || !may_submit_) return may_submit_;
    if (sigpipe_ == Sigpipe::block) {
        sigset_t pipe;
        sigemptyset(&pipe);
        sigaddset(&pipe, SIGPIPE);
        pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
    }
    return may_submit_ = syscall(SYS_io_setup, kMost, &context_) == 0;
}

}  // namespace anyserve
