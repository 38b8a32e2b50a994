// Any bytes as a request's body: however they are cut, the reader says the same, and never more than its limit.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "anyserve/grpc_message.hpp"

namespace {

constexpr std::size_t kLimit = 5'000;

struct Reading {
    std::vector<std::string> messages;
    int error = 0;
    bool inside = false;

    bool operator==(const Reading&) const = default;
};

Reading read(std::string_view bytes, std::size_t piece, anyserve::Encoding encoding) {
    using Event = anyserve::MessageReader::Event;
    anyserve::MessageReader reader(kLimit, encoding);
    Reading reading;
    for (std::size_t begin = 0; begin < bytes.size(); begin += piece) {
        std::string_view rest = bytes.substr(begin, piece);
        for (Event event = Event::prefix; event != Event::more;) {
            const auto step = reader.feed(rest);
            rest.remove_prefix(step.taken);
            event = step.event;
            if (event == Event::message) {
                reading.messages.push_back(reader.take().take());
                if (reading.messages.back().size() > kLimit) std::abort();
            }
            if (event == Event::error) {
                reading.error = static_cast<int>(reader.error().code);
                return reading;
            }
        }
        if (!rest.empty()) std::abort();
    }
    reading.inside = reader.inside();
    return reading;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 2) return 0;
    const auto encoding = static_cast<anyserve::Encoding>(data[0] % 4);
    const std::size_t piece = std::size_t{data[1]} % 32 + 1;
    const std::string_view bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
    if (read(bytes, piece, encoding) != read(bytes, std::max<std::size_t>(bytes.size(), 1), encoding)) std::abort();
    return 0;
}
