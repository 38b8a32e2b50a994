// What the core has to say to operators. Where it goes is decided outside: to Python's logging, or to standard error.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace anyserve {

enum class LogLevel { info = 20, warning = 30, error = 40 };

/// One line: a fixed message and what it is about, as `extra` in Python's logging.
struct LogRecord {
    LogLevel level;
    std::string_view message;
    std::vector<std::pair<std::string_view, std::string>> fields;
};

/// Called on the loop's thread; must neither block nor throw. Empty: nothing is logged.
using Log = std::function<void(const LogRecord&)>;

}  // namespace anyserve
