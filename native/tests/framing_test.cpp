#include "anyserve/framing.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "vectors.hpp"

namespace anyserve {
namespace {

struct Read {
    std::vector<std::string> frames;
    bool fits = true;
    std::size_t taken = 0;  // bytes when a violation was known

    void take(FrameReader& reader, std::string_view bytes) {
        if (!fits) return;
        taken += bytes.size();
        fits = reader.take(bytes, frames);
    }
    /// As a socket is read: into the room, and at most `behind` bytes beyond it.
    void read_straight(FrameReader& reader, std::string_view bytes, std::size_t behind) {
        while (fits && !bytes.empty()) {
            const auto room = reader.room();
            const std::size_t in_room = std::min(room.size(), bytes.size());
            std::copy_n(bytes.data(), in_room, room.data());
            const std::size_t size = std::min(bytes.size(), in_room + behind);
            taken += size;
            fits = reader.take(in_room, bytes.substr(in_room, size - in_room), frames);
            bytes.remove_prefix(size);
        }
    }
};

/// Feeds more behind the bytes of a vector.
void go_on(FrameReader& reader, const std::string& state, std::size_t needs) {
    constexpr std::size_t too_many = std::size_t{1} << 20;
    if (needs > too_many) return;
    Read rest;
    if (needs > 0) {
        rest.take(reader, std::string(needs - 1, '\0'));
        EXPECT_TRUE(rest.frames.empty() && rest.fits && reader.unfinished());
        rest.take(reader, std::string_view("\0", 1));
        EXPECT_TRUE(rest.fits);
        // The last byte of a payload ends a frame. That of a length does so if the length is 0, as these may be or not.
        EXPECT_TRUE(state != "in-payload" || rest.frames.size() == 1);
    }
    if (reader.unfinished()) return;
    rest.frames.clear();
    rest.take(reader, std::string(kFrameHeaderBytes, '\0'));
    EXPECT_EQ(rest.frames, std::vector<std::string>{""});
}

TEST(FrameReaderVectors, AllOfThemInEverySplit) {
    for (const auto& vector : vectors::load("frames.json")) {
        SCOPED_TRACE(vector.at("name").get<std::string>());
        const std::string bytes = vectors::bytes_of(vector.at("bytes"));
        std::vector<std::string> payloads;
        for (const auto& payload : vector.at("payloads")) payloads.push_back(vectors::bytes_of(payload));
        const std::string state = vector.at("state");
        const auto limit = vector.at("limit").get<std::size_t>();
        const auto check = [&](const FrameReader& reader, const Read& read) {
            ASSERT_EQ(read.fits, state != "violation");
            if (read.fits) {
                EXPECT_EQ(read.frames, payloads);
                EXPECT_EQ(reader.unfinished(), state != "complete");
            } else {
                EXPECT_LE(read.frames.size(), payloads.size());
                EXPECT_TRUE(reader.unfinished());
            }
        };
        // Everywhere, but for vectors of megabytes.
        const std::size_t step = bytes.size() <= 4096 ? 1 : bytes.size() / 7;
        for (std::size_t cut = 0; cut <= bytes.size(); cut += step) {
            FrameReader reader(limit);
            Read read;
            read.take(reader, std::string_view(bytes).substr(0, cut));
            read.take(reader, std::string_view(bytes).substr(cut));
            check(reader, read);
        }
        FrameReader reader(limit);
        Read one_by_one;
        for (const char& byte : bytes) one_by_one.take(reader, {&byte, 1});
        check(reader, one_by_one);
        if (vector.contains("violation_at")) {
            EXPECT_EQ(one_by_one.taken, vector.at("violation_at").get<std::size_t>());
        }
        for (const std::size_t behind : {1U, 3U, 4U, 5U, 64U, 1U << 20}) {
            FrameReader straight_reader(limit);
            Read straight;
            straight.read_straight(straight_reader, bytes, behind);
            check(straight_reader, straight);
        }
        if (one_by_one.fits) go_on(reader, state, vector.value("needs", std::size_t{0}));
    }
}

TEST(SharedVectors, RequestsByReference) {
    for (const auto& vector : vectors::load("shared.json")) {
        if (vector.at("kind") != "request") continue;
        SCOPED_TRACE(vector.at("name").get<std::string>());
        const std::string in_line = vectors::bytes_of(vector.at("inline"));
        const auto header =
            reference_header(static_cast<std::uint32_t>(in_line.size()), vector.at("body"), vector.at("room"));
        EXPECT_EQ(std::string(header.data(), header.size()) + in_line, vectors::bytes_of(vector.at("frame")));
    }
}

TEST(SharedVectors, RepliesByReferenceInEverySplit) {
    for (const auto& vector : vectors::load("shared.json")) {
        if (vector.at("kind") != "reply") continue;
        SCOPED_TRACE(vector.at("name").get<std::string>());
        const std::string bytes = vectors::bytes_of(vector.at("bytes"));
        for (std::size_t cut = 0; cut <= bytes.size(); ++cut) {
            FrameReader reader(vector.at("limit").get<std::size_t>());
            reader.offer_room(vector.at("room"));
            Read read;
            read.take(reader, std::string_view(bytes).substr(0, cut));
            read.take(reader, std::string_view(bytes).substr(cut));
            EXPECT_EQ(read.fits, !vector.contains("refused"));
            if (!read.fits) continue;
            EXPECT_EQ(read.frames, std::vector<std::string>{vectors::bytes_of(vector.at("inline"))});
            EXPECT_EQ(reader.placed(), vector.at("placed").get<std::uint64_t>());
            EXPECT_FALSE(reader.unfinished());
            read.take(reader, std::string("\xff\xff\xff\xff", 4));
            EXPECT_FALSE(read.fits) << "the room was for one reply";
        }
    }
}

TEST(FrameReader, MemoryFollowsWhatHasComeNotWhatWasSaid) {
    FrameReader reader(std::size_t{64} << 20);
    std::vector<std::string> frames;
    ASSERT_TRUE(reader.take(std::string("\x04\0\0\0", 4) + "abc", frames));
    EXPECT_EQ(reader.room().size(), FrameReader::kRoomBytes);
    EXPECT_TRUE(reader.take(10, {}, frames));
    EXPECT_EQ(reader.room().size(), FrameReader::kRoomBytes);
}

TEST(FrameReader, FieldsBehindAFrameDoNotMoveIt) {
    for (const std::size_t size : {std::size_t{100}, 2 * FrameReader::kRoomBytes}) {
        FrameReader reader(size);
        std::vector<std::string> frames;
        const auto header = frame_header(static_cast<std::uint32_t>(size));
        const std::string bytes = std::string(header.data(), header.size()) + std::string(size, 'x');
        ASSERT_TRUE(reader.take(std::string_view(bytes).substr(0, size / 2), frames));
        ASSERT_TRUE(reader.take(std::string_view(bytes).substr(size / 2), frames));
        ASSERT_TRUE(reader.take(bytes, frames));  // and at once
        for (std::string& frame : frames) {
            const char* before = frame.data();
            frame.append(100, 'f');
            EXPECT_EQ(frame.data(), before);
        }
    }
}

TEST(FrameReader, ABigFrameIsReadToWhereItStays) {
    std::string payload(3 * FrameReader::kRoomBytes + 17, '\0');
    for (std::size_t index = 0; index < payload.size(); ++index) payload[index] = static_cast<char>(index * 7 % 251);
    const auto header = frame_header(static_cast<std::uint32_t>(payload.size()));
    const std::string one = std::string(header.data(), header.size()) + payload;
    FrameReader reader(payload.size());
    Read read;
    read.read_straight(reader, one + one + one, 32768);
    EXPECT_EQ(read.frames, std::vector<std::string>(3, payload));
    EXPECT_FALSE(reader.unfinished());
}

}  // namespace
}  // namespace anyserve
