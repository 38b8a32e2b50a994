#include "anyserve/grpc_metadata.hpp"

#include <gtest/gtest.h>

#include <string>

namespace anyserve {
namespace {

using namespace std::chrono_literals;

TEST(ParseTimeout, TakesEachUnit) {
    EXPECT_EQ(parse_timeout("1H"), 1h);
    EXPECT_EQ(parse_timeout("2M"), 2min);
    EXPECT_EQ(parse_timeout("3S"), 3s);
    EXPECT_EQ(parse_timeout("4m"), 4ms);
    EXPECT_EQ(parse_timeout("5u"), 5us);
    EXPECT_EQ(parse_timeout("99999999n"), 99'999'999ns);
    EXPECT_EQ(parse_timeout("00000010S"), 10s);
    EXPECT_EQ(parse_timeout("0n"), 0ns);
}

TEST(ParseTimeout, CutsWhatNoClockCanAdd) {
    EXPECT_EQ(parse_timeout("99999999H"), kLongestTimeout);
    EXPECT_EQ(parse_timeout("99999999M"), kLongestTimeout);
    EXPECT_EQ(parse_timeout("8760H"), kLongestTimeout);
    EXPECT_EQ(parse_timeout("8759H"), 8759h);
}

TEST(ParseTimeout, RefusesWhatIsMalformed) {
    for (const char* value :
         {"", "S", "10", "123456789S", "-1S", "+1S", "1.5S", " 1S", "1S ", "1s", "1x", "1SS", "0x1S"}) {
        EXPECT_EQ(parse_timeout(value), std::nullopt) << value;
    }
}

TEST(IsGrpcContentType, TakesTheFamilyAndNoOther) {
    for (const char* value : {"application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"}) {
        EXPECT_TRUE(is_grpc_content_type(value)) << value;
    }
    for (const char* value : {"", "application/grp", "application/grpc-web", "application/grpcx", "application/json"}) {
        EXPECT_FALSE(is_grpc_content_type(value)) << value;
    }
}

TEST(EncodeStatusMessage, EncodesWhatIsNotPrintable) {
    EXPECT_EQ(encode_status_message(""), "");
    EXPECT_EQ(encode_status_message(" plain ~ text!"), " plain ~ text!");
    EXPECT_EQ(encode_status_message("100%"), "100%25");
    EXPECT_EQ(encode_status_message("a\r\n\tb\x7f"), "a%0D%0A%09b%7F");
    EXPECT_EQ(encode_status_message("\xc3\xbc\xe6\x97\xa5\xf0\x9f\x99\x82"), "%C3%BC%E6%97%A5%F0%9F%99%82");
}

TEST(EncodeStatusMessage, ReplacesWhatIsNoUtf8) {
    EXPECT_EQ(encode_status_message("a\xff"
                                    "b"),
              "a%EF%BF%BDb");
    for (const char* bad :
         {"\xc3", "\x80", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe0\x80\x80", "\xf5\x80\x80\x80"}) {
        EXPECT_TRUE(encode_status_message(bad).starts_with("%EF%BF%BD")) << bad;
    }
}

TEST(EncodeStatusMessage, CutsLongMessagesAtTheEndOfACharacter) {
    const std::string most(kMaxStatusMessage, 'x');
    EXPECT_EQ(encode_status_message(most), most);
    EXPECT_EQ(encode_status_message(most + "x"), std::string(kMaxStatusMessage - 3, 'x') + "...");
    std::string wide;
    for (int i = 0; i < 2000; ++i) wide += "\xc3\xbc";
    const std::string cut = encode_status_message(wide);
    EXPECT_EQ(cut.size(), (kMaxStatusMessage - 3) / 6 * 6 + 3);
    EXPECT_TRUE(cut.ends_with("%C3%BC..."));
}

TEST(DecodeBase64, TakesPaddedAndNot) {
    EXPECT_EQ(decode_base64(""), "");
    EXPECT_EQ(decode_base64("YQ=="), "a");
    EXPECT_EQ(decode_base64("YQ"), "a");
    EXPECT_EQ(decode_base64("YWI="), "ab");
    EXPECT_EQ(decode_base64("YWJj"), "abc");
    EXPECT_EQ(decode_base64("/+8"), "\xff\xef");
    for (const char* bad : {"Y", "Y===", "YQ=", "Y!", "=", "Y=Q=", "YQ==YQ=="}) {
        EXPECT_EQ(decode_base64(bad), std::nullopt) << bad;
    }
}

TEST(AppendMetadata, SplitsAndDecodesBinaryValues) {
    Metadata metadata;
    append_metadata(metadata, "x-note", " a,b ");
    append_metadata(metadata, "x-data-bin", "YQ==,YWI, !!,");
    const Metadata expected{{"x-note", "a,b"}, {"x-data-bin", "a"}, {"x-data-bin", "ab"}, {"x-data-bin", ""}};
    EXPECT_EQ(metadata, expected);
}

}  // namespace
}  // namespace anyserve
