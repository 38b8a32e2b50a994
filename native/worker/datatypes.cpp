#include "datatypes.hpp"

#include <algorithm>
#include <array>
#include <limits>

namespace anyserve {
namespace {

// Mirrors `_LAYOUTS` of reference/anyserve/tensors.py.
constexpr std::array<Datatype, 14> kDatatypes{{
    {"BOOL", 1, 1},
    {"INT8", 1, 2},
    {"INT16", 2, 2},
    {"INT32", 4, 2},
    {"INT64", 8, 3},
    {"UINT8", 1, 4},
    {"UINT16", 2, 4},
    {"UINT32", 4, 4},
    {"UINT64", 8, 5},
    {"FP16", 2, 0},
    {"BF16", 2, 0},
    {"FP32", 4, 6},
    {"FP64", 8, 7},
    {"BYTES", 0, 8},
}};

}  // namespace

const Datatype* find_datatype(std::string_view name) noexcept {
    const auto* found = std::ranges::find(kDatatypes, name, &Datatype::name);
    return found == kDatatypes.end() ? nullptr : found;
}

std::optional<std::size_t> element_count(std::span<const std::int64_t> shape, std::size_t element_bytes) noexcept {
    // A zero makes all others harmless, wherever it stands.
    const bool none = std::ranges::find(shape, 0) != shape.end();
    std::size_t most = std::numeric_limits<std::ptrdiff_t>::max() / std::max<std::size_t>(element_bytes, 1);
    std::size_t count = 1;
    for (const std::int64_t size : shape) {
        if (size < 0) return std::nullopt;
        if (none) continue;
        const auto factor = static_cast<std::size_t>(size);
        if (factor > most) return std::nullopt;
        most /= factor;
        count *= factor;
    }
    return none ? 0 : count;
}

std::string shape_text(std::span<const std::int64_t> shape) {
    std::string text = "[";
    for (const std::int64_t size : shape) {
        if (text.size() > 1) text += ", ";
        text += std::to_string(size);
    }
    return text += ']';
}

}  // namespace anyserve
