#include "anyserve/utf8.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

namespace anyserve {
namespace {

/// A code point as UTF-8 would write it, also those that it may not write, in `size` bytes.
std::string written(std::uint32_t code_point, std::size_t size) {
    if (size == 1) return {static_cast<char>(code_point)};
    std::string bytes(size, '\0');
    for (std::size_t i = size; i-- > 1; code_point >>= 6) bytes[i] = static_cast<char>(0x80 | (code_point & 0x3F));
    bytes[0] = static_cast<char>((0xFF00U >> size & 0xFF) | code_point);
    return bytes;
}

std::size_t shortest(std::uint32_t code_point) {
    return code_point < 0x80 ? 1 : code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
}

TEST(Utf8, TakesEachCharacterInItsShortestFormAlone) {
    for (std::uint32_t code_point = 0; code_point < 0x20'0000; ++code_point) {
        const bool character = code_point <= 0x10'FFFF && (code_point < 0xD800 || code_point > 0xDFFF);
        for (std::size_t size = shortest(code_point); size <= 4; ++size) {
            const std::string bytes = written(code_point, size);
            const bool good = character && size == shortest(code_point);
            ASSERT_EQ(is_utf8(bytes), good) << code_point << " in " << size;
            ASSERT_EQ(first_character(bytes), good ? size : 0) << code_point << " in " << size;
            ASSERT_TRUE(!good || character_length(bytes[0]) == size);
        }
    }
}

TEST(Utf8, RefusesStrayAndMissingBytesWhereverTheyStand) {
    const std::string euro = "\xe2\x82\xac";
    const std::vector<std::string> bad = {"\x80", "\xbf", "\xc2", "\xe2\x82", "\xf0\x9f\x98", "\xf8\x88\x80\x80\x80",
                                          "\xfe", "\xff"};
    for (std::size_t before = 0; before < 20; ++before) {
        for (const std::string& behind : {std::string(), std::string("a"), euro, std::string(17, 'z')}) {
            const std::string text = std::string(before, 'x') + euro + behind;
            EXPECT_TRUE(is_utf8(text));
            for (const std::string& bytes : bad) {
                EXPECT_FALSE(is_utf8(std::string(before, 'x') + bytes + behind)) << before << " " << behind;
                EXPECT_FALSE(is_utf8(text + bytes)) << before << " " << behind;
            }
        }
    }
}

TEST(Utf8, ReadsNothingBehindTheText) {
    const std::string_view cut = std::string_view("\xf0\x9f\x98\x80").substr(0, 3);
    EXPECT_EQ(first_character(cut), 0U);
    EXPECT_FALSE(is_utf8(cut));
}

TEST(CountCharacters, CountsCodePoints) {
    EXPECT_EQ(count_characters(""), 0U);
    EXPECT_EQ(count_characters(std::string(19, 'a')), 19U);
    EXPECT_EQ(count_characters("12345678a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"), 12U);
    EXPECT_EQ(count_characters("\xf4\x8f\xbf\xbf\xed\x9f\xbf\xee\x80\x80"), 3U);
    EXPECT_EQ(count_characters("a\xc3"), std::nullopt);
}

}  // namespace
}  // namespace anyserve
