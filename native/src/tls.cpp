#include "anyserve/tls.hpp"

#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <system_error>
#include <utility>

#include "anyserve/fd.hpp"

namespace anyserve {

/// OpenSSL's view of the wire: reads what was fed, writes to the queue, and never waits.
struct WireCallbacks {
    static TlsConnection& self(BIO* bio) { return *static_cast<TlsConnection*>(BIO_get_data(bio)); }

    static int read(BIO* bio, char* room, std::size_t size, std::size_t* count) {
        std::string_view& input = self(bio).input_;
        BIO_clear_retry_flags(bio);
        if (input.empty()) {
            BIO_set_retry_read(bio);
            return 0;
        }
        *count = std::min(size, input.size());
        std::memcpy(room, input.data(), *count);
        input.remove_prefix(*count);
        return 1;
    }
    static int write(BIO* bio, const char* bytes, std::size_t size, std::size_t* count) {
        self(bio).wire_.append({bytes, size});
        *count = size;
        return 1;
    }
    static long control(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }
};

namespace {

template <auto free>
struct Freed {
    template <class T>
    void operator()(T* object) const noexcept {
        free(object);
    }
};
using Context = std::unique_ptr<SSL_CTX, Freed<SSL_CTX_free>>;
using Method = std::unique_ptr<BIO_METHOD, Freed<BIO_meth_free>>;

constexpr std::string_view kH2("\2h2", 3);

/// The suites of TLS 1.2 that HTTP/2 does not forbid (RFC 9113, appendix A); TLS 1.3 has no others.
constexpr const char* kCipherList = "ECDHE+AESGCM:ECDHE+CHACHA20";

int alpn_select(SSL*, const unsigned char** chosen, unsigned char* size, const unsigned char* offered,
                unsigned int offered_size, void*) {
    unsigned char* found = nullptr;
    const auto* ours = reinterpret_cast<const unsigned char*>(kH2.data());
    const int result = SSL_select_next_proto(&found, size, ours, kH2.size(), offered, offered_size);
    *chosen = found;
    return result == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

/// Refuses clients without ALPN, of which `alpn_select` would not be told.
int client_hello(SSL* ssl, int* alert, void*) {
    const unsigned char* alpn = nullptr;
    std::size_t size = 0;
    if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_application_layer_protocol_negotiation, &alpn, &size) != 0) {
        return SSL_CLIENT_HELLO_SUCCESS;
    }
    *alert = SSL_AD_NO_APPLICATION_PROTOCOL;
    return SSL_CLIENT_HELLO_ERROR;
}

// Reading the files.

std::string about(std::string_view option, const std::string& file, std::string_view what) {
    return std::string(option) + " " + file + ": " + std::string(what);
}

/// Why a file cannot be read, if so. OpenSSL would tell a file that is not there from one without a certificate only
/// by codes of several libraries.
std::optional<std::string> unreadable(const std::string& file) {
    const Fd opened(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    char byte = 0;
    if (opened && ::read(opened.get(), &byte, 1) >= 0) return std::nullopt;
    return std::generic_category().message(errno);
}

/// What OpenSSL did not like, if not what it usually is: that the file has nothing of the kind that was wanted.
std::string reason(std::string_view usually) {
    const unsigned long error = ERR_peek_last_error();
    const bool particular = ERR_GET_LIB(error) == ERR_LIB_SSL && !ERR_COMMON_ERROR(error);  // such as "key too small"
    const char* text = ERR_reason_error_string(error);
    return particular && text != nullptr ? text : std::string(usually);
}

/// Nobody is asked for a passphrase: an agent starts unattended.
int refuse_passphrase(char*, int, int, void* asked) {
    *static_cast<bool*>(asked) = true;
    return -1;
}

std::string load_certificate(SSL_CTX* context, const std::string& file) {
    if (const auto error = unreadable(file)) return about("--tls-cert", file, *error);
    if (SSL_CTX_use_certificate_chain_file(context, file.c_str()) == 1) return {};
    return about("--tls-cert", file, reason("there is no certificate in PEM format in it"));
}

std::string load_key(SSL_CTX* context, const std::string& file, const std::string& certificate) {
    if (const auto error = unreadable(file)) return about("--tls-key", file, *error);
    bool asked = false;
    SSL_CTX_set_default_passwd_cb(context, refuse_passphrase);
    SSL_CTX_set_default_passwd_cb_userdata(context, &asked);
    const bool loaded = SSL_CTX_use_PrivateKey_file(context, file.c_str(), SSL_FILETYPE_PEM) == 1;
    SSL_CTX_set_default_passwd_cb_userdata(context, nullptr);
    SSL_CTX_set_default_passwd_cb(context, nullptr);
    if (asked) return about("--tls-key", file, "it has a passphrase: give a key without one");
    if (loaded && SSL_CTX_check_private_key(context) == 1) return {};
    const unsigned long error = ERR_peek_error();
    if (loaded || ERR_GET_LIB(error) == ERR_LIB_X509) {
        return about("--tls-key", file, "it is not the key of the certificate in " + certificate);
    }
    return about("--tls-key", file, reason("there is no private key in PEM format in it"));
}

std::string load_client_ca(SSL_CTX* context, const std::string& file) {
    if (const auto error = unreadable(file)) return about("--tls-client-ca", file, *error);
    STACK_OF(X509_NAME)* names = SSL_load_client_CA_file(file.c_str());
    if (names != nullptr) SSL_CTX_set_client_CA_list(context, names);  // which clients are told, to choose by
    if (names == nullptr || SSL_CTX_load_verify_file(context, file.c_str()) != 1) {
        return about("--tls-client-ca", file, reason("there is no certificate in PEM format in it"));
    }
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
    // Whoever is in the file is trusted, also one that another has issued.
    X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(context), X509_V_FLAG_PARTIAL_CHAIN);
    return {};
}

void set_rules(SSL_CTX* context) {
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_cipher_list(context, kCipherList);
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE |
                                     SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);  // 34 KiB less for a connection that is idle
    SSL_CTX_set_alpn_select_cb(context, alpn_select, nullptr);
    SSL_CTX_set_client_hello_cb(context, client_hello, nullptr);
    // Resumption is by tickets, which clients keep. With client certificates OpenSSL wants a name for whose they are.
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    constexpr std::string_view name = "anyserve";
    SSL_CTX_set_session_id_context(context, reinterpret_cast<const unsigned char*>(name.data()), name.size());
}

Method wire_method() {
    Method method(BIO_meth_new(BIO_TYPE_SOURCE_SINK, "anyserve wire"));
    if (!method) return method;
    BIO_meth_set_read_ex(method.get(), WireCallbacks::read);
    BIO_meth_set_write_ex(method.get(), WireCallbacks::write);
    BIO_meth_set_ctrl(method.get(), WireCallbacks::control);
    return method;
}

}  // namespace

struct TlsContext::Parts {
    Context context;
    Method wire;
};

TlsLoaded TlsContext::load(const TlsFiles& files) {
    ERR_clear_error();
    auto parts = std::make_unique<Parts>(Parts{Context(SSL_CTX_new(TLS_server_method())), wire_method()});
    SSL_CTX* context = parts->context.get();
    if (context == nullptr || !parts->wire) return {nullptr, "TLS: there is no memory"};
    set_rules(context);
    std::string error = load_certificate(context, files.cert);
    if (error.empty()) error = load_key(context, files.key, files.cert);
    if (error.empty() && !files.client_ca.empty()) error = load_client_ca(context, files.client_ca);
    ERR_clear_error();
    if (!error.empty()) return {nullptr, std::move(error)};
    return {std::make_shared<const TlsContext>(std::move(parts)), {}};
}

TlsContext::TlsContext(std::unique_ptr<Parts> parts) noexcept : parts_(std::move(parts)) {}

TlsContext::~TlsContext() = default;

// A connection.

void TlsConnection::Free::operator()(ssl_st* ssl) const noexcept { SSL_free(ssl); }

TlsConnection::TlsConnection(std::shared_ptr<const TlsContext> context, OutputQueue& wire)
    : context_(std::move(context)), wire_(wire), ssl_(SSL_new(context_->parts_->context.get())) {
    BIO* bio = ssl_ ? BIO_new(context_->parts_->wire.get()) : nullptr;
    if (bio == nullptr) {
        state_ = State::failed;
        return;
    }
    BIO_set_data(bio, this);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl_.get(), bio, bio);
    SSL_set_accept_state(ssl_.get());
}

TlsConnection::~TlsConnection() = default;

void TlsConnection::feed(std::string_view bytes) noexcept {
    input_ = bytes;
    if (state_ == State::handshake) handshake_bytes_ += bytes.size();
}

std::string_view TlsConnection::read(std::span<char> room) {
    if (state_ == State::handshake && !shake_hands()) return {};
    if (state_ != State::open) return {};
    ERR_clear_error();
    std::size_t size = 0;
    const int result = SSL_read_ex(ssl_.get(), room.data(), room.size(), &size);
    if (result == 1) return {room.data(), size};
    stopped(result);
    return {};
}

bool TlsConnection::shake_hands() {
    ERR_clear_error();
    const int result = SSL_do_handshake(ssl_.get());
    if (result == 1) {
        state_ = State::open;
        return true;
    }
    stopped(result);
    if (handshake_bytes_ > kHandshakeBytes) state_ = State::failed;
    return false;
}

/// Takes down why OpenSSL did not go on.
void TlsConnection::stopped(int result) {
    const int error = SSL_get_error(ssl_.get(), result);
    if (error == SSL_ERROR_WANT_READ) return;
    state_ = error == SSL_ERROR_ZERO_RETURN ? State::ended : State::failed;
    input_ = {};
}

void TlsConnection::seal() {
    std::array<char, kRecordBytes> record;
    std::array<iovec, 64> vectors{};
    while (!plain_.empty() && wire_.size() < kWireBytes && established()) {
        // Headers of frames and what they are about go into one record: each costs as much as a copy of all of it.
        std::size_t size = 0;
        for (const iovec& part : std::span(vectors).first(plain_.gather(vectors))) {
            const std::size_t count = std::min(part.iov_len, record.size() - size);
            std::memcpy(record.data() + size, part.iov_base, count);
            size += count;
        }
        ERR_clear_error();
        std::size_t written = 0;
        if (SSL_write_ex(ssl_.get(), record.data(), size, &written) != 1) {
            state_ = State::failed;
            return;
        }
        plain_.pop(written);
    }
}

void TlsConnection::close() {
    if (!established() || std::exchange(closed_, true)) return;
    ERR_clear_error();
    SSL_shutdown(ssl_.get());
}

}  // namespace anyserve
