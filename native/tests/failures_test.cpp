#include "failures.hpp"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace anyserve {
namespace {

std::string payload_of(const ReplyFrame& frame) {
    std::string payload(frame.payload_size(), '\0');
    frame.copy_payload_to(payload);
    return payload;
}

std::string message_in(std::string_view message) {
    const std::string payload = payload_of(failure_frame({Code::internal, std::string(message)}));
    MessageHead head;
    EXPECT_FALSE(scan_message(payload, kResponseFields, head));
    const Parameter* found = head.parameter("anyserve_error_message");
    return found != nullptr ? std::string(std::get<std::string_view>(*found)) : "nothing";
}

std::string message_in_stream(std::string_view message) {
    const std::string payload = payload_of(stream_failure_frame({}, {Code::internal, std::string(message)}));
    StreamReply reply;
    EXPECT_FALSE(scan_stream_reply(payload, reply));
    return std::string(reply.error_message);
}

TEST(Failures, MessagesAreCutAtTheEndOfACharacter) {
    const std::string most(8192, 'x');
    for (const auto& told : {message_in, message_in_stream}) {
        EXPECT_EQ(told("short"), "short");
        EXPECT_EQ(told(most), most);
        EXPECT_EQ(told(most + "more"), most);
        EXPECT_EQ(told(most.substr(2) + "\u00e9\u00e9"), most.substr(2) + "\u00e9");
        EXPECT_EQ(told(most.substr(1) + "\u00e9"), most.substr(1));
        EXPECT_EQ(told(most.substr(1) + "\U0001f600"), most.substr(1));
        EXPECT_EQ(told("\xff" + most), "\\xff" + most.substr(4));
    }
}

}  // namespace
}  // namespace anyserve
