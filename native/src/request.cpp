#include "anyserve/request.hpp"

#include <utility>
#include <vector>

#include "anyserve/capability_text.hpp"
#include "anyserve/wire.hpp"

namespace anyserve {
namespace {

/// gRPC decodes the values of such keys; no pattern is binary, so none of them is a good one.
constexpr std::string_view kBinarySuffix = "-bin";

InferenceError invalid(std::string message) { return {Code::invalid_argument, std::move(message)}; }

}  // namespace

std::optional<InferenceError> read_terms(const Metadata& metadata, CallTerms& terms) {
    std::vector<Query::Pair> patterns;
    for (const auto& [key, value] : metadata) {
        if (key.starts_with(wire::kQueryPrefix)) {
            patterns.emplace_back(std::string_view(key).substr(wire::kQueryPrefix.size()),
                                  key.ends_with(kBinarySuffix) ? std::string_view() : std::string_view(value));
        } else if (key == wire::kTraceparent) {
            terms.traceparent = value;
        }
    }
    if (patterns.empty()) return std::nullopt;
    auto query = Query::parse(patterns);
    if (auto* bad = std::get_if<InvalidQuery>(&query)) return invalid(std::move(bad->message));
    terms.query = std::get<Query>(std::move(query));
    return std::nullopt;
}

std::optional<InferenceError> read_request(Payload payload, CallTerms terms, bool unary_only, Request& request) {
    request.payload = std::move(payload);
    MessageHead head;
    if (auto malformed = scan_message(request.payload.view(), kRequestFields, head)) {
        return invalid("not a ModelInferRequest: " + malformed.message);
    }
    request.head = std::move(head);
    request.deadline = terms.deadline;
    request.traceparent = std::move(terms.traceparent);
    for (const auto& [name, value] : request.head.parameters) {
        if (!name.starts_with(wire::kReservedPrefix)) continue;
        return invalid("parameter " + in_quotes(name) + " is reserved: names that start with " +
                       std::string(wire::kReservedPrefix));
    }
    request.target.unary_only = unary_only;
    if (terms.query) {
        request.target.query = std::move(terms.query);
    } else if (!request.head.model_name.empty()) {
        request.target.model_name = request.head.model_name;
        request.target.model_version = request.head.model_version;
    } else {
        return invalid("the request names no model: set model_name, or " + std::string(wire::kQueryPrefix) +
                       "<key> metadata");
    }
    return std::nullopt;
}

bool carries(const Metadata& metadata, std::string_view key, std::string_view secret) noexcept {
    std::string_view given;
    for (const auto& [name, value] : metadata) {
        if (name == key) given = value;
    }
    if (secret.empty() || given.size() != secret.size()) return false;
    unsigned difference = 0;
    for (std::size_t i = 0; i < secret.size(); ++i) {
        // Volatile, lest the compiler leaves the loop once the answer is known.
        const volatile auto ours = static_cast<unsigned char>(secret[i]);
        difference |= static_cast<unsigned>(ours ^ static_cast<unsigned char>(given[i]));
    }
    return difference == 0;
}

}  // namespace anyserve
