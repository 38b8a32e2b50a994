#include "agent_connection.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <span>
#include <utility>

#include "anyserve/sockets.hpp"

namespace anyserve {
namespace {

constexpr std::size_t kScratchBytes = std::size_t{32} << 10;
constexpr int kReadsAtOnce = 8;  // then others have their turn
constexpr std::size_t kPartsAtOnce = 64;
// Requests that come before their turn are kept up to either; agents do not send any.
constexpr std::size_t kEarlyFrames = 16;
constexpr std::size_t kEarlyBytes = std::size_t{1} << 18;
constexpr std::size_t kDescriptorsAtOnce = 2;  // of a request: what else comes is closed by the kernel

/// `receive_parts`, with the descriptors that were passed beside.
Transfer receive_with_descriptors(const Fd& socket, std::span<const iovec> parts, std::deque<Fd>& descriptors) {
    alignas(cmsghdr) std::array<char, CMSG_SPACE(kDescriptorsAtOnce * sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(parts.data());
    message.msg_iovlen = parts.size();
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    ssize_t size = 0;
    do {
        size = recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC);
    } while (size < 0 && errno == EINTR);
    if (size < 0) return {0, errno};
    for (cmsghdr* each = CMSG_FIRSTHDR(&message); each != nullptr; each = CMSG_NXTHDR(&message, each)) {
        if (each->cmsg_level != SOL_SOCKET || each->cmsg_type != SCM_RIGHTS) continue;
        const std::size_t count = (each->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < count; ++i) {
            int descriptor = -1;
            std::memcpy(&descriptor, CMSG_DATA(each) + i * sizeof(int), sizeof descriptor);
            descriptors.emplace_back(descriptor);
        }
    }
    return {static_cast<std::size_t>(size), 0};
}

}  // namespace

AgentConnection::AgentConnection(WorkerServer& server, Fd socket)
    : server_(server), reader_(server.options_.max_frame_bytes), socket_(std::move(socket)) {}

AgentConnection::~AgentConnection() = default;

bool AgentConnection::watch() {
    watched_for_ = EPOLLIN;
    return server_.loop_.add(socket_.get(), watched_for_, *this);
}

void AgentConnection::ready(std::uint32_t events) {
    const auto alive = shared_from_this();
    // Reading first, also in the middle of a reply: an end of the stream is how an agent cancels.
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) read();
    if ((events & EPOLLOUT) != 0 && watched_for_ != 0) go_on();
}

/// The agent reads again.
void AgentConnection::go_on() {
    Frames gone;
    WorkerExchangePtr waits;
    {
        const Lock lock(mutex_);
        blocked_ = false;
        if (!in_batch_) write_locked(gone);
        if (blocked_) return;
        waits = caught_up();
    }
    watch_for(EPOLLIN);
    if (waits) server_.sink_.on_writable(waits);
}

void AgentConnection::read() {
    std::array<char, kScratchBytes> scratch;  // NOLINT(*-member-init): filled by the kernel
    for (int count = 0; count < kReadsAtOnce && watched_for_ != 0; ++count) {
        const std::span<char> room = reader_.room();
        const std::array<iovec, 2> parts{{{room.data(), room.size()}, {scratch.data(), scratch.size()}}};
        const auto where = room.empty() ? std::span(parts).subspan(1) : std::span(parts);
        const Transfer got = server_.shares_memory() ? receive_with_descriptors(socket_, where, descriptors_)
                                                     : receive_parts(socket_, where);
        if (got.would_block()) return;
        if (got.size == 0) return end();  // an end of the stream, or an error
        const std::size_t in_room = std::min(got.size, room.size());
        if (!take(in_room, {scratch.data(), got.size - in_room})) return end();
        if (got.size < room.size() + scratch.size()) return;  // the socket had no more
    }
}

/// False: the agent breaks the rules of the framing.
bool AgentConnection::take(std::size_t in_room, std::string_view behind) {
    if (!reader_.take(in_room, behind, server_.shares_memory(), taken_)) {
        server_.sink_.on_refused("a frame of " + std::to_string(reader_.refused_length()) +
                                 " bytes is above the limit of " + std::to_string(server_.options_.max_frame_bytes));
        return false;
    }
    for (RequestFrame& frame : taken_) {
        early_bytes_ += frame.bytes.size();
        early_.push_back(std::move(frame));
    }
    taken_.clear();
    begin_next();
    if (descriptors_.size() > kDescriptorsAtOnce * (kEarlyFrames + 1)) return false;
    const std::size_t early_bytes = early_bytes_ + (busy() ? reader_.held() : 0);
    if (early_.size() <= kEarlyFrames && early_bytes <= kEarlyBytes) return true;
    server_.sink_.on_refused("requests came before their turn");  // `frame.connections.early`
    return false;
}

/// Tells the next requests, each once the exchange before it has ended.
void AgentConnection::begin_next() {
    const auto alive = shared_from_this();
    while (!early_.empty() && watched_for_ != 0) {
        {
            const Lock lock(mutex_);
            // An agent that asks and reads nothing would have all its replies kept.
            awaited_ = exchange_ != nullptr || full_locked();
            if (awaited_) return;
        }
        early_bytes_ -= early_.front().bytes.size();
        const WorkerExchangePtr exchange = exchange_of(std::move(early_.front()));
        early_.pop_front();
        if (!exchange) {
            server_.sink_.on_refused("a request by reference has not the memory that it tells");
            return end();
        }
        {
            const Lock lock(mutex_);
            exchange_ = exchange;
        }
        server_.sink_.on_request(exchange);
    }
}

/// Null: it refers to memory that is not there, or cannot be used (`frame.shared.check`).
WorkerExchangePtr AgentConnection::exchange_of(RequestFrame frame) {
    if (frame.body == 0 && frame.room == 0) {
        auto payload = std::make_shared<const RequestPayload>(std::move(frame.bytes));
        return std::make_shared<WorkerExchange>(shared_from_this(), std::move(payload));
    }
    SharedMappingPtr body = frame.body > 0 ? next_memory(frame.body, false) : nullptr;
    SharedMappingPtr room = frame.room > 0 ? next_memory(frame.room, true) : nullptr;
    if ((frame.body > 0 && !body) || (frame.room > 0 && !room)) return nullptr;
    std::shared_ptr<const RequestPayload> payload =
        body ? std::make_shared<const RequestPayload>(std::move(body), frame.body, std::move(frame.bytes))
             : std::make_shared<const RequestPayload>(std::move(frame.bytes));
    const std::span<char> writable = room ? std::span(room->data(), frame.room) : std::span<char>();
    return std::make_shared<WorkerExchange>(shared_from_this(), std::move(payload), writable, std::move(room));
}

SharedMappingPtr AgentConnection::next_memory(std::uint64_t bytes, bool writable) {
    if (descriptors_.empty()) return nullptr;
    const Fd descriptor = std::move(descriptors_.front());
    descriptors_.pop_front();
    return server_.map(descriptor, bytes, writable);
}

void AgentConnection::abort() {
    server_.loop_.run_soon([alive = shared_from_this()] { alive->end(); });
}

void AgentConnection::end() {
    if (watched_for_ == 0) return;
    const auto alive = shared_from_this();
    watched_for_ = 0;
    WorkerExchangePtr cancelled;
    std::deque<ReplyFrame> dropped;  // let go of without the lock: who keeps their bytes may wait for us
    int fd = -1;
    {
        const Lock lock(mutex_);
        fd = socket_.get();
        if (in_batch_) server_.sends_.remove(*this);
        in_batch_ = false;
        server_.loop_.remove(fd);
        socket_.reset();
        cancelled = std::exchange(exchange_, nullptr);
        if (cancelled) cancelled->cancelled_ = true;
        dropped.swap(out_);
    }
    room_.notify_all();
    if (cancelled) server_.sink_.on_cancelled(cancelled);
    server_.closed(fd);
}

bool AgentConnection::idle() {
    if (reader_.unfinished() || !early_.empty()) return false;
    const Lock lock(mutex_);
    return !exchange_ && out_.empty();
}

bool AgentConnection::busy() {
    const Lock lock(mutex_);
    return exchange_ != nullptr;
}

bool AgentConnection::queue(WorkerExchange& exchange, ReplyFrame frame, bool last) {
    frame.seal();
    const Lock lock(mutex_);
    if (exchange_.get() != &exchange) return false;
    if (last) exchange_.reset();
    out_bytes_ += frame.size();
    out_.push_back(std::move(frame));
    begin_awaited();
    return true;
}

/// Has the loop's thread tell the request that waits, if it waits no more.
void AgentConnection::begin_awaited() {
    if (!awaited_ || exchange_ || full_locked()) return;
    awaited_ = false;
    server_.loop_.run_soon([alive = shared_from_this()] { alive->begin_next(); });
}

void AgentConnection::write() {
    Frames gone;  // destroyed without the lock, see `end`
    WorkerExchangePtr waits;
    {
        const Lock lock(mutex_);
        if (in_batch_ || blocked_ || !socket_) return;
        write_locked(gone);
        waits = caught_up();
    }
    if (waits) server_.sink_.on_writable(waits);
}

void AgentConnection::write_locked(Frames& gone) {
    while (!out_.empty()) {
        if (!wrote(send_parts(socket_, unsent()), gone)) return;
    }
}

std::span<const iovec> AgentConnection::unsent() {
    parts_.clear();
    std::size_t skip = sent_;
    for (const ReplyFrame& frame : out_) {
        if (parts_.size() >= kPartsAtOnce) break;
        frame.append_parts(skip, kPartsAtOnce, parts_);
        skip = 0;
    }
    return parts_;
}

/// False: the agent takes no more now, or never.
bool AgentConnection::wrote(const Transfer& transfer, Frames& gone) {
    if (transfer.error != 0 && !transfer.would_block()) {
        // An agent that only stops reading looks open to whoever reads: nobody else would tell.
        blocked_ = true;
        abort();
        return false;
    }
    sent_ += transfer.size;
    while (!out_.empty() && sent_ >= out_.front().size()) {
        sent_ -= out_.front().size();
        out_bytes_ -= out_.front().size();
        gone.push_back(std::move(out_.front()));
        out_.pop_front();
    }
    if (!transfer.would_block()) {
        if (!full_locked()) room_.notify_all();
        begin_awaited();
        if (out_.empty() && !exchange_) server_.exchange_ended();
        return true;
    }
    watch_for_room();
    return false;
}

/// Has the loop's thread go on when the agent reads.
void AgentConnection::watch_for_room() {
    blocked_ = true;
    server_.loop_.run_soon([alive = shared_from_this()] { alive->watch_for(EPOLLIN | EPOLLOUT); });
}

void AgentConnection::add_to(SendBatch& batch) {
    const Lock lock(mutex_);
    if (in_batch_ || blocked_ || !socket_ || out_.empty()) return;
    in_batch_ = true;
    batch.add(*this, socket_, unsent());
}

void AgentConnection::sent(const Transfer& transfer) {
    Frames gone;
    WorkerExchangePtr waits;
    {
        const Lock lock(mutex_);
        in_batch_ = false;
        if (wrote(transfer, gone)) write_locked(gone);
        waits = caught_up();
    }
    if (waits) server_.sink_.on_writable(waits);
}

/// The exchange that is to be told that it may go on; none if there is none.
WorkerExchangePtr AgentConnection::caught_up() noexcept {
    if (!told_full_ || full_locked()) return nullptr;
    told_full_ = false;
    return exchange_;
}

void AgentConnection::watch_for(std::uint32_t events) {
    if (watched_for_ == 0 || std::exchange(watched_for_, events) == events) return;
    server_.loop_.modify(socket_.get(), events, *this);
}

bool AgentConnection::full_locked() const noexcept {
    return out_.size() > kWriteAheadFrames || out_bytes_ - sent_ > kWriteAheadBytes;
}

bool AgentConnection::full() {
    const Lock lock(mutex_);
    return told_full_ = full_locked() && exchange_;
}

bool AgentConnection::wait_writable(const WorkerExchange& exchange) {
    Lock lock(mutex_);
    room_.wait(lock, [&] { return exchange_.get() != &exchange || !full_locked(); });
    return exchange_.get() == &exchange;
}

}  // namespace anyserve
