// Why nothing serves what a client asks for, and what it may have meant.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "anyserve/code.hpp"
#include "anyserve/registry.hpp"

namespace anyserve {

class Workers;

/// The name most like the one that was asked for; empty if none is much like it. Looks at the first 64 bytes of each:
/// clients choose the name, so its cost is that of reading the known ones once.
[[nodiscard]] std::string_view similar_name(std::string_view asked, std::span<const std::string> known) noexcept;

/// Finds the words for a target without a match: NOT_FOUND, UNIMPLEMENTED for a ModelInfer of what streams its replies,
/// or UNAVAILABLE while a worker is expected back (`lifecycle.crash.unavailable`).
class NoMatch {
public:
    /// So many names are compared, the first in their order.
    static constexpr std::size_t kMaxCompared = 200;
    /// A target is remembered whose names have no more bytes together.
    static constexpr std::size_t kMaxRemembered = 256;

    NoMatch(Registry& registry, Workers& workers) noexcept : registry_(registry), workers_(workers) {}

    [[nodiscard]] InferenceError explain(const Target& target);

private:
    [[nodiscard]] std::string not_found(const Target& target);
    [[nodiscard]] std::string hint(const Target& target);
    void forget_if_changed();

    Registry& registry_;
    Workers& workers_;
    // Kept until registrations change: with many of them the names cost far more than the answer, and a client that
    // asks for what is not there mostly asks again.
    std::optional<std::vector<std::string>> names_;
    std::optional<Target> asked_;
    std::string answer_;
    RoutePtr as_of_;  // of no target; another one tells that registrations have changed since
};

}  // namespace anyserve
