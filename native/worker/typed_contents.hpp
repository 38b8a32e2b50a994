// Tensors that come in typed form (`InferTensorContents`), written in raw form: one form for all handlers. Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "datatypes.hpp"

namespace anyserve {

/// The elements of an InferTensorContents as `raw_input_contents` would have them; nothing if it is malformed, has
/// elements of another field, or one that does not fit the datatype.
[[nodiscard]] std::optional<std::string> raw_contents(const Datatype& datatype, std::string_view contents);

}  // namespace anyserve
