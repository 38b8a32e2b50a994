#include "anyserve/worker_client.hpp"

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "anyserve/sockets.hpp"
#include "anyserve/worker_client_connection.hpp"

namespace anyserve {

Exchange::Exchange(std::shared_ptr<WorkerClient> client, RequestParts parts, ReplySink& sink)
    : client_(std::move(client)), parts_(std::move(parts)), sink_(&sink) {}

void Exchange::begin() {
    if (parts_.size() > kMaxFrameLength) {
        return fail_soon(
            {FailureKind::unreachable, "a frame of " + std::to_string(parts_.size()) + " bytes cannot be sent"});
    }
    give_up_ = client_->loop_.now() + client_->options_.connect_timeout;
    connect();
}

/// An idle connection (`frame.connections.reuse`), also one that has become idle while this exchange waited for room in
/// the backlog; else a new one.
void Exchange::connect() {
    if (client_->lost_) return fail_soon({FailureKind::unreachable, "it was lost"});
    if (may_reuse_ && client_->reuse(*this)) return;
    WorkerClient::Attempt attempt = client_->connect();
    if (attempt.connection != nullptr) return begin_on(*attempt.connection, false);
    if (!attempt.again) return fail_soon(std::move(attempt.failure));
    // No event tells when there is room again, hence the retries.
    if (client_->loop_.now() >= give_up_) {
        return fail_soon({FailureKind::unreachable, "its accept backlog is full"});
    }
    later_ = client_->loop_.at(client_->loop_.now() + kConnectRetryInterval, [this] { connect(); });
}

void Exchange::begin_on(WorkerConnection& connection, bool kept) {
    connection_ = &connection;
    kept_ = kept;
    connection.begin(parts_, *this);
}

void Exchange::resume() {
    paused_ = false;
    if (connection_ != nullptr && connection_->has_news()) deliver_soon();
}

void Exchange::deliver_soon() {
    later_ = client_->loop_.at(client_->loop_.now(), [this] {
        const auto keep = client_;
        if (connection_ != nullptr) connection_->deliver();
    });
}

void Exchange::fail_soon(Failure failure) {
    later_ = client_->loop_.at(client_->loop_.now(), [this, failure = std::move(failure)] {
        const auto keep = client_;
        sink_->on_failed(failure);
    });
}

/// From its connection, which is closed.
void Exchange::failed(Failure failure) {
    std::exchange(connection_, nullptr)->abort();
    if (failure.kind == FailureKind::not_taken && kept_) {
        // The worker may close a kept connection at any time: once more on a new one (`frame.retry.kept`).
        may_reuse_ = false;
        parts_.room.reset();  // who closed that connection may write there (`frame.shared.room-free`)
        return begin();
    }
    later_ = {};
    sink_->on_failed(std::move(failure));
}

std::optional<Failure> Exchange::finish() {
    later_ = {};
    if (connection_ == nullptr) return std::nullopt;
    auto violation = std::exchange(connection_, nullptr)->end();
    if (!violation) {
        if (parts_.body != nullptr) parts_.body->give_back();
        if (parts_.room) parts_.room->give_back();
    }
    return violation;
}

void Exchange::leave() noexcept {
    later_ = {};
    if (connection_ != nullptr) return std::exchange(connection_, nullptr)->abort();
    // It leaves to the next the connection that comes.
    if (std::erase(client_->waiting_, this) > 0) client_->share_->add_idle(client_->member_);
}

std::shared_ptr<WorkerClient> WorkerClient::create(EventLoop& loop, SendBatch& sends, std::string path,
                                                   const WorkerClientOptions& options, OnViolation on_violation,
                                                   std::shared_ptr<ConnectionShare> share) {
    if (!share) share = std::make_shared<ConnectionShare>();
    auto client = std::make_shared<WorkerClient>(Private(), loop, sends, std::move(path), options,
                                                 std::move(on_violation), std::move(share));
    client->member_ = client->share_->join(loop, client);
    return client;
}

WorkerClient::WorkerClient(Private, EventLoop& loop, SendBatch& sends, std::string path,
                           const WorkerClientOptions& options, OnViolation on_violation,
                           std::shared_ptr<ConnectionShare> share)
    : loop_(loop),
      sends_(sends),
      path_(std::move(path)),
      options_(options),
      on_violation_(std::move(on_violation)),
      share_(std::move(share)) {}

WorkerClient::~WorkerClient() {
    all_.clear();  // while the rest is still there: each takes leave of it
}

std::unique_ptr<Exchange> WorkerClient::start(RequestParts parts, ReplySink& sink) {
    std::unique_ptr<Exchange> exchange(new Exchange(shared_from_this(), std::move(parts), sink));
    exchange->begin();
    return exchange;
}

WorkerClient::Attempt WorkerClient::connect() {
    Connected connected = connect_unix(path_);
    Attempt attempt;
    if (connected.error == EAGAIN) {
        attempt.again = true;
    } else if (connected.error != 0) {
        attempt.failure.text = std::generic_category().message(connected.error);
        attempt.failure.refused = connected.error == ECONNREFUSED || connected.error == ENOENT;
    } else if (const auto uid = untrusted_peer(connected.socket)) {
        attempt.failure.text = "its socket belongs to uid " + std::to_string(*uid) + ", neither ours nor root's";
    } else {
        attempt.connection = keep(std::move(connected.socket));
        if (attempt.connection == nullptr) attempt.failure.text = "its connection cannot be watched";
    }
    return attempt;
}

/// A connection more; null if it cannot be watched.
WorkerConnection* WorkerClient::keep(Fd socket) {
    auto connection = std::make_unique<WorkerConnection>(*this, std::move(socket));
    share_->opened();
    if (!connection->watch()) return nullptr;
    all_.push_back(std::move(connection));
    return all_.back().get();
}

/// Begins an exchange on an idle connection, or has it wait for one that another thread hands over; false: none is
/// idle.
bool WorkerClient::reuse(Exchange& exchange) {
    const auto from = share_->take_idle(member_);
    if (!from) return false;
    if (*from == member_ && !idle_.empty()) {
        WorkerConnection* connection = idle_.back();
        idle_.pop_back();
        exchange.begin_on(*connection, true);
        return true;
    }
    waiting_.push_back(&exchange);
    if (*from != member_) {  // else one is coming that nobody waited for
        ++coming_;
        share_->fetch(*from, member_);
    }
    return true;
}

/// Has ended its exchange and may carry the next.
void WorkerClient::idle(WorkerConnection& connection) {
    if (retired_ || lost_) return connection.abort();
    idle_.push_back(&connection);
    share_->add_idle(member_);
}

/// For another thread, which has been promised one.
void WorkerClient::give_up_idle(HandOver hand_over) {
    if (idle_.empty()) {
        if (coming_ > waiting_.size() + owed_.size()) return owed_.push_back(std::move(hand_over));
        return hand_over(Fd());  // the worker has closed it meanwhile
    }
    WorkerConnection* connection = idle_.back();
    idle_.pop_back();
    Fd socket = connection->give_up();
    discard(*connection);
    hand_over(std::move(socket));
}

/// Another thread has handed over a connection that was idle there, or has none any more.
void WorkerClient::taken_over(Fd socket) {
    --coming_;
    if (!waiting_.empty()) {
        Exchange& exchange = *waiting_.front();
        waiting_.pop_front();
        WorkerConnection* connection = socket && !lost_ ? keep(std::move(socket)) : nullptr;
        return connection != nullptr ? exchange.begin_on(*connection, true) : exchange.connect();
    }
    if (!owed_.empty()) {
        const HandOver hand_over = std::move(owed_.front());
        owed_.pop_front();
        return hand_over(std::move(socket));
    }
    // Who waited for it has gone. It counts as idle already.
    WorkerConnection* connection = socket && !lost_ && !retired_ ? keep(std::move(socket)) : nullptr;
    if (connection != nullptr) return idle_.push_back(connection);
    share_->drop_idle(member_);
}

/// Its socket is closed; what it has read may still be asked for.
void WorkerClient::closed(WorkerConnection& connection) noexcept {
    share_->closed();
    if (std::erase(idle_, &connection) > 0) share_->drop_idle(member_);
}

/// Is of no more use to anybody.
void WorkerClient::discard(WorkerConnection& connection) {
    const auto found =
        std::find_if(all_.begin(), all_.end(), [&](const auto& each) { return each.get() == &connection; });
    if (found == all_.end()) return;
    if (discarded_.empty()) {
        loop_.defer([weak = weak_from_this()] {
            if (const auto self = weak.lock()) std::exchange(self->discarded_, {}).clear();
        });
    }
    discarded_.push_back(std::move(*found));
    std::swap(*found, all_.back());
    all_.pop_back();
}

void WorkerClient::violated(const Failure& violation) {
    if (on_violation_) on_violation_(violation);
}

void WorkerClient::close() {
    lost_ = true;
    std::vector<WorkerConnection*> open;  // the list changes under way
    open.reserve(all_.size());
    for (const auto& connection : all_) open.push_back(connection.get());
    for (WorkerConnection* connection : open) connection->drop();
}

void WorkerClient::read_out() {
    lost_ = true;
    for (const auto& connection : all_) connection->read_out();
}

void WorkerClient::retire() {
    retired_ = true;
    for (WorkerConnection* connection : std::vector(idle_)) connection->abort();
}

}  // namespace anyserve
