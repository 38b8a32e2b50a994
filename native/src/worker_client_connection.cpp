#include "anyserve/worker_client_connection.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>

#include "anyserve/sockets.hpp"
#include "anyserve/worker_client.hpp"

namespace anyserve {
namespace {

constexpr std::size_t kScratchBytes = std::size_t{32} << 10;
constexpr int kReadsAtOnce = 4;  // then others have their turn

iovec part_of(std::string_view bytes) noexcept { return {const_cast<char*>(bytes.data()), bytes.size()}; }

const char* text_of(FailureKind kind) noexcept {
    switch (kind) {
        case FailureKind::violation: return "a reply frame was cut off";
        case FailureKind::not_taken: return "the worker closed without reading the request";
        case FailureKind::gone:
        case FailureKind::unreachable: break;
    }
    return "the worker closed the connection before its reply was complete";
}

}  // namespace

WorkerConnection::WorkerConnection(WorkerClient& client, Fd socket)
    : client_(client), socket_(std::move(socket)), reader_(client.options_.max_frame_bytes) {}

WorkerConnection::~WorkerConnection() { close(); }

bool WorkerConnection::watch() {
    // Before the clients' requests: they must find neither a connection that the worker has ended nor a place taken
    // that a reply frees.
    if (!client_.loop_.add(socket_.get(), EPOLLIN, *this, EventLoop::Order::first)) return false;
    watched_for_ = EPOLLIN;
    return true;
}

void WorkerConnection::ready(std::uint32_t events) {
    const auto keep = client_.shared_from_this();  // sinks may let go of everything
    // Reading first: bytes that were there before the rest of the request was written are a violation.
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) read();
    if ((events & EPOLLOUT) != 0 && is_open()) write();
    deliver();
}

void WorkerConnection::begin(RequestParts& parts, Exchange& exchange) {
    exchange_ = &exchange;
    replied_ = false;
    unsent_ = 0;
    if (parts.body != nullptr || parts.room) {
        frame_by_reference(parts);
    } else {
        frame_inline(parts);
    }
    client_.sends_.add(*this, socket_, out_, descriptors());
}

void WorkerConnection::frame_inline(const RequestParts& parts) {
    const auto header = frame_header(static_cast<std::uint32_t>(parts.size()));  // which the client has checked
    std::copy(header.begin(), header.end(), header_.begin());
    out_ = {iovec{header_.data(), header.size()}, part_of(parts.payload), part_of(parts.annotations)};
    descriptor_count_ = 0;
    reader_.offer_room(0);
}

void WorkerConnection::frame_by_reference(RequestParts& parts) {
    const std::string_view in_line = parts.body == nullptr ? parts.payload : std::string_view();
    const std::size_t body = parts.payload.size() - in_line.size();
    const std::size_t room = parts.room ? parts.room->size() : 0;
    header_ = reference_header(static_cast<std::uint32_t>(in_line.size() + parts.annotations.size()), body, room);
    out_ = {iovec{header_.data(), header_.size()}, part_of(in_line), part_of(parts.annotations)};
    descriptor_count_ = 0;
    for (SharedMemory* memory : {parts.body, parts.room.get()}) {
        if (memory == nullptr) continue;
        memory->lend();
        descriptors_[descriptor_count_++] = memory->descriptor().get();
    }
    reader_.offer_room(room);
}

void WorkerConnection::sent(const Transfer& transfer) {
    wrote(transfer);
    if (exchange_ != nullptr && has_news()) exchange_->deliver_soon();
}

void WorkerConnection::write() { wrote(send_parts(socket_, std::span(out_).subspan(unsent_), descriptors())); }

void WorkerConnection::wrote(const Transfer& sent) {
    if (sent.error == ETOOMANYREFS && descriptor_count_ > 0 && exchange_ != nullptr) {
        // Workers have left too many descriptors unread for the kernel to take more.
        frame_inline(exchange_->parts_);
        return write();
    }
    if (sent.size > 0) descriptor_count_ = 0;
    if (sent.error != 0 && !sent.would_block()) return ended(Ending::reset);
    pop_sent(sent.size);
    // A short write means that the socket is full: nothing is tried again before it says that it is not.
    watch_for(writing() ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

void WorkerConnection::pop_sent(std::size_t size) noexcept {
    while (writing() && size >= out_[unsent_].iov_len) size -= out_[unsent_++].iov_len;
    if (size == 0) return;
    out_[unsent_].iov_base = static_cast<char*>(out_[unsent_].iov_base) + size;
    out_[unsent_].iov_len -= size;
}

/// One call takes a prefix and its payload; the rest of a payload goes where it stays, and what lies behind it to the
/// stack. A short read has emptied the socket: nothing is read only to find that.
void WorkerConnection::read() {
    std::array<char, kScratchBytes> scratch;  // NOLINT(*-member-init): filled by the kernel
    for (int count = 0; count < kReadsAtOnce && is_open() && !read_ahead(); ++count) {
        const std::span<char> room = reader_.room();
        const std::array<iovec, 2> parts{{{room.data(), room.size()}, {scratch.data(), scratch.size()}}};
        const Transfer got = receive_parts(socket_, room.empty() ? std::span(parts).subspan(1) : std::span(parts));
        unread_ = got.size == room.size() + scratch.size();
        if (got.would_block()) return;
        if (got.error != 0) return ended(Ending::reset);
        if (got.size == 0) return ended(Ending::end_of_stream);
        const std::size_t in_room = std::min(got.size, room.size());
        if (!received(in_room, {scratch.data(), got.size - in_room})) return;
        if (!unread_) return;
    }
}

/// False: a violation.
bool WorkerConnection::received(std::size_t in_room, std::string_view behind) {
    if (exchange_ == nullptr) return violate("bytes without a request"), false;
    if (writing()) return violate("a reply before the whole request was sent"), false;
    replied_ = true;
    const std::size_t before = frames_.size();
    const bool fits = reader_.take(in_room, behind, frames_);
    for (std::size_t index = before; index < frames_.size(); ++index) held_bytes_ += frames_[index].size();
    if (fits) return true;
    if (reader_.refused_reference()) return violate("a reply by reference that tells more than it may"), false;
    violate("a frame of " + std::to_string(reader_.refused_length()) + " bytes is above the limit of " +
            std::to_string(client_.options_.max_frame_bytes));
    return false;
}

void WorkerConnection::deliver() {
    // Each call may end the exchange, and even begin the next one here, of which there is nothing to give yet.
    while (exchange_ != nullptr && !exchange_->paused_ && !frames_.empty()) {
        exchange_->sink_->on_frame(pop_frame());
    }
    if (exchange_ != nullptr && !exchange_->paused_ && failure_) return exchange_->failed(*failure_);
    if (!is_open()) return;
    if (read_ahead()) {
        unread_ = true;  // as far as is known
        watch_for(0);    // not only without EPOLLIN: a hang-up would be told again and again
    } else if (watched_for_ == 0) {
        watch_for(EPOLLIN);
    }
}

Payload WorkerConnection::pop_frame() {
    std::string frame = std::move(frames_[next_frame_++]);
    held_bytes_ -= frame.size();
    if (next_frame_ == frames_.size()) {
        frames_.clear();
        next_frame_ = 0;
    }
    const auto placed = reader_.placed();
    if (!placed) return frame;
    Payload payload(std::move(exchange_->parts_.room), *placed);
    payload.append(frame);
    return payload;
}

std::optional<Failure> WorkerConnection::end() {
    // What lies unread behind the last frame would pass for the reply of the next exchange.
    if (unread_ && is_open()) read();
    exchange_ = nullptr;
    if (frames_.empty() && !reader_.unfinished()) {
        if (is_open()) {
            client_.idle(*this);
        } else {
            client_.discard(*this);
        }
        return std::nullopt;
    }
    Failure violation{FailureKind::violation, "bytes after the reply"};
    const bool counted = failure_ && failure_->kind == FailureKind::violation;
    abort();
    if (!counted) client_.violated(violation);  // also where it was closed behind them, which is a lesser fault
    return violation;
}

void WorkerConnection::abort() noexcept {
    exchange_ = nullptr;
    close();
    client_.discard(*this);
}

void WorkerConnection::drop() {
    if (exchange_ != nullptr && writing()) {
        fail({FailureKind::not_taken, "the worker was lost before it took the whole request"});
    } else {
        fail({FailureKind::gone, "the worker was lost"});
    }
    if (exchange_ != nullptr) exchange_->deliver_soon();
}

void WorkerConnection::read_out() noexcept {
    if (is_open()) shutdown(socket_.get(), SHUT_RD);
}

Progress WorkerConnection::progress() const noexcept {
    if (writing()) return Progress::writing;
    if (reader_.unfinished()) return Progress::in_frame;
    return replied_ ? Progress::between_frames : Progress::written;
}

void WorkerConnection::ended(Ending ending) {
    const FailureKind kind = failure_kind(progress(), ending);
    fail({kind, text_of(kind)});
}

void WorkerConnection::violate(std::string what) { fail({FailureKind::violation, std::move(what)}); }

/// An idle connection ends without a word, but for a violation.
void WorkerConnection::fail(Failure failure) {
    if (failure_) return;
    failure_ = std::move(failure);
    close();
    const bool idle = exchange_ == nullptr;
    if (failure_->kind == FailureKind::violation) client_.violated(*failure_);
    if (idle) client_.discard(*this);
}

void WorkerConnection::close() noexcept {
    if (is_open()) static_cast<void>(give_up());
}

Fd WorkerConnection::give_up() noexcept {
    if (writing()) client_.sends_.remove(*this);
    if (std::exchange(watched_for_, 0) != 0) client_.loop_.remove(socket_.get());
    Fd socket = std::exchange(socket_, Fd());
    client_.closed(*this);
    return socket;
}

void WorkerConnection::watch_for(std::uint32_t events) {
    const std::uint32_t before = std::exchange(watched_for_, events);
    if (events == before) return;
    if (events == 0) {
        client_.loop_.remove(socket_.get());
    } else if (before != 0) {
        client_.loop_.modify(socket_.get(), events, *this);
    } else if (!client_.loop_.add(socket_.get(), events, *this, EventLoop::Order::first)) {
        watched_for_ = 0;
        fail({FailureKind::gone, "its connection cannot be watched any more"});
        if (exchange_ != nullptr) exchange_->deliver_soon();
    }
}

bool WorkerConnection::read_ahead() const noexcept {
    return frames_.size() - next_frame_ >= kReadAheadFrames || held_bytes_ >= kReadAheadBytes;
}

}  // namespace anyserve
