#include "declared.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>
#include <variant>
#include <vector>

#include "anyserve/capability.hpp"
#include "anyserve/management_messages.hpp"
#include "anyserve/wire.hpp"
#include "datatypes.hpp"
#include "management_channel.hpp"

namespace anyserve {
namespace {

constexpr std::size_t kMostIdCharacters = 64;

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

Capability checked(const std::map<std::string, std::string>& items) {
    if (items.empty()) refuse("a capability needs at least one key");
    auto made = Capability::make({items.begin(), items.end()});
    if (const auto* fault = std::get_if<InvalidCapability>(&made)) refuse(fault->message);
    return std::get<Capability>(std::move(made));
}

void check(const std::vector<TensorSpec>& tensors) {
    for (const TensorSpec& tensor : tensors) {
        if (find_datatype(tensor.datatype) == nullptr) {
            refuse("tensor '" + tensor.name + "': " + tensor.datatype + " is no datatype of the protocol");
        }
        if (std::ranges::any_of(tensor.shape, [](std::int64_t size) { return size < -1; })) {
            refuse("tensor '" + tensor.name + "': shape takes -1 or sizes >= 0, got " + shape_text(tensor.shape));
        }
    }
}

std::vector<messages::TensorMetadata> metadata(const std::vector<TensorSpec>& tensors) {
    std::vector<messages::TensorMetadata> made;
    made.reserve(tensors.size());
    for (const TensorSpec& tensor : tensors) made.push_back({tensor.name, tensor.datatype, tensor.shape});
    return made;
}

bool is_id_character(char c) {
    constexpr std::string_view others = "_.-";
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           others.find(c) != std::string_view::npos;
}

}  // namespace

Declared declare(const std::map<std::string, std::string>& items, CapabilityOptions options) {
    const Capability capability = checked(items);
    if (options.max_concurrency < 1 || options.max_concurrency > wire::kMaxConcurrency) {
        refuse("max_concurrency takes 1 to " + std::to_string(wire::kMaxConcurrency) + ", got " +
               std::to_string(options.max_concurrency));
    }
    check(options.inputs);
    check(options.outputs);
    const std::string_view model = capability.get("model");
    if (options.model_name.empty()) options.model_name = model.empty() ? capability.get("type") : model;
    if (options.model_version.empty()) options.model_version = capability.get("version");
    Declared declared;
    declared.served.capability = capability.encoded();
    declared.served.model_name = options.model_name;
    declared.served.model_version = options.model_version;
    declared.served.places = options.max_concurrency;
    declared.capability = items;
    declared.options = std::move(options);
    return declared;
}

void check_options(const WorkerOptions& options) {
    if (options.worker_id.size() > kMostIdCharacters || !std::ranges::all_of(options.worker_id, is_id_character)) {
        refuse("worker_id takes 1 to 64 of the characters A-Z a-z 0-9 _ . -, got '" + options.worker_id + "'");
    }
    if (!parse_host_port(options.management)) {
        refuse("management takes HOST:PORT, got '" + options.management + "'");
    }
    if (!std::ranges::all_of(options.management_token, [](char c) { return c >= ' ' && c <= '~'; })) {
        refuse("management_token takes printable ASCII");
    }
    if (options.max_message_bytes < 1 || options.max_message_bytes > kMostMessageBytes) {
        refuse("max_message_bytes takes 1 to " + std::to_string(kMostMessageBytes));
    }
    if (options.heartbeat_interval.count() < 10) refuse("heartbeat_interval takes at least 10 ms");
    if (options.orphan_timeout.count() < 100) refuse("orphan_timeout takes at least 100 ms");
    if (options.grace.count() < 0) refuse("grace takes at least 0 s");
}

std::string register_request(const Declared& declared, std::string_view worker_id, std::string_view socket_path) {
    const std::string address = "unix://" + std::string(socket_path);
    messages::RegisterModelRequest request;
    request.model_name = declared.served.model_name;
    request.model_version = declared.served.model_version;
    request.worker_address = address;
    request.worker_id = worker_id;
    for (const auto& [key, value] : declared.capability) request.capability.emplace(key, value);
    request.stream = declared.served.stream;
    request.max_concurrency = declared.options.max_concurrency;
    request.priority = declared.options.priority;
    request.inputs = metadata(declared.options.inputs);
    request.outputs = metadata(declared.options.outputs);
    request.platform = declared.options.platform;
    request.shared_memory = true;
    return write_message(request);
}

}  // namespace anyserve
