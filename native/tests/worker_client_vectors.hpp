// Reads conformance/vectors/*.json, for the tests of this room.
#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <source_location>
#include <string>

namespace anyserve::testing {

inline nlohmann::json vectors(const std::string& file) {
    const auto here = std::filesystem::path(std::source_location::current().file_name()).parent_path();
    std::ifstream stream(here / "../../conformance/vectors" / file);
    return nlohmann::json::parse(stream).at("vectors");
}

/// Bytes as vectors write them: hexadecimal digits, a repetition, or a list of both.
inline std::string bytes_of(const nlohmann::json& value) {
    std::string bytes;
    if (value.is_array()) {
        for (const auto& part : value) bytes += bytes_of(part);
    } else if (value.is_object()) {
        const std::string once = bytes_of(value.at("repeat"));
        for (std::size_t left = value.at("times").get<std::size_t>(); left > 0; --left) bytes += once;
    } else {
        std::string digits = value.get<std::string>();
        std::erase(digits, ' ');
        for (std::size_t at = 0; at + 1 < digits.size(); at += 2) {
            bytes += static_cast<char>(std::stoi(digits.substr(at, 2), nullptr, 16));
        }
    }
    return bytes;
}

}  // namespace anyserve::testing
