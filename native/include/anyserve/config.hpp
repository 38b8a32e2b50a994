// The settings of an agent, with their defaults. Mirrors reference/anyserve/agent/config.py, which checks the ranges.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "anyserve/http2_limits.hpp"
#include "anyserve/shared_memory.hpp"

namespace anyserve {

struct AgentConfig {
    std::string host = "0.0.0.0";  ///< client side, KServe v2 gRPC: an address, a name, or `unix:/path` without a port
    std::uint16_t port = 8000;     ///< of the client side; 0 takes a free port
    std::optional<std::string> tls_cert;        ///< PEM files of the client side's TLS, see `TlsFiles`; none: no TLS
    std::optional<std::string> tls_key;         ///< there if `tls_cert` is
    std::optional<std::string> tls_client_ca;   ///< clients have to show certificates of these (mTLS)
    std::optional<std::string> private_socket;  ///< a Unix socket where the client side is served too, without TLS
    std::string management_host = "127.0.0.1";
    std::uint16_t management_port = 9000;         ///< workers and operators; 0 takes a free port
    std::optional<std::string> management_token;  ///< management calls need `authorization: Bearer <token>`

    std::size_t io_threads = 1;  ///< that serve clients and talk to workers
    ServerLimits http2;          ///< of the client side; what has an option of its own below is taken from there

    std::size_t max_message_bytes = std::size_t{64} << 20;  ///< the greatest request or reply, on both sides
    SharedMemoryLimits shared_memory;                       ///< between the agent and workers that take it
    std::size_t max_concurrent_rpcs = 10'000;               ///< client calls under way at once, over all connections
    std::size_t max_stream_requests = 64;                   ///< requests of one ModelStreamInfer call that run at once
    std::size_t queue_size = 1024;                          ///< requests that wait in one queue

    std::uint32_t default_max_concurrency = 10;  ///< exchanges at once of a worker that states no number
    std::size_t max_workers = 1024;
    std::size_t max_registrations = 10'000;
    std::size_t max_watchers = 64;  ///< WatchEvents calls under way at once

    std::chrono::milliseconds connect_timeout{1'000};     ///< for room in a worker's accept backlog
    std::chrono::milliseconds heartbeat_timeout{10'000};  ///< after which a worker that has sent some is dropped
};

}  // namespace anyserve
