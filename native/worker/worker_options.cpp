#include <charconv>
#include <cmath>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "anyserve/worker.hpp"

namespace anyserve {
namespace {

/// A variable that is set to something.
const char* find(const char* name) {
    const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): documented as for the program's start
    return value != nullptr && *value != '\0' ? value : nullptr;
}

template <class Number>
Number number(const char* name, std::string_view text) {
    Number value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc() && end == text.data() + text.size()) return value;
    throw std::invalid_argument(std::string(name) + " is no number: " + std::string(text));
}

void read(const char* name, std::string& into) {
    if (const char* text = find(name)) into = text;
}

void read(const char* name, std::size_t& into) {
    if (const char* text = find(name)) into = number<std::size_t>(name, text);
}

void read(const char* name, std::chrono::milliseconds& into) {
    const char* text = find(name);
    if (text == nullptr) return;
    constexpr double most = 1e9;  // thirty years
    const auto seconds = number<double>(name, text);
    if (!(seconds >= 0 && seconds <= most))
        throw std::invalid_argument(std::string(name) + " is out of range: " + text);
    into = std::chrono::milliseconds(std::llround(seconds * 1000));
}

}  // namespace

inline namespace v1 {

WorkerOptions WorkerOptions::from_environment() {
    WorkerOptions options;
    read("ANYSERVE_WORKER_ID", options.worker_id);
    read("ANYSERVE_SOCKET_DIR", options.socket_dir);
    read("ANYSERVE_MANAGEMENT", options.management);
    read("ANYSERVE_MANAGEMENT_TOKEN", options.management_token);
    read("ANYSERVE_MAX_MESSAGE_BYTES", options.max_message_bytes);
    read("ANYSERVE_HEARTBEAT_INTERVAL", options.heartbeat_interval);
    read("ANYSERVE_ORPHAN_TIMEOUT", options.orphan_timeout);
    read("ANYSERVE_GRACE", options.grace);
    return options;
}

}  // namespace v1
}  // namespace anyserve
