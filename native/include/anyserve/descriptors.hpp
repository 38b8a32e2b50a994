// The descriptors that reflection tells, embedded by the build: ${BUILD}/descriptors.cpp, which embed_descriptors.py
// makes of proto/*.proto.
#pragma once

#include <string_view>

namespace anyserve {

/// A serialized FileDescriptorSet: the files of the client port's services, none of which imports another.
[[nodiscard]] std::string_view descriptor_set() noexcept;

}  // namespace anyserve
