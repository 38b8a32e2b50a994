#include "handler_table.hpp"

#include <string_view>
#include <variant>

#include "anyserve/wire.hpp"

namespace anyserve {
namespace {

std::string name_key(std::string_view name, std::string_view version) {
    std::string key(name);
    key += '\0';
    return key += version;
}

}  // namespace

HandlerTable::HandlerTable(std::vector<Served> served) : served_(std::move(served)) {
    for (std::size_t number = 0; number < served_.size(); ++number) {
        by_capability_.emplace(served_[number].capability, number);
        // As in a dictionary that is written in this order: the last of several counts.
        by_name_.insert_or_assign(name_key(served_[number].model_name, served_[number].model_version), number);
    }
}

std::optional<std::size_t> HandlerTable::find(const MessageHead& head) const {
    const auto found_in = [](const auto& map, const std::string& key) -> std::optional<std::size_t> {
        const auto found = map.find(key);
        return found == map.end() ? std::nullopt : std::optional(found->second);
    };
    const Parameter* chosen = head.parameter(wire::kCapability);
    if (const auto* text = chosen != nullptr ? std::get_if<std::string_view>(chosen) : nullptr) {
        return found_in(by_capability_, std::string(*text));
    }
    // An agent that does not say which registration it chose.
    const auto by_name = found_in(by_name_, name_key(head.model_name, head.model_version));
    if (by_name || served_.size() != 1) return by_name;
    return 0;
}

}  // namespace anyserve
