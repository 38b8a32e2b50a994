#include "anyserve/management_service.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <utility>
#include <vector>

#include "anyserve/answered_call.hpp"
#include "anyserve/capability_text.hpp"
#include "anyserve/management_watch.hpp"
#include "anyserve/request.hpp"
#include "anyserve/utf8.hpp"
#include "anyserve/wire.hpp"

namespace anyserve {
namespace {

constexpr std::string_view kService = "/anyserve.WorkerManagement/";
constexpr std::string_view kAddressPrefix = "unix://";
constexpr std::size_t kMaxNameLength = 256;  // characters

InferenceError invalid(std::string message) { return {Code::invalid_argument, std::move(message)}; }

bool is_name(std::string_view text) noexcept {
    return !has_control(text) && count_characters(text).value_or(kMaxNameLength + 1) <= kMaxNameLength;
}

std::optional<InferenceError> fault_of(const messages::RegisterModelRequest& request) {
    const std::array<std::pair<std::string_view, std::string_view>, 4> texts{{{"model_name", request.model_name},
                                                                              {"model_version", request.model_version},
                                                                              {"worker_id", request.worker_id},
                                                                              {"platform", request.platform}}};
    for (const auto& [field, text] : texts) {
        if (is_name(text)) continue;
        return invalid(std::string(field) + " must have at most " + std::to_string(kMaxNameLength) +
                       " characters, none of them control");
    }
    if (request.worker_id.empty()) return invalid("worker_id is empty");
    if (request.model_name.empty() && request.capability.empty()) {
        return invalid("model_name and capability are both empty: set at least one");
    }
    if (request.max_concurrency > wire::kMaxConcurrency) {
        return invalid("max_concurrency is " + std::to_string(request.max_concurrency) + ", at most " +
                       std::to_string(wire::kMaxConcurrency));
    }
    return std::nullopt;
}

std::variant<std::string_view, InferenceError> socket_path(std::string_view address) {
    const std::string_view path = address.substr(std::min(address.size(), kAddressPrefix.size()));
    if (!address.starts_with(kAddressPrefix) || !path.starts_with('/') || path.find('\0') != std::string_view::npos) {
        return invalid("worker_address " + in_quotes(address) + " must be " + std::string(kAddressPrefix) +
                       " and an absolute path");
    }
    if (path.size() > wire::kMaxSocketPath) {
        return invalid("worker_address: a Unix socket's path has at most " + std::to_string(wire::kMaxSocketPath) +
                       " bytes, got " + std::to_string(path.size()));
    }
    return path;
}

/// The capability as registered, or the one that a registration without any means
/// (`manage.register.default-capability`).
std::variant<Capability, InvalidCapability> capability_of(const messages::RegisterModelRequest& request) {
    std::vector<Capability::Item> items(request.capability.begin(), request.capability.end());
    if (items.empty()) {
        items.emplace_back("type", request.model_name);
        if (!request.model_version.empty()) items.emplace_back("model", request.model_version);
    }
    return Capability::make(std::move(items));
}

std::vector<TensorMetadata> tensors(const std::vector<messages::TensorMetadata>& given) {
    std::vector<TensorMetadata> owned;
    owned.reserve(given.size());
    for (const messages::TensorMetadata& each : given) {
        owned.push_back({std::string(each.name), std::string(each.datatype), each.shape});
    }
    return owned;
}

}  // namespace

std::variant<RegistrationPtr, InferenceError> registration_of(const messages::RegisterModelRequest& request,
                                                              SharedMemoryPool& memory) {
    if (auto fault = fault_of(request)) return *std::move(fault);
    auto path = socket_path(request.worker_address);
    if (auto* fault = std::get_if<InferenceError>(&path)) return std::move(*fault);
    auto capability = capability_of(request);
    if (auto* fault = std::get_if<InvalidCapability>(&capability)) return invalid(std::move(fault->message));
    auto registration = std::make_shared<Registration>();
    registration->worker_id = request.worker_id;
    registration->socket_path = std::get<std::string_view>(path);
    registration->model_name = request.model_name;
    registration->model_version = request.model_version;
    registration->capability = std::get<Capability>(std::move(capability));
    registration->max_concurrency = request.max_concurrency;
    registration->annotate = !request.capability.empty();
    registration->stream = request.stream;
    registration->priority = request.priority;
    registration->inputs = tensors(request.inputs);
    registration->outputs = tensors(request.outputs);
    registration->platform = request.platform;
    if (request.shared_memory) registration->shared_memory = memory.taker();
    return registration;
}

ManagementService::ManagementService(EventLoop& loop, const AgentConfig& config, SharedState& state)
    : loop_(loop),
      authorization_(config.management_token ? std::optional("Bearer " + *config.management_token) : std::nullopt),
      state_(state) {}

std::unique_ptr<CallHandler> ManagementService::route(ServerCall& call) {
    std::string_view method = call.facts().path;
    if (!method.starts_with(kService)) return nullptr;
    method.remove_prefix(kService.size());
    if (!has_token(call)) {
        return refused(call, Code::unauthenticated, "this management port needs 'authorization: Bearer <token>'");
    }
    if (method == "RegisterModel") {
        return answered<messages::RegisterModelRequest>(call, [this](const auto& r) { return register_model(r); });
    }
    if (method == "UnregisterModel") {
        return answered<messages::UnregisterModelRequest>(call, [this](const auto& r) { return unregister_model(r); });
    }
    if (method == "Heartbeat") {
        return answered<messages::HeartbeatRequest>(call, [this](const auto& r) { return heartbeat(r); });
    }
    if (method == "UnregisterWorker") {
        return answered<messages::UnregisterWorkerRequest>(call,
                                                           [this](const auto& r) { return unregister_worker(r); });
    }
    if (method == "ListWorkers") {
        return answered<messages::ListWorkersRequest>(call, [this](const auto&) { return list_workers(); });
    }
    if (method == "WatchEvents") return watch_events(call, loop_, state_);
    return nullptr;
}

/// Whether a call may come in; takes equally long whatever it carries (`manage.token.timing`).
bool ManagementService::has_token(const ServerCall& call) const {
    return !authorization_ || carries(call.facts().metadata, "authorization", *authorization_);
}

ManagementService::Answer ManagementService::register_model(const messages::RegisterModelRequest& request) {
    auto registration = registration_of(request, *state_.memory);
    if (auto* fault = std::get_if<InferenceError>(&registration)) return std::move(*fault);
    const bool shared = std::get<RegistrationPtr>(registration)->shared_memory != nullptr;
    const std::lock_guard lock(state_.mutex);
    auto added = state_.workers.add(std::get<RegistrationPtr>(std::move(registration)));
    if (auto* full = std::get_if<RegistryFull>(&added)) {
        return InferenceError{Code::resource_exhausted, std::move(full->message)};
    }
    if (auto* late = std::get_if<WorkerEnded>(&added)) {
        return InferenceError{Code::failed_precondition, std::move(late->message)};
    }
    return write_message(messages::RegisterModelResponse{true, "registered", shared});
}

ManagementService::Answer ManagementService::unregister_model(const messages::UnregisterModelRequest& request) {
    if (request.worker_id.empty()) return invalid("worker_id is empty");
    const std::lock_guard lock(state_.mutex);
    if (state_.workers.unregister_model(request.worker_id, request.model_name, request.model_version)) {
        return write_message(messages::UnregisterModelResponse{true, "unregistered"});
    }
    const std::string message = "worker " + in_quotes(request.worker_id) + " has not registered model " +
                                in_quotes(request.model_name) + " version " + in_quotes(request.model_version);
    return write_message(messages::UnregisterModelResponse{false, message});
}

ManagementService::Answer ManagementService::heartbeat(const messages::HeartbeatRequest& request) {
    const std::lock_guard lock(state_.mutex);
    const bool healthy = state_.workers.heartbeat(request.worker_id);
    if (healthy && !request.batches.empty()) count(request);
    return write_message(messages::HeartbeatResponse{healthy});
}

/// Counts the batches of a worker, as far as it has registered what they are of.
void ManagementService::count(const messages::HeartbeatRequest& request) {
    std::map<std::pair<std::string_view, std::string_view>, RegistrationPtr> registered;
    for (RegistrationPtr& each : state_.registry.of_worker(request.worker_id)) {
        const std::pair listed(each->listed_name(), each->listed_version());
        registered.try_emplace(listed, std::move(each));
    }
    for (const messages::BatchStatistics& told : request.batches) {
        const auto found = registered.find({told.model_name, told.model_version});
        if (found == registered.end() || told.batch_size == 0 || told.count == 0) continue;
        state_.statistics.batched(*found->second, {told.batch_size, told.count, told.compute_ns});
    }
}

ManagementService::Answer ManagementService::unregister_worker(const messages::UnregisterWorkerRequest& request) {
    if (request.worker_id.empty()) return invalid("worker_id is empty");
    const std::lock_guard lock(state_.mutex);
    if (state_.workers.unregister_worker(request.worker_id)) {
        return write_message(messages::UnregisterWorkerResponse{true, "unregistered"});
    }
    const std::string message = "worker " + in_quotes(request.worker_id) + " is not registered";
    return write_message(messages::UnregisterWorkerResponse{false, message});
}

ManagementService::Answer ManagementService::list_workers() {
    const std::lock_guard lock(state_.mutex);
    const std::vector<const KnownWorker*> workers = state_.workers.all();
    std::vector<std::string> addresses;
    addresses.reserve(workers.size());  // they stay where they are: the message refers to them
    messages::ListWorkersResponse response;
    for (const KnownWorker* worker : workers) {
        messages::Worker& shown = response.workers.emplace_back();
        shown.worker_id = worker->worker_id;
        shown.address = addresses.emplace_back(std::string(kAddressPrefix) + worker->endpoint->path);
        for (const RegistrationPtr& each : state_.registry.of_worker(worker->worker_id)) {
            shown.registrations.push_back(registration_message(*each));
        }
        shown.in_flight = static_cast<std::uint32_t>(state_.admission.in_flight(worker->worker_id));
        shown.connections = static_cast<std::uint32_t>(worker->endpoint->share->open());
        shown.heartbeat_age_ms = -1;
        if (worker->last_heartbeat) {
            const auto age = loop_.now() - *worker->last_heartbeat;
            shown.heartbeat_age_ms = std::chrono::duration_cast<std::chrono::milliseconds>(age).count();
        }
    }
    return write_message(response);
}

}  // namespace anyserve
