#include "anyserve/model_calls.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "anyserve/answered_call.hpp"
#include "anyserve/kserve_messages.hpp"

namespace anyserve {
namespace {

constexpr std::string_view kService = "/inference.GRPCInferenceService/";

constexpr std::array<std::string_view, 8> kNotBuilt{
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
    "TraceSetting",
    "LogSettings",
};

/// A RepositoryModelLoad or RepositoryModelUnload call, whose answer comes when workers have started or stopped.
class RepositoryCall final : public UnaryHandler {
public:
    using Function = void (ModelInfo::*)(std::string name, ModelInfo::Done done);

    RepositoryCall(ServerCall& call, ModelInfo& info, Function function)
        : UnaryHandler(call), info_(info), function_(function) {}

    void on_cancel() override { open_.reset(); }

private:
    void on_request(Payload bytes) override {
        const auto request = read_message<messages::RepositoryModelLoadRequest>(bytes.view());
        if (!request) return done(malformed_request(call()));
        // Triton's form, or else KServe's (`serving.repository.name`).
        name_ = request->model_name.empty() ? request->repository_name : request->model_name;
        (info_.*function_)(name_, [this, open = std::weak_ptr(open_)](std::optional<InferenceError> error) {
            if (!open.expired()) done(std::move(error));
        });
    }
    void done(std::optional<InferenceError> error) {
        open_.reset();
        if (error) return call().finish(error->code, error->message);
        reply(write_message(messages::RepositoryModelLoadResponse{name_, true}));
    }

    ModelInfo& info_;
    Function function_;
    std::string name_;
    std::shared_ptr<bool> open_ = std::make_shared<bool>(true);  // the answer may come when the call has gone
};

struct Method {
    std::string_view name;
    std::unique_ptr<CallHandler> (*begin)(ServerCall&, ModelInfo&, const std::function<bool()>& ready);
};

/// The benchmarked ones first.
constexpr std::array<Method, 10> kMethods{{
    {"ServerLive",
     [](ServerCall& call, ModelInfo&, const std::function<bool()>&) {
         return answered<messages::ServerLiveRequest>(
             call, [](const auto&) { return write_message(messages::ServerLiveResponse{true}); });
     }},
    {"ServerReady",
     [](ServerCall& call, ModelInfo&, const std::function<bool()>& ready) {
         return answered<messages::ServerReadyRequest>(
             call, [&ready](const auto&) { return write_message(messages::ServerReadyResponse{ready()}); });
     }},
    {"ModelReady",
     [](ServerCall& call, ModelInfo& info, const std::function<bool()>&) {
         return answered<messages::ModelReadyRequest>(call, [&info](const auto& request) {
             return write_message(messages::ModelReadyResponse{info.is_ready(request.name, request.version)});
         });
     }},
    {"ServerMetadata",
     [](ServerCall& call, ModelInfo& info, const std::function<bool()>&) {
         return answered<messages::ServerMetadataRequest>(call,
                                                          [&info](const auto&) { return info.server_metadata(); });
     }},
    {"ModelMetadata",
     [](ServerCall& call, ModelInfo& info, const std::function<bool()>&) {
         return answered<messages::ModelMetadataRequest>(
             call, [&info](const auto& request) { return info.metadata(request.name, request.version); });
     }},
    {"ModelConfig",
     [](ServerCall& call, ModelInfo& info, const std::function<bool()>&) {
         return answered<messages::ModelConfigRequest>(
             call, [&info](const auto& request) { return info.config(request.name, request.version); });
     }},
    {"ModelStatistics",
     [](ServerCall& call, ModelInfo& info, const std::function<bool()>&) {
         return answered<messages::ModelStatisticsRequest>(
             call, [&info](const auto& request) { return info.statistics(request.name, request.version); });
     }},
    {"RepositoryIndex",
     [](ServerCall& call, ModelInfo& info, const std::function<bool()>&) {
         // What is registered is ready, so `ready` leaves out nothing.
         return answered<messages::RepositoryIndexRequest>(call, [&info](const auto&) { return info.index(); });
     }},
    {"RepositoryModelLoad",
     [](ServerCall& call, ModelInfo& info, const std::function<bool()>&) -> std::unique_ptr<CallHandler> {
         return std::make_unique<RepositoryCall>(call, info, &ModelInfo::load);
     }},
    {"RepositoryModelUnload",
     [](ServerCall& call, ModelInfo& info, const std::function<bool()>&) -> std::unique_ptr<CallHandler> {
         return std::make_unique<RepositoryCall>(call, info, &ModelInfo::unload);
     }},
}};

}  // namespace

std::unique_ptr<CallHandler> route_model_call(ServerCall& call, ModelInfo& info, const std::function<bool()>& ready) {
    std::string_view name = call.facts().path;
    if (!name.starts_with(kService)) return nullptr;
    name.remove_prefix(kService.size());
    const auto* method =
        std::find_if(kMethods.begin(), kMethods.end(), [name](const auto& m) { return m.name == name; });
    if (method != kMethods.end()) return method->begin(call, info, ready);
    if (std::find(kNotBuilt.begin(), kNotBuilt.end(), name) == kNotBuilt.end()) return nullptr;
    return refused(call, Code::unimplemented, std::string(name) + " is not implemented by this server");
}

}  // namespace anyserve
