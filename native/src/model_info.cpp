#include "anyserve/model_info.hpp"

#include <algorithm>
#include <array>
#include <set>
#include <utility>
#include <vector>

#include "anyserve/capability_text.hpp"
#include "anyserve/kserve_messages.hpp"

namespace anyserve {
namespace {

using messages::DataType;

/// The protocol's datatypes as the model configuration names them.
constexpr std::array<std::pair<std::string_view, DataType>, 14> kDataTypes{{
    {"BOOL", DataType::type_bool},
    {"UINT8", DataType::type_uint8},
    {"UINT16", DataType::type_uint16},
    {"UINT32", DataType::type_uint32},
    {"UINT64", DataType::type_uint64},
    {"INT8", DataType::type_int8},
    {"INT16", DataType::type_int16},
    {"INT32", DataType::type_int32},
    {"INT64", DataType::type_int64},
    {"FP16", DataType::type_fp16},
    {"FP32", DataType::type_fp32},
    {"FP64", DataType::type_fp64},
    {"BYTES", DataType::type_string},
    {"BF16", DataType::type_bf16},
}};

DataType data_type(std::string_view datatype) noexcept {
    const auto* found = std::find_if(kDataTypes.begin(), kDataTypes.end(),
                                     [datatype](const auto& known) { return known.first == datatype; });
    return found != kDataTypes.end() ? found->second : DataType::type_invalid;
}

/// The names and versions by which clients find models, sorted; what is found by capability queries alone has none.
std::set<std::pair<std::string_view, std::string_view>> listed(const std::vector<RegistrationPtr>& registrations) {
    std::set<std::pair<std::string_view, std::string_view>> models;
    for (const RegistrationPtr& each : registrations) {
        if (!each->listed_name().empty()) models.emplace(each->listed_name(), each->listed_version());
    }
    return models;
}

std::vector<messages::TensorMetadata> tensors(const std::vector<TensorMetadata>& registered) {
    std::vector<messages::TensorMetadata> shown;
    shown.reserve(registered.size());
    for (const TensorMetadata& tensor : registered) shown.push_back({tensor.name, tensor.datatype, tensor.shape});
    return shown;
}

template <class Tensor>
std::vector<Tensor> configured(const std::vector<TensorMetadata>& registered) {
    std::vector<Tensor> shown;
    shown.reserve(registered.size());
    for (const TensorMetadata& tensor : registered) {
        shown.push_back({tensor.name, data_type(tensor.datatype), tensor.shape});
    }
    return shown;
}

messages::StatisticDuration duration(const Count& count) noexcept { return {count.count, count.ns}; }

messages::ModelStatistics model_statistics(std::string_view name, std::string_view version, const ModelCounts& counts) {
    messages::ModelStatistics shown{
        name,
        version,
        counts.last_inference_ms,
        counts.success.count,
        counts.calls.count > 0 ? counts.calls.count : counts.success.count,
        {duration(counts.success), duration(counts.fail), duration(counts.queue), duration(counts.compute)},
        {}};
    for (const auto& [size, count] : counts.batches) shown.batch_stats.push_back({size, duration(count)});
    return shown;
}

}  // namespace

ModelInfo::ModelInfo(EventLoop& loop, SharedState& state, std::string server_version)
    : loop_(loop), state_(state), server_version_(std::move(server_version)) {}

std::string ModelInfo::server_metadata() const {
    return write_message(messages::ServerMetadataResponse{
        "anyserve", server_version_, {"model_configuration", "model_repository", "statistics", "parameters"}});
}

bool ModelInfo::is_ready(std::string_view name, std::string_view version) const {
    const std::lock_guard lock(state_.mutex);
    return !state_.registry.named(name, version).empty();
}

Answer ModelInfo::metadata(std::string_view name, std::string_view version) const {
    const std::lock_guard lock(state_.mutex);
    const Served served = find(name, version);
    if (const auto* error = std::get_if<InferenceError>(&served)) return *error;
    const Registration& registration = *std::get<RegistrationPtr>(served);
    const std::vector<std::string> versions = state_.registry.versions(name);
    return write_message(messages::ModelMetadataResponse{name,
                                                         {versions.begin(), versions.end()},
                                                         registration.platform,
                                                         tensors(registration.inputs),
                                                         tensors(registration.outputs)});
}

Answer ModelInfo::config(std::string_view name, std::string_view version) const {
    const std::lock_guard lock(state_.mutex);
    const Served served = find(name, version);
    if (const auto* error = std::get_if<InferenceError>(&served)) return *error;
    const Registration& registration = *std::get<RegistrationPtr>(served);
    return write_message(messages::ModelConfigResponse{{name,
                                                        registration.platform,
                                                        configured<messages::ModelInput>(registration.inputs),
                                                        configured<messages::ModelOutput>(registration.outputs),
                                                        "anyserve",
                                                        {registration.stream}}});
}

Answer ModelInfo::statistics(std::string_view name, std::string_view version) const {
    const std::lock_guard lock(state_.mutex);
    std::vector<RegistrationPtr> chosen;
    if (name.empty()) {
        chosen = state_.registry.all();
    } else {
        const Served served = find(name, version);
        if (const auto* error = std::get_if<InferenceError>(&served)) return *error;
        chosen = version.empty() ? state_.registry.named_any_version(name) : state_.registry.named(name, version);
    }
    messages::ModelStatisticsResponse response;
    for (const auto& [listed_name, listed_version] : listed(chosen)) {
        response.model_stats.push_back(
            model_statistics(listed_name, listed_version, state_.statistics.of(listed_name, listed_version)));
    }
    return write_message(response);
}

std::string ModelInfo::index() const {
    const std::lock_guard lock(state_.mutex);
    const std::vector<RegistrationPtr> registrations = state_.registry.all();
    messages::RepositoryIndexResponse response;
    for (const auto& [name, version] : listed(registrations)) response.models.push_back({name, version, "READY"});
    return write_message(response);
}

void ModelInfo::load(std::string name, Done done) {
    ask(
        &Lifecycle::load, std::move(name), [](std::string_view) { return std::optional<InferenceError>(); },
        std::move(done));
}

void ModelInfo::unload(std::string name, Done done) {
    ask(
        &Lifecycle::unload, std::move(name),
        [](std::string_view model) -> std::optional<InferenceError> {
            return InferenceError{Code::failed_precondition,
                                  "model " + in_quotes(model) +
                                      " is served by workers that registered by themselves: stop them where they "
                                      "were started"};
        },
        std::move(done));
}

void ModelInfo::ask(Function function, std::string name, OfOthers of_others, Done done) {
    if (name.empty()) return done(InferenceError{Code::invalid_argument, "the request names no model"});
    if (lifecycle == nullptr) return answer(name, of_others, false, done);
    Lifecycle::Done answered = [this, &loop = loop_, alive = std::weak_ptr(alive_), name, of_others,
                                done = std::move(done)](std::variant<bool, InferenceError> ours) {
        loop.run_soon([this, alive, name, of_others, done, ours = std::move(ours)] {
            if (!alive.expired()) answer(name, of_others, ours, done);
        });
    };
    (lifecycle->*function)(std::move(name), std::move(answered));
}

void ModelInfo::answer(const std::string& name, OfOthers of_others, std::variant<bool, InferenceError> ours,
                       const Done& done) {
    if (auto* error = std::get_if<InferenceError>(&ours)) return done(std::move(*error));
    if (std::get<bool>(ours)) return done(std::nullopt);
    std::unique_lock lock(state_.mutex);
    const bool known = !state_.registry.named_any_version(name).empty();
    lock.unlock();
    if (known) return done(of_others(name));
    done(InferenceError{Code::not_found, "model " + in_quotes(name) + " is not known to this instance"});
}

/// Under the lock.
ModelInfo::Served ModelInfo::find(std::string_view name, std::string_view version) const {
    std::vector<RegistrationPtr> found = state_.registry.named(name, version);
    if (!found.empty()) return std::move(found.front());
    const std::string wanted = version.empty() ? "" : " version " + in_quotes(version);
    return InferenceError{Code::not_found, "no worker serves model " + in_quotes(name) + wanted};
}

}  // namespace anyserve
