#include "anyserve/sockets.hpp"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <memory>
#include <system_error>
#include <utility>

namespace anyserve {
namespace {

constexpr int kSocketFlags = SOCK_NONBLOCK | SOCK_CLOEXEC;

/// std::strerror is not made for threads.
std::string error_text(int error) { return std::generic_category().message(error); }

void set(const Fd& socket, int level, int option, int value) noexcept {
    setsockopt(socket.get(), level, option, &value, sizeof value);
}

/// A Unix address; nothing if the path is empty or too long for one.
std::optional<sockaddr_un> unix_address(const std::string& path) noexcept {
    sockaddr_un address{};
    if (path.empty() || path.size() >= sizeof address.sun_path) return std::nullopt;
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
}

void set_port(sockaddr_storage& address, std::uint16_t port) noexcept {
    if (address.ss_family == AF_INET) reinterpret_cast<sockaddr_in&>(address).sin_port = htons(port);
    if (address.ss_family == AF_INET6) reinterpret_cast<sockaddr_in6&>(address).sin6_port = htons(port);
}

/// A listening socket at one address; none, with errno, if that cannot be.
Fd listen_at(const addrinfo& found, std::uint16_t port, const ListenOptions& options) noexcept {
    sockaddr_storage address{};
    std::memcpy(&address, found.ai_addr, std::min<std::size_t>(found.ai_addrlen, sizeof address));
    set_port(address, port);
    Fd socket(::socket(found.ai_family, SOCK_STREAM | kSocketFlags, 0));
    if (!socket) return socket;
    set(socket, SOL_SOCKET, SO_REUSEADDR, 1);  // or the port of an agent that has ended stays taken for a minute
    if (options.reuse_port) set(socket, SOL_SOCKET, SO_REUSEPORT, 1);
    if (found.ai_family == AF_INET6) set(socket, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    set(socket, IPPROTO_TCP, TCP_NODELAY, 1);
    if (bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), found.ai_addrlen) != 0) return {};
    if (listen(socket.get(), options.backlog) != 0) return {};
    return socket;
}

/// Removes a socket file that nobody listens behind.
void remove_if_stale(const std::string& path) noexcept {
    struct stat found {};
    if (lstat(path.c_str(), &found) != 0 || !S_ISSOCK(found.st_mode)) return;
    if (connect_unix(path).error == ECONNREFUSED) unlink(path.c_str());
}

Transfer transferred(ssize_t size) noexcept {
    return size < 0 ? Transfer{0, errno} : Transfer{static_cast<std::size_t>(size), 0};
}

/// recvmsg and sendmsg take parts that are not const, and do not change them.
msghdr message_of(std::span<const iovec> parts) noexcept {
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(parts.data());
    message.msg_iovlen = std::min<std::size_t>(parts.size(), IOV_MAX);
    return message;
}

}  // namespace

Listening listen_inet(const std::string& host, std::uint16_t port, const ListenOptions& options) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_PASSIVE;
    addrinfo* list = nullptr;
    if (const int error = getaddrinfo(host.c_str(), nullptr, &hints, &list); error != 0) {
        return {{}, gai_strerror(error)};
    }
    const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(list, freeaddrinfo);
    Listening listening;
    std::string error;
    for (const addrinfo* found = list; found != nullptr; found = found->ai_next) {
        if (Fd socket = listen_at(*found, port, options)) {
            if (port == 0) port = local_port(socket);  // the same one at the other addresses
            listening.sockets.push_back(std::move(socket));
        } else {
            error = error_text(errno);
        }
    }
    if (listening.sockets.empty()) listening.error = error;
    return listening;
}

Listening listen_unix(const std::string& path, const ListenOptions& options) {
    const auto address = unix_address(path);
    if (!address) return {{}, error_text(ENAMETOOLONG)};
    remove_if_stale(path);
    Fd socket(::socket(AF_UNIX, SOCK_STREAM | kSocketFlags, 0));
    if (socket) fchmod(socket.get(), S_IRUSR | S_IWUSR);  // of the file that `bind` makes: at no moment it is others'
    if (!socket || bind(socket.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0 ||
        listen(socket.get(), options.backlog) != 0) {
        return {{}, error_text(errno)};
    }
    Listening listening;
    listening.sockets.push_back(std::move(socket));
    return listening;
}

SocketFile::SocketFile(std::string path) : path_(std::move(path)) {
    struct stat found {};
    if (lstat(path_.c_str(), &found) != 0) return;
    device_ = found.st_dev;
    inode_ = found.st_ino;
}

SocketFile::~SocketFile() {
    struct stat found {};
    if (inode_ == 0 || lstat(path_.c_str(), &found) != 0) return;
    if (found.st_dev == device_ && found.st_ino == inode_) unlink(path_.c_str());
}

std::uint16_t local_port(const Fd& socket) noexcept {
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    if (getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
    if (address.ss_family == AF_INET) return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
    if (address.ss_family == AF_INET6) return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
    return 0;
}

Connected connect_unix(const std::string& path) noexcept {
    const auto address = unix_address(path);
    if (!address) return {Fd(), ENAMETOOLONG};
    Fd socket(::socket(AF_UNIX, SOCK_STREAM | kSocketFlags, 0));
    if (!socket) return {Fd(), errno};
    while (connect(socket.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0) {
        if (errno != EINTR) return {Fd(), errno};
    }
    return {std::move(socket), 0};
}

std::optional<uid_t> untrusted_peer(const Fd& socket) noexcept {
    ucred peer{};
    socklen_t size = sizeof peer;
    if (getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return static_cast<uid_t>(-1);
    return trusted_uid(peer.uid, getuid()) ? std::nullopt : std::optional(peer.uid);
}

bool Transfer::would_block() const noexcept { return error == EAGAIN || error == EWOULDBLOCK; }

Transfer send_parts(const Fd& socket, std::span<const iovec> parts) noexcept { return send_parts(socket, parts, {}); }

Transfer send_parts(const Fd& socket, std::span<const iovec> parts, std::span<const int> descriptors) noexcept {
    msghdr message = message_of(parts);
    alignas(cmsghdr) std::array<char, CMSG_SPACE(kMostDescriptors * sizeof(int))> control{};
    if (!descriptors.empty()) {
        const std::size_t bytes = std::min(descriptors.size(), kMostDescriptors) * sizeof(int);
        message.msg_control = control.data();
        message.msg_controllen = CMSG_SPACE(bytes);
        cmsghdr* head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(bytes);
        std::memcpy(CMSG_DATA(head), descriptors.data(), bytes);
    }
    ssize_t size = 0;
    do {
        size = sendmsg(socket.get(), &message, MSG_NOSIGNAL);
    } while (size < 0 && errno == EINTR);
    return transferred(size);
}

Transfer receive_parts(const Fd& socket, std::span<const iovec> parts) noexcept {
    msghdr message = message_of(parts);
    ssize_t size = 0;
    do {
        size = parts.size() == 1 ? recv(socket.get(), parts[0].iov_base, parts[0].iov_len, 0)
                                 : recvmsg(socket.get(), &message, 0);
    } while (size < 0 && errno == EINTR);
    return transferred(size);
}

}  // namespace anyserve
