// TLS of the client port by OpenSSL, sans-I/O: the peer's bytes in by `feed`, plain text out by `read`, and what is to
// go to the peer into an `OutputQueue`. Sockets, times and what is said inside are others' business.
//
// `read` is called until it gives nothing: then OpenSSL has taken all that was fed, and nothing is left in between of
// which no event of the socket would tell.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "anyserve/http2_output.hpp"

struct bio_st;
struct ssl_ctx_st;
struct ssl_st;

namespace anyserve {

class TlsContext;

/// Where the PEM files are.
struct TlsFiles {
    std::string cert;       ///< the server's certificate, and those between it and its root
    std::string key;        ///< its private key, without a passphrase
    std::string client_ca;  ///< whose certificates clients have to show (mTLS); empty: they need none
};

/// A context, or why there is none.
struct TlsLoaded {
    std::shared_ptr<const TlsContext> context;
    std::string error;  ///< names the option, the file and what is wrong (`serving.tls.files`)
};

/// What the connections of a listening socket have in common: TLS 1.2 or later (`serving.tls.version`), `h2` by ALPN
/// (`serving.tls.alpn`), tickets for resumption, no renegotiation. Does not change; any thread.
class TlsContext {
public:
    [[nodiscard]] static TlsLoaded load(const TlsFiles& files);

    struct Parts;
    explicit TlsContext(std::unique_ptr<Parts> parts) noexcept;
    ~TlsContext();
    TlsContext(const TlsContext&) = delete;
    TlsContext& operator=(const TlsContext&) = delete;

private:
    friend class TlsConnection;

    std::unique_ptr<Parts> parts_;
};

/// The server's side of one connection. One thread at a time.
class TlsConnection {
public:
    /// The most plain text of one record: the room that `read` wants; with less it takes more calls.
    static constexpr std::size_t kRecordBytes = std::size_t{16} << 10;
    /// So much is encrypted ahead of what the socket takes: it stays in the processor's cache until then.
    static constexpr std::size_t kWireBytes = std::size_t{64} << 10;
    /// What a client may send before its handshake is over; OpenSSL bounds each message of it, too.
    static constexpr std::size_t kHandshakeBytes = std::size_t{256} << 10;

    /// Args:
    ///   wire: where bytes for the peer go; must outlive this.
    TlsConnection(std::shared_ptr<const TlsContext> context, OutputQueue& wire);
    ~TlsConnection();
    TlsConnection(const TlsConnection&) = delete;
    TlsConnection& operator=(const TlsConnection&) = delete;

    /// Takes bytes of the peer, which must stay until `read` has returned nothing.
    void feed(std::string_view bytes) noexcept;
    /// The next plain text, in `room`; nothing when there is no more of it for now. May append to the wire.
    [[nodiscard]] std::string_view read(std::span<char> room);

    /// What is to be sent. Filled by whoever has something to say, emptied by `seal`.
    OutputQueue& plain() noexcept { return plain_; }
    /// Encrypts `plain` onto the wire, until all is there or the wire has `kWireBytes`. Only when `established`.
    void seal();
    /// Says that nothing more will come (close_notify), once, after what was sealed.
    void close();

    /// The handshake is over and went well.
    [[nodiscard]] bool established() const noexcept { return state_ == State::open || state_ == State::ended; }
    /// The peer has said that it sends no more.
    [[nodiscard]] bool ended() const noexcept { return state_ == State::ended; }
    /// The peer broke a rule or was refused. When what is on the wire has gone, an alert mostly, all is over.
    [[nodiscard]] bool failed() const noexcept { return state_ == State::failed; }

private:
    enum class State { handshake, open, ended, failed };
    struct Free {
        void operator()(ssl_st* ssl) const noexcept;
    };
    friend struct WireCallbacks;

    bool shake_hands();
    void stopped(int result);

    std::shared_ptr<const TlsContext> context_;
    OutputQueue& wire_;
    OutputQueue plain_;
    std::string_view input_;  // what OpenSSL has not taken yet
    std::size_t handshake_bytes_ = 0;
    State state_ = State::handshake;
    bool closed_ = false;
    std::unique_ptr<ssl_st, Free> ssl_;
};

}  // namespace anyserve
