// Any text as a client's query, `key: pattern` in lines, and the last line as the capability that it asks about.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "anyserve/capability_text.hpp"
#include "anyserve/query.hpp"
#include "anyserve/utf8.hpp"
#include "require.hpp"

namespace {

using namespace anyserve;
using fuzz::require;

std::string_view next_line(std::string_view& rest) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    return line;
}

std::vector<std::string_view> characters(std::string_view text) {
    std::vector<std::string_view> all;
    while (!text.empty()) {
        all.push_back(text.substr(0, character_length(text[0])));
        text.remove_prefix(all.back().size());
    }
    return all;
}

/// The obvious way, by all pairs of a beginning of the one and a beginning of the other.
bool glob_fits(std::string_view glob_text, std::string_view value_text) {
    const auto glob = characters(glob_text);
    const auto value = characters(value_text);
    std::vector<bool> fits(value.size() + 1);  // the glob's beginning so far, and each beginning of the value
    fits[0] = true;
    for (const std::string_view symbol : glob) {
        std::vector<bool> next(value.size() + 1);
        for (std::size_t i = 0; i <= value.size(); ++i) {
            if (symbol == "*") {
                next[i] = fits[i] || (i > 0 && next[i - 1]);
            } else {
                next[i] = i > 0 && fits[i - 1] && (symbol == "?" || symbol == value[i - 1]);
            }
        }
        fits = std::move(next);
    }
    return fits.back();
}

void check_pattern(const Pattern& pattern, std::string_view value) {
    require(!pattern.text().empty() && is_utf8(pattern.text()));
    const auto literals = pattern.literals();
    require(std::is_sorted(literals.begin(), literals.end()));
    for (const std::string& literal : literals) require(pattern.match(literal) == Match::exact);
    const bool listed = std::find(literals.begin(), literals.end(), value) != literals.end();
    const Match match = pattern.match(value);
    require((match == Match::exact) == listed);
    if (pattern.only_literals()) require(match != Match::pattern);
    if (value.size() <= 64 && pattern.text().size() <= 64 && is_utf8(value)) {
        require(glob_matches(pattern.text(), value) == glob_fits(pattern.text(), value));
    }
}

void check_match(const Query& query, const Capability& capability) {
    std::size_t exact = 0;
    bool all = true;
    for (const auto& [key, pattern] : query.items()) {
        const std::string_view value = capability.get(key);
        const Match match = value.empty() ? Match::none : pattern.match(value);
        all = all && match != Match::none;
        exact += match == Match::exact ? 1 : 0;
    }
    require(query.exact_matches(capability) == (all ? std::optional(exact) : std::nullopt));
}

/// Written anew, in turned order, it is the same question.
void check_written(const Query& query, const Capability& capability) {
    std::vector<std::string> values;
    for (const auto& [key, pattern] : query.items()) append_percent_encoded(values.emplace_back(), pattern.text());
    std::vector<Query::Pair> pairs;
    for (std::size_t i = 0; i < values.size(); ++i) pairs.emplace_back(query.items()[i].key, values[i]);
    const auto again = Query::parse(pairs);
    require(std::holds_alternative<Query>(again) && std::get<Query>(again) == query);
    std::reverse(pairs.begin(), pairs.end());
    const auto turned = Query::parse(pairs);
    require(std::holds_alternative<Query>(turned));
    require(std::get<Query>(turned).exact_matches(capability) == query.exact_matches(capability));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    std::string_view rest(reinterpret_cast<const char*>(data), size);
    std::vector<Query::Pair> pairs;
    std::string_view last;
    while (!rest.empty()) {
        const std::string_view line = next_line(rest);
        if (rest.empty()) {
            last = line;
        } else {
            const std::size_t colon = std::min(line.find(':'), line.size());
            pairs.emplace_back(line.substr(0, colon), line.substr(std::min(colon + 1, line.size())));
        }
    }
    auto query = Query::parse(pairs);
    if (const auto* invalid = std::get_if<InvalidQuery>(&query)) {
        require(is_utf8(invalid->message) || !is_utf8(std::string_view(reinterpret_cast<const char*>(data), size)));
        return 0;
    }
    for (const auto& [key, pattern] : std::get<Query>(query).items()) check_pattern(pattern, last);
    auto decoded = Capability::decode(last);
    const auto* capability = std::get_if<Capability>(&decoded);
    if (capability == nullptr) return 0;
    for (const auto& [key, pattern] : std::get<Query>(query).items()) check_pattern(pattern, capability->get(key));
    check_match(std::get<Query>(query), *capability);
    check_written(std::get<Query>(query), *capability);
    return 0;
}
