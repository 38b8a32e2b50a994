// Which handler a request is for. Pure.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "anyserve/scan.hpp"

namespace anyserve {

/// What a worker serves: one registration, and how many of its handlers may run at once.
struct Served {
    std::string capability;  ///< encoded as the agent names it (`route.capability.encoding`)
    std::string model_name;
    std::string model_version;
    std::size_t places = 1;
    bool stream = false;
    bool in_threads = true;  ///< handler threads run it (`HandlerThreads`); else somebody else does
};

/// Finds handlers by what a request says (`frame.request.handler`).
class HandlerTable {
public:
    explicit HandlerTable(std::vector<Served> served);

    /// The number of the handler; nothing if none serves it.
    [[nodiscard]] std::optional<std::size_t> find(const MessageHead& head) const;

    [[nodiscard]] const Served& operator[](std::size_t number) const { return served_[number]; }
    [[nodiscard]] std::size_t size() const noexcept { return served_.size(); }

private:
    std::vector<Served> served_;
    std::unordered_map<std::string, std::size_t> by_capability_;
    std::unordered_map<std::string, std::size_t> by_name_;  // name, NUL, version
};

}  // namespace anyserve
