#include "vectors.hpp"

#include <filesystem>
#include <fstream>
#include <stdexcept>

namespace anyserve::vectors {

std::vector<Json> load(std::string_view file) {
    const std::filesystem::path here = __FILE__;
    const auto path = here.parent_path() / "../../conformance/vectors" / file;
    std::ifstream in(path);
    if (!in) throw std::runtime_error("cannot read " + path.string());
    const Json content = Json::parse(in);
    return content.at("vectors").get<std::vector<Json>>();
}

std::string as_text(const Json& json) {
    if (json.is_string()) return json.get<std::string>();
    std::string text;
    if (json.is_array()) {
        for (const Json& part : json) text += as_text(part);
        return text;
    }
    const std::string once = as_text(json.at("repeat"));
    for (auto left = json.at("times").get<std::size_t>(); left > 0; --left) text += once;
    return text;
}

std::string bytes_of(const Json& json) {
    std::string digits = as_text(json);
    std::erase(digits, ' ');
    std::string bytes;
    for (std::size_t at = 0; at + 1 < digits.size(); at += 2) {
        bytes += static_cast<char>(std::stoi(digits.substr(at, 2), nullptr, 16));
    }
    return bytes;
}

}  // namespace anyserve::vectors
