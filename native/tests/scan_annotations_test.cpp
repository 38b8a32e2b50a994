// conformance/vectors/annotations.json by what scan.hpp writes and extends. Which parameters and fields those are is
// the dispatcher's business; here they are put together in the plainest way.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "anyserve/scan.hpp"
#include "anyserve/wire.hpp"
#include "registry_vectors.hpp"
#include "vectors.hpp"

namespace anyserve {
namespace {

using vectors::bytes_of;
using vectors::Json;

constexpr std::string_view kAsksForFinal = "triton_enable_empty_final_response";
constexpr std::string_view kFinal = "triton_final_response";

std::string annotations(const Json& vector, const Registration& registration) {
    std::string out;
    if (!registration.annotate) return out;
    append_parameter(out, wire::kCapability, registration.capability.encoded());
    if (vector.contains("seconds_left")) {
        const double milliseconds = vector.at("seconds_left").get<double>() * 1000;
        append_parameter(out, wire::kTimeoutMs, std::max<std::int64_t>(0, static_cast<std::int64_t>(milliseconds)));
    }
    const auto traceparents = vector.value("traceparent", std::vector<std::string>());
    if (!traceparents.empty() && !traceparents.back().empty()) {
        append_parameter(out, wire::kTraceparent, std::string_view(traceparents.back()));
    }
    return out;
}

std::string missing_fields(const MessageHead& reply, const MessageHead& request, const Registration& registration) {
    std::string out;
    const auto fill = [&out](std::uint32_t field, std::string_view present, std::string_view text) {
        if (present.empty() && !text.empty()) append_bytes_field(out, field, text);
    };
    fill(1, reply.model_name, request.model_name.empty() ? registration.listed_name() : request.model_name);
    fill(2, reply.model_version, registration.listed_version());
    fill(3, reply.id, request.id);
    return out;
}

std::string filled(const std::string& reply, const MessageHead& request, const Registration& registration) {
    MessageHead head;
    EXPECT_FALSE(scan_message(reply, kResponseFields, head));
    return reply + missing_fields(head, request, registration);
}

std::string in_stream(std::string_view response) {
    std::string out;
    append_bytes_field(out, 2, response);
    return out;
}

/// The responses to a request that goes to a streaming worker.
std::vector<std::string> streamed(const Json& replies, const MessageHead& request, const Registration& registration) {
    const bool final = request.is_true(kAsksForFinal);
    bool marked = false;
    std::vector<std::string> responses;
    for (const Json& payload : replies) {
        const std::string frame = bytes_of(payload);
        StreamReply reply;
        EXPECT_FALSE(scan_stream_reply(frame, reply));
        const MessageHead head = reply.response.value_or(MessageHead());
        std::string fields = missing_fields(head, request, registration);
        if (final && head.parameter(kFinal) == nullptr) append_parameter(fields, kFinal, false);
        responses.push_back(fields.empty() ? frame : extend_response(frame, reply, fields));
        marked = head.is_true(kFinal);
    }
    if (final && !marked) {
        std::string extra = missing_fields({}, request, registration);
        append_parameter(extra, kFinal, true);
        responses.push_back(in_stream(extra));
    }
    return responses;
}

void run(const Json& vector) {
    const std::string bytes = bytes_of(vector.at("request"));
    MessageHead request;
    ASSERT_FALSE(scan_message(bytes, kRequestFields, request));
    const RegistrationPtr registration = vectors::registration(vector.at("registration"));
    const std::string kind = vector.at("kind");
    if (kind == "request") {
        EXPECT_EQ(annotations(vector, *registration), bytes_of(vector.at("appended")));
    } else if (kind == "reply") {
        EXPECT_EQ(filled(bytes_of(vector.at("reply")), request, *registration), bytes_of(vector.at("response")));
    } else {
        const Json& replies = vector.at("replies");
        std::vector<std::string> responses;
        if (registration->stream) {
            responses = streamed(replies, request, *registration);
        } else {
            std::string response = filled(bytes_of(replies.at(0)), request, *registration);
            if (request.is_true(kAsksForFinal)) append_parameter(response, kFinal, true);
            responses.push_back(in_stream(response));
        }
        std::vector<std::string> wanted;
        for (const Json& response : vector.at("responses")) wanted.push_back(bytes_of(response));
        EXPECT_EQ(responses, wanted);
    }
}

TEST(AnnotationVectors, AllOfThem) {
    std::size_t count = 0;
    for (const Json& vector : vectors::load("annotations.json")) {
        SCOPED_TRACE(vector.at("name"));
        run(vector);
        ++count;
    }
    EXPECT_GE(count, 90U);
}

}  // namespace
}  // namespace anyserve
