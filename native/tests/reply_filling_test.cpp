// What the agent adds, fills in and makes of failures: the golden vectors, and what they leave out.
#include "anyserve/reply_filling.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "registry_vectors.hpp"
#include "vectors.hpp"

namespace anyserve {
namespace {

using vectors::bytes_of;
using vectors::Json;

std::vector<Json> of_kind(std::string_view file, std::string_view kind) {
    std::vector<Json> chosen = vectors::load(file);
    std::erase_if(chosen, [&](const Json& each) { return each.at("kind") != kind; });
    EXPECT_FALSE(chosen.empty());
    return chosen;
}

std::string bytes_at(const Json& vector, const char* key) { return bytes_of(vector.at(key)); }

void read(const Json& vector, bool unary_only, Request& request) {
    CallTerms terms;
    if (const auto query = vector.find("query"); query != vector.end()) {
        terms.query = std::get<Query>(vectors::parse_query(*query));
    }
    if (const auto values = vector.find("traceparent"); values != vector.end()) {
        Metadata metadata;
        for (const Json& value : *values) metadata.emplace_back("traceparent", vectors::as_text(value));
        ASSERT_FALSE(read_terms(metadata, terms));
    }
    if (const auto seconds = vector.find("seconds_left"); seconds != vector.end()) {
        const auto left = std::chrono::nanoseconds(std::llround(seconds->get<double>() * 1e9));
        terms.deadline = std::chrono::steady_clock::time_point() + left;
    }
    ASSERT_FALSE(read_request(bytes_at(vector, "request"), std::move(terms), unary_only, request));
}

TEST(Vectors, WhatStandsBehindARequest) {
    for (const Json& vector : of_kind("annotations.json", "request")) {
        SCOPED_TRACE(vector.at("name").get<std::string>());
        Request request;
        read(vector, true, request);
        EXPECT_EQ(annotations(request, *vectors::registration(vector.at("registration")), {}),
                  bytes_at(vector, "appended"));
    }
}

TEST(Vectors, WhatIsFilledInInAReply) {
    for (const Json& vector : of_kind("annotations.json", "reply")) {
        SCOPED_TRACE(vector.at("name").get<std::string>());
        Request request;
        read(vector, true, request);
        Payload reply = bytes_at(vector, "reply");
        EXPECT_FALSE(fill_reply(reply, request, *vectors::registration(vector.at("registration"))));
        EXPECT_EQ(reply.view(), bytes_at(vector, "response"));
    }
}

/// The responses to one request, as the dispatcher makes them.
std::vector<std::string> responses(const Request& request, const Registration& registration, const Json& replies) {
    std::vector<std::string> all;
    const bool asks = asks_for_final(request.head);
    StreamReplyFacts facts;
    for (const Json& each : replies) {
        std::string reply = bytes_of(each);
        if (registration.stream) {
            EXPECT_FALSE(fill_stream_reply(reply, request, registration, asks, facts));
        } else {
            Payload only = std::move(reply);
            EXPECT_FALSE(fill_reply(only, request, registration));
            reply = as_stream_reply(std::move(only).take(), asks);
        }
        all.push_back(std::move(reply));
    }
    if (registration.stream && asks && !facts.marked_final) all.push_back(final_reply(request, registration));
    return all;
}

TEST(Vectors, RepliesOfAStream) {
    for (const Json& vector : of_kind("annotations.json", "stream")) {
        SCOPED_TRACE(vector.at("name").get<std::string>());
        Request request;
        read(vector, false, request);
        const auto got = responses(request, *vectors::registration(vector.at("registration")), vector.at("replies"));
        std::vector<std::string> wanted;
        for (const Json& each : vector.at("responses")) wanted.push_back(bytes_of(each));
        EXPECT_EQ(got, wanted);
    }
}

TEST(Vectors, StatusOfAReply) {
    for (const Json& vector : of_kind("errors.json", "reply")) {
        SCOPED_TRACE(vector.at("name").get<std::string>());
        Request request;
        ASSERT_FALSE(read_request("\x0a\x01m", {}, true, request));
        Registration registration;
        registration.model_name = "m";
        Payload reply = bytes_at(vector, "reply");
        const auto error = fill_reply(reply, request, registration);
        EXPECT_EQ(error ? code_name(error->code) : "OK", vector.at("status").get<std::string>());
        if (vector.contains("message")) {
            EXPECT_EQ(error->message, vectors::as_text(vector.at("message")));
        } else if (error) {
            EXPECT_FALSE(error->message.empty());
        }
    }
}

std::string failing_with(const Parameter& code) {
    std::string reply;
    append_parameter(reply, "anyserve_error_code", code);
    Request request;
    EXPECT_FALSE(read_request("\x0a\x01m", {}, true, request));
    Payload payload = std::move(reply);
    const auto error = fill_reply(payload, request, {});
    EXPECT_EQ(error->code, Code::internal);
    return error->message;
}

TEST(FillReply, NamesACodeThatIsNone) {
    EXPECT_EQ(failing_with(std::int64_t{0}), "the worker failed with an unknown code 0: no message");
    EXPECT_EQ(failing_with(std::int64_t{-1}), "the worker failed with an unknown code -1: no message");
    EXPECT_EQ(failing_with(std::uint64_t{17}), "the worker failed with an unknown code 17: no message");
    EXPECT_EQ(failing_with(true), "the worker failed with an unknown code true: no message");
    EXPECT_EQ(failing_with(5.5), "the worker failed with an unknown code 5.5: no message");
    EXPECT_EQ(failing_with(std::string_view("5")), "the worker failed with an unknown code '5': no message");
    EXPECT_EQ(failing_with({}), "the worker failed with an unknown code: no message");
}

TEST(FillStreamReply, TellsWhatTheAgentHasToKnow) {
    Request request;
    ASSERT_FALSE(read_request("\x0a\x01m", {}, false, request));
    std::string response;
    append_parameter(response, "triton_final_response", true);
    std::string reply;
    append_bytes_field(reply, 1, "no");
    append_bytes_field(reply, 2, response);
    StreamReplyFacts facts;
    EXPECT_FALSE(fill_stream_reply(reply, request, {}, true, facts));
    EXPECT_TRUE(facts.failed);
    EXPECT_TRUE(facts.marked_final);
    reply.assign("\x12\x00", 2);
    EXPECT_FALSE(fill_stream_reply(reply, request, {}, true, facts));
    EXPECT_FALSE(facts.failed);
    EXPECT_FALSE(facts.marked_final);
    reply = "\x0a\x05m";
    const auto error = fill_stream_reply(reply, request, {}, true, facts);
    ASSERT_TRUE(error);
    EXPECT_EQ(error->code, Code::internal);
}

}  // namespace
}  // namespace anyserve
