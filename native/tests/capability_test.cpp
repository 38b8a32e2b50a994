#include "anyserve/capability.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "anyserve/capability_text.hpp"
#include "registry_vectors.hpp"

namespace anyserve {
namespace {

using vectors::as_items;
using vectors::as_text;
using vectors::Json;

TEST(Capability, Vectors) {
    for (const Json& vector : vectors::load("capabilities.json")) {
        SCOPED_TRACE(vector.at("name"));
        auto items = as_items(vector.at("capability"));
        const auto made = Capability::make(items);
        if (vector.contains("refused")) {
            ASSERT_TRUE(std::holds_alternative<InvalidCapability>(made));
            EXPECT_FALSE(std::get<InvalidCapability>(made).message.empty());
            continue;
        }
        const std::string encoded = as_text(vector.at("encoded"));
        ASSERT_TRUE(std::holds_alternative<Capability>(made)) << std::get<InvalidCapability>(made).message;
        EXPECT_EQ(std::get<Capability>(made).encoded(), encoded);
        std::reverse(items.begin(), items.end());
        EXPECT_EQ(vectors::capability(items).encoded(), encoded);
        std::sort(items.begin(), items.end());
        const auto decoded = Capability::decode(encoded);
        ASSERT_TRUE(std::holds_alternative<Capability>(decoded));
        EXPECT_EQ(std::get<Capability>(decoded).items(), items);
    }
}

TEST(Capability, TakesTheLastOfAKeyAsAMapOfProtobufDoes) {
    const Capability made = vectors::capability({{"b", "1"}, {"a", "1"}, {"b", "2"}, {"b", "3"}});
    EXPECT_EQ(made.encoded(), "a=1,b=3");
    EXPECT_EQ(made.text(), "{a: 1, b: 3}");
}

TEST(Capability, KnowsItsKeys) {
    const Capability made = vectors::capability({{"type", "chat"}, {"model", "m"}, {"z", "1"}});
    EXPECT_EQ(made.get("model"), "m");
    EXPECT_EQ(made.get("type"), "chat");
    EXPECT_EQ(made.get("z"), "1");
    for (const char* missing : {"", "a", "n", "zz", "Type"}) EXPECT_EQ(made.get(missing), "") << missing;
    EXPECT_EQ(Capability().get("a"), "");
}

TEST(Capability, RefusesWhatIsNotUtf8) {
    for (const char* value : {"\xff", "\xc0\x80", "\xe2\x82", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\x80"}) {
        EXPECT_TRUE(std::holds_alternative<InvalidCapability>(Capability::make({{"k", value}}))) << value;
    }
}

TEST(Capability, RefusesWhatIsNotEncoded) {
    for (const char* encoded : {"a", "a=1,", ",a=1", "a=1,,b=2", "a=", "=1", "a=%4", "a=%GG", "a=%ff", "a=1,a=1",
                                "a=1,%61=2", "A=1", "a-bin=1", "a=%00"}) {
        EXPECT_TRUE(std::holds_alternative<InvalidCapability>(Capability::decode(encoded))) << encoded;
    }
    std::string many = "k=v";
    for (int i = 0; i < 32; ++i) many += ",k" + std::to_string(i) + "=v";
    EXPECT_TRUE(std::holds_alternative<InvalidCapability>(Capability::decode(many)));
}

TEST(InQuotes, WritesAsPythonDoes) {
    EXPECT_EQ(in_quotes("it"), "'it'");
    EXPECT_EQ(in_quotes("it's"), "\"it's\"");
    EXPECT_EQ(in_quotes("'\""), "'\\'\"'");
    EXPECT_EQ(in_quotes("a\\\n\t\r\x01\x7f"), "'a\\\\\\n\\t\\r\\x01\\x7f'");
    EXPECT_EQ(in_quotes("gr\xc3\xb6\xc3\x9f"), "'gr\xc3\xb6\xc3\x9f'");
    EXPECT_EQ(in_quotes("\xff"), "'\\xff'");
    EXPECT_EQ(in_quotes(std::string(100, 'x')), "'" + std::string(80, 'x') + "'");
}

}  // namespace
}  // namespace anyserve
