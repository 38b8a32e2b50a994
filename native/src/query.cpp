#include "anyserve/query.hpp"

#include <algorithm>

#include "anyserve/capability_text.hpp"
#include "anyserve/decimal.hpp"
#include "anyserve/utf8.hpp"

namespace anyserve {

bool glob_matches(std::string_view glob, std::string_view value) noexcept {
    // What a `*` takes is only ever widened for the last one: if the part between two of them fits at some place, an
    // earlier `*` need not be looked at again, since a later one can take whatever lies between. So there is no
    // going back over several, and each character of the value meets each of the glob once at most.
    constexpr std::size_t none = std::string_view::npos;
    std::size_t g = 0;
    std::size_t v = 0;
    std::size_t behind_star = none;
    std::size_t taken_to = 0;  // where the run that the last `*` takes ends
    while (v < value.size()) {
        if (g < glob.size() && glob[g] == '*') {
            behind_star = ++g;
            taken_to = v;
        } else if (g < glob.size() && glob[g] == '?') {
            ++g;
            v += character_length(value[v]);
        } else if (g < glob.size() && glob[g] == value[v]) {
            ++g;
            ++v;
        } else if (behind_star != none) {
            g = behind_star;
            taken_to += character_length(value[taken_to]);
            v = taken_to;
        } else {
            return false;
        }
    }
    return glob.find_first_not_of('*', g) == none;
}

// Longer ones first: `>=` begins like `>`.
const std::array<Pattern::Operator, 5> Pattern::kOperators = {{
    {">=", Comparison::at_least},
    {"<=", Comparison::at_most},
    {"!=", Comparison::not_equal},
    {">", Comparison::above},
    {"<", Comparison::below},
}};

std::variant<Pattern, InvalidQuery> Pattern::parse(std::string text) {
    const auto length = count_characters(text);
    if (!length) return InvalidQuery{"pattern " + in_quotes(text) + " is not UTF-8"};
    if (*length < 1 || *length > kMaxPatternLength) {
        return InvalidQuery{"a pattern has 1 to " + std::to_string(kMaxPatternLength) + " characters, got " +
                            std::to_string(*length)};
    }
    Pattern pattern(std::move(text));
    const auto* op = std::find_if(kOperators.begin(), kOperators.end(),
                                  [&](const Operator& each) { return pattern.text_.starts_with(each.text); });
    auto invalid = op != kOperators.end() ? pattern.read_operand(*op) : pattern.read_alternatives();
    if (invalid) return *std::move(invalid);
    return pattern;
}

std::optional<InvalidQuery> Pattern::read_operand(const Operator& op) {
    comparison_ = op.comparison;
    operand_ = text_.substr(op.text.size());
    if (comparison_ != Comparison::not_equal && !Decimal::parse(operand_)) {
        return InvalidQuery{"pattern " + in_quotes(text_) + " needs a decimal number behind " + in_quotes(op.text)};
    }
    if (operand_.empty()) return InvalidQuery{"pattern '!=' needs a text behind it"};
    return std::nullopt;
}

std::optional<InvalidQuery> Pattern::read_alternatives() {
    std::string_view rest = text_;
    for (bool more = true; more;) {
        const std::size_t bar = rest.find('|');
        const std::string_view alternative = rest.substr(0, bar);
        more = bar != std::string_view::npos;
        rest.remove_prefix(more ? bar + 1 : rest.size());
        if (alternative.empty()) return InvalidQuery{"pattern " + in_quotes(text_) + " has an empty alternative"};
        const bool glob = alternative.find_first_of("*?") != std::string_view::npos;
        (glob ? globs_ : literals_).emplace_back(alternative);
    }
    std::sort(literals_.begin(), literals_.end());
    literals_.erase(std::unique(literals_.begin(), literals_.end()), literals_.end());
    return std::nullopt;
}

Match Pattern::match(std::string_view value) const noexcept {
    if (comparison_ != Comparison::none) return compares(value) ? Match::pattern : Match::none;
    if (std::binary_search(literals_.begin(), literals_.end(), value)) return Match::exact;
    const bool fits = std::any_of(globs_.begin(), globs_.end(), [&](const auto& g) { return glob_matches(g, value); });
    return fits ? Match::pattern : Match::none;
}

bool Pattern::compares(std::string_view value) const noexcept {
    if (comparison_ == Comparison::not_equal) return value != operand_;
    const auto number = Decimal::parse(value);
    const auto operand = Decimal::parse(operand_);
    if (!number || !operand) return false;  // `route.pattern.not-a-number`; the operand is one, or `parse` had refused
    switch (comparison_) {
        case Comparison::at_least: return *number >= *operand;
        case Comparison::at_most: return *number <= *operand;
        case Comparison::above: return *number > *operand;
        case Comparison::below: return *number < *operand;
        case Comparison::none:
        case Comparison::not_equal: break;
    }
    return false;
}

std::variant<Query, InvalidQuery> Query::parse(std::span<const Pair> pairs) {
    if (pairs.size() > kMaxQueryKeys) {
        return InvalidQuery{"a query has at most " + std::to_string(kMaxQueryKeys) + " keys, got " +
                            std::to_string(pairs.size())};
    }
    std::vector<Item> items;
    items.reserve(pairs.size());
    for (const auto& [key, encoded] : pairs) {
        const std::string name = "x-cap-" + std::string(key.substr(0, 80));
        if (!is_capability_key(key)) return InvalidQuery{name + ": not a capability key"};
        if (std::any_of(items.begin(), items.end(), [&key = key](const Item& item) { return item.key == key; })) {
            return InvalidQuery{name + " is given twice; write alternatives as a|b in one value"};
        }
        auto text = percent_decoded(encoded);
        if (auto* bad = std::get_if<BadText>(&text)) return InvalidQuery{name + ": " + bad->message};
        auto pattern = Pattern::parse(std::get<std::string>(std::move(text)));
        if (auto* bad = std::get_if<InvalidQuery>(&pattern)) return InvalidQuery{name + ": " + bad->message};
        items.push_back({std::string(key), std::get<Pattern>(std::move(pattern))});
    }
    return Query(std::move(items));
}

Query::Query(std::vector<Item> items) : items_(std::move(items)) {
    for (const auto& [key, pattern] : items_) {
        identity_ += key + '=' + std::to_string(pattern.text().size()) + ':' + pattern.text();  // no key has a `=`
    }
}

std::optional<std::size_t> Query::exact_matches(const Capability& capability) const noexcept {
    std::size_t exact = 0;
    for (const auto& [key, pattern] : items_) {
        const std::string_view value = capability.get(key);
        const Match match = value.empty() ? Match::none : pattern.match(value);  // a key that is missing: not even `!=`
        if (match == Match::none) return std::nullopt;
        if (match == Match::exact) ++exact;
    }
    return exact;
}

std::string Query::text() const {
    std::string text = "{";
    for (const auto& [key, pattern] : items_) {
        if (text.size() > 1) text += ", ";
        text.append(key).append(": ").append(pattern.text());
    }
    return text + "}";
}

}  // namespace anyserve
