#include "http2_callbacks.hpp"

#include <algorithm>
#include <memory>

namespace anyserve {

struct Http2Session::Callbacks::Native {
    static Http2Session& self(void* user) { return *static_cast<Http2Session*>(user); }

    static int begin_frame(nghttp2_session*, const nghttp2_frame_hd* head, void* user) {
        self(user).count_frame(head->length, head->type, head->flags);
        return 0;
    }
    static int begin_headers(nghttp2_session*, const nghttp2_frame* frame, void* user) {
        Http2Session& session = self(user);
        session.header_block_stream_ = frame->hd.stream_id;
        session.header_block_ = session.now_;
        session.reading_ = nullptr;
        if (frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
        const std::int32_t id = frame->hd.stream_id;
        auto stream = std::make_unique<Http2Stream>(session, id);
        nghttp2_session_set_stream_user_data(session.session_.get(), id, stream.get());
        session.reading_ = stream.get();
        stream->place_ = session.streams_.size();
        session.streams_.push_back(std::move(stream));
        return 0;
    }
    static int header(nghttp2_session*, const nghttp2_frame*, const std::uint8_t* name, std::size_t name_size,
                      const std::uint8_t* value, std::size_t value_size, std::uint8_t, void* user) {
        Http2Session& session = self(user);
        if (session.reading_ == nullptr) return 0;  // trailers of a request say nothing
        session.add_field(*session.reading_, view(name, name_size), view(value, value_size));
        return 0;
    }
    static int invalid_header(nghttp2_session*, const nghttp2_frame*, const std::uint8_t*, std::size_t,
                              const std::uint8_t*, std::size_t, std::uint8_t, void*) {
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;  // the stream is reset; by default the field would be left out
    }
    static int frame_received(nghttp2_session*, const nghttp2_frame* frame, void* user) {
        Http2Session& session = self(user);
        const bool end = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
        switch (frame->hd.type) {
            case NGHTTP2_HEADERS:
                session.header_block_stream_ = 0;
                session.reading_ = nullptr;
                session.request_part(frame->hd.stream_id, true, end);
                break;
            case NGHTTP2_DATA: session.request_part(frame->hd.stream_id, false, end); break;
            case NGHTTP2_SETTINGS:
                (frame->hd.flags & NGHTTP2_FLAG_ACK ? session.settings_acked_ : session.settings_came_) = true;
                break;
            default: break;
        }
        return 0;
    }
    static int data(nghttp2_session* native, std::uint8_t, std::int32_t id, const std::uint8_t* bytes, std::size_t size,
                    void* user) {
        // The connection's window is given back at once, so that a call that is not read holds up no other.
        nghttp2_session_consume_connection(native, size);
        Http2Session& session = self(user);
        Http2Stream* stream = session.find(id);
        if (stream != nullptr && stream->handler_) {
            stream->handler_->on_data(view(bytes, size));
        } else {
            nghttp2_session_consume_stream(native, id, size);
        }
        return 0;
    }
    static int frame_sent(nghttp2_session*, const nghttp2_frame* frame, void* user) {
        const std::uint32_t error = frame->hd.type == NGHTTP2_RST_STREAM ? frame->rst_stream.error_code : 0;
        self(user).frame_sent(frame->hd.stream_id, frame->hd.type, frame->hd.flags, error);
        return 0;
    }
    static int stream_close(nghttp2_session*, std::int32_t id, std::uint32_t, void* user) {
        self(user).stream_closed(id);
        return 0;
    }
    static ssize_t frame_room(nghttp2_session*, std::uint8_t, std::int32_t, std::int32_t connection_window,
                              std::int32_t stream_window, std::uint32_t max_frame_size, void* user) {
        const auto most = static_cast<std::uint32_t>(self(user).limits_.max_frame_bytes);
        const auto windows = static_cast<std::uint32_t>(std::min(connection_window, stream_window));
        return static_cast<ssize_t>(std::min({windows, max_frame_size, most}));
    }
    static int send_body(nghttp2_session*, nghttp2_frame* frame, const std::uint8_t* head, std::size_t length,
                         nghttp2_data_source*, void* user) {
        constexpr std::size_t head_size = 9;
        Http2Session& session = self(user);
        Http2Stream* stream = session.find(frame->hd.stream_id);
        if (stream == nullptr) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        return session.send_body(*stream, view(head, head_size), length);
    }
};

ssize_t Http2Session::Callbacks::read_body(nghttp2_session*, std::int32_t id, std::uint8_t* room, std::size_t size,
                                           std::uint32_t* flags, nghttp2_data_source*, void* user) {
    Http2Session& session = Native::self(user);
    Http2Stream* stream = session.find(id);
    if (stream == nullptr) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    return session.read_body(*stream, {room, size}, *flags);
}

nghttp2_session* Http2Session::Callbacks::make(Http2Session& session) {
    nghttp2_session_callbacks* raw = nullptr;
    nghttp2_option* option = nullptr;
    nghttp2_session* native = nullptr;
    if (nghttp2_session_callbacks_new(&raw) != 0) return nullptr;
    const std::unique_ptr<nghttp2_session_callbacks, void (*)(nghttp2_session_callbacks*)> callbacks(
        raw, nghttp2_session_callbacks_del);
    nghttp2_session_callbacks_set_on_begin_frame_callback(raw, Native::begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(raw, Native::begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(raw, Native::header);
    nghttp2_session_callbacks_set_on_invalid_header_callback(raw, Native::invalid_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(raw, Native::frame_received);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(raw, Native::data);
    nghttp2_session_callbacks_set_on_frame_send_callback(raw, Native::frame_sent);
    nghttp2_session_callbacks_set_on_stream_close_callback(raw, Native::stream_close);
    nghttp2_session_callbacks_set_data_source_read_length_callback(raw, Native::frame_room);
    nghttp2_session_callbacks_set_send_data_callback(raw, Native::send_body);
    if (nghttp2_option_new(&option) != 0) return nullptr;
    const std::unique_ptr<nghttp2_option, void (*)(nghttp2_option*)> options(option, nghttp2_option_del);
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_no_closed_streams(option, 1);
    nghttp2_option_set_stream_reset_rate_limit(option, session.limits_.resets.burst, session.limits_.resets.per_second);
    nghttp2_option_set_max_continuations(option, session.limits_.max_continuations);
    // gRPC lets white space around values be, and strips it; clients send it.
    nghttp2_option_set_no_rfc9113_leading_and_trailing_ws_validation(option, 1);
    return nghttp2_session_server_new2(&native, raw, &session, option) == 0 ? native : nullptr;
}

}  // namespace anyserve
