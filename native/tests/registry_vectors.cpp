#include "registry_vectors.hpp"

#include <memory>
#include <stdexcept>
#include <utility>

namespace anyserve::vectors {

std::vector<Capability::Item> as_items(const Json& json) {
    std::vector<Capability::Item> items;
    if (json.is_array()) {
        for (const Json& pair : json) items.emplace_back(as_text(pair.at(0)), as_text(pair.at(1)));
    } else {
        for (const auto& [key, value] : json.items()) items.emplace_back(key, as_text(value));
    }
    return items;
}

std::string text_or_empty(const Json& json, std::string_view key) {
    const auto found = json.find(key);
    return found != json.end() ? as_text(*found) : std::string();
}

Capability capability(std::vector<Capability::Item> items) {
    auto made = Capability::make(std::move(items));
    if (auto* bad = std::get_if<InvalidCapability>(&made)) throw std::runtime_error(bad->message);
    return std::get<Capability>(std::move(made));
}

std::variant<Query, InvalidQuery> parse_query(const Json& json) {
    const auto items = as_items(json);
    std::vector<Query::Pair> pairs;
    for (const auto& [key, value] : items) pairs.emplace_back(key, value);
    return Query::parse(pairs);
}

RegistrationPtr registration(const Json& json) {
    auto made = std::make_shared<Registration>();
    made->worker_id = as_text(json.at("worker"));
    made->socket_path = "/s";
    made->model_name = text_or_empty(json, "model_name");
    made->model_version = text_or_empty(json, "model_version");
    auto items =
        as_items(json.value(json.contains("capability_pairs") ? "capability_pairs" : "capability", Json::object()));
    made->annotate = !items.empty();
    if (items.empty()) {
        items.emplace_back("type", made->model_name);
        if (!made->model_version.empty()) items.emplace_back("model", made->model_version);
    }
    made->capability = capability(std::move(items));
    made->stream = json.value("stream", false);
    made->priority = json.value("priority", 0);
    made->max_concurrency = json.value("max_concurrency", 0U);
    return made;
}

std::string label(const Json& json) { return as_text(json.at(json.contains("label") ? "label" : "worker")); }

Target target(const Json& json) {
    Target target;
    target.model_name = text_or_empty(json, "model_name");
    target.model_version = text_or_empty(json, "model_version");
    target.unary_only = json.value("call", "ModelInfer") == "ModelInfer";
    if (const auto query = json.find("query"); query != json.end()) {
        auto parsed = parse_query(*query);
        if (auto* bad = std::get_if<InvalidQuery>(&parsed)) throw std::runtime_error(bad->message);
        target.query = std::get<Query>(std::move(parsed));
    }
    return target;
}

std::string status_of_nothing(Registry& registry, const Target& target) {
    return registry.resolve(target.streaming_too())->tiers.empty() ? "NOT_FOUND" : "UNIMPLEMENTED";
}

}  // namespace anyserve::vectors
