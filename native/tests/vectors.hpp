// Reads conformance/vectors/*.json, whose format is in conformance/vectors/README.md.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace anyserve::vectors {

using Json = nlohmann::ordered_json;  // registrations and queries come in the order in which they stand

/// The vectors of a file, `routing.json`.
std::vector<Json> load(std::string_view file);

/// A text, a text many times, or several of them one behind the other.
std::string as_text(const Json& json);

/// Bytes, which stand as hexadecimal digits, with spaces where they help the eye.
std::string bytes_of(const Json& json);

}  // namespace anyserve::vectors
