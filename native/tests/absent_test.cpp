#include "anyserve/absent.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "registry_vectors.hpp"

namespace anyserve {
namespace {

std::vector<RegistrationPtr> of(const char* worker, const std::vector<std::string>& models) {
    std::vector<RegistrationPtr> registrations;
    for (const auto& model : models) {
        registrations.push_back(vectors::registration({{"worker", worker}, {"model_name", model}}));
    }
    return registrations;
}

Target named(const char* name) { return {name, "", {}, true}; }

TEST(Absent, RemembersWhatAKeptWorkerHad) {
    Absent absent(10, 10);
    absent.keep("place", "a");
    EXPECT_FALSE(absent.serves(named("m")));
    absent.gone("a", of("a", {"m", "n"}));
    EXPECT_TRUE(absent.serves(named("m")));
    EXPECT_TRUE(absent.serves(named("n")));
    EXPECT_FALSE(absent.serves(named("o")));
}

TEST(Absent, ForgetsNothingOfOneThatIsNotKept) {
    Absent absent(10, 10);
    absent.gone("a", of("a", {"m"}));
    EXPECT_FALSE(absent.serves(named("m")));
}

TEST(Absent, ForgetsWhenTheReplacementIsThere) {
    Absent absent(10, 10);
    absent.keep("place", "a");
    absent.gone("a", of("a", {"m"}));
    absent.keep("place", "b");
    EXPECT_TRUE(absent.serves(named("m"))) << "it has been started, and not registered yet";
    absent.there("a");
    EXPECT_TRUE(absent.serves(named("m"))) << "the old one is nobody now";
    absent.there("b");
    EXPECT_FALSE(absent.serves(named("m")));
}

TEST(Absent, ForgetsAPlaceThatIsNoLongerKept) {
    Absent absent(10, 10);
    absent.keep("one", "a");
    absent.keep("two", "b");
    absent.gone("a", of("a", {"m"}));
    absent.gone("b", of("b", {"n"}));
    absent.keep("one", std::nullopt);
    EXPECT_FALSE(absent.serves(named("m")));
    EXPECT_TRUE(absent.serves(named("n")));
    absent.gone("a", of("a", {"m"}));
    EXPECT_FALSE(absent.serves(named("m")));
}

TEST(Absent, RemembersNoMoreThanItsLimits) {
    Absent absent(10, 2);
    absent.keep("place", "a");
    absent.gone("a", of("a", {"m", "n", "o"}));
    EXPECT_TRUE(absent.serves(named("n")));
    EXPECT_FALSE(absent.serves(named("o")));
}

}  // namespace
}  // namespace anyserve
