// What a fuzz target says that it takes for granted.
#pragma once

#include <cstdlib>

namespace anyserve::fuzz {

/// Ends the process, which tells the fuzzer that it has found something.
inline void require(bool holds) {
    if (!holds) std::abort();
}

}  // namespace anyserve::fuzz
