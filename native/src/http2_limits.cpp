#include "anyserve/http2_limits.hpp"

#include <array>
#include <cmath>
#include <limits>
#include <type_traits>
#include <variant>

namespace anyserve {
namespace {

using Field = std::variant<std::size_t ServerLimits::*, std::uint32_t ServerLimits::*,
                           std::chrono::milliseconds ServerLimits::*, Rate ServerLimits::*>;

struct NamedLimit {
    std::string_view name;
    Field field;
    double least = 1;
};

// The settable ones, in the order of docs/spec/serving.md. Sizes in bytes, times in seconds; a rate is its burst, with
// a tenth of it per second.
constexpr std::array kLimits{
    NamedLimit{"max-connections", &ServerLimits::max_connections},
    NamedLimit{"max-held-bytes", &ServerLimits::max_held_bytes},
    NamedLimit{"max-connection-held-bytes", &ServerLimits::max_connection_held_bytes},
    NamedLimit{"max-streams", &ServerLimits::max_streams},
    NamedLimit{"max-header-list-bytes", &ServerLimits::max_header_list_bytes, 1'024},
    NamedLimit{"max-continuations", &ServerLimits::max_continuations},
    NamedLimit{"stream-window", &ServerLimits::stream_window, 65'535},
    NamedLimit{"connection-window", &ServerLimits::connection_window, 65'535},
    NamedLimit{"output-bytes", &ServerLimits::output_bytes, 16'384},
    NamedLimit{"resets", &ServerLimits::resets, 10},
    NamedLimit{"idle-frames", &ServerLimits::idle_frames, 10},
    NamedLimit{"handshake-timeout", &ServerLimits::handshake_timeout, 0.001},
    NamedLimit{"request-timeout", &ServerLimits::request_timeout, 0.001},
    NamedLimit{"stall-timeout", &ServerLimits::stall_timeout, 0.001},
    NamedLimit{"write-timeout", &ServerLimits::write_timeout, 0.001},
    NamedLimit{"idle-timeout", &ServerLimits::idle_timeout, 0.001},
};

/// Windows of HTTP/2 have 31 bits, and so has every other number here that is not of bytes or time.
constexpr double kGreatest32 = 2'147'483'647;
constexpr double kGreatest = 1e15;

}  // namespace

std::string set_limit(ServerLimits& limits, std::string_view name, double value) {
    for (const NamedLimit& limit : kLimits) {
        if (limit.name != name) continue;
        if (!(value >= limit.least) || value > kGreatest) return std::string(name) + " is out of range";
        const bool fits = value <= kGreatest32;
        return std::visit(
            [&](auto field) -> std::string {
                auto& member = limits.*field;
                using Member = std::decay_t<decltype(member)>;
                if constexpr (std::is_same_v<Member, std::size_t>) {
                    member = static_cast<std::size_t>(value);
                } else if constexpr (std::is_same_v<Member, std::chrono::milliseconds>) {
                    member = std::chrono::milliseconds(static_cast<std::int64_t>(std::ceil(value * 1e3)));
                } else if (!fits) {
                    return std::string(name) + " is out of range";
                } else if constexpr (std::is_same_v<Member, Rate>) {
                    member = {static_cast<std::uint32_t>(value), static_cast<std::uint32_t>(value / 10)};
                } else {
                    member = static_cast<std::uint32_t>(value);
                }
                return {};
            },
            limit.field);
    }
    return "there is no limit " + std::string(name);
}

}  // namespace anyserve
