// The datatypes of KServe v2: how large an element is, and how many a shape has. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace anyserve {

/// A datatype of the protocol.
struct Datatype {
    std::string_view name;
    std::size_t bytes;          ///< of an element in raw form; 0: each has a length of its own (BYTES)
    std::uint32_t typed_field;  ///< of InferTensorContents; 0: there is only the raw form
};

/// Null: the protocol has no such datatype.
[[nodiscard]] const Datatype* find_datatype(std::string_view name) noexcept;

/// The number of elements; nothing if a size is negative, or `element_bytes` times as many are more than memory has.
[[nodiscard]] std::optional<std::size_t> element_count(std::span<const std::int64_t> shape,
                                                       std::size_t element_bytes) noexcept;

/// `[2, -1]`
[[nodiscard]] std::string shape_text(std::span<const std::int64_t> shape);

}  // namespace anyserve
