#include "anyserve/query.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <string>
#include <vector>

#include "anyserve/capability_text.hpp"
#include "registry_vectors.hpp"

namespace anyserve {
namespace {

using vectors::as_text;
using vectors::Json;

std::vector<Json> patterns_of_kind(std::string_view kind) {
    std::vector<Json> all = vectors::load("patterns.json");
    std::erase_if(all, [kind](const Json& vector) { return vector.at("kind") != kind; });
    EXPECT_FALSE(all.empty());
    return all;
}

Pattern pattern(std::string text) {
    auto parsed = Pattern::parse(std::move(text));
    if (auto* bad = std::get_if<InvalidQuery>(&parsed)) throw std::runtime_error(bad->message);
    return std::get<Pattern>(std::move(parsed));
}

TEST(Query, DecodeVectors) {
    for (const Json& vector : patterns_of_kind("decode")) {
        SCOPED_TRACE(vector.at("name"));
        const std::string value = as_text(vector.at("value"));
        const auto parsed = Query::parse(std::vector<Query::Pair>{{"k", value}});
        if (vector.contains("refused")) {
            ASSERT_TRUE(std::holds_alternative<InvalidQuery>(parsed));
            EXPECT_TRUE(std::get<InvalidQuery>(parsed).message.starts_with("x-cap-k: "));
        } else {
            ASSERT_TRUE(std::holds_alternative<Query>(parsed)) << std::get<InvalidQuery>(parsed).message;
            EXPECT_EQ(std::get<Query>(parsed).items().at(0).pattern.text(), as_text(vector.at("pattern")));
        }
    }
}

TEST(Pattern, MatchVectors) {
    for (const Json& vector : patterns_of_kind("match")) {
        SCOPED_TRACE(vector.at("name"));
        const auto parsed = Pattern::parse(as_text(vector.at("pattern")));
        if (vector.contains("refused")) {
            EXPECT_TRUE(std::holds_alternative<InvalidQuery>(parsed));
            continue;
        }
        ASSERT_TRUE(std::holds_alternative<Pattern>(parsed)) << std::get<InvalidQuery>(parsed).message;
        const std::vector<std::pair<std::string, Match>> kinds = {
            {"exact", Match::exact}, {"satisfied", Match::pattern}, {"not_satisfied", Match::none}};
        for (const auto& [kind, wanted] : kinds) {
            for (const Json& value : vector.at(kind)) {
                EXPECT_EQ(std::get<Pattern>(parsed).match(as_text(value)), wanted) << kind << " " << as_text(value);
            }
        }
    }
}

TEST(Query, QueryVectors) {
    for (const Json& vector : patterns_of_kind("query")) {
        SCOPED_TRACE(vector.at("name"));
        Json query = vector.at("query");
        for (int turned = 0; turned < 2; ++turned) {
            const auto parsed = vectors::parse_query(query);
            if (vector.contains("refused")) {
                EXPECT_TRUE(std::holds_alternative<InvalidQuery>(parsed));
            } else {
                const Capability capability = vectors::capability(vectors::as_items(vector.at("capability")));
                std::optional<std::size_t> exact;
                if (vector.contains("exact_keys")) exact = vector.at("exact_keys").get<std::size_t>();
                ASSERT_TRUE(std::holds_alternative<Query>(parsed)) << std::get<InvalidQuery>(parsed).message;
                EXPECT_EQ(std::get<Query>(parsed).exact_matches(capability), exact);
            }
            std::reverse(query.begin(), query.end());
        }
    }
}

TEST(Query, HasAnIdentityThatNoOtherHas) {
    const auto query = [](const std::vector<Query::Pair>& pairs) { return std::get<Query>(Query::parse(pairs)); };
    EXPECT_EQ(query({{"a", "1"}, {"b", "2"}}), query({{"a", "%31"}, {"b", "2"}}));
    EXPECT_NE(query({{"a", "1"}, {"b", "2"}}), query({{"a", "1b=1:2"}}));
    EXPECT_NE(query({{"a", "1"}}), query({{"a", "1*"}}));
    EXPECT_EQ(query({{"type", "chat"}, {"n", "%3E=3"}}).text(), "{type: chat, n: >=3}");
}

TEST(Pattern, TellsWhenAnIndexFindsAllThereIs) {
    EXPECT_TRUE(pattern("a").only_literals());
    EXPECT_TRUE(pattern("a|b").only_literals());
    EXPECT_FALSE(pattern("a|b*").only_literals());
    EXPECT_FALSE(pattern("!=a").only_literals());
    EXPECT_FALSE(pattern(">1").only_literals());
    EXPECT_EQ(pattern("b|a|b|a*").literals().size(), 2U);
}

/// The obvious way, by characters: what of the value each beginning of the glob may have taken.
bool matches_by_table(const std::vector<std::string>& glob, const std::vector<std::string>& value) {
    std::vector<bool> reached(value.size() + 1, false);
    reached[0] = true;
    for (const std::string& g : glob) {
        std::vector<bool> next(value.size() + 1, false);
        for (std::size_t i = 0; i <= value.size(); ++i) {
            if (g == "*") next[i] = reached[i] || (i > 0 && next[i - 1]);
            if (g != "*" && i > 0) next[i] = reached[i - 1] && (g == "?" || g == value[i - 1]);
        }
        reached = next;
    }
    return reached[value.size()];
}

std::string joined(const std::vector<std::string>& characters) {
    std::string text;
    for (const auto& each : characters) text += each;
    return text;
}

TEST(Glob, MatchesAsTheObviousWayDoes) {
    std::mt19937 random(7);
    const std::vector<std::string> alphabet = {"a", "b", "\xc3\xa9", "\xc3\xa8", "\xf0\x9f\x98\x80", "*", "?", "*"};
    const auto some = [&](std::size_t most, std::size_t letters) {
        std::vector<std::string> text(random() % (most + 1));
        for (auto& each : text) each = alphabet[random() % letters];
        return text;
    };
    int matched = 0;
    for (int i = 0; i < 300'000; ++i) {
        const auto glob = some(7, 8);
        const auto value = some(9, 5);
        const bool wanted = matches_by_table(glob, value);
        ASSERT_EQ(glob_matches(joined(glob), joined(value)), wanted) << joined(glob) << " " << joined(value);
        matched += wanted;
    }
    EXPECT_GT(matched, 10'000);
}

TEST(Glob, DoesNotGoBackOverEachStar) {
    std::string glob;
    for (int i = 0; i < 511; ++i) glob += "*a";
    const Pattern many = pattern(glob + "*b");
    const std::string value(256, 'a');
    const auto began = std::chrono::steady_clock::now();
    for (int i = 0; i < 1000; ++i) ASSERT_EQ(many.match(value), Match::none);
    EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(5));
}

}  // namespace
}  // namespace anyserve
