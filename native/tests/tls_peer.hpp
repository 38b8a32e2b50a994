// Certificates made on the spot, and a client of TLS without sockets: what tests of TLS share.
#pragma once

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "worker_client_peer.hpp"

namespace anyserve::testing {

template <auto free>
struct Freed {
    template <class T>
    void operator()(T* object) const noexcept {
        free(object);
    }
};
using Key = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, Freed<X509_free>>;
using Ssl = std::unique_ptr<SSL, Freed<SSL_free>>;
using SslContext = std::unique_ptr<SSL_CTX, Freed<SSL_CTX_free>>;

/// A key and its certificate, issued by another or by itself, as files.
class Identity {
public:
    Identity(const TemporaryDirectory& directory, const std::string& name, const Identity* issuer = nullptr)
        : cert_file(directory / (name + ".crt")),
          key_file(directory / (name + ".key")),
          key(EVP_EC_gen("P-256")),
          certificate(X509_new()) {
        X509* made = certificate.get();
        X509_set_version(made, X509_VERSION_3);
        ASN1_INTEGER_set(X509_get_serialNumber(made), 1 + static_cast<long>(std::hash<std::string>{}(name) % 100'000));
        X509_gmtime_adj(X509_getm_notBefore(made), -60);
        X509_gmtime_adj(X509_getm_notAfter(made), 3600);
        X509_set_pubkey(made, key.get());
        X509_NAME_add_entry_by_txt(X509_get_subject_name(made), "CN", MBSTRING_UTF8,
                                   reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
        X509_set_issuer_name(made, X509_get_subject_name(issuer ? issuer->certificate.get() : made));
        if (issuer == nullptr) {
            X509_EXTENSION* authority =
                X509V3_EXT_conf_nid(nullptr, nullptr, NID_basic_constraints, "critical,CA:TRUE");
            X509_add_ext(made, authority, -1);
            X509_EXTENSION_free(authority);
        }
        X509_sign(made, issuer ? issuer->key.get() : key.get(), EVP_sha256());
        BIO* bio = BIO_new_file(cert_file.c_str(), "w");
        PEM_write_bio_X509(bio, made);
        BIO_free(bio);
        bio = BIO_new_file(key_file.c_str(), "w");
        PEM_write_bio_PrivateKey(bio, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
        BIO_free(bio);
    }

    const std::string cert_file;
    const std::string key_file;
    const Key key;
    const Certificate certificate;
};

/// What a client offers.
struct Offer {
    int least_version = TLS1_2_VERSION;
    int most_version = TLS1_3_VERSION;
    std::string_view alpn{"\2h2", 3};
    const Identity* identity = nullptr;
};

/// A client without sockets: bytes of the server in by `feed`, bytes for it out by `take`.
class TlsClient {
public:
    TlsClient(const Identity& root, const Offer& offer) : context_(SSL_CTX_new(TLS_client_method())) {
        SSL_CTX* context = context_.get();
        SSL_CTX_set_security_level(context, 0);  // so that old versions can be offered
        SSL_CTX_set_min_proto_version(context, offer.least_version);
        SSL_CTX_set_max_proto_version(context, offer.most_version);
        X509_STORE_add_cert(SSL_CTX_get_cert_store(context), root.certificate.get());
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
        if (offer.identity != nullptr) {
            SSL_CTX_use_certificate(context, offer.identity->certificate.get());
            SSL_CTX_use_PrivateKey(context, offer.identity->key.get());
        }
        ssl.reset(SSL_new(context));
        if (!offer.alpn.empty()) {
            SSL_set_alpn_protos(ssl.get(), reinterpret_cast<const unsigned char*>(offer.alpn.data()),
                                static_cast<unsigned>(offer.alpn.size()));
        }
        SSL_set_bio(ssl.get(), BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
        SSL_set_connect_state(ssl.get());
    }

    void feed(std::string_view bytes) {
        BIO_write(SSL_get_rbio(ssl.get()), bytes.data(), static_cast<int>(bytes.size()));
    }
    std::string take() {
        std::string bytes(BIO_ctrl_pending(SSL_get_wbio(ssl.get())), '\0');
        if (!bytes.empty()) BIO_read(SSL_get_wbio(ssl.get()), bytes.data(), static_cast<int>(bytes.size()));
        return bytes;
    }
    /// Whether the handshake is over, as far as the client knows.
    bool shake_hands() {
        ERR_clear_error();
        const bool over = SSL_do_handshake(ssl.get()) == 1;
        take_reason();
        return over;
    }
    void write(std::string_view bytes) { SSL_write(ssl.get(), bytes.data(), static_cast<int>(bytes.size())); }
    /// All the plain text that there is.
    std::string read() {
        std::string plain;
        char room[16'384];
        int size = 0;
        ERR_clear_error();
        while ((size = SSL_read(ssl.get(), room, sizeof room)) > 0) plain.append(room, static_cast<std::size_t>(size));
        error = SSL_get_error(ssl.get(), size);
        take_reason();
        return plain;
    }

    Ssl ssl;
    int error = SSL_ERROR_NONE;  // at which the last `read` ended
    std::string reason;          // of the first failure

private:
    void take_reason() {
        const char* text = ERR_reason_error_string(ERR_peek_error());
        if (reason.empty() && text != nullptr) reason = text;
    }

    SslContext context_;
};

inline void write_file(const std::string& path, std::string_view bytes) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

inline std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace anyserve::testing
