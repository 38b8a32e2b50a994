#include "handler_table.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "anyserve/wire.hpp"

namespace anyserve {
namespace {

Served served(std::string_view capability, std::string_view name = {}, std::string_view version = {}) {
    return {std::string(capability), std::string(name), std::string(version)};
}

MessageHead chosen(const Parameter& capability, std::string_view name = {}, std::string_view version = {}) {
    MessageHead head;
    head.model_name = name;
    head.model_version = version;
    head.parameters.emplace_back(wire::kCapability, capability);
    return head;
}

MessageHead named(std::string_view name, std::string_view version = {}) {
    MessageHead head;
    head.model_name = name;
    head.model_version = version;
    return head;
}

using Found = std::optional<std::size_t>;

class ThreeHandlers : public ::testing::Test {
protected:
    const HandlerTable table{{served("type=a", "m", "1"), served("type=b", "m", "2"), served("type=c")}};
};

TEST_F(ThreeHandlers, TheCapabilityThatTheAgentChoseCounts) {
    EXPECT_EQ(table.find(chosen("type=b")), Found(1));
    EXPECT_EQ(table.find(chosen("type=b", "m", "1")), Found(1)) << "whatever name the client gave";
    EXPECT_EQ(table.find(chosen("type=x", "m", "1")), Found());
    EXPECT_EQ(table.find(chosen("")), Found()) << "an empty one is one too";
}

TEST_F(ThreeHandlers, NameAndVersionCountWithoutIt) {
    EXPECT_EQ(table.find(named("m", "2")), Found(1));
    EXPECT_EQ(table.find(named("")), Found(2));
    EXPECT_EQ(table.find(named("m")), Found());
    EXPECT_EQ(table.find(named("m\0001", "")), Found());
    EXPECT_EQ(table.find(chosen(std::int64_t{1}, "m", "2")), Found(1)) << "a parameter that is no text is none";
}

TEST_F(ThreeHandlers, NameAndVersionAreNotOneText) {
    const HandlerTable joined({served("type=a", "m1", ""), served("type=b", "m", "1")});
    EXPECT_EQ(joined.find(named("m1")), Found(0));
    EXPECT_EQ(joined.find(named("m", "1")), Found(1));
}

TEST(HandlerTable, TheOnlyHandlerGetsWhateverNameIsThere) {
    const HandlerTable table({served("type=a", "m")});
    EXPECT_EQ(table.find(named("anything", "9")), Found(0));
    EXPECT_EQ(table.find(chosen("type=b")), Found()) << "but not what was meant for another";
}

TEST(HandlerTable, OfTwoWithOneNameTheLastCounts) {
    const HandlerTable table({served("type=a", "m"), served("type=b", "m")});
    EXPECT_EQ(table.find(named("m")), Found(1));
    EXPECT_EQ(table.find(chosen("type=a", "m")), Found(0));
}

TEST(HandlerTable, MayBeEmpty) {
    const HandlerTable table({});
    EXPECT_EQ(table.size(), 0U);
    EXPECT_EQ(table.find(named("m")), Found());
}

}  // namespace
}  // namespace anyserve
