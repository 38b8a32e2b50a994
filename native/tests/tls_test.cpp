#include "anyserve/tls.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <string>

#include "tls_peer.hpp"

namespace anyserve {
namespace {

using namespace testing;

class Tls : public ::testing::Test {
protected:
    std::shared_ptr<const TlsContext> load(const std::string& client_ca = {}) const {
        TlsLoaded loaded = TlsContext::load({server_.cert_file, server_.key_file, client_ca});
        EXPECT_EQ(loaded.error, "");
        return loaded.context;
    }
    std::string error(const std::string& cert, const std::string& key, const std::string& client_ca = {}) const {
        TlsLoaded loaded = TlsContext::load({cert, key, client_ca});
        EXPECT_EQ(loaded.context == nullptr, !loaded.error.empty());
        return loaded.error;
    }

    const TemporaryDirectory directory_;
    const Identity root_{directory_, "root"};
    const Identity server_{directory_, "server", &root_};
};

/// The two ends of a connection, with all that the server understood.
class Pair {
public:
    Pair(std::shared_ptr<const TlsContext> context, const Identity& root, const Offer& offer = {})
        : client(root, offer), server(std::move(context), wire) {}

    /// Gives the server bytes in pieces, and the client what it answers.
    void feed(std::string_view bytes, std::size_t piece = 1u << 20) {
        std::array<char, TlsConnection::kRecordBytes> room;
        for (std::size_t at = 0; at < bytes.size(); at += piece) {
            server.feed(bytes.substr(at, piece));
            for (auto plain = server.read(room); !plain.empty(); plain = server.read(room)) received += plain;
        }
        deliver();
    }
    void deliver() {
        std::array<iovec, 64> vectors{};
        while (!wire.empty()) {
            const std::size_t count = wire.gather(vectors);
            std::size_t size = 0;
            for (const iovec& part : std::span(vectors).first(count)) {
                client.feed({static_cast<const char*>(part.iov_base), part.iov_len});
                size += part.iov_len;
            }
            wire.pop(size);
        }
    }
    bool shake_hands(std::size_t piece = 1u << 20) {
        for (int turn = 0; turn < 4; ++turn) {
            client.shake_hands();
            feed(client.take(), piece);
        }
        client.read();  // tickets
        return client.shake_hands() && server.established();
    }
    void send(std::string_view bytes, std::size_t piece = 1u << 20) {
        client.write(bytes);
        feed(client.take(), piece);
    }
    std::string answer(std::string_view bytes) {
        server.plain().append(bytes);
        std::string answer;
        while (!server.plain().empty()) {
            server.seal();
            deliver();
            answer += client.read();
        }
        return answer;
    }

    OutputQueue wire;
    TlsClient client;
    TlsConnection server;
    std::string received;
};

std::string much() {
    std::string bytes(300'000, '\0');
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7 + i / 251);
    return bytes;
}

TEST_F(Tls, CarriesBytesBothWays) {
    const auto context = load();
    for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
        Pair pair(context, root_, {version, version});
        ASSERT_TRUE(pair.shake_hands());
        EXPECT_EQ(SSL_version(pair.client.ssl.get()), version);
        EXPECT_EQ(pair.answer(much()), much());
        pair.send(much());
        EXPECT_EQ(pair.received, much());
    }
}

TEST_F(Tls, TakesBytesOneByOne) {
    const auto context = load();
    Pair pair(context, root_);
    ASSERT_TRUE(pair.shake_hands(1));
    pair.send("hello", 1);
    EXPECT_EQ(pair.received, "hello");
}

TEST_F(Tls, TakesWhatComesRightBehindTheHandshake) {
    const auto context = load();
    Pair pair(context, root_);
    pair.client.shake_hands();
    pair.feed(pair.client.take());
    ASSERT_TRUE(pair.client.shake_hands());
    pair.client.write("early");
    pair.feed(pair.client.take());
    EXPECT_EQ(pair.received, "early");
}

TEST_F(Tls, PutsSmallPiecesIntoOneRecord) {
    const auto context = load();
    Pair pair(context, root_);
    ASSERT_TRUE(pair.shake_hands());
    const auto body = std::make_shared<const std::string>(10'000, 'b');
    pair.server.plain().append("head");
    pair.server.plain().append(body, *body);
    pair.server.seal();
    EXPECT_LT(pair.wire.size(), 10'004u + 30u);
}

TEST_F(Tls, AgreesOnH2) {
    const auto context = load();
    Pair pair(context, root_, {.alpn = "\10http/1.1\2h2"});
    ASSERT_TRUE(pair.shake_hands());
    const unsigned char* chosen = nullptr;
    unsigned size = 0;
    SSL_get0_alpn_selected(pair.client.ssl.get(), &chosen, &size);
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(chosen), size), "h2");
}

/// What a client that must not be served learns.
std::string refusal(const std::shared_ptr<const TlsContext>& context, const Identity& root, const Offer& offer) {
    Pair pair(context, root, offer);
    EXPECT_FALSE(pair.shake_hands());
    EXPECT_TRUE(pair.server.failed());
    return pair.client.reason;
}

TEST_F(Tls, RefusesClientsWithoutH2) {
    const auto context = load();
    EXPECT_NE(refusal(context, root_, {.alpn = {}}).find("no application protocol"), std::string::npos);
    EXPECT_NE(refusal(context, root_, {.alpn = "\10http/1.1"}).find("no application protocol"), std::string::npos);
}

TEST_F(Tls, RefusesOldVersions) {
    const auto context = load();
    EXPECT_NE(refusal(context, root_, {TLS1_VERSION, TLS1_1_VERSION}).find("protocol version"), std::string::npos);
}

TEST_F(Tls, AsksForClientCertificates) {
    const Identity authority(directory_, "authority");
    const Identity known(directory_, "known", &authority);
    const Identity stranger(directory_, "stranger");
    const auto context = load(authority.cert_file);
    for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
        EXPECT_TRUE(Pair(context, root_, {.most_version = version, .identity = &known}).shake_hands());
        EXPECT_NE(refusal(context, root_, {.most_version = version}), "");
        EXPECT_NE(refusal(context, root_, {.most_version = version, .identity = &stranger}), "");
    }
}

TEST_F(Tls, ResumesSessionsOfClientsWithCertificates) {
    const Identity known(directory_, "known", &root_);
    const auto context = load(root_.cert_file);
    Pair first(context, root_, {.identity = &known});
    ASSERT_TRUE(first.shake_hands());
    const std::unique_ptr<SSL_SESSION, Freed<SSL_SESSION_free>> session(SSL_get1_session(first.client.ssl.get()));
    Pair second(context, root_, {.identity = &known});
    SSL_set_session(second.client.ssl.get(), session.get());
    ASSERT_TRUE(second.shake_hands());
    EXPECT_EQ(SSL_session_reused(second.client.ssl.get()), 1);
}

TEST_F(Tls, DoesNotNegotiateAgain) {
    const auto context = load();
    Pair pair(context, root_, {TLS1_2_VERSION, TLS1_2_VERSION});
    ASSERT_TRUE(pair.shake_hands());
    SSL_renegotiate(pair.client.ssl.get());
    pair.client.shake_hands();
    pair.feed(pair.client.take());
    pair.client.read();
    EXPECT_NE(pair.client.reason.find("no renegotiation"), std::string::npos) << pair.client.reason;
}

TEST_F(Tls, FailsWhereThereIsNoTls) {
    const auto context = load();
    for (const std::string_view plain :
         {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "\0\0\0\0\0\0\0"}) {
        Pair pair(context, root_);
        pair.feed(std::string(plain) + std::string(20, '\0'));
        EXPECT_TRUE(pair.server.failed());
        EXPECT_EQ(pair.received, "");
    }
}

TEST_F(Tls, BoundsWhatComesBeforeTheHandshakeIsOver) {
    const auto context = load();
    Pair pair(context, root_);
    pair.client.shake_hands();
    pair.feed(pair.client.take());
    const std::string ignored("\x14\x03\x03\x00\x01\x01", 6);  // a record that TLS 1.3 has servers let pass
    std::string many;
    for (std::size_t size = 0; size <= TlsConnection::kHandshakeBytes; size += ignored.size()) many += ignored;
    pair.feed(many, 1000);
    EXPECT_TRUE(pair.server.failed());
}

TEST_F(Tls, FailsOnAChangedRecord) {
    const auto context = load();
    Pair pair(context, root_);
    ASSERT_TRUE(pair.shake_hands());
    pair.client.write("hello");
    std::string record = pair.client.take();
    record.back() = static_cast<char>(record.back() ^ 1);
    pair.feed(record);
    EXPECT_TRUE(pair.server.failed());
    EXPECT_EQ(pair.received, "");
}

TEST_F(Tls, ClosesInOrder) {
    const auto context = load();
    Pair pair(context, root_);
    ASSERT_TRUE(pair.shake_hands());
    pair.server.plain().append("last");
    pair.server.seal();
    pair.server.close();
    pair.server.close();
    pair.deliver();
    EXPECT_EQ(pair.client.read(), "last");
    EXPECT_EQ(pair.client.error, SSL_ERROR_ZERO_RETURN);
    SSL_shutdown(pair.client.ssl.get());
    pair.feed(pair.client.take());
    EXPECT_TRUE(pair.server.ended());
}

TEST_F(Tls, NamesTheFileThatIsNotThere) {
    const std::string missing = directory_ / "missing";
    EXPECT_EQ(error(missing, server_.key_file), "--tls-cert " + missing + ": No such file or directory");
    EXPECT_EQ(error(server_.cert_file, missing), "--tls-key " + missing + ": No such file or directory");
    EXPECT_EQ(error(server_.cert_file, server_.key_file, missing),
              "--tls-client-ca " + missing + ": No such file or directory");
    EXPECT_NE(error(directory_ / ".", server_.key_file).find("directory"), std::string::npos);
}

TEST_F(Tls, NamesTheFileWithTheWrongContents) {
    const std::string text = directory_ / "text";
    write_file(text, "-----BEGIN NOTHING-----\n");
    const std::string torn = directory_ / "torn";
    const std::string whole = read_file(server_.cert_file);
    write_file(torn, whole.substr(0, whole.size() / 2));
    for (const std::string& file : {text, torn, server_.key_file}) {
        EXPECT_EQ(error(file, server_.key_file),
                  "--tls-cert " + file + ": there is no certificate in PEM format in it");
        EXPECT_EQ(error(server_.cert_file, server_.key_file, file),
                  "--tls-client-ca " + file + ": there is no certificate in PEM format in it");
    }
    for (const std::string& file : {text, torn, server_.cert_file}) {
        EXPECT_EQ(error(server_.cert_file, file),
                  "--tls-key " + file + ": there is no private key in PEM format in it");
    }
}

TEST_F(Tls, TellsThatKeyAndCertificateAreNotAPair) {
    EXPECT_EQ(error(server_.cert_file, root_.key_file),
              "--tls-key " + root_.key_file + ": it is not the key of the certificate in " + server_.cert_file);
    const std::string rsa = directory_ / "rsa";
    const Key key(EVP_RSA_gen(2048));
    BIO* bio = BIO_new_file(rsa.c_str(), "w");
    PEM_write_bio_PrivateKey(bio, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
    BIO_free(bio);
    EXPECT_EQ(error(server_.cert_file, rsa),
              "--tls-key " + rsa + ": it is not the key of the certificate in " + server_.cert_file);
}

TEST_F(Tls, AsksNobodyForAPassphrase) {
    const std::string locked = directory_ / "locked";
    BIO* bio = BIO_new_file(locked.c_str(), "w");
    std::string word = "secret";
    PEM_write_bio_PrivateKey(
        bio, server_.key.get(), EVP_aes_128_cbc(), nullptr, 0,
        [](char* room, int, int, void* user) {
            const auto& text = *static_cast<std::string*>(user);
            return static_cast<int>(text.copy(room, text.size()));
        },
        &word);
    BIO_free(bio);
    EXPECT_EQ(error(server_.cert_file, locked),
              "--tls-key " + locked + ": it has a passphrase: give a key without one");
}

}  // namespace
}  // namespace anyserve
