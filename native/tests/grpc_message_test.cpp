#include "anyserve/grpc_message.hpp"

#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <string>
#include <vector>

namespace anyserve {
namespace {

constexpr std::size_t kLimit = 1000;

struct Reading {
    std::vector<std::string> messages;
    std::optional<Code> error;
    bool inside = false;

    bool operator==(const Reading&) const = default;
};

/// Reads `bytes` in the pieces that end at `cuts`.
Reading read(std::string_view bytes, std::vector<std::size_t> cuts = {}, Encoding encoding = Encoding::identity) {
    MessageReader reader(kLimit, encoding);
    Reading reading;
    cuts.push_back(bytes.size());
    std::size_t begin = 0;
    for (const std::size_t cut : cuts) {
        std::string_view piece = bytes.substr(begin, cut - begin);
        begin = cut;
        for (;;) {
            const MessageReader::Step step = reader.feed(piece);
            piece.remove_prefix(step.taken);
            if (step.event == MessageReader::Event::message) reading.messages.push_back(reader.take().take());
            if (step.event == MessageReader::Event::more) break;
            if (step.event == MessageReader::Event::error) {
                reading.error = reader.error().code;
                EXPECT_FALSE(reader.error().text.empty());
                return reading;
            }
        }
        EXPECT_TRUE(piece.empty());
    }
    reading.inside = reader.inside();
    return reading;
}

std::string framed(std::string_view message, char flag = 0) {
    const auto prefix = message_prefix(message.size());
    std::string out(prefix.begin(), prefix.end());
    out[0] = flag;
    return out.append(message);
}

std::string compressed(std::string_view plain, int window_bits) {
    z_stream stream{};
    EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY), Z_OK);
    std::string out(plain.size() + 1000, '\0');
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(plain.data()));
    stream.avail_in = static_cast<uInt>(plain.size());
    stream.next_out = reinterpret_cast<Bytef*>(out.data());
    stream.avail_out = static_cast<uInt>(out.size());
    EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
    out.resize(stream.total_out);
    deflateEnd(&stream);
    return out;
}

constexpr int kGzip = 15 + 16;
constexpr int kZlib = 15;

TEST(MessageReader, ReadsMessagesCutAnywhere) {
    const std::string bytes = framed("") + framed("a") + framed("") + framed(std::string(300, 'b'));
    const Reading whole{{"", "a", "", std::string(300, 'b')}, std::nullopt, false};
    EXPECT_EQ(read(bytes), whole);
    for (std::size_t first = 0; first <= bytes.size(); ++first) {
        EXPECT_EQ(read(bytes, {first}), whole) << "cut at " << first;
        for (std::size_t second = first; second <= std::min(bytes.size(), first + 20); ++second) {
            EXPECT_EQ(read(bytes, {first, second}), whole) << "cut at " << first << " and " << second;
        }
    }
    std::vector<std::size_t> everywhere;
    for (std::size_t cut = 1; cut < bytes.size(); ++cut) everywhere.push_back(cut);
    EXPECT_EQ(read(bytes, everywhere), whole);
}

TEST(MessageReader, KnowsWhetherAnEndCutsAMessage) {
    const std::string bytes = framed("message");
    EXPECT_FALSE(read("").inside);
    for (std::size_t size = 1; size < bytes.size(); ++size) EXPECT_TRUE(read(bytes.substr(0, size)).inside) << size;
    EXPECT_FALSE(read(bytes).inside);
}

TEST(MessageReader, TakesAMessageOfTheLimitAndNoneAboveIt) {
    EXPECT_EQ(read(framed(std::string(kLimit, 'x'))).messages.size(), 1u);
    EXPECT_EQ(read(framed(std::string(kLimit + 1, 'x'))).error, Code::resource_exhausted);
    EXPECT_EQ(read(std::string_view("\0\xff\xff\xff\xff", 5)).error, Code::resource_exhausted) << "at the prefix";
}

TEST(MessageReader, RefusesUnknownFlags) {
    for (int flag = 2; flag < 256; ++flag) EXPECT_EQ(read(framed("x", static_cast<char>(flag))).error, Code::internal);
}

TEST(MessageReader, RefusesCompressionThatTheCallDoesNotName) {
    const std::string bytes = framed(compressed("x", kGzip), 1);
    EXPECT_EQ(read(bytes, {}, Encoding::identity).error, Code::internal);
    EXPECT_EQ(read(bytes, {}, Encoding::unknown).error, Code::unimplemented);
    EXPECT_EQ(read(framed("plain"), {}, Encoding::unknown).messages, std::vector<std::string>{"plain"});
}

TEST(MessageReader, DecompressesEachMessageByItsFlag) {
    for (const auto& [encoding, bits] : {std::pair{Encoding::gzip, kGzip}, std::pair{Encoding::deflate, kZlib}}) {
        const std::string bytes =
            framed(compressed("one", bits), 1) + framed("two") + framed(compressed(std::string(900, '3'), bits), 1);
        EXPECT_EQ(read(bytes, {}, encoding).messages, (std::vector<std::string>{"one", "two", std::string(900, '3')}));
    }
}

TEST(MessageReader, DecompressesUpToTheLimit) {
    EXPECT_EQ(read(framed(compressed("", kGzip), 1), {}, Encoding::gzip).messages, std::vector<std::string>{""});
    const std::string most(kLimit, 'x');
    EXPECT_EQ(read(framed(compressed(most, kGzip), 1), {}, Encoding::gzip).messages, std::vector<std::string>{most});
    const std::string bomb = framed(compressed(most + "x", kGzip), 1);
    EXPECT_EQ(read(bomb, {}, Encoding::gzip).error, Code::resource_exhausted);
    const std::string large = framed(compressed(std::string(100'000, 'x'), kGzip), 1);
    EXPECT_EQ(read(large, {}, Encoding::gzip).error, Code::resource_exhausted);
}

TEST(MessageReader, RefusesWhatCannotBeDecompressed) {
    const std::string whole = compressed("some text", kGzip);
    for (std::size_t size = 0; size < whole.size(); ++size) {
        EXPECT_EQ(read(framed(whole.substr(0, size), 1), {}, Encoding::gzip).error, Code::internal) << size;
    }
    EXPECT_EQ(read(framed(whole + "more", 1), {}, Encoding::gzip).error, Code::internal);
    EXPECT_EQ(read(framed("no gzip at all", 1), {}, Encoding::gzip).error, Code::internal);
}

TEST(MessageReader, TakesNoMoreThanSomeAddressSpaceForWhatIsOnlyAnnounced) {
    MessageReader reader(std::size_t{1} << 30, Encoding::identity);
    EXPECT_EQ(reader.feed(std::string_view("\0\x40\0\0\0", 5)).event, MessageReader::Event::prefix);
    EXPECT_EQ(reader.announced(), std::size_t{1} << 30);
    EXPECT_EQ(reader.feed("x").event, MessageReader::Event::more);
    EXPECT_LE(reader.take().take().capacity(), std::size_t{64} << 20);
}

TEST(MessageReader, PutsLargeMessagesIntoSharedMemoryWhereAWorkerTakesIt) {
    const auto pool = SharedMemoryPool::create({});
    const std::string large(std::size_t{1} << 20, 'x');
    const auto read_one = [&](char flag, const std::string& body, Encoding encoding) {
        MessageReader reader(std::size_t{4} << 20, encoding, pool.get());
        const std::string bytes = framed(body, flag);
        std::string_view rest = bytes;
        for (;;) {
            const MessageReader::Step step = reader.feed(rest.substr(0, 10'000));
            rest.remove_prefix(step.taken);
            if (step.event == MessageReader::Event::message) return reader.take();
        }
    };
    EXPECT_EQ(read_one(0, large, Encoding::identity).shared(), nullptr) << "nobody takes it";
    const auto taker = pool->taker();
    const Payload payload = read_one(0, large, Encoding::identity);
    EXPECT_NE(payload.shared(), nullptr);
    EXPECT_EQ(payload.view(), large);
    EXPECT_EQ(read_one(0, "small", Encoding::identity).shared(), nullptr);
}

TEST(ParseEncoding, KnowsItsNames) {
    EXPECT_EQ(parse_encoding(""), Encoding::identity);
    EXPECT_EQ(parse_encoding("identity"), Encoding::identity);
    EXPECT_EQ(parse_encoding("gzip"), Encoding::gzip);
    EXPECT_EQ(parse_encoding("deflate"), Encoding::deflate);
    EXPECT_EQ(parse_encoding("GZIP"), Encoding::unknown);
}

}  // namespace
}  // namespace anyserve
