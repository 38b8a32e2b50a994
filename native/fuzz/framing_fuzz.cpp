// Any bytes as a stream of frames: however they are cut, the reader gives what an obvious one gives.
//
// The first two bytes are the limit, the third says in how large pieces the rest comes.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "anyserve/framing.hpp"
#include "require.hpp"

namespace {

using anyserve::frame_header;
using anyserve::FrameReader;
using anyserve::kFrameHeaderBytes;
using anyserve::fuzz::require;

struct Reading {
    std::vector<std::string> frames;
    bool fits = true;
    bool unfinished = false;

    bool operator==(const Reading&) const = default;
};

/// The obvious reader, which has all bytes at once; `end` is where the last whole frame does.
Reading obvious(std::string_view bytes, std::size_t limit, std::size_t& end) {
    Reading reading;
    end = 0;
    while (bytes.size() - end >= kFrameHeaderBytes) {
        std::size_t length = 0;
        for (std::size_t i = 0; i < kFrameHeaderBytes; ++i) {
            length = length << 8 | static_cast<unsigned char>(bytes[end + i]);
        }
        reading.fits = length <= limit;
        if (!reading.fits || bytes.size() - end - kFrameHeaderBytes < length) break;
        reading.frames.emplace_back(bytes.substr(end + kFrameHeaderBytes, length));
        end += kFrameHeaderBytes + length;
    }
    reading.unfinished = end < bytes.size();
    return reading;
}

Reading in_pieces(std::string_view bytes, std::size_t limit, std::size_t piece) {
    FrameReader reader(limit);
    Reading reading;
    for (std::size_t begin = 0; begin < bytes.size() && reading.fits; begin += piece) {
        reading.fits = reader.take(bytes.substr(begin, piece), reading.frames);
    }
    reading.unfinished = reader.unfinished();
    return reading;
}

/// As a socket is read: into the room, and what is behind it from elsewhere.
Reading with_room(std::string_view bytes, std::size_t limit, std::size_t piece) {
    FrameReader reader(limit);
    Reading reading;
    while (!bytes.empty() && reading.fits) {
        const auto room = reader.room();
        require(room.size() <= FrameReader::kRoomBytes);
        const std::string_view got = bytes.substr(0, piece);
        const std::size_t in_room = std::min(room.size(), got.size());
        std::copy_n(got.data(), in_room, room.data());
        reading.fits = reader.take(in_room, got.substr(in_room), reading.frames);
        bytes.remove_prefix(got.size());
    }
    reading.unfinished = reader.unfinished();
    return reading;
}

/// What comes of a stream where a frame may be by reference, with as many bytes in a room as the limit allows.
struct Placed {
    Reading reading;
    std::optional<std::uint64_t> bytes;

    bool operator==(const Placed&) const = default;
};

Placed by_reference(std::string_view bytes, std::size_t limit, std::size_t piece) {
    FrameReader reader(limit);
    reader.offer_room(limit);
    Placed found;
    for (std::size_t begin = 0; begin < bytes.size() && found.reading.fits; begin += piece) {
        found.reading.fits = reader.take(bytes.substr(begin, piece), found.reading.frames);
    }
    found.reading.unfinished = reader.unfinished();
    found.bytes = reader.placed();
    require(found.bytes.value_or(0) <= limit);
    return found;
}

std::string written(const std::vector<std::string>& frames) {
    std::string bytes;
    for (const std::string& frame : frames) {
        const auto header = frame_header(static_cast<std::uint32_t>(frame.size()));
        bytes.append(header.data(), header.size());
        bytes += frame;
    }
    return bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 3) return 0;
    const std::size_t limit = std::size_t{data[0]} << 8 | data[1];
    const std::size_t piece = std::size_t{data[2]} + 1;
    const std::string_view bytes(reinterpret_cast<const char*>(data) + 3, size - 3);
    std::size_t end = 0;
    const Reading wanted = obvious(bytes, limit, end);
    for (const std::size_t each : {std::size_t{1}, piece, size}) {
        require(in_pieces(bytes, limit, each) == wanted);
        require(with_room(bytes, limit, each) == wanted);
    }
    const Placed placed = by_reference(bytes, limit, size);
    require(by_reference(bytes, limit, 1) == placed && by_reference(bytes, limit, piece) == placed);
    // A length above the limit is known as soon as it has come (`frame.length.limit`).
    if (!wanted.fits) require(!in_pieces(bytes.substr(0, end + kFrameHeaderBytes), limit, piece).fits);
    require(written(wanted.frames) == bytes.substr(0, end));
    return 0;
}
