// One HTTP/2 connection as a server, sans-I/O: bytes in by `receive`, bytes out by `pump`, time as an argument.
//
// libnghttp2 reads and writes frames and holds to RFC 9113; this room adds the limits that it leaves to us, and gives
// each request to a `StreamHandler`. Nothing here knows of gRPC, sockets or timers.
//
// Rules of the library that shape this: never send or receive inside a callback (so calls of `Http2Stream` only note
// what is to be sent, and the transport pumps later); a stream may be gone after any callback (so streams are looked
// up by number); RST_STREAM submitted right after a response discards the response (so it waits for the response).
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "anyserve/fifo.hpp"
#include "anyserve/http2_limits.hpp"
#include "anyserve/http2_output.hpp"
#include "anyserve/payload.hpp"

struct nghttp2_session;

namespace anyserve {

class Http2Session;

/// A request's header block.
struct RequestHead {
    std::string method;
    std::string path;
    std::vector<std::pair<std::string, std::string>> fields;  ///< all but pseudo-header fields, as they came
    bool too_large = false;  ///< above `max_header_list_bytes`: `fields` has only a part
    bool ended = false;      ///< the request has no body
};

/// A field of a response. Both are copied unless they are `constant`: then they must live as long as the program.
struct ResponseField {
    std::string_view name;
    std::string_view value;
    bool constant = true;
};

/// One request and its response, as the room above HTTP/2 sees it. Owned by the session; gone after `on_close`.
class Http2Stream {
public:
    explicit Http2Stream(Http2Session& session, std::int32_t id) noexcept : session_(session), id_(id) {}
    Http2Stream(const Http2Stream&) = delete;
    Http2Stream& operator=(const Http2Stream&) = delete;

    /// Sends the response's headers; with `end` they are all of it.
    void respond(std::span<const ResponseField> fields, bool end);
    /// Sends body: `prefix`, at most eight bytes, and then `bytes`. After `respond`, before `finish`.
    void write(std::string_view prefix, Payload bytes);
    /// Ends the response by trailers, after what was written.
    void finish(std::vector<std::pair<std::string, std::string>> trailers);
    /// Takes back what was written and has not gone; false if a part of one `write` has gone.
    [[nodiscard]] bool discard() noexcept;
    void reset(std::uint32_t error_code);
    /// Gives `count` bytes of request body back to the stream's window.
    void consume(std::size_t count);

private:
    friend class Http2Session;

    struct Chunk {
        Payload bytes;
        std::shared_ptr<const Payload> borrowed;  // instead of `bytes`, once frames refer to it
        std::array<char, 8> prefix;
        std::uint8_t prefix_size;
        std::size_t sent = 0;  // of prefix and bytes together

        std::string_view body() const noexcept { return borrowed ? borrowed->view() : bytes.view(); }
        std::size_t rest() const noexcept { return prefix_size + body().size() - sent; }
    };

    Http2Session& session_;
    std::int32_t id_;
    std::size_t place_ = 0;  // among the session's streams
    std::unique_ptr<class StreamHandler> handler_;
    RequestHead head_;
    std::size_t header_bytes_ = 0;
    Fifo<Chunk> chunks_;
    std::vector<std::pair<std::string, std::string>> trailers_;
    TokenBucket::Time progress_{};   // of the response: when it last had nothing to send, or sent something
    std::size_t sent_chunks_ = 0;    // of which the handler has not been told
    std::size_t promised_ = 0;       // bytes of a frame that the library is about to send by reference
    bool request_complete_ = false;  // its header block has come
    bool request_ended_ = false;
    bool responded_ = false;
    bool finished_ = false;
    bool deferred_ = false;  // the library waits for `resume`
};

/// What is done with a request. Calls come from `receive`, `pump` and `sweep`; never from inside an `Http2Stream` call.
class StreamHandler {
public:
    virtual ~StreamHandler() = default;
    virtual void on_request(RequestHead head) = 0;
    virtual void on_data(std::string_view bytes) = 0;
    /// The request has ended, in its headers or behind its body.
    virtual void on_end() = 0;
    /// The oldest `write` of which this was not told has gone.
    virtual void on_sent() = 0;
    /// The stream has ended, by whomever. The handler is destroyed next.
    virtual void on_close() = 0;
    /// Called now and then. Returns false if the client has kept the request waiting for too long.
    [[nodiscard]] virtual bool on_sweep(TokenBucket::Time now) = 0;
};

class Http2Session {
public:
    using Time = TokenBucket::Time;
    using Accept = std::function<std::unique_ptr<StreamHandler>(Http2Stream&)>;

    /// Args:
    ///   limits: must outlive the session.
    ///   accept: makes the handler of a request.
    ///   wants_pump: called, also inside `receive` and `pump`, when there may be bytes for `pump`.
    Http2Session(const ServerLimits& limits, Time now, Accept accept, std::function<void()> wants_pump);
    ~Http2Session();
    Http2Session(const Http2Session&) = delete;
    Http2Session& operator=(const Http2Session&) = delete;

    /// Takes bytes of the client.
    void receive(std::string_view bytes, Time now);
    /// Appends frames to `output` until it has `output_bytes` or there are no more.
    void pump(OutputQueue& output, Time now);
    /// Nothing is to be read any more, and nothing to be written but what `pump` has given.
    bool done() const noexcept;

    /// Looks at the times of the limits, some time after the last call.
    void sweep(Time now);
    /// Tells the client that no stream will be accepted soon (`final` false), or from now on.
    void go_away(bool final);
    /// Ends all streams: the connection is lost.
    void close();

    std::size_t streams() const noexcept { return streams_.size(); }

private:
    friend class Http2Stream;
    struct Callbacks;

    Http2Stream* find(std::int32_t id) const noexcept;
    void count_frame(std::size_t length, std::uint8_t type, std::uint8_t flags);
    void add_field(Http2Stream& stream, std::string_view name, std::string_view value);
    void request_part(std::int32_t id, bool headers, bool end);
    void frame_sent(std::int32_t id, std::uint8_t type, std::uint8_t flags, std::uint32_t error_code);
    void stream_closed(std::int32_t id);
    std::ptrdiff_t read_body(Http2Stream& stream, std::span<std::uint8_t> room, std::uint32_t& flags);
    int send_body(Http2Stream& stream, std::string_view frame_header, std::size_t length);
    void end_body(Http2Stream& stream, std::uint32_t& flags);
    void submit_trailers(const Http2Stream& stream);
    void tell_sent();
    void calm_down(std::string_view why);
    void fail(std::uint32_t error_code);

    const ServerLimits& limits_;
    Accept accept_;
    std::function<void()> wants_pump_;
    std::unique_ptr<nghttp2_session, void (*)(nghttp2_session*)> session_;
    std::vector<std::unique_ptr<Http2Stream>> streams_;  // in no order; the library finds each by its number
    std::vector<std::int32_t> sent_;                     // streams whose handlers are to be told of what has gone
    std::vector<std::int32_t> telling_;                  // those that are being told
    Http2Stream* reading_ = nullptr;                     // whose header block is coming
    OutputQueue* output_ = nullptr;                      // while pumping
    TokenBucket resets_;
    TokenBucket idle_frames_;
    Time now_;  // of the current call
    Time began_;
    Time busy_;                             // when there last was a stream
    Time header_block_{};                   // since when one is open
    std::int32_t header_block_stream_ = 0;  // of which stream; 0: none is open
    bool settings_came_ = false;
    bool settings_acked_ = false;
    bool closing_ = false;  // after what is to be pumped the connection is over
};

}  // namespace anyserve
