// Decimal numbers of any length, compared by their exact value. Pure.
//
// Versions and comparisons in queries may have more digits than any number of the machine: they are compared digit by
// digit, which costs no memory and one look at each digit (`route.pattern.comparison`, `route.version.newest`).
#pragma once

#include <compare>
#include <optional>
#include <string_view>

namespace anyserve {

/// The number that a text writes as `-?[0-9]+(\.[0-9]+)?` in ASCII. It refers to the text, which must outlive it.
class Decimal {
public:
    [[nodiscard]] static std::optional<Decimal> parse(std::string_view text) noexcept;

    /// By value: `1`, `01` and `1.0` are equal, and so are `0` and `-0`.
    [[nodiscard]] friend bool operator==(const Decimal&, const Decimal&) noexcept = default;
    [[nodiscard]] friend std::strong_ordering operator<=>(const Decimal& a, const Decimal& b) noexcept {
        if (a.negative_ != b.negative_) return b.negative_ <=> a.negative_;
        return a.negative_ ? b.compare_magnitude(a) : a.compare_magnitude(b);
    }

private:
    Decimal(bool negative, std::string_view whole, std::string_view fraction) noexcept
        : negative_(negative), whole_(whole), fraction_(fraction) {}
    [[nodiscard]] std::strong_ordering compare_magnitude(const Decimal& other) const noexcept;

    // Normal form, so that equal numbers have equal members: zero is not negative.
    bool negative_;
    std::string_view whole_;     // without zeros in front
    std::string_view fraction_;  // without zeros at its end
};

}  // namespace anyserve
