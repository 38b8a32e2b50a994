// What a worker offers: an immutable set of key and value strings. Pure: no I/O, no clock.
//
// How a query matches it is said in `query.hpp`. Rules: spec `route.capability.*`.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace anyserve {

inline constexpr std::size_t kMaxCapabilityKeys = 32;
inline constexpr std::size_t kMaxCapabilityValueLength = 256;  ///< characters

/// A registration's capability breaks the rules; the message names the key.
struct InvalidCapability {
    std::string message;
};

/// An immutable set of key -> value strings, e.g. `{type: chat, model: llama-70b}`.
class Capability {
public:
    using Item = std::pair<std::string, std::string>;

    /// The empty set, which no registration has: the caller replaces it (`manage.register.default-capability`).
    Capability() = default;

    /// Checks and sorts. Of items with the same key the last counts, as in a map of protobuf.
    ///
    /// Keys: see `is_capability_key`, at most 32 of them; values: 1 to 256 characters, none of them control.
    [[nodiscard]] static std::variant<Capability, InvalidCapability> make(std::vector<Item> items);

    /// Reads the `k=v,k=v` form of `anyserve_capability`.
    [[nodiscard]] static std::variant<Capability, InvalidCapability> decode(std::string_view encoded);

    /// The value of a key; empty if the key is missing, since no value is empty.
    [[nodiscard]] std::string_view get(std::string_view key) const noexcept;

    /// In rising order of their keys.
    const std::vector<Item>& items() const noexcept { return items_; }
    std::size_t size() const noexcept { return items_.size(); }

    /// `k=v,k=v`, keys sorted, percent-encoded: the value of `anyserve_capability`. Equal for equal capabilities only.
    const std::string& encoded() const noexcept { return encoded_; }

    /// `{k: v, k: v}`, for people.
    [[nodiscard]] std::string text() const;

    [[nodiscard]] friend bool operator==(const Capability& a, const Capability& b) noexcept {
        return a.encoded_ == b.encoded_;
    }

private:
    explicit Capability(std::vector<Item> sorted);

    std::vector<Item> items_;
    std::string encoded_;
};

}  // namespace anyserve
