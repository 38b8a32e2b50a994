// What is read of a call and of its messages.
#include "anyserve/request.hpp"

#include <gtest/gtest.h>

#include "anyserve/scan.hpp"

namespace anyserve {
namespace {

std::optional<InferenceError> terms_error(const Metadata& metadata) {
    CallTerms terms;
    return read_terms(metadata, terms);
}

TEST(ReadTerms, TakesWhatItKnows) {
    CallTerms terms;
    EXPECT_FALSE(
        read_terms({{"user-agent", "x"}, {"x-cap-type", "chat"}, {"traceparent", "a"}, {"traceparent", "b"}}, terms));
    ASSERT_TRUE(terms.query);
    EXPECT_EQ(terms.query->text(), "{type: chat}");
    EXPECT_EQ(terms.traceparent, "b") << "the last one counts";
    CallTerms none;
    EXPECT_FALSE(read_terms({{"user-agent", "x"}}, none));
    EXPECT_FALSE(none.query);
}

TEST(ReadTerms, RefusesABadQueryByItsKey) {
    const std::vector<Metadata> bad{{{"x-cap-type", "50%"}},
                                    {{"x-cap-type", "a"}, {"x-cap-type", "a"}},
                                    {{"x-cap-type", ""}},
                                    {{"x-cap-", "a"}},
                                    {{"x-cap-type-bin", "a"}}};
    for (const Metadata& metadata : bad) {
        const auto error = terms_error(metadata);
        ASSERT_TRUE(error) << metadata.front().first;
        EXPECT_EQ(error->code, Code::invalid_argument);
        EXPECT_FALSE(error->message.empty());
    }
}

TEST(ReadRequest, ByNameOrByQuery) {
    const std::string payload(
        "\x0a\x01m\x12\x01"
        "7\x1a\x02id",
        10);
    Request named;
    EXPECT_FALSE(read_request(payload, {}, true, named));
    EXPECT_EQ(named.target.text(), "model 'm' version '7'");
    EXPECT_TRUE(named.target.unary_only);
    EXPECT_EQ(named.head.id, "id");
    EXPECT_GE(named.head.id.data(), named.payload.view().data()) << "a short payload lies inside of its string";
    EXPECT_LT(named.head.id.data(), named.payload.view().data() + named.payload.size());

    CallTerms terms;
    ASSERT_FALSE(read_terms({{"x-cap-type", "chat"}}, terms));
    Request queried;
    EXPECT_FALSE(read_request(payload, terms, false, queried));
    EXPECT_EQ(queried.target.text(), "capability {type: chat}");
    EXPECT_EQ(queried.head.model_name, "m");
}

TEST(ReadRequest, RefusesWhatItCannotServe) {
    Request nameless;
    auto error = read_request("", {}, true, nameless);
    ASSERT_TRUE(error);
    EXPECT_EQ(error->message, "the request names no model: set model_name, or x-cap-<key> metadata");

    std::string forged("\x0a\x01m");
    append_parameter(forged, "anyserve_capability", Parameter());
    Request reserved;
    error = read_request(forged, {}, true, reserved);
    ASSERT_TRUE(error);
    EXPECT_EQ(error->message, "parameter 'anyserve_capability' is reserved: names that start with anyserve_");
    EXPECT_EQ(error->code, Code::invalid_argument);

    Request malformed;
    error = read_request("\x1a\x01i\x0a\x05m", {}, true, malformed);
    ASSERT_TRUE(error);
    EXPECT_TRUE(error->message.starts_with("not a ModelInferRequest: ")) << error->message;
    EXPECT_TRUE(malformed.head.id.empty()) << "nothing of it counts";
}

TEST(Carries, TheLastValueCounts) {
    EXPECT_TRUE(carries({{"key", "secret"}}, "key", "secret"));
    EXPECT_TRUE(carries({{"key", "wrong!"}, {"key", "secret"}}, "key", "secret"));
    EXPECT_FALSE(carries({{"key", "secret"}, {"key", "wrong!"}}, "key", "secret"));
    EXPECT_FALSE(carries({{"key", "secreT"}}, "key", "secret"));
    EXPECT_FALSE(carries({{"key", "secre"}}, "key", "secret"));
    EXPECT_FALSE(carries({{"other", "secret"}}, "key", "secret"));
    EXPECT_FALSE(carries({}, "key", ""));
    EXPECT_FALSE(carries({{"key", ""}}, "key", "")) << "an empty secret is nobody's";
}

}  // namespace
}  // namespace anyserve
