// What a client is told whose request nothing serves.
#include "anyserve/no_match.hpp"

#include <gtest/gtest.h>

#include "serving_fixture.hpp"

namespace anyserve {
namespace {

std::string similar(std::string_view asked, const std::vector<std::string>& known) {
    return std::string(similar_name(asked, known));
}

TEST(SimilarName, IsTheMostAlike) {
    EXPECT_EQ(similar("ehco", {"echo", "upper"}), "echo");
    EXPECT_EQ(similar("ech", {"beach", "echo"}), "echo");
    EXPECT_EQ(similar("llama-70b-chatt", {"llama-7b-chat", "llama-70b-chat"}), "llama-70b-chat");
    EXPECT_EQ(similar("echo", {"upper", "stream"}), "");
    EXPECT_EQ(similar("", {"echo"}), "");
    EXPECT_EQ(similar("echo", {}), "");
    EXPECT_EQ(similar("a", {"a", "a"}), "a");
}

TEST(SimilarName, LongNamesCostNoMoreThanTheirBeginnings) {
    const std::string begin(64, 'n');
    EXPECT_EQ(similar(begin + std::string(100'000, 'x'), {"other", begin + "y"}), begin + "y");
    EXPECT_EQ(similar(begin, {begin}), begin);
}

class NoMatchTest : public testing::Serving {
protected:
    InferenceError explain(std::string_view name, std::string_view version = {}, bool unary_only = true) {
        Target target;
        target.model_name = name;
        target.model_version = version;
        target.unary_only = unary_only;
        return no_match.explain(target);
    }

    NoMatch no_match{registry, workers};
};

TEST_F(NoMatchTest, NamesASimilarModel) {
    EXPECT_EQ(explain("chat").message, "no worker serves model 'chat'");
    Registration chat;
    chat.model_name = "chat";
    add(chat);
    EXPECT_EQ(explain("chatt").message, "no worker serves model 'chatt' (did you mean \"chat\"?)");
    EXPECT_EQ(explain("chatt").code, Code::not_found);
    chat.model_name = "chatty";
    add(chat);
    EXPECT_EQ(explain("chattyy").message, "no worker serves model 'chattyy' (did you mean \"chatty\"?)");
    workers.unregister_worker("w");
    EXPECT_EQ(explain("chatt").message, "no worker serves model 'chatt'");
}

TEST_F(NoMatchTest, NamesTheVersionsThereAre) {
    Registration versioned;
    for (const auto* version : {"10", "9"}) {
        versioned.model_version = version;
        add(versioned);
    }
    EXPECT_EQ(explain("m", "1").message, "no worker serves model 'm' version '1' (versions there are: 9, 10)");
    Registration plain;
    plain.model_name = "plain";
    add(plain);
    EXPECT_EQ(explain("plain", "1").message, "no worker serves model 'plain' version '1' (versions there are: none)");
}

TEST_F(NoMatchTest, AQueryIsToldAsItIs) {
    Target target;
    const std::vector<Query::Pair> pairs{{"type", "chat"}};
    target.query = std::get<Query>(Query::parse(pairs));
    EXPECT_EQ(no_match.explain(target).message, "no worker serves capability {type: chat}");
}

TEST_F(NoMatchTest, ModelInferOfAStreamingModel) {
    Registration streaming;
    streaming.stream = true;
    add(streaming);
    const InferenceError error = explain("m");
    EXPECT_EQ(error.code, Code::unimplemented);
    EXPECT_EQ(error.message, "model 'm' streams its replies: use ModelStreamInfer");
}

TEST_F(NoMatchTest, AWorkerThatIsExpectedBack) {
    workers.keep("place", "w");
    Registration streaming;
    streaming.stream = true;
    streaming.model_name = "s";
    add(streaming);
    add({});
    workers.drop("w", "crashed");
    EXPECT_EQ(explain("m").code, Code::unavailable);
    EXPECT_EQ(explain("s").code, Code::unimplemented) << "as before and after";
    EXPECT_EQ(explain("s", {}, false).code, Code::unavailable);
    EXPECT_EQ(explain("x").code, Code::not_found);
    workers.keep("place", std::nullopt);
    EXPECT_EQ(explain("m").code, Code::not_found);
}

}  // namespace
}  // namespace anyserve
