// `anyserve.framing` of the reference.
#include "anyserve/framing.hpp"

#include <nanobind/nanobind.h>

#include <algorithm>
#include <cstring>

#include "bindings.hpp"
#include "text.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace anyserve {
namespace {

struct FrameTooLong {
    std::string message;

    FrameTooLong(std::uint64_t length, std::uint64_t limit)
        : message("a frame of " + std::to_string(length) + " bytes is above the limit of " + std::to_string(limit)) {}
};

/// A `FrameReader` that goes on refusing once it has refused a length.
class FrameDecoder {
public:
    explicit FrameDecoder(std::size_t limit) : limit_(limit), reader_(limit) {}

    /// The payloads that `data` completes. `by_room`: what belongs there comes by the reader's room, as from a socket.
    nb::list feed(const nb::bytes& data, bool by_room) {
        if (refused_) throw refusal();
        std::string_view bytes(data.c_str(), data.size());
        std::size_t in_room = 0;
        if (by_room) {
            const auto room = reader_.room();
            in_room = std::min(room.size(), bytes.size());
            std::copy_n(bytes.data(), in_room, room.data());
            bytes.remove_prefix(in_room);
        }
        std::vector<std::string> frames;
        refused_ = !reader_.take(in_room, bytes, frames);
        if (refused_) throw refusal();
        nb::list payloads;
        for (const std::string& frame : frames) payloads.append(nb::bytes(frame.data(), frame.size()));
        return payloads;
    }

    bool unfinished() const noexcept { return reader_.unfinished(); }

private:
    Raised<FrameTooLong> refusal() const { return Raised(FrameTooLong(reader_.refused_length(), limit_)); }

    std::size_t limit_;
    FrameReader reader_;
    bool refused_ = false;
};

nb::bytes encode_header(std::uint64_t length) {
    if (length > kMaxFrameLength) throw Raised(FrameTooLong(length, kMaxFrameLength));
    const auto header = frame_header(static_cast<std::uint32_t>(length));
    return nb::bytes(header.data(), header.size());
}

}  // namespace

void init_framing(nb::module_& m) {
    nb::exception<Raised<FrameTooLong>>(m, "FrameTooLong", PyExc_ValueError);
    nb::class_<FrameDecoder>(m, "FrameDecoder")
        .def(nb::init<std::size_t>(), "limit"_a)
        .def("feed", &FrameDecoder::feed, "data"_a, "by_room"_a = false)
        .def_prop_ro("unfinished", &FrameDecoder::unfinished);
    m.def("encode_header", &encode_header);
}

}  // namespace anyserve
