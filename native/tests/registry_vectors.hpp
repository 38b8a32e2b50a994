// Registrations, queries and requests of the vectors, as values of the registry.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "anyserve/registry.hpp"
#include "vectors.hpp"

namespace anyserve::vectors {

std::vector<Capability::Item> as_items(const Json& json);

std::string text_or_empty(const Json& json, std::string_view key);

/// A capability that must be allowed.
Capability capability(std::vector<Capability::Item> items);

std::variant<Query, InvalidQuery> parse_query(const Json& json);

/// A vector's registration as RegisterModel would take it.
RegistrationPtr registration(const Json& json);

std::string label(const Json& json);

/// What a request of a vector asks for.
Target target(const Json& json);

/// The status of a request that nothing serves.
std::string status_of_nothing(Registry& registry, const Target& target);

}  // namespace anyserve::vectors
