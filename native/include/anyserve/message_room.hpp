// Room for a message whose length is told before its bytes come.
#pragma once

#include <cstddef>
#include <string>

namespace anyserve {

/// So much is taken at once; longer messages are moved a few times as they grow. A length alone must not be able to
/// exhaust even the address space.
inline constexpr std::size_t kReservedBytes = std::size_t{64} << 20;
/// From here on in huge pages, where the kernel gives them to those who ask: a quarter less CPU for 16 MiB, four at
/// once.
inline constexpr std::size_t kHugeBytes = std::size_t{4} << 20;

/// Takes address space for the bytes of a message. Memory comes with them: of what is only announced a page, or a huge
/// one, which is no more than half of such a message.
void make_room(std::string& message, std::size_t bytes);

}  // namespace anyserve
