#include "anyserve/http2_session.hpp"

#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <limits>

#include "http2_callbacks.hpp"

namespace anyserve {
namespace {

/// A body of at least this goes out by reference; smaller ones are copied into their frames.
constexpr std::size_t kBorrowedBytes = std::size_t{8} << 10;
/// Fields of a response's headers or trailers, beyond what gRPC needs.
constexpr std::size_t kMostFields = 8;
/// Values up to this go into the table of fields that the client keeps for us (of 4 KiB).
constexpr std::size_t kIndexedBytes = 128;
/// Fields of a request for which there is room at once.
constexpr std::size_t kUsualFields = 8;

/// The library takes pointers that are not const, and does not write through them.
nghttp2_nv field(std::string_view name, std::string_view value, std::uint8_t flags) {
    const auto bytes = [](std::string_view text) {
        return reinterpret_cast<std::uint8_t*>(const_cast<char*>(text.data()));
    };
    return {bytes(name), bytes(value), name.size(), value.size(), flags};
}

/// How many tokens of `idle_frames` a frame costs: those cost that bring no work and may come without end.
std::uint32_t frame_cost(std::size_t length, std::uint8_t type, std::uint8_t flags) {
    switch (type) {
        case NGHTTP2_DATA: return length == 0 && (flags & NGHTTP2_FLAG_END_STREAM) == 0 ? 1 : 0;
        case NGHTTP2_HEADERS:
        case NGHTTP2_RST_STREAM:  // has a limit of its own
            return 0;
        default: return 1;
    }
}

}  // namespace

// What the room above asks for.

void Http2Stream::respond(std::span<const ResponseField> fields, bool end) {
    std::array<nghttp2_nv, kMostFields> native{};
    const std::size_t count = std::min(fields.size(), native.size());
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint8_t kept = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE;
        // What is not constant is of one call. Short texts come again all the same, those of an unknown model above
        // all; long ones would only push other fields out of the table.
        const std::uint8_t own =
            fields[i].value.size() > kIndexedBytes ? NGHTTP2_NV_FLAG_NO_INDEX : NGHTTP2_NV_FLAG_NONE;
        native[i] = field(fields[i].name, fields[i].value, fields[i].constant ? kept : own);
    }
    nghttp2_data_provider body{};
    body.read_callback = Http2Session::Callbacks::read_body;
    nghttp2_submit_response(session_.session_.get(), id_, native.data(), count, end ? nullptr : &body);
    responded_ = true;
    finished_ = end;
    progress_ = session_.now_;
    session_.wants_pump_();
}

void Http2Stream::write(std::string_view prefix, Payload bytes) {
    Chunk chunk{std::move(bytes), nullptr, {}, static_cast<std::uint8_t>(prefix.size()), 0};
    std::copy_n(prefix.begin(), std::min(prefix.size(), chunk.prefix.size()), chunk.prefix.begin());
    if (chunks_.empty()) progress_ = session_.now_;
    if (chunk.rest() > session_.limits_.max_frame_bytes) {
        // Answers of more than one frame take turns; small ones do not wait behind them (RFC 9218).
        const nghttp2_extpri in_turns{NGHTTP2_EXTPRI_DEFAULT_URGENCY, 1};
        nghttp2_session_change_extpri_stream_priority(session_.session_.get(), id_, &in_turns, 1);
    }
    chunks_.push(std::move(chunk));
    if (std::exchange(deferred_, false)) nghttp2_session_resume_data(session_.session_.get(), id_);
    session_.wants_pump_();
}

void Http2Stream::finish(std::vector<std::pair<std::string, std::string>> trailers) {
    trailers_ = std::move(trailers);
    finished_ = true;
    // Trailers behind data go when the library has read the data. Without data they go by themselves: the library
    // reads nothing, not even the end, while the client's window is closed, and trailers need no window.
    if (chunks_.empty() && promised_ == 0) session_.submit_trailers(*this);
    session_.wants_pump_();
}

bool Http2Stream::discard() noexcept {
    if (promised_ > 0 || (!chunks_.empty() && chunks_.front().sent > 0)) return false;
    chunks_.clear();
    return true;
}

void Http2Stream::reset(std::uint32_t error_code) {
    nghttp2_submit_rst_stream(session_.session_.get(), NGHTTP2_FLAG_NONE, id_, error_code);
    session_.wants_pump_();
}

void Http2Stream::consume(std::size_t count) {
    nghttp2_session_consume_stream(session_.session_.get(), id_, count);
    session_.wants_pump_();
}

// The session.

Http2Session::Http2Session(const ServerLimits& limits, Time now, Accept accept, std::function<void()> wants_pump)
    : limits_(limits),
      accept_(std::move(accept)),
      wants_pump_(std::move(wants_pump)),
      session_(nullptr, nghttp2_session_del),
      resets_(limits.resets, now),
      idle_frames_(limits.idle_frames, now),
      now_(now),
      began_(now),
      busy_(now) {
    session_.reset(Callbacks::make(*this));
    if (!session_) {
        closing_ = true;
        return;
    }
    const std::array<nghttp2_settings_entry, 4> settings{{
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, limits.max_streams},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, limits.stream_window},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, static_cast<std::uint32_t>(limits.max_header_list_bytes)},
        {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
    }};
    nghttp2_submit_settings(session_.get(), NGHTTP2_FLAG_NONE, settings.data(), settings.size());
    nghttp2_session_set_local_window_size(session_.get(), NGHTTP2_FLAG_NONE, 0,
                                          static_cast<std::int32_t>(limits.connection_window));
    wants_pump_();
}

Http2Session::~Http2Session() = default;

void Http2Session::receive(std::string_view bytes, Time now) {
    now_ = now;
    if (closing_) return;
    const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
    // Errors of the protocol are answered by the library with GOAWAY. What is left: no preface, floods, no memory.
    if (nghttp2_session_mem_recv(session_.get(), data, bytes.size()) < 0) closing_ = true;
    wants_pump_();
}

void Http2Session::pump(OutputQueue& output, Time now) {
    now_ = now;
    if (!session_) return;
    output_ = &output;
    while (output.size() < limits_.output_bytes) {
        const std::uint8_t* data = nullptr;
        const std::ptrdiff_t size = nghttp2_session_mem_send(session_.get(), &data);
        if (size < 0) closing_ = true;
        if (size <= 0) break;
        output.append(view(data, static_cast<std::size_t>(size)));
    }
    output_ = nullptr;
    tell_sent();
}

bool Http2Session::done() const noexcept {
    if (closing_) return true;
    return nghttp2_session_want_read(session_.get()) == 0 && nghttp2_session_want_write(session_.get()) == 0;
}

void Http2Session::sweep(Time now) {
    now_ = now;
    if (closing_) return;
    if (!(settings_came_ && settings_acked_) && now - began_ > limits_.handshake_timeout) {
        return fail(NGHTTP2_SETTINGS_TIMEOUT);
    }
    if (header_block_stream_ != 0 && now - header_block_ > limits_.request_timeout) {
        return fail(NGHTTP2_ENHANCE_YOUR_CALM);
    }
    if (!streams_.empty()) {
        busy_ = now;
    } else if (now - busy_ > limits_.idle_timeout) {
        go_away(true);
    }
    std::vector<Http2Stream*> late;
    for (const auto& stream : streams_) {
        const bool waits = stream->responded_ && !stream->chunks_.empty();
        const bool stalled = waits && now - stream->progress_ > limits_.stall_timeout;
        if (stalled || (stream->handler_ && !stream->handler_->on_sweep(now))) late.push_back(stream.get());
    }
    for (Http2Stream* stream : late) stream->reset(NGHTTP2_CANCEL);
}

void Http2Session::go_away(bool final) {
    if (!session_) return;
    if (final) {
        const std::int32_t last = nghttp2_session_get_last_proc_stream_id(session_.get());
        nghttp2_submit_goaway(session_.get(), NGHTTP2_FLAG_NONE, last, NGHTTP2_NO_ERROR, nullptr, 0);
    } else {
        nghttp2_submit_shutdown_notice(session_.get());
    }
    wants_pump_();
}

void Http2Session::close() {
    closing_ = true;
    for (auto streams = std::exchange(streams_, {}); const auto& stream : streams) {
        nghttp2_session_set_stream_user_data(session_.get(), stream->id_, nullptr);
        if (stream->handler_) stream->handler_->on_close();
    }
}

Http2Stream* Http2Session::find(std::int32_t id) const noexcept {
    return static_cast<Http2Stream*>(nghttp2_session_get_stream_user_data(session_.get(), id));
}

void Http2Session::count_frame(std::size_t length, std::uint8_t type, std::uint8_t flags) {
    const std::uint32_t cost = frame_cost(length, type, flags);
    if (cost == 0) {
        idle_frames_.earn(1);
    } else if (!idle_frames_.take(now_, cost)) {
        calm_down(type == NGHTTP2_PING ? "too_many_pings" : "too_many_frames");  // gRPC clients know the former
    }
}

void Http2Session::add_field(Http2Stream& stream, std::string_view name, std::string_view value) {
    constexpr std::size_t overhead = 32;  // RFC 9113, 6.5.2
    stream.header_bytes_ += name.size() + value.size() + overhead;
    if (stream.header_bytes_ > limits_.max_header_list_bytes) {
        stream.head_.too_large = true;
    } else if (name == ":path") {
        stream.head_.path = value;
    } else if (name == ":method") {
        stream.head_.method = value;
    } else if (!name.starts_with(':')) {
        if (stream.head_.fields.empty()) stream.head_.fields.reserve(kUsualFields);
        stream.head_.fields.emplace_back(name, value);
    }
}

void Http2Session::request_part(std::int32_t id, bool headers, bool end) {
    Http2Stream* stream = find(id);
    if (stream == nullptr) return;
    stream->request_ended_ = end;
    if (headers && !std::exchange(stream->request_complete_, true)) {
        stream->handler_ = accept_(*stream);
        stream->head_.ended = end;
        stream->handler_->on_request(std::exchange(stream->head_, {}));
    }
    if (end && stream->handler_) stream->handler_->on_end();
}

void Http2Session::frame_sent(std::int32_t id, std::uint8_t type, std::uint8_t flags, std::uint32_t error_code) {
    if (type == NGHTTP2_DATA) {
        idle_frames_.earn(2);  // each may bring back WINDOW_UPDATE for its stream and for the connection
    } else if (type == NGHTTP2_RST_STREAM && error_code != NGHTTP2_NO_ERROR) {
        // Clients can make us reset streams too, by mistakes.
        if (!resets_.take(now_)) calm_down("too_many_resets");
    } else if (type == NGHTTP2_HEADERS && (flags & NGHTTP2_FLAG_END_STREAM) != 0) {
        Http2Stream* stream = find(id);
        const bool early = stream != nullptr && !stream->request_ended_;
        if (early) nghttp2_submit_rst_stream(session_.get(), NGHTTP2_FLAG_NONE, id, NGHTTP2_NO_ERROR);
    }
}

void Http2Session::stream_closed(std::int32_t id) {
    if (id == header_block_stream_) header_block_stream_ = 0;  // a malformed block has no other end
    Http2Stream* found = find(id);
    if (found == nullptr) return;
    if (found == reading_) reading_ = nullptr;
    const std::unique_ptr<Http2Stream> stream = std::exchange(streams_[found->place_], nullptr);
    std::swap(streams_[stream->place_], streams_.back());
    if (stream->place_ + 1 < streams_.size()) streams_[stream->place_]->place_ = stream->place_;
    streams_.pop_back();
    nghttp2_session_set_stream_user_data(session_.get(), id, nullptr);
    busy_ = now_;
    if (stream->handler_) stream->handler_->on_close();
}

/// Gives the library what goes into the next DATA frame: small chunks copied together, or a part of a large one.
std::ptrdiff_t Http2Session::read_body(Http2Stream& stream, std::span<std::uint8_t> room, std::uint32_t& flags) {
    if (!stream.chunks_.empty() && stream.chunks_.front().rest() >= kBorrowedBytes) {
        const std::size_t rest = stream.chunks_.front().rest();
        const std::size_t size = std::min(rest, room.size());
        flags |= NGHTTP2_DATA_FLAG_NO_COPY;  // `send_body` comes next, or when there is room for output again
        stream.promised_ = size;
        if (size == rest && stream.chunks_.size() == 1 && stream.finished_) end_body(stream, flags);
        return static_cast<std::ptrdiff_t>(size);
    }
    std::size_t size = 0;
    while (size < room.size() && !stream.chunks_.empty()) {
        Http2Stream::Chunk& chunk = stream.chunks_.front();
        if (size > 0 && chunk.rest() >= kBorrowedBytes) break;
        const auto copy = [&](std::string_view bytes) {
            const std::size_t count = std::min(bytes.size(), room.size() - size);
            std::copy_n(bytes.begin(), count, room.begin() + static_cast<std::ptrdiff_t>(size));
            size += count;
            chunk.sent += count;
        };
        if (chunk.sent < chunk.prefix_size) {
            copy(std::string_view(chunk.prefix.data(), chunk.prefix_size).substr(chunk.sent));
        }
        if (chunk.sent >= chunk.prefix_size) copy(chunk.body().substr(chunk.sent - chunk.prefix_size));
        if (chunk.rest() > 0) break;
        stream.chunks_.pop();
        if (stream.sent_chunks_++ == 0) sent_.push_back(stream.id_);
    }
    if (size > 0) stream.progress_ = now_;
    if (size > 0 && stream.chunks_.empty() && stream.finished_) {
        end_body(stream, flags);
    } else if (size == 0) {
        stream.deferred_ = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    return static_cast<std::ptrdiff_t>(size);
}

void Http2Session::end_body(Http2Stream& stream, std::uint32_t& flags) {
    flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    submit_trailers(stream);
}

void Http2Session::submit_trailers(const Http2Stream& stream) {
    std::array<nghttp2_nv, kMostFields> native{};
    const std::size_t count = std::min(stream.trailers_.size(), native.size());
    for (std::size_t i = 0; i < count; ++i) {
        const auto& [name, value] = stream.trailers_[i];
        native[i] = field(name, value, value.size() > 2 ? NGHTTP2_NV_FLAG_NO_INDEX : NGHTTP2_NV_FLAG_NONE);
    }
    nghttp2_submit_trailer(session_.get(), stream.id_, native.data(), count);
}

int Http2Session::send_body(Http2Stream& stream, std::string_view frame_header, std::size_t length) {
    if (output_->size() >= limits_.output_bytes) return NGHTTP2_ERR_WOULDBLOCK;
    output_->append(frame_header);
    stream.promised_ = 0;
    Http2Stream::Chunk& chunk = stream.chunks_.front();
    if (!chunk.borrowed) chunk.borrowed = std::make_shared<const Payload>(std::exchange(chunk.bytes, {}));
    if (chunk.sent < chunk.prefix_size) {
        const std::size_t count = std::min<std::size_t>(length, chunk.prefix_size - chunk.sent);
        output_->append(std::string_view(chunk.prefix.data(), chunk.prefix_size).substr(chunk.sent, count));
        chunk.sent += count;
        length -= count;
    }
    if (length > 0) {  // a window may have room for a part of the prefix alone
        output_->append(chunk.borrowed, chunk.body().substr(chunk.sent - chunk.prefix_size, length));
        chunk.sent += length;
    }
    stream.progress_ = now_;
    if (chunk.rest() == 0) {
        stream.chunks_.pop();
        if (stream.sent_chunks_++ == 0) sent_.push_back(stream.id_);
    }
    return 0;
}

void Http2Session::tell_sent() {
    telling_.swap(sent_);
    for (const std::int32_t id : telling_) {
        Http2Stream* stream = find(id);
        if (stream == nullptr) continue;
        for (std::size_t count = std::exchange(stream->sent_chunks_, 0); count > 0; --count)
            stream->handler_->on_sent();
    }
    telling_.clear();
}

void Http2Session::calm_down(std::string_view why) {
    if (std::exchange(closing_, true)) return;
    const std::int32_t last = nghttp2_session_get_last_proc_stream_id(session_.get());
    nghttp2_submit_goaway(session_.get(), NGHTTP2_FLAG_NONE, last, NGHTTP2_ENHANCE_YOUR_CALM,
                          reinterpret_cast<const std::uint8_t*>(why.data()), why.size());
    wants_pump_();
}

void Http2Session::fail(std::uint32_t error_code) {
    nghttp2_session_terminate_session(session_.get(), error_code);
    closing_ = true;
    wants_pump_();
}

}  // namespace anyserve
