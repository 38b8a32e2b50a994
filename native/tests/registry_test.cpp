#include "anyserve/registry.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "anyserve/decimal.hpp"
#include "registry_vectors.hpp"

namespace anyserve {
namespace {

using vectors::Json;

RegistrationPtr added(Registry& registry, RegistrationPtr registration) {
    auto result = registry.add(std::move(registration));
    if (auto* full = std::get_if<RegistryFull>(&result)) throw std::runtime_error(full->message);
    return std::get<RegistrationPtr>(result);
}

RegistrationPtr registration(const char* text) { return vectors::registration(Json::parse(text)); }

Target named(std::string name, std::string version = "") { return {std::move(name), std::move(version), {}, false}; }

Query query(const std::vector<Query::Pair>& pairs) {
    auto parsed = Query::parse(pairs);
    if (auto* bad = std::get_if<InvalidQuery>(&parsed)) throw std::runtime_error(bad->message);
    return std::get<Query>(std::move(parsed));
}

using Groups = std::vector<std::vector<std::string>>;

Groups groups_of(const Json& vector, bool backwards) {
    Registry registry(100, 100);
    std::map<const Registration*, std::string> labels;
    auto registrations = vector.at("registrations").get<std::vector<Json>>();
    if (backwards) std::reverse(registrations.begin(), registrations.end());
    for (const Json& each : registrations) {
        const auto made = vectors::registration(each);
        labels[made.get()] = vectors::label(each);
        added(registry, made);
    }
    const Target target = vectors::target(vector.at("request"));
    Groups groups;
    for (const Tier& tier : registry.resolve(target)->tiers) {
        auto& group = groups.emplace_back();
        for (const auto& each : tier) group.push_back(labels.at(each.get()));
        std::sort(group.begin(), group.end());
    }
    if (groups.empty()) {
        EXPECT_EQ(vector.value("status", ""), vectors::status_of_nothing(registry, target));
    }
    return groups;
}

TEST(Registry, RoutingVectors) {
    for (const Json& vector : vectors::load("routing.json")) {
        SCOPED_TRACE(vector.at("name"));
        Groups wanted = vector.value("groups", Groups());
        for (auto& group : wanted) std::sort(group.begin(), group.end());
        EXPECT_EQ(groups_of(vector, false), wanted);
        if (vector.at("requirement") != "manage.register.replace") {
            EXPECT_EQ(groups_of(vector, true), wanted);
        }
    }
}

TEST(Registry, ReplacesInPlace) {
    Registry registry(10, 10);
    const auto first = registration(R"({"worker": "a", "model_name": "m", "priority": 1})");
    const auto second = registration(R"({"worker": "b", "model_name": "m", "priority": 1})");
    const auto again = registration(R"({"worker": "a", "model_name": "m", "priority": 1})");
    EXPECT_EQ(added(registry, first), nullptr);
    EXPECT_EQ(added(registry, second), nullptr);
    EXPECT_EQ(added(registry, again), first);
    EXPECT_EQ(registry.all(), (std::vector{again, second}));
    EXPECT_EQ(registry.resolve(named("m"))->tiers, (std::vector<Tier>{{again, second}}));
}

TEST(Registry, RefusesWhatIsAboveItsLimitsAndChangesNothing) {
    Registry registry(2, 3);
    const auto full = [&](const char* text) {
        const auto result = registry.add(registration(text));
        const auto* refused = std::get_if<RegistryFull>(&result);
        return refused ? refused->message : "";
    };
    EXPECT_EQ(full(R"({"worker": "a", "model_name": "m"})"), "");
    EXPECT_EQ(full(R"({"worker": "b", "model_name": "m"})"), "");
    EXPECT_EQ(full(R"({"worker": "c", "model_name": "m"})"), "2 workers are registered already (--max-workers)");
    EXPECT_EQ(full(R"({"worker": "b", "model_name": "n"})"), "");
    EXPECT_EQ(full(R"({"worker": "b", "model_name": "o"})"), "3 registrations exist already (--max-registrations)");
    EXPECT_EQ(full(R"({"worker": "b", "model_name": "n"})"), "") << "replacing goes on";
    EXPECT_EQ(registry.size(), 3U);
    EXPECT_FALSE(registry.has_worker("c"));
    EXPECT_TRUE(registry.resolve(named("o"))->tiers.empty());
    registry.remove_worker("a");
    EXPECT_EQ(full(R"({"worker": "c", "model_name": "m"})"), "");
}

TEST(Registry, ListsVersionsNumbersFirst) {
    Registry registry(10, 10);
    for (const char* version : {"b", "10", "9", "a", "1.5", ""}) {
        added(registry, vectors::registration({{"worker", "w"}, {"model_name", "m"}, {"model_version", version}}));
    }
    EXPECT_EQ(registry.versions("m"), (std::vector<std::string>{"1.5", "9", "10", "a", "b"}));
    EXPECT_EQ(registry.versions("n"), std::vector<std::string>());
    EXPECT_EQ(registry.model_names(), std::vector<std::string>{"m"});
}

TEST(Registry, KeepsRoutesUntilSomethingChanges) {
    Registry registry(10, 10);
    added(registry, registration(R"({"worker": "a", "model_name": "m"})"));
    const RoutePtr route = registry.resolve(named("m"));
    EXPECT_EQ(registry.resolve(named("m")), route);
    EXPECT_NE(registry.resolve({"m", "", {}, true}), route);
    registry.remove("a", "other", "");
    EXPECT_EQ(registry.resolve(named("m")), route) << "nothing was removed";
    added(registry, registration(R"({"worker": "b", "model_name": "m"})"));
    EXPECT_EQ(registry.resolve(named("m"))->tiers.at(0).size(), 2U);
    EXPECT_EQ(route->tiers.at(0).size(), 1U) << "what was given out stays as it was";
}

TEST(Registry, KeepsABoundedNumberOfRoutes) {
    Registry registry(10, 10);
    added(registry, registration(R"({"worker": "a", "model_name": "m"})"));
    const std::weak_ptr<const Route> route = registry.resolve(named("m"));
    for (std::size_t i = 1; i < Registry::kMaxRoutes; ++i) (void)registry.resolve(named(std::to_string(i)));
    EXPECT_FALSE(route.expired());
    (void)registry.resolve(named("one more"));
    EXPECT_TRUE(route.expired());
    const std::weak_ptr<const Route> long_name = registry.resolve(named(std::string(3000, 'x')));
    EXPECT_TRUE(long_name.expired()) << "a client's long name is not kept";
}

TEST(Registry, KeepsABoundedNumberOfRoutedRegistrations) {
    constexpr std::size_t count = Registry::kMaxRouted / 16;
    Registry registry(1, count);
    for (std::size_t i = 0; i < count; ++i) {
        added(registry, vectors::registration(
                            {{"worker", "w"}, {"model_name", "m"}, {"model_version", "v" + std::to_string(i)}}));
    }
    const std::weak_ptr<const Route> first = registry.resolve(named("m"));
    for (int i = 0; i < 15; ++i) {
        const std::string pattern = "m|x" + std::to_string(i);
        (void)registry.resolve({"", "", query({{"type", pattern}}), false});
    }
    EXPECT_FALSE(first.expired());
    (void)registry.resolve({"", "", query({{"type", "m"}}), false});
    EXPECT_TRUE(first.expired());
}

/// The rules word for word, looking at every registration each time.
class Model {
public:
    std::vector<RegistrationPtr> registrations;

    void add(const RegistrationPtr& registration) {
        for (auto& each : registrations) {
            if (same_key(*each, *registration)) {
                each = registration;
                return;
            }
        }
        registrations.push_back(registration);
    }

    using Candidates = std::vector<std::pair<RegistrationPtr, std::string>>;

    static std::vector<RegistrationPtr> of_version(const Candidates& candidates, const std::string& wanted) {
        std::vector<RegistrationPtr> chosen;
        const auto with = [&](auto fits) {
            for (const auto& [each, version] : candidates) {
                if (fits(version)) chosen.push_back(each);
            }
            return chosen;
        };
        const auto any = [&](auto fits) {
            return std::any_of(candidates.begin(), candidates.end(), [&](const auto& c) { return fits(c.second); });
        };
        if (!wanted.empty() || any([](const auto& v) { return v.empty(); })) {
            return with([&](const auto& v) { return v == wanted; });
        }
        if (any([](const auto& v) { return !Decimal::parse(v); })) return with([](const auto&) { return true; });
        return with([&](const auto& v) {
            return !any([&](const auto& w) { return *Decimal::parse(w) > *Decimal::parse(v); });
        });
    }

    std::vector<RegistrationPtr> named(const std::string& name, const std::string& version) const {
        Candidates by_name;
        Candidates by_capability;
        for (const auto& each : registrations) {
            if (!name.empty() && each->model_name == name) by_name.emplace_back(each, each->model_version);
            if (!name.empty() && each->capability.get("model") == name) {
                by_capability.emplace_back(each, each->capability.get("version"));
            }
        }
        const auto found = of_version(by_name, version);
        return found.empty() ? of_version(by_capability, version) : found;
    }

    std::vector<Tier> resolve(const Target& target) const {
        std::vector<std::pair<RegistrationPtr, std::size_t>> matches;
        if (target.query) {
            for (const auto& each : registrations) {
                if (const auto exact = target.query->exact_matches(each->capability))
                    matches.emplace_back(each, *exact);
            }
        } else {
            for (const auto& each : named(target.model_name, target.model_version)) matches.emplace_back(each, 0);
        }
        std::erase_if(matches, [&](const auto& match) { return target.unary_only && match.first->stream; });
        const auto better = [](const auto& a, const auto& b) {
            const auto rank = [](const auto& m) {
                return std::tuple(~m.second, -std::int64_t{m.first->priority}, m.first->capability.size());
            };
            return rank(a) < rank(b);
        };
        std::stable_sort(matches.begin(), matches.end(), better);
        std::vector<Tier> tiers;
        for (std::size_t i = 0; i < matches.size(); ++i) {
            if (i == 0 || better(matches[i - 1], matches[i])) tiers.emplace_back();
            tiers.back().push_back(matches[i].first);
        }
        return tiers;
    }
};

class Random {
public:
    explicit Random(unsigned seed) : engine_(seed) {}
    std::size_t below(std::size_t bound) { return engine_() % bound; }
    std::string one_of(const std::vector<std::string>& choices) { return choices[below(choices.size())]; }

    RegistrationPtr registration() {
        auto made = std::make_shared<Registration>();
        made->worker_id = one_of({"v", "w", "x", "y"});
        made->model_name = one_of({"", "m", "n"});
        made->model_version = one_of(kVersions);
        std::vector<Capability::Item> items = {{"type", one_of({"chat", "chats", "embed"})}};
        if (below(2)) items.emplace_back("model", one_of({"m", "n", "o"}));
        if (below(2)) items.emplace_back("version", one_of({"1", "1.0", "2", "b"}));
        if (below(3) == 0) items.emplace_back("k", one_of({"1", "2"}));
        made->capability = vectors::capability(std::move(items));
        made->stream = below(3) == 0;
        made->priority = static_cast<std::int32_t>(below(3)) - 1;
        return made;
    }

    Target target() {
        Target target{one_of({"", "m", "n", "o"}), one_of(kVersions), {}, below(2) == 0};
        if (below(2)) {
            const std::string type =
                one_of({"chat", "chat|embed", "chat*", "!=embed", "chat|e*", "none|embed", "none"});
            const std::string model = one_of({"m", "m|n", "?", "o|n|m|o"});
            const std::string version = one_of({">=1", "1.0|1", "<2", "2"});
            std::vector<Query::Pair> pairs;
            if (below(4)) pairs.emplace_back("type", type);
            if (below(2)) pairs.emplace_back("model", model);
            if (below(3) == 0) pairs.emplace_back("version", version);
            if (!pairs.empty()) target.query = query(pairs);
        }
        return target;
    }

private:
    inline static const std::vector<std::string> kVersions = {"", "", "1", "01", "1.0", "2", "10", "a"};
    std::mt19937 engine_;
};

TEST(Registry, AnswersAsTheObviousModelDoes) {
    for (unsigned seed = 0; seed < 40; ++seed) {
        SCOPED_TRACE(seed);
        Random random(seed);
        Registry registry(100, 10'000);
        Model model;
        for (int step = 0; step < 400; ++step) {
            const std::size_t what = random.below(12);
            if (what < 3) {
                const auto made = random.registration();
                model.add(made);
                added(registry, made);
            } else if (what == 3) {
                const auto made = random.registration();
                const auto gone = registry.remove(made->worker_id, made->model_name, made->model_version);
                std::vector<RegistrationPtr> wanted;
                std::erase_if(model.registrations, [&](const auto& each) {
                    const bool is = each->worker_id == made->worker_id && each->model_name == made->model_name &&
                                    each->model_version == made->model_version;
                    if (is) wanted.push_back(each);
                    return is;
                });
                ASSERT_EQ(gone, wanted);
            } else if (what == 4 && random.below(4) == 0) {
                const std::string worker = random.one_of({"v", "w", "x", "y"});
                const auto all = registry.of_worker(worker);
                ASSERT_EQ(registry.remove_worker(worker), all);
                ASSERT_EQ(std::erase_if(model.registrations, [&](const auto& e) { return e->worker_id == worker; }),
                          all.size());
                ASSERT_FALSE(registry.has_worker(worker));
            }
            const Target target = random.target();
            ASSERT_EQ(registry.resolve(target)->tiers, model.resolve(target)) << target.text();
            ASSERT_EQ(registry.named(target.model_name, target.model_version),
                      model.named(target.model_name, target.model_version));
            ASSERT_EQ(registry.all(), model.registrations);
        }
    }
}

}  // namespace
}  // namespace anyserve
