// What a gRPC server lets its clients have: every count, size and time has a name, a default and a unit here.
//
// Nothing in this room knows sockets or clocks: times are given.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace anyserve {

/// So many at once, and so many a second in the long run.
struct Rate {
    std::uint32_t burst;
    std::uint32_t per_second;
};

/// The limits of one server (of its clients' connections together, of each, of each call).
struct ServerLimits {
    // The server.
    std::size_t max_connections = 10'000;                   ///< one beyond is closed at once
    std::size_t max_calls = 10'000;                         ///< one beyond: RESOURCE_EXHAUSTED
    std::size_t max_message_bytes = std::size_t{64} << 20;  ///< of a request, before and after decompression
    std::size_t max_held_bytes = std::size_t{2} << 30;      ///< messages of all calls under way, see `ByteBudget`
    // A connection.
    std::uint32_t max_streams = 10'000;                              ///< SETTINGS_MAX_CONCURRENT_STREAMS
    std::size_t max_connection_held_bytes = std::size_t{512} << 20;  ///< its part of `max_held_bytes`
    std::size_t max_header_list_bytes = std::size_t{16} << 10;       ///< as RFC 9113 counts; above: RESOURCE_EXHAUSTED
    std::size_t max_continuations = 32;                              ///< CONTINUATION frames of one header block
    std::uint32_t stream_window = std::uint32_t{4} << 20;            ///< bytes a client may send ahead on a stream
    std::uint32_t connection_window = std::uint32_t{16} << 20;       ///< and on all its streams together
    std::size_t output_bytes = std::size_t{256} << 10;               ///< frames made ahead of what the socket takes
    std::size_t read_bytes_per_turn = std::size_t{1} << 20;          ///< then it is another connection's turn
    std::size_t max_frame_bytes = std::size_t{64} << 10;  ///< DATA frames sent, if the client takes such long ones
    Rate resets{10'000, 1'000};       ///< streams that end by RST_STREAM, of either side; above: ENHANCE_YOUR_CALM
    Rate idle_frames{10'000, 2'000};  ///< frames that bring no work (`frame_cost`); above: ENHANCE_YOUR_CALM
    // Times. All but deadlines are looked at every `sweep_interval`.
    std::chrono::milliseconds sweep_interval{1'000};
    std::chrono::milliseconds handshake_timeout{20'000};  ///< preface, SETTINGS and the ACK of ours
    std::chrono::milliseconds request_timeout{60'000};    ///< without a byte inside a header block or a message
    std::chrono::milliseconds stall_timeout{300'000};     ///< a response for which the client opens no window
    std::chrono::milliseconds write_timeout{60'000};      ///< a socket that takes nothing of what is ready for it
    std::chrono::milliseconds idle_timeout{3'600'000};    ///< a connection without calls: GOAWAY
    std::chrono::milliseconds goaway_notice{1'000};       ///< between the two GOAWAY frames of a drain
    std::chrono::milliseconds linger{1'000};              ///< reading on after our last byte, so that it arrives
};

/// Sets a limit by its name on the command line (`--http2-limit`): `max-streams`, `idle-timeout` in seconds. Returns
/// why not, and changes nothing then; empty: it is set.
[[nodiscard]] std::string set_limit(ServerLimits& limits, std::string_view name, double value);

/// Events that may come in bursts: a token bucket.
class TokenBucket {
public:
    using Time = std::chrono::steady_clock::time_point;

    TokenBucket(Rate rate, Time now) noexcept : rate_(rate), tokens_(rate.burst), last_(now) {}

    /// Takes `count` tokens; false when there are none left.
    [[nodiscard]] bool take(Time now, std::uint32_t count = 1) noexcept {
        if (tokens_ < count) refill(now);
        if (tokens_ < count) return false;
        tokens_ -= count;
        return true;
    }
    /// Gives tokens for useful work, up to the burst.
    void earn(std::uint32_t count) noexcept { tokens_ = std::min<double>(rate_.burst, tokens_ + count); }

private:
    void refill(Time now) noexcept {
        const std::chrono::duration<double> passed = now - last_;
        if (passed.count() > 0) tokens_ = std::min<double>(rate_.burst, tokens_ + passed.count() * rate_.per_second);
        last_ = now;
    }

    Rate rate_;
    double tokens_;
    Time last_;  // when it was refilled
};

/// A count that the servers of several threads share.
class SharedCount {
public:
    /// Adds `amount` unless that makes it more than `limit`.
    [[nodiscard]] bool add_within(std::size_t amount, std::size_t limit) noexcept {
        const std::size_t before = count_.fetch_add(amount, std::memory_order_relaxed);
        if (amount <= limit && before <= limit - amount) return true;
        subtract(amount);
        return false;
    }
    void add(std::size_t amount) noexcept { count_.fetch_add(amount, std::memory_order_relaxed); }
    void subtract(std::size_t amount) noexcept { count_.fetch_sub(amount, std::memory_order_relaxed); }
    [[nodiscard]] std::size_t value() const noexcept { return count_.load(std::memory_order_relaxed); }

private:
    std::atomic<std::size_t> count_{0};
};

/// What the servers of several threads count together for the limits that they share.
struct ServerTotals {
    SharedCount connections;  ///< open
    SharedCount calls;        ///< under way
    SharedCount held_bytes;   ///< of messages, see `ByteBudget`
};

/// Bytes that messages hold: a request from its five-byte prefix on, with its announced length, until its call is
/// answered; a reply until it has gone to the socket. Those of one connection, which are part of those of the whole
/// server.
class ByteBudget {
public:
    ByteBudget(std::size_t limit, SharedCount& whole, std::size_t whole_limit) noexcept
        : limit_(limit), whole_(whole), whole_limit_(whole_limit) {}
    ByteBudget(const ByteBudget&) = delete;
    ByteBudget& operator=(const ByteBudget&) = delete;

    /// Takes `bytes` from this budget and from the whole, or from neither.
    [[nodiscard]] bool reserve(std::size_t bytes) noexcept {
        if (bytes > limit_ || used_ > limit_ - bytes) return false;
        if (!whole_.add_within(bytes, whole_limit_)) return false;
        used_ += bytes;
        return true;
    }
    /// Counts what is there already, whether it fits or not.
    void add(std::size_t bytes) noexcept {
        used_ += bytes;
        whole_.add(bytes);
    }
    void release(std::size_t bytes) noexcept {
        used_ -= bytes;
        whole_.subtract(bytes);
    }
    std::size_t used() const noexcept { return used_; }

private:
    const std::size_t limit_;
    std::size_t used_ = 0;
    SharedCount& whole_;
    const std::size_t whole_limit_;
};

}  // namespace anyserve
