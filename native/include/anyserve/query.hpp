// What a client asks for by `x-cap-*` metadata, and how well a capability matches it. Pure: no I/O, no clock.
//
// Clients choose these texts: every cost here has a bound (`route.pattern.cost`). Rules: spec `route.query.*`,
// `route.pattern.*`, `route.match.*`.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "anyserve/capability.hpp"

namespace anyserve {

inline constexpr std::size_t kMaxQueryKeys = 32;
inline constexpr std::size_t kMaxPatternLength = 1024;  ///< characters, decoded

/// A client's query breaks the rules; the message names the key.
struct InvalidQuery {
    std::string message;
};

/// How a value satisfies a pattern; higher ranks better.
enum class Match { none, pattern, exact };

/// Whether all of `value` fits `glob`, where `*` is any run of characters and `?` any one.
///
/// Both are well-formed UTF-8. Takes time proportional to the product of both lengths at most, and no memory.
[[nodiscard]] bool glob_matches(std::string_view glob, std::string_view value) noexcept;

/// One value pattern of a query.
///
/// | text | matches |
/// | --- | --- |
/// | `>=n` `<=n` `>n` `<n` | a decimal number that compares so |
/// | `!=text` | every other value |
/// | `a|b` | any of the alternatives, each of them as below |
/// | with `*` or `?` | a glob: any run of characters, any one character |
/// | else | exactly this text |
class Pattern {
public:
    /// Reads a decoded pattern.
    [[nodiscard]] static std::variant<Pattern, InvalidQuery> parse(std::string text);

    /// Whether `value`, well-formed UTF-8, satisfies the pattern, and whether exactly.
    [[nodiscard]] Match match(std::string_view value) const noexcept;

    const std::string& text() const noexcept { return text_; }

    /// The texts that satisfy it exactly, sorted, each once.
    std::span<const std::string> literals() const noexcept { return literals_; }
    /// Whether nothing but those satisfies it, so that an index finds all there is.
    bool only_literals() const noexcept { return comparison_ == Comparison::none && globs_.empty(); }

private:
    enum class Comparison { none, at_least, at_most, not_equal, above, below };
    struct Operator {
        std::string_view text;
        Comparison comparison;
    };
    static const std::array<Operator, 5> kOperators;

    explicit Pattern(std::string text) : text_(std::move(text)) {}
    [[nodiscard]] std::optional<InvalidQuery> read_operand(const Operator& op);
    [[nodiscard]] std::optional<InvalidQuery> read_alternatives();
    [[nodiscard]] bool compares(std::string_view value) const noexcept;

    std::string text_;
    Comparison comparison_ = Comparison::none;
    std::string operand_;
    std::vector<std::string> literals_;
    std::vector<std::string> globs_;
};

/// A client's question: keys and patterns.
class Query {
public:
    struct Item {
        std::string key;
        Pattern pattern;
    };
    /// A key, without `x-cap-`, and the value of its metadatum.
    using Pair = std::pair<std::string_view, std::string_view>;

    /// Reads patterns as they stand in metadata, percent-encoded.
    [[nodiscard]] static std::variant<Query, InvalidQuery> parse(std::span<const Pair> pairs);

    /// How many keys `capability` matches exactly; nothing if it does not match the query (`route.match.all-keys`).
    [[nodiscard]] std::optional<std::size_t> exact_matches(const Capability& capability) const noexcept;

    /// In the order in which the client gave them.
    const std::vector<Item>& items() const noexcept { return items_; }

    /// `{key: pattern, key: pattern}`, for people.
    [[nodiscard]] std::string text() const;

    /// The same bytes for the same keys and patterns in the same order, and for no others.
    const std::string& identity() const noexcept { return identity_; }

    [[nodiscard]] friend bool operator==(const Query& a, const Query& b) noexcept { return a.identity_ == b.identity_; }

private:
    explicit Query(std::vector<Item> items);

    std::vector<Item> items_;
    std::string identity_;
};

}  // namespace anyserve
