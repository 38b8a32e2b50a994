// Any text as the value of `anyserve_capability`, and as a text that capabilities and queries are made of.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "anyserve/capability.hpp"
#include "anyserve/capability_text.hpp"
#include "anyserve/utf8.hpp"
#include "require.hpp"

namespace {

using namespace anyserve;
using fuzz::require;

void check_capability(std::string_view encoded) {
    const auto decoded = Capability::decode(encoded);
    if (const auto* invalid = std::get_if<InvalidCapability>(&decoded)) return require(!invalid->message.empty());
    const auto& capability = std::get<Capability>(decoded);
    require(capability.size() <= kMaxCapabilityKeys);
    for (const auto& [key, value] : capability.items()) {
        require(is_capability_key(key));
        require(!value.empty() && is_utf8(value) && !has_control(value) && capability.get(key) == value);
        require(count_characters(value).value_or(0) <= kMaxCapabilityValueLength);
    }
    const auto rising = [](const Capability::Item& a, const Capability::Item& b) { return a.first < b.first; };
    require(std::is_sorted(capability.items().begin(), capability.items().end(), rising));

    const auto again = Capability::decode(capability.encoded());
    require(std::holds_alternative<Capability>(again) && std::get<Capability>(again) == capability);
    require(std::get<Capability>(again).items() == capability.items());
    std::vector<Capability::Item> turned(capability.items().rbegin(), capability.items().rend());
    const auto made = Capability::make(std::move(turned));
    require(std::holds_alternative<Capability>(made) && std::get<Capability>(made) == capability);
}

void check_text(std::string_view text) {
    require(is_utf8(text) == count_characters(text).has_value());
    std::string encoded;
    append_percent_encoded(encoded, text);
    require(std::none_of(encoded.begin(), encoded.end(), [](char c) { return c <= ' ' || c >= '\x7f'; }));
    const auto decoded = percent_decoded(encoded);
    require(std::holds_alternative<std::string>(decoded) == is_utf8(text));
    if (is_utf8(text)) require(std::get<std::string>(decoded) == text);
    const std::string quoted = in_quotes(text);
    require(is_utf8(quoted) && !has_control(quoted));  // whatever the text is: this is shown to people
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    check_capability(text);
    check_text(text);
    return 0;
}
