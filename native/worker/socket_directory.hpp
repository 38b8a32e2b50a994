// The private directory of the workers' sockets. Mirrors reference/anyserve/sockets.py.
#pragma once

#include <string>

namespace anyserve {

/// `$XDG_RUNTIME_DIR/anyserve`, or `/tmp/anyserve-UID`.
[[nodiscard]] std::string default_socket_directory();

/// Creates the directory if need be, and checks that it is ours alone (`lifecycle.worker.socket`). Returns its absolute
/// path. Throws std::runtime_error: it is no directory, not ours, open to others, or has too long a path.
[[nodiscard]] std::string prepare_socket_directory(const std::string& path);

}  // namespace anyserve
