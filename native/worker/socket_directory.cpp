#include "socket_directory.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <system_error>

#include "anyserve/wire.hpp"

namespace anyserve {
namespace {

constexpr std::size_t kFileBytes = 70;  // of a slash, the longest worker id and `.sock`

[[noreturn]] void refuse(const std::string& message) { throw std::runtime_error(message); }

}  // namespace

std::string default_socket_directory() {
    const char* runtime = std::getenv("XDG_RUNTIME_DIR");  // NOLINT(concurrency-mt-unsafe): before there are threads
    if (runtime != nullptr && *runtime != '\0') return std::string(runtime) + "/anyserve";
    return "/tmp/anyserve-" + std::to_string(getuid());
}

std::string prepare_socket_directory(const std::string& given) {
    std::error_code error;
    const std::string path = std::filesystem::absolute(given, error).lexically_normal().string();
    if (path.size() + kFileBytes > wire::kMaxSocketPath) {
        refuse("socket directory " + path + " is " + std::to_string(path.size() + kFileBytes - wire::kMaxSocketPath) +
               " bytes too long for Unix sockets: choose a shorter one");
    }
    std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
    struct stat found {};
    if ((mkdir(path.c_str(), S_IRWXU) != 0 && errno != EEXIST) || lstat(path.c_str(), &found) != 0) {
        refuse("cannot create the socket directory " + path + ": " + std::generic_category().message(errno));
    }
    if (!S_ISDIR(found.st_mode)) refuse(path + " is not a directory: choose another for sockets");
    if (found.st_uid != getuid()) {
        refuse(path + " belongs to uid " + std::to_string(found.st_uid) + ": choose another for sockets");
    }
    if ((found.st_mode & (S_IRWXG | S_IRWXO)) != 0)
        refuse(path + " is open to other users: run `chmod 700 " + path + "`");
    return path;
}

}  // namespace anyserve
