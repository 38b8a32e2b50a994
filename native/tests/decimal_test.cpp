#include "anyserve/decimal.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>
#include <string>

namespace anyserve {
namespace {

Decimal number(std::string_view text) {
    const auto parsed = Decimal::parse(text);
    if (!parsed) throw std::runtime_error(std::string(text));
    return *parsed;
}

TEST(Decimal, RefusesWhatIsNone) {
    for (const char* text : {"",   "-",   ".",     "1.", ".5",  "-.5", "+1",   "1e3", "1_0",      " 1",
                             "1 ", "--1", "1.2.3", "1-", "0x1", "١",   "1.-5", "NaN", "Infinity", "1,5"}) {
        EXPECT_FALSE(Decimal::parse(text)) << text;
    }
}

TEST(Decimal, ComparesByValue) {
    EXPECT_EQ(number("1"), number("1.0"));
    EXPECT_EQ(number("01"), number("1.000"));
    EXPECT_EQ(number("-0"), number("0.00"));
    EXPECT_EQ(number("-00.0"), number("0"));
    EXPECT_LT(number("-1"), number("0"));
    EXPECT_LT(number("-2"), number("-1"));
    EXPECT_LT(number("-1.5"), number("-1.25"));
    EXPECT_LT(number("-1"), number("-0.5"));
    EXPECT_LT(number("9"), number("10"));
    EXPECT_LT(number("0.5"), number("0.51"));
    EXPECT_LT(number("0.099"), number("0.1"));
    EXPECT_GT(number("9007199254740993"), number("9007199254740992"));
}

TEST(Decimal, TakesAnyLength) {
    const std::string nines(100'000, '9');
    EXPECT_LT(number(nines), number("1" + std::string(100'000, '0')));
    EXPECT_EQ(number(nines), number(std::string(1000, '0') + nines + "." + std::string(1000, '0')));
    EXPECT_LT(number("0." + std::string(100'000, '0') + "1"), number("0." + std::string(99'999, '0') + "1"));
    EXPECT_LT(number("-" + nines), number("-1"));
}

/// The obvious way: both numbers written with as many digits.
int compare_padded(std::string_view a, std::string_view b) {
    const auto padded = [](std::string_view text, std::size_t width) {
        text.remove_prefix(text.starts_with('-') ? 1 : 0);
        const std::string_view whole = text.substr(0, text.find('.'));
        const std::string_view fraction = text.size() > whole.size() ? text.substr(whole.size() + 1) : "";
        return std::string(width - whole.size(), '0') + std::string(whole) + std::string(fraction) +
               std::string(width - fraction.size(), '0');
    };
    const std::size_t width = std::max(a.size(), b.size());
    const std::string x = padded(a, width);
    const std::string y = padded(b, width);
    const std::string zero(x.size(), '0');
    const bool below_a = a.starts_with('-') && x != zero;
    const bool below_b = b.starts_with('-') && y != zero;
    if (below_a != below_b) return below_a ? -1 : 1;
    const int order = x.compare(y) < 0 ? -1 : x.compare(y) > 0 ? 1 : 0;
    return below_a ? -order : order;
}

TEST(Decimal, ComparesAsTheObviousWayDoes) {
    std::mt19937 random(5);
    const auto some = [&random](unsigned below) { return random() % below; };
    const auto digits = [&](unsigned most) {
        std::string text(1 + some(most), '0');
        std::generate(text.begin(), text.end(), [&] { return "0019"[some(4)]; });
        return text;
    };
    const auto text = [&] { return (some(2) ? "-" : "") + digits(4) + (some(2) ? "." + digits(3) : ""); };
    for (int i = 0; i < 200'000; ++i) {
        const std::string a = text();
        const std::string b = text();
        const auto order = number(a) <=> number(b);
        ASSERT_EQ(order < 0 ? -1 : order > 0 ? 1 : 0, compare_padded(a, b)) << a << " " << b;
        ASSERT_EQ(number(a) == number(b), order == 0) << a << " " << b;
    }
}

}  // namespace
}  // namespace anyserve
