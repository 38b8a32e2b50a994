#include "grpc_client_session.hpp"

#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <charconv>
#include <new>
#include <utility>
#include <variant>

#include "anyserve/capability_text.hpp"
#include "anyserve/framing.hpp"

namespace anyserve {
namespace {

constexpr std::size_t kPrefixBytes = 5;  // of a message

/// What is in front of a message that is not compressed: a zero, and its length as our own frames have it.
std::string message_prefix(std::size_t length) {
    const auto header = frame_header(static_cast<std::uint32_t>(length));
    return std::string(1, '\0').append(header.data(), header.size());
}

nghttp2_nv field(std::string_view name, std::string_view value) {
    // The library takes pointers that are not const, copies what they point to, and does not write there.
    const auto bytes = [](std::string_view text) {
        return reinterpret_cast<std::uint8_t*>(const_cast<char*>(text.data()));
    };
    return {bytes(name), bytes(value), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE};
}

std::string_view view(const std::uint8_t* bytes, std::size_t size) {
    return {reinterpret_cast<const char*>(bytes), size};
}

/// A `grpc-status`; UNKNOWN for what is none.
Code status_code(std::string_view text) {
    unsigned number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    const bool known =
        error == std::errc() && end == text.data() + text.size() && number <= static_cast<unsigned>(kLastCode);
    return known ? static_cast<Code>(number) : Code::unknown;
}

std::string status_message(std::string_view encoded) {
    auto decoded = percent_decoded(encoded);
    auto* text = std::get_if<std::string>(&decoded);
    return text != nullptr ? std::move(*text) : std::string(encoded);
}

}  // namespace

/// One call: what is still to be sent of its request, and what has come of its answer.
struct GrpcClientSession::Call {
    CallDone done;
    std::string request;  // with its prefix
    std::size_t sent = 0;
    std::string http_status;
    std::string grpc_status;
    std::string grpc_message;
    std::string body;

    /// What the answer says once it has ended.
    [[nodiscard]] CallResult result() {
        if (http_status != "200") return {Code::unavailable, "the answer has the HTTP status " + http_status, {}};
        if (grpc_status.empty()) return {Code::unknown, "the answer has no grpc-status", {}};
        const Code code = status_code(grpc_status);
        if (code != Code::ok) return {code, status_message(grpc_message), {}};
        const bool whole = body.size() >= kPrefixBytes && body.starts_with(message_prefix(body.size() - kPrefixBytes));
        if (!whole) return {Code::internal, "the answer is not one message", {}};
        return {Code::ok, {}, body.erase(0, kPrefixBytes)};
    }
};

/// The library's C callbacks.
struct GrpcClientSession::Callbacks {
    static GrpcClientSession& self(void* user) { return *static_cast<GrpcClientSession*>(user); }

    static int header(nghttp2_session*, const nghttp2_frame* frame, const std::uint8_t* name, std::size_t name_size,
                      const std::uint8_t* value, std::size_t value_size, std::uint8_t, void* user) {
        Call* call = self(user).find(frame->hd.stream_id);
        if (call == nullptr) return 0;
        const std::string_view key = view(name, name_size);
        if (key == ":status") call->http_status = view(value, value_size);
        if (key == "grpc-status") call->grpc_status = view(value, value_size);
        if (key == "grpc-message") call->grpc_message = view(value, value_size);
        return 0;
    }
    static int data(nghttp2_session* native, std::uint8_t, std::int32_t id, const std::uint8_t* bytes, std::size_t size,
                    void* user) {
        Call* call = self(user).find(id);
        if (call == nullptr) return 0;
        if (call->body.size() + size > kPrefixBytes + kMaxReplyBytes) {
            nghttp2_submit_rst_stream(native, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
            self(user).end(id, {Code::resource_exhausted, "the answer is too long", {}});
            return 0;
        }
        call->body.append(view(bytes, size));
        return 0;
    }
    static int stream_close(nghttp2_session*, std::int32_t id, std::uint32_t error, void* user) {
        Call* call = self(user).find(id);
        if (call == nullptr) return 0;
        // A server that resets has its reasons; one that has told them before is believed.
        const bool told = error == NGHTTP2_NO_ERROR || !call->grpc_status.empty();
        self(user).end(id, told ? call->result() : CallResult{Code::unavailable, nghttp2_http2_strerror(error), {}});
        return 0;
    }
    static ssize_t read_request(nghttp2_session*, std::int32_t id, std::uint8_t* room, std::size_t size,
                                std::uint32_t* flags, nghttp2_data_source*, void* user) {
        Call* call = self(user).find(id);
        if (call == nullptr) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        const std::string_view rest = std::string_view(call->request).substr(call->sent, size);
        std::copy_n(rest.begin(), rest.size(), room);
        call->sent += rest.size();
        if (call->sent == call->request.size()) *flags |= NGHTTP2_DATA_FLAG_EOF;
        return static_cast<ssize_t>(rest.size());
    }

    /// The library's session, which calls ours.
    static nghttp2_session* make(GrpcClientSession& session) {
        nghttp2_session_callbacks* raw = nullptr;
        if (nghttp2_session_callbacks_new(&raw) != 0) throw std::bad_alloc();
        const std::unique_ptr<nghttp2_session_callbacks, void (*)(nghttp2_session_callbacks*)> callbacks(
            raw, nghttp2_session_callbacks_del);
        nghttp2_session_callbacks_set_on_header_callback(raw, header);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(raw, data);
        nghttp2_session_callbacks_set_on_stream_close_callback(raw, stream_close);
        nghttp2_session* native = nullptr;
        if (nghttp2_session_client_new(&native, raw, &session) != 0) throw std::bad_alloc();
        return native;
    }
};

GrpcClientSession::GrpcClientSession(std::string authority)
    : authority_(std::move(authority)), session_(Callbacks::make(*this), nghttp2_session_del) {
    const nghttp2_settings_entry no_push{NGHTTP2_SETTINGS_ENABLE_PUSH, 0};
    nghttp2_submit_settings(session_.get(), NGHTTP2_FLAG_NONE, &no_push, 1);
}

GrpcClientSession::~GrpcClientSession() = default;

bool GrpcClientSession::takes_calls() const noexcept {
    return nghttp2_session_check_request_allowed(session_.get()) != 0;
}

std::int32_t GrpcClientSession::call(std::string_view path, const Metadata& metadata, std::string_view request,
                                     CallDone done) {
    std::vector<nghttp2_nv> fields{field(":method", "POST"), field(":scheme", "http"),
                                   field(":path", path),     field(":authority", authority_),
                                   field("te", "trailers"),  field("content-type", "application/grpc")};
    for (const auto& [name, value] : metadata) fields.push_back(field(name, value));
    nghttp2_data_provider body{};
    body.read_callback = Callbacks::read_request;
    const std::int32_t id =
        nghttp2_submit_request(session_.get(), nullptr, fields.data(), fields.size(), &body, nullptr);
    if (id < 0) throw std::bad_alloc();  // the only reason while `takes_calls`
    auto made = std::make_unique<Call>();
    made->done = std::move(done);
    made->request = message_prefix(request.size()).append(request);
    calls_.emplace(id, std::move(made));
    return id;
}

void GrpcClientSession::cancel(std::int32_t call) {
    if (calls_.erase(call) == 0) return;
    nghttp2_submit_rst_stream(session_.get(), NGHTTP2_FLAG_NONE, call, NGHTTP2_CANCEL);
}

void GrpcClientSession::receive(std::string_view bytes) {
    const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
    if (nghttp2_session_mem_recv(session_.get(), data, bytes.size()) < 0) failed_ = true;
    tell_ended();
}

bool GrpcClientSession::over() const noexcept {
    if (failed_) return true;
    return nghttp2_session_want_read(session_.get()) == 0 && nghttp2_session_want_write(session_.get()) == 0;
}

void GrpcClientSession::pump(std::string& output) {
    const std::uint8_t* data = nullptr;
    for (;;) {
        const ssize_t size = nghttp2_session_mem_send(session_.get(), &data);
        if (size <= 0) return;
        output.append(view(data, static_cast<std::size_t>(size)));
    }
}

void GrpcClientSession::close(const std::string& why) {
    while (!calls_.empty()) end(calls_.begin()->first, {Code::unavailable, why, {}});
    tell_ended();
}

GrpcClientSession::Call* GrpcClientSession::find(std::int32_t id) noexcept {
    const auto found = calls_.find(id);
    return found == calls_.end() ? nullptr : found->second.get();
}

void GrpcClientSession::end(std::int32_t id, CallResult result) {
    ended_.emplace_back(std::move(calls_.at(id)->done), std::move(result));
    calls_.erase(id);
}

void GrpcClientSession::tell_ended() {
    for (auto& [done, result] : std::exchange(ended_, {})) done(std::move(result));
}

}  // namespace anyserve
