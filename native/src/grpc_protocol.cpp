#include "anyserve/grpc_protocol.hpp"

#include <algorithm>
#include <utility>

#include "anyserve/fifo.hpp"
#include "anyserve/grpc_message.hpp"

namespace anyserve {
namespace {

using Clock = EventLoop::Clock;

// HTTP/2's error codes (RFC 9113, 7).
constexpr std::uint32_t kCancel = 0x8;

constexpr ResponseField kStatus200{":status", "200"};
constexpr ResponseField kContentType{"content-type", "application/grpc"};
constexpr ResponseField kAcceptEncoding{"grpc-accept-encoding", kAcceptedEncodings};
constexpr std::array kInitialMetadata{kStatus200, kContentType, kAcceptEncoding};

constexpr std::string_view kGrpcStatus = "grpc-status";
constexpr std::string_view kGrpcMessage = "grpc-message";

/// A call on its way: waiting for its request's headers, open, and then answered until its stream has ended.
class GrpcCall final : public StreamHandler, public ServerCall {
public:
    GrpcCall(GrpcConnectionState& connection, Http2Stream& stream) : connection_(connection), stream_(stream) {}
    ~GrpcCall() override = default;

    // From the stream.
    void on_request(RequestHead head) override;
    void on_data(std::string_view bytes) override;
    void on_end() override;
    void on_sent() override;
    void on_close() override;
    [[nodiscard]] bool on_sweep(TokenBucket::Time now) override;

    // From the service.
    const CallFacts& facts() const override { return facts_; }
    void read() override;
    void send_initial_metadata() override;
    void send(Payload message, std::function<void()> taken) override;
    void finish(Code code, std::string_view message) override;

private:
    struct Outgoing {
        std::size_t bytes;
        std::function<void()> taken;
    };

    bool read_head(RequestHead& head);
    bool read_field(std::string& name, std::string& value);
    void answer_http(std::string_view status);
    void start();
    void advance();
    void drop_unread();
    std::size_t feed(std::string_view bytes);
    bool hold_request(std::size_t bytes);
    void deliver();
    void abort(Code code, std::string_view text);
    void expire();
    void end();

    const ServerLimits& limits() const noexcept { return connection_.server.limits; }

    GrpcConnectionState& connection_;
    Http2Stream& stream_;
    CallFacts facts_;
    Encoding encoding_ = Encoding::identity;
    std::optional<MessageReader> reader_;  // once the call has begun
    std::unique_ptr<CallHandler> handler_;
    EventLoop::Timer deadline_;
    std::string unread_;            // of the request's body, while the service does not ask
    std::size_t unread_begin_ = 0;  // what is read of it
    std::size_t wanted_ = 0;        // messages that the service has asked for
    std::size_t held_request_ = 0;  // bytes of the budget: the message that is read or was read last
    Fifo<Outgoing> outgoing_;       // messages that have not gone to the socket
    TokenBucket::Time progress_{};  // of the request
    bool counted_ = false;          // among the server's calls
    bool advancing_ = false;
    bool request_ended_ = false;
    bool half_closed_ = false;  // and the service knows
    bool responded_ = false;
    bool answered_ = false;  // the status is given; nothing is read any more
};

void GrpcCall::on_request(RequestHead head) {
    if (!read_head(head)) return;
    GrpcServerState& server = connection_.server;
    if (!server.totals->calls.add_within(1, server.limits.max_calls)) {
        return abort(Code::resource_exhausted, "the server has as many calls under way as it may have");
    }
    counted_ = true;
    facts_.path = std::move(head.path);
    start();
}

/// Reads what gRPC says of a request's headers; answers and returns false if the call cannot begin.
bool GrpcCall::read_head(RequestHead& head) {
    facts_.peer = connection_.peer;
    if (head.too_large) {
        abort(Code::resource_exhausted,
              "the metadata is above the limit of " + std::to_string(limits().max_header_list_bytes) + " bytes");
        return false;
    }
    if (head.method != "POST") {
        answer_http("405");
        return false;
    }
    auto& fields = head.fields;
    const auto type =
        std::find_if(fields.begin(), fields.end(), [](const auto& f) { return f.first == "content-type"; });
    if (type == fields.end() || !is_grpc_content_type(type->second)) {
        answer_http("415");
        return false;
    }
    return std::all_of(fields.begin(), fields.end(), [this](auto& f) { return read_field(f.first, f.second); });
}

/// May take the strings.
bool GrpcCall::read_field(std::string& name, std::string& value) {
    if (name == "te" || name == "content-type" || name == "grpc-accept-encoding") return true;
    if (name == "grpc-encoding") {
        encoding_ = parse_encoding(value);
    } else if (name == "grpc-timeout") {
        const std::optional<std::chrono::nanoseconds> timeout = parse_timeout(value);
        if (!timeout) {
            abort(Code::internal, "grpc-timeout is malformed");
            return false;
        }
        facts_.deadline = connection_.server.loop.now() + *timeout;
    } else {
        append_metadata(facts_.metadata, std::move(name), std::move(value));
    }
    return true;
}

/// Answers what is no gRPC: other clients must not take a status of gRPC for success.
void GrpcCall::answer_http(std::string_view status) {
    const std::array fields{ResponseField{":status", status}};
    stream_.respond(fields, true);
    end();
}

void GrpcCall::start() {
    progress_ = connection_.server.loop.now();
    reader_.emplace(limits().max_message_bytes, encoding_, connection_.server.memory);
    if (facts_.deadline) deadline_ = connection_.server.loop.at(*facts_.deadline, [this] { expire(); });
    std::unique_ptr<CallHandler> handler = connection_.server.router(*this);
    if (answered_) {
        connection_.ended.push_back(std::move(handler));
    } else if (!handler) {
        finish(Code::unimplemented, "unknown method " + facts_.path);
    } else {
        handler_ = std::move(handler);
    }
}

void GrpcCall::on_data(std::string_view bytes) {
    if (answered_) return stream_.consume(bytes.size());
    progress_ = connection_.server.loop.now();
    if (unread_.empty()) {
        // What the service has asked for needs no copy but that into its message.
        advancing_ = true;
        const std::size_t taken = feed(bytes);
        advancing_ = false;
        stream_.consume(answered_ ? bytes.size() : taken);
        if (answered_) return;
        bytes.remove_prefix(taken);
    }
    if (bytes.empty()) return deliver();
    if (!connection_.held.reserve(bytes.size())) {
        return abort(Code::resource_exhausted, "too many bytes of requests are waiting");
    }
    unread_ += bytes;
    advance();
}

void GrpcCall::on_end() {
    request_ended_ = true;
    deliver();
}

void GrpcCall::read() {
    ++wanted_;
    if (!answered_ && !unread_.empty()) advance();
}

/// Goes on with what came before it was asked for.
void GrpcCall::advance() {
    if (std::exchange(advancing_, true)) return;
    const std::size_t taken = feed(std::string_view(unread_).substr(unread_begin_));
    advancing_ = false;
    if (answered_) return drop_unread();
    connection_.held.release(taken);
    stream_.consume(taken);
    unread_begin_ += taken;
    if (unread_begin_ > unread_.size() / 2) unread_.erase(0, std::exchange(unread_begin_, 0));
    deliver();
}

void GrpcCall::drop_unread() {
    const std::size_t bytes = unread_.size() - std::exchange(unread_begin_, 0);
    unread_.clear();
    connection_.held.release(bytes);
    stream_.consume(bytes);
}

/// Reads as far as messages are asked for; returns how many bytes.
std::size_t GrpcCall::feed(std::string_view bytes) {
    std::size_t taken = 0;
    while (!answered_ && wanted_ > 0) {
        const MessageReader::Step step = reader_->feed(bytes.substr(taken));
        taken += step.taken;
        switch (step.event) {
            case MessageReader::Event::more: return taken;
            case MessageReader::Event::prefix:
                if (!hold_request(reader_->announced())) {
                    abort(Code::resource_exhausted, "the messages of calls under way take as many bytes as they may");
                }
                break;
            case MessageReader::Event::message: {
                Payload message = reader_->take();
                if (message.size() > held_request_) {  // it was compressed
                    connection_.held.add(message.size() - held_request_);
                    held_request_ = message.size();
                }
                --wanted_;
                handler_->on_message(std::move(message));
                break;
            }
            case MessageReader::Event::error: abort(reader_->error().code, reader_->error().text); break;
        }
    }
    return taken;
}

/// Counts the message that is about to come, in place of the one before it.
bool GrpcCall::hold_request(std::size_t bytes) {
    connection_.held.release(std::exchange(held_request_, 0));
    if (!connection_.held.reserve(bytes)) return false;
    held_request_ = bytes;
    return true;
}

/// Tells the service of the request's end, once it has had all messages.
void GrpcCall::deliver() {
    if (!request_ended_ || half_closed_ || answered_ || !unread_.empty() || advancing_) return;
    half_closed_ = true;
    if (reader_->inside()) return abort(Code::internal, "the request ends inside a message");
    handler_->on_half_close();
}

void GrpcCall::send_initial_metadata() {
    if (std::exchange(responded_, true)) return;
    stream_.respond(kInitialMetadata, false);
}

void GrpcCall::send(Payload message, std::function<void()> taken) {
    if (answered_) return;
    send_initial_metadata();
    connection_.held.add(message.size());
    outgoing_.push({message.size(), std::move(taken)});
    const std::array<char, 5> prefix = message_prefix(message.size());
    stream_.write({prefix.data(), prefix.size()}, std::move(message));
}

void GrpcCall::on_sent() {
    if (outgoing_.empty()) return;
    const Outgoing sent = outgoing_.pop();
    connection_.held.release(sent.bytes);
    if (sent.taken && !answered_) sent.taken();
}

void GrpcCall::finish(Code code, std::string_view message) {
    if (answered_) return;
    const std::string status = std::to_string(static_cast<int>(code));
    const std::string text = encode_status_message(message);
    if (responded_) {
        Metadata trailers{{std::string(kGrpcStatus), status}};
        if (!text.empty()) trailers.emplace_back(kGrpcMessage, text);
        stream_.finish(std::move(trailers));
    } else {
        responded_ = true;
        const std::array fields{kStatus200, kContentType, kAcceptEncoding, ResponseField{kGrpcStatus, status, false},
                                ResponseField{kGrpcMessage, text, false}};
        stream_.respond(std::span(fields).first(text.empty() ? 4 : 5), true);
    }
    end();
}

/// Ends a call that its client got wrong, or that may not go on.
void GrpcCall::abort(Code code, std::string_view text) {
    if (answered_) return;
    if (handler_) handler_->on_cancel();
    finish(code, text);
}

void GrpcCall::expire() {
    if (!answered_ && stream_.discard()) return abort(Code::deadline_exceeded, "the deadline of the call has passed");
    // A message is half sent, or the answer waits for a window: no status can come any more in time.
    if (!answered_) {
        if (handler_) handler_->on_cancel();
        end();
    }
    stream_.reset(kCancel);
}

/// The status is given: nothing more of the request is wanted, and its memory is free.
void GrpcCall::end() {
    answered_ = true;
    if (handler_) connection_.ended.push_back(std::move(handler_));
    if (counted_) connection_.server.totals->calls.subtract(1);
    counted_ = false;
    reader_.reset();
    connection_.held.release(std::exchange(held_request_, 0));
    if (!advancing_) drop_unread();
}

void GrpcCall::on_close() {
    if (!answered_) {
        if (handler_) handler_->on_cancel();
        end();
    }
    deadline_ = {};
    std::size_t bytes = 0;
    for (const Outgoing& message : outgoing_) bytes += message.bytes;
    outgoing_.clear();
    connection_.held.release(bytes);
}

bool GrpcCall::on_sweep(TokenBucket::Time now) {
    const bool waits = !answered_ && wanted_ > 0 && reader_ && reader_->inside();
    return !waits || now - progress_ <= limits().request_timeout;
}

}  // namespace

UnaryHandler::UnaryHandler(ServerCall& call) : call_(call) { call_.read(); }

void UnaryHandler::on_message(Payload message) {
    if (request_) return call_.finish(Code::unimplemented, "the method takes one request message, and more came");
    request_ = std::move(message);
    call_.read();  // to see whether another one comes
}

void UnaryHandler::on_half_close() {
    if (!request_) return call_.finish(Code::unimplemented, "the method takes one request message, and none came");
    on_request(std::exchange(*request_, {}));
}

void UnaryHandler::reply(Payload message) {
    call_.send(std::move(message), nullptr);
    call_.finish(Code::ok, {});
}

std::unique_ptr<StreamHandler> make_grpc_call(GrpcConnectionState& connection, Http2Stream& stream) {
    return std::make_unique<GrpcCall>(connection, stream);
}

}  // namespace anyserve
