#include "anyserve/capability.hpp"

#include <algorithm>
#include <optional>

#include "anyserve/capability_text.hpp"
#include "anyserve/utf8.hpp"

namespace anyserve {
namespace {

std::optional<InvalidCapability> check_item(const Capability::Item& item) {
    const auto& [key, value] = item;
    if (!is_capability_key(key)) {
        return InvalidCapability{"capability key " + in_quotes(key) +
                                 " must match [a-z0-9][a-z0-9_.-]*, not end in -bin, and have at most " +
                                 std::to_string(kMaxCapabilityKeyLength) + " characters"};
    }
    const auto length = count_characters(value);
    if (!length || *length < 1 || *length > kMaxCapabilityValueLength || has_control(value)) {
        return InvalidCapability{"the value of capability key " + in_quotes(key) + " must have 1 to " +
                                 std::to_string(kMaxCapabilityValueLength) + " characters, none of them control"};
    }
    return std::nullopt;
}

/// Sorts by key and keeps the last of those with the same.
void sort_by_key(std::vector<Capability::Item>& items) {
    const auto same_key = [](const auto& a, const auto& b) { return a.first == b.first; };
    std::stable_sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    items.erase(items.begin(), std::unique(items.rbegin(), items.rend(), same_key).base());
}

}  // namespace

std::variant<Capability, InvalidCapability> Capability::make(std::vector<Item> items) {
    sort_by_key(items);
    if (items.size() > kMaxCapabilityKeys) {
        return InvalidCapability{"a capability has at most " + std::to_string(kMaxCapabilityKeys) + " keys, got " +
                                 std::to_string(items.size())};
    }
    for (const Item& item : items) {
        if (auto invalid = check_item(item)) return *std::move(invalid);
    }
    return Capability(std::move(items));
}

std::variant<Capability, InvalidCapability> Capability::decode(std::string_view encoded) {
    std::vector<Item> items;
    for (bool more = !encoded.empty(); more;) {
        const std::size_t comma = encoded.find(',');
        const std::string_view part = encoded.substr(0, comma);
        more = comma != std::string_view::npos;
        encoded.remove_prefix(more ? comma + 1 : encoded.size());

        const std::size_t equals = part.find('=');
        if (equals == std::string_view::npos) return InvalidCapability{in_quotes(part) + " is not key=value"};
        auto key = percent_decoded(part.substr(0, equals));
        auto value = percent_decoded(part.substr(equals + 1));
        for (auto* text : {&key, &value}) {
            if (auto* bad = std::get_if<BadText>(text)) return InvalidCapability{std::move(bad->message)};
        }
        items.emplace_back(std::get<std::string>(std::move(key)), std::get<std::string>(std::move(value)));
        const auto& added = items.back().first;
        if (std::any_of(items.begin(), items.end() - 1, [&](const Item& item) { return item.first == added; })) {
            return InvalidCapability{"key " + in_quotes(added) + " stands twice"};
        }
        if (items.size() > kMaxCapabilityKeys) break;  // `make` refuses it; what is behind costs nothing more
    }
    return make(std::move(items));
}

Capability::Capability(std::vector<Item> sorted) : items_(std::move(sorted)) {
    for (const auto& [key, value] : items_) {
        if (!encoded_.empty()) encoded_ += ',';
        encoded_ += key;  // keys have none but unreserved characters
        encoded_ += '=';
        append_percent_encoded(encoded_, value);
    }
}

std::string_view Capability::get(std::string_view key) const noexcept {
    const auto found = std::lower_bound(items_.begin(), items_.end(), key,
                                        [](const Item& item, std::string_view wanted) { return item.first < wanted; });
    return found != items_.end() && found->first == key ? std::string_view(found->second) : std::string_view();
}

std::string Capability::text() const {
    std::string text = "{";
    for (const auto& [key, value] : items_) {
        if (text.size() > 1) text += ", ";
        text.append(key).append(": ").append(value);
    }
    return text + "}";
}

}  // namespace anyserve
