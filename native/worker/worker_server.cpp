#include "worker_server.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "agent_connection.hpp"
#include "anyserve/sockets.hpp"

namespace anyserve {
namespace {

constexpr std::chrono::milliseconds kAcceptPause{100};

}  // namespace

void WorkerExchange::join() { request_ = std::make_shared<const RequestPayload>(request_->whole()); }

bool WorkerExchange::copies(std::size_t payload_bytes) const noexcept {
    return payload_bytes >= kReferenceBytes && payload_bytes <= room_.size();
}

ReplyFrame WorkerExchange::referred(const ReplyFrame& frame) const {
    frame.copy_payload_to(room_);
    return ReplyFrame::by_reference(frame.payload_size());
}

WorkerExchange::Sent WorkerExchange::queue(ReplyFrame frame, bool last) {
    if (last && copies(frame.payload_size())) frame = referred(frame);
    if (last && request_->shared() != nullptr) {
        last_ = std::move(frame);
        return cancelled() ? Sent::over : Sent::yes;
    }
    if (!connection_->queue(*this, std::move(frame), last)) return Sent::over;
    connection_->server().hold(connection_);
    return full() ? Sent::full : Sent::yes;
}

WorkerExchange::Sent WorkerExchange::send(ReplyFrame frame, bool last) {
    last_at_once_ = last;
    const Sent sent = queue(std::move(frame), last);
    if (sent == Sent::over || last_) return sent;
    connection_->write();
    return full() ? Sent::full : Sent::yes;
}

void WorkerExchange::release() {
    if (!last_) return;
    SharedMapping* body = request_->shared();
    if (request_.use_count() > 1) {
        // Somebody goes on reading, and the agent may use its memory again as soon as it has the reply.
        connection_->server().mappings_.forget(*body);
        if (!body->detach(request_->bytes().size())) {
            connection_->abort();
            return;
        }
    }
    if (!connection_->queue(*this, *std::exchange(last_, std::nullopt), true)) return;
    last_at_once_ ? connection_->write() : connection_->server().hold(connection_);
}

void WorkerExchange::refuse() { connection_->end(); }

bool WorkerExchange::wait_writable() { return connection_->wait_writable(*this); }

bool WorkerExchange::full() { return connection_->full(); }

WorkerServer::WorkerServer(EventLoop& loop, WorkerSink& sink, const WorkerServerOptions& options)
    : loop_(loop), sink_(sink), options_(options), sends_(loop, options.sigpipe) {}

WorkerServer::~WorkerServer() { close(); }

void WorkerServer::listen(Fd listener) {
    stop_listening();
    listener_ = std::move(listener);
    loop_.add(listener_.get(), EPOLLIN, *this);
}

void WorkerServer::stop_listening() {
    if (!listener_) return;
    loop_.remove(listener_.get());
    listener_.reset();
    pause_ = {};
}

void WorkerServer::ready(std::uint32_t) {
    while (accept_one()) {
    }
}

bool WorkerServer::accept_one() {
    Fd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            // What is not accepted would be told again at once, and again.
            sink_.on_refused("no descriptors are left");
            loop_.modify(listener_.get(), 0, *this);
            pause_ = loop_.at(loop_.now() + kAcceptPause, [this] { loop_.modify(listener_.get(), EPOLLIN, *this); });
        }
        return errno == EINTR || errno == ECONNABORTED;
    }
    if (const auto uid = untrusted_peer(socket)) {
        sink_.on_refused("a connection comes from uid " + std::to_string(*uid));
        return true;
    }
    if (connections_.size() >= options_.max_connections) {
        sink_.on_refused(std::to_string(options_.max_connections) + " connections are open");
        return true;
    }
    const int fd = socket.get();
    const auto connection = std::make_shared<AgentConnection>(*this, std::move(socket));
    if (connection->watch()) connections_.emplace(fd, connection);
    return true;
}

void WorkerServer::hold(std::shared_ptr<AgentConnection> connection) {
    const std::lock_guard lock(held_mutex_);
    held_.push_back(std::move(connection));
    held_count_.store(held_.size(), std::memory_order_relaxed);
}

std::vector<std::shared_ptr<AgentConnection>> WorkerServer::take_held() {
    const std::lock_guard lock(held_mutex_);
    held_count_.store(0, std::memory_order_relaxed);
    return std::exchange(held_, {});
}

void WorkerServer::flush() {
    if (held() == 0) return;
    const auto held = take_held();
    if (held.size() == 1) return held.front()->write();
    for (const auto& connection : held) connection->add_to(sends_);
    sends_.flush();
}

void WorkerServer::write_held() {
    if (held() == 0) return;
    for (const auto& connection : take_held()) connection->write();
}

void WorkerServer::closed(int fd) {
    connections_.erase(fd);
    if (draining_) check_drained();
}

SharedMappingPtr WorkerServer::map(const Fd& descriptor, std::uint64_t bytes, bool writable) {
    SharedMappingPtr mapping = mappings_.map(descriptor, bytes, writable, loop_.now());
    if (!mappings_check_) check_mappings();
    return mapping;
}

void WorkerServer::check_mappings() {
    mappings_.drop_unused(loop_.now());
    if (mappings_.empty()) return;
    mappings_check_ = loop_.at(loop_.now() + SharedMappings::kKept, [this] { check_mappings(); });
}

/// On any thread.
void WorkerServer::exchange_ended() {
    if (draining_) loop_.run_soon([this] { check_drained(); });
}

void WorkerServer::drain() {
    stop_listening();
    draining_ = true;
    // What an agent had sent before it learned that the worker leaves is in the sockets: this turn's events, or the
    // next one's.
    loop_.defer([this] { loop_.defer([this] { check_drained(); }); });
}

void WorkerServer::check_drained() {
    if (std::ranges::all_of(connections_, [](const auto& each) { return each.second->idle(); })) sink_.on_drained();
}

void WorkerServer::close() {
    stop_listening();
    while (!connections_.empty()) {
        const auto connection = connections_.begin()->second;
        connection->end();
    }
}

}  // namespace anyserve
