#include "anyserve/decimal.hpp"

#include <algorithm>

namespace anyserve {
namespace {

bool is_digits(std::string_view text) noexcept {
    return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

std::optional<Decimal> Decimal::parse(std::string_view text) noexcept {
    const bool negative = text.starts_with('-');
    if (negative) text.remove_prefix(1);
    const std::size_t point = text.find('.');
    std::string_view whole = text.substr(0, point);
    std::string_view fraction;
    if (point != std::string_view::npos) {
        fraction = text.substr(point + 1);
        if (!is_digits(fraction)) return std::nullopt;
    }
    if (!is_digits(whole)) return std::nullopt;
    whole.remove_prefix(std::min(whole.find_first_not_of('0'), whole.size()));
    fraction = fraction.substr(0, fraction.find_last_not_of('0') + 1);  // npos + 1 is 0: nothing but zeros
    return Decimal(negative && !(whole.empty() && fraction.empty()), whole, fraction);
}

std::strong_ordering Decimal::compare_magnitude(const Decimal& other) const noexcept {
    if (const auto order = whole_.size() <=> other.whole_.size(); order != 0) return order;
    if (const auto order = whole_ <=> other.whole_; order != 0) return order;
    return fraction_ <=> other.fraction_;
}

}  // namespace anyserve
