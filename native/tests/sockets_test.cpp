#include "anyserve/sockets.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <array>
#include <cerrno>
#include <climits>
#include <string>
#include <utility>

#include "worker_client_peer.hpp"

namespace anyserve {
namespace {

using testing::ListeningWorker;
using testing::TemporaryDirectory;

int option(const Fd& socket, int level, int name) {
    int value = -1;
    socklen_t size = sizeof value;
    EXPECT_EQ(getsockopt(socket.get(), level, name, &value, &size), 0);
    return value;
}

/// A blocking client of a numeric address.
Fd client_of(const std::string& host, std::uint16_t port) {
    const bool six = host.find(':') != std::string::npos;
    Fd socket(::socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in four{};
    four.sin_family = AF_INET;
    four.sin_port = htons(port);
    four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    sockaddr_in6 address{};
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(port);
    address.sin6_addr = in6addr_loopback;
    const int result = six ? connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address)
                           : connect(socket.get(), reinterpret_cast<sockaddr*>(&four), sizeof four);
    return result == 0 ? std::move(socket) : Fd();
}

TEST(ListenInet, AcceptsWithoutDelayAndWithoutBlocking) {
    const Listening listening = listen_inet("127.0.0.1", 0);
    ASSERT_EQ(listening.sockets.size(), 1U) << listening.error;
    const Fd& socket = listening.sockets.front();
    EXPECT_NE(fcntl(socket.get(), F_GETFL) & O_NONBLOCK, 0);
    EXPECT_NE(fcntl(socket.get(), F_GETFD) & FD_CLOEXEC, 0);
    EXPECT_EQ(option(socket, SOL_SOCKET, SO_REUSEADDR), 1);
    ASSERT_NE(local_port(socket), 0);
    const Fd client = client_of("127.0.0.1", local_port(socket));
    ASSERT_TRUE(client);
    const Fd accepted(accept4(socket.get(), nullptr, nullptr, SOCK_CLOEXEC));
    ASSERT_TRUE(accepted);
    EXPECT_EQ(option(accepted, IPPROTO_TCP, TCP_NODELAY), 1);
}

TEST(ListenInet, AWildcardOfIPv6TakesBoth) {
    const Listening listening = listen_inet("::", 0);
    if (listening.sockets.empty()) GTEST_SKIP() << "no IPv6 here: " << listening.error;
    const std::uint16_t port = local_port(listening.sockets.front());
    EXPECT_TRUE(client_of("127.0.0.1", port));
    EXPECT_TRUE(client_of("::1", port));
}

TEST(ListenInet, ANameListensAtAllItsAddressesWithOnePort) {
    const Listening listening = listen_inet("localhost", 0);
    ASSERT_FALSE(listening.sockets.empty()) << listening.error;
    for (const Fd& socket : listening.sockets) {
        EXPECT_EQ(local_port(socket), local_port(listening.sockets.front()));
    }
}

TEST(ListenInet, SaysWhyItCannot) {
    const Listening first = listen_inet("127.0.0.1", 0);
    const std::uint16_t port = local_port(first.sockets.front());
    EXPECT_NE(listen_inet("127.0.0.1", port).error.find("in use"), std::string::npos);
    EXPECT_FALSE(listen_inet("host.invalid", 0).error.empty());
    const Listening shared = listen_inet("127.0.0.1", 0, {.reuse_port = true});
    const std::uint16_t shared_port = local_port(shared.sockets.front());
    EXPECT_EQ(listen_inet("127.0.0.1", shared_port, {.reuse_port = true}).error, "");
}

TEST(ListenUnix, ReplacesASocketOfNobodyAndNothingElse) {
    const TemporaryDirectory directory;
    const std::string path = directory / "s";
    {
        const Listening first = listen_unix(path);
        ASSERT_EQ(first.error, "");
        EXPECT_FALSE(listen_unix(path).error.empty()) << "somebody listens";
        EXPECT_EQ(connect_unix(path).error, 0);
    }
    EXPECT_EQ(connect_unix(path).error, ECONNREFUSED);
    EXPECT_EQ(listen_unix(path).error, "");
    const std::string file = directory / "f";
    const Fd plain(open(file.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
    EXPECT_FALSE(listen_unix(file).error.empty());
    EXPECT_TRUE(std::filesystem::exists(file));
    EXPECT_FALSE(listen_unix(std::string(200, 'x')).error.empty());
}

TEST(ListenUnix, LetsOnlyItsOwnUserConnect) {
    const TemporaryDirectory directory;
    const Listening listening = listen_unix(directory / "s");
    struct stat found {};
    ASSERT_EQ(stat((directory / "s").c_str(), &found), 0);
    EXPECT_EQ(found.st_mode & 0777, 0600U);
}

TEST(SocketFile, IsRemovedIfItIsOurs) {
    const TemporaryDirectory directory;
    const std::string path = directory / "s";
    {
        const Listening listening = listen_unix(path);
        const SocketFile file(path);
    }
    EXPECT_FALSE(std::filesystem::exists(path));
    {
        const Listening first = listen_unix(path);
        const SocketFile file(path);
        std::filesystem::rename(path, directory / "moved");
        const Listening second = listen_unix(path);
        EXPECT_EQ(second.error, "");
    }
    EXPECT_TRUE(std::filesystem::exists(path)) << "another's";
    const SocketFile none(directory / "none");
}

TEST(ConnectUnix, TellsWhatIsWrong) {
    const TemporaryDirectory directory;
    EXPECT_EQ(connect_unix(directory / "missing").error, ENOENT);
    EXPECT_EQ(connect_unix(std::string(108, 'x')).error, ENAMETOOLONG);
    EXPECT_EQ(connect_unix("").error, ENAMETOOLONG);
    const ListeningWorker worker(directory / "w", 0);
    std::vector<Connected> waiting;
    while (waiting.empty() || waiting.back().error == 0) waiting.push_back(connect_unix(worker.path()));
    EXPECT_EQ(waiting.back().error, EAGAIN) << "its backlog is full";
    EXPECT_NE(fcntl(waiting.front().socket.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST(UntrustedPeer, IsNeitherOursNorRoots) {
    EXPECT_TRUE(trusted_uid(1000, 1000));
    EXPECT_TRUE(trusted_uid(0, 1000));
    EXPECT_FALSE(trusted_uid(1001, 1000));
    EXPECT_FALSE(trusted_uid(1000, 0)) << "root trusts root alone";
    const TemporaryDirectory directory;
    const ListeningWorker worker(directory / "w");
    EXPECT_EQ(untrusted_peer(connect_unix(worker.path()).socket), std::nullopt);
    EXPECT_EQ(untrusted_peer(Fd()), static_cast<uid_t>(-1));
}

TEST(Transfers, SendWithoutASignalAndReceiveInParts) {
    std::array<int, 2> fds{};
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds.data()), 0);
    const Fd ours(fds[0]);
    Fd theirs(fds[1]);
    std::string one = "ab";
    std::string two = "cde";
    const std::array<iovec, 2> parts{{{one.data(), one.size()}, {two.data(), two.size()}}};
    EXPECT_TRUE(receive_parts(ours, parts).would_block());
    EXPECT_EQ(send_parts(theirs, parts).size, 5U);
    std::string three(4, '.');
    std::string four(4, '.');
    const std::array<iovec, 2> into{{{three.data(), three.size()}, {four.data(), four.size()}}};
    EXPECT_EQ(receive_parts(ours, into).size, 5U);
    EXPECT_EQ(three + four, "abcde...");
    const std::vector<iovec> many(IOV_MAX + 10, iovec{one.data(), 1});
    EXPECT_EQ(send_parts(ours, many).size, static_cast<std::size_t>(IOV_MAX));
    theirs.reset();
    EXPECT_EQ(send_parts(ours, parts).error, EPIPE) << "and no SIGPIPE";
}

}  // namespace
}  // namespace anyserve
