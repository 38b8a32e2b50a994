// Sockets as the agent wants them: non-blocking, closed on exec, errors as values. Whom they talk to, and about what,
// is decided elsewhere.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "anyserve/fd.hpp"

namespace anyserve {

struct ListenOptions {
    int backlog = 1024;       ///< connections that wait to be accepted; the kernel's own limit is net.core.somaxconn
    bool reuse_port = false;  ///< several sockets share the port, and the kernel spreads connections over them
};

/// Sockets that listen, or why there are none.
struct Listening {
    std::vector<Fd> sockets;
    std::string error;  ///< the reason, for people; empty if there are sockets
};

/// Listens on all addresses of a host, numeric (`0.0.0.0`, `::1`) or a name, at one port; 0: one that is free. An IPv6
/// wildcard takes IPv4 as well. Addresses that cannot be bound are left out as long as one can. What is accepted has
/// TCP_NODELAY, inherited from here. Asks the resolver, which may wait for the network.
[[nodiscard]] Listening listen_inet(const std::string& host, std::uint16_t port, const ListenOptions& options = {});

/// Listens on a Unix socket, to which only our own user can connect (mode 0600). A socket file on which nobody listens
/// is replaced; the file is the caller's to remove.
[[nodiscard]] Listening listen_unix(const std::string& path, const ListenOptions& options = {});

/// The file of a Unix socket that we listen on: removed at the end, unless somebody else's is there by then.
class SocketFile {
public:
    explicit SocketFile(std::string path);
    ~SocketFile();
    SocketFile(const SocketFile&) = delete;
    SocketFile& operator=(const SocketFile&) = delete;

private:
    std::string path_;
    dev_t device_ = 0;
    ino_t inode_ = 0;  // 0: there was none
};

/// The port that a socket is bound to; 0 if it has none.
[[nodiscard]] std::uint16_t local_port(const Fd& socket) noexcept;

/// A connected socket, or why there is none.
struct Connected {
    Fd socket;
    int error = 0;  ///< errno; EAGAIN: the backlog is full, and nothing will tell when it is not
};

/// Connects to a Unix stream socket, at once or not at all.
[[nodiscard]] Connected connect_unix(const std::string& path) noexcept;

/// The uid at the other end of a Unix socket, by SO_PEERCRED, if it is neither ours nor root's (`manage.peer.uid`).
/// A peer that the kernel cannot tell has the uid -1.
[[nodiscard]] std::optional<uid_t> untrusted_peer(const Fd& socket) noexcept;

/// The rule behind `untrusted_peer`.
[[nodiscard]] constexpr bool trusted_uid(uid_t peer, uid_t own) noexcept { return peer == own || peer == 0; }

/// What a read or a write did.
struct Transfer {
    std::size_t size = 0;
    int error = 0;  ///< errno, never EINTR

    [[nodiscard]] bool would_block() const noexcept;
};

/// Sends as much as the socket takes, without SIGPIPE. The parts are not changed. At most IOV_MAX (1,024) of them
/// count.
[[nodiscard]] Transfer send_parts(const Fd& socket, std::span<const iovec> parts) noexcept;

/// The same over a Unix socket, with descriptors that go with the first byte; at most `kMostDescriptors` of them.
[[nodiscard]] Transfer send_parts(const Fd& socket, std::span<const iovec> parts,
                                  std::span<const int> descriptors) noexcept;

/// So many go with one message.
inline constexpr std::size_t kMostDescriptors = 2;

/// Receives what is there into the parts, one behind the other. Size 0 without an error: the end of the stream.
[[nodiscard]] Transfer receive_parts(const Fd& socket, std::span<const iovec> parts) noexcept;

}  // namespace anyserve
