// What the server says about itself and its models: metadata, configuration, statistics, the repository.
//
// All of it follows from registrations and counters; answers are serialized messages of grpc_predict_v2.proto. Loading
// and unloading is handed to whoever starts worker processes. Rules: spec `serving.model.*`. Mirrors
// reference/anyserve/agent/model_info.py.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "anyserve/code.hpp"
#include "anyserve/event_loop.hpp"
#include "anyserve/shared_state.hpp"

namespace anyserve {

/// A serialized message, or why there is none.
using Answer = std::variant<std::string, InferenceError>;

/// Starts and stops the workers of this instance by model name. Any thread. Calls `done` once, on any thread, also from
/// inside: true if they were started or stopped, false if none of ours serves the model, or what hindered it.
class Lifecycle {
public:
    using Done = std::function<void(std::variant<bool, InferenceError>)>;
    virtual ~Lifecycle() = default;
    virtual void load(std::string model_name, Done done) = 0;
    virtual void unload(std::string model_name, Done done) = 0;
};

/// On the loop's thread.
class ModelInfo {
public:
    /// Args:
    ///   server_version: what ServerMetadata tells.
    ModelInfo(EventLoop& loop, SharedState& state, std::string server_version);

    /// Null: nobody starts workers here. Not owned.
    Lifecycle* lifecycle = nullptr;

    [[nodiscard]] std::string server_metadata() const;
    [[nodiscard]] bool is_ready(std::string_view name, std::string_view version) const;
    [[nodiscard]] Answer metadata(std::string_view name, std::string_view version) const;
    [[nodiscard]] Answer config(std::string_view name, std::string_view version) const;
    [[nodiscard]] Answer statistics(std::string_view name, std::string_view version) const;
    [[nodiscard]] std::string index() const;

    /// Called once, also from inside, with nothing when it is loaded or unloaded; never after the end of this.
    using Done = std::function<void(std::optional<InferenceError>)>;
    /// Starts the workers of a model, if it is not served already.
    void load(std::string name, Done done);
    /// Stops the workers of a model; FAILED_PRECONDITION for those that this instance did not start.
    void unload(std::string name, Done done);

private:
    using Served = std::variant<RegistrationPtr, InferenceError>;
    using Function = void (Lifecycle::*)(std::string model_name, Lifecycle::Done done);
    /// The answer for a model that is served, by workers that the lifecycle does not start.
    using OfOthers = std::optional<InferenceError> (*)(std::string_view name);

    [[nodiscard]] Served find(std::string_view name, std::string_view version) const;
    void answer(const std::string& name, OfOthers of_others, std::variant<bool, InferenceError> ours, const Done& done);
    void ask(Function function, std::string name, OfOthers of_others, Done done);

    EventLoop& loop_;
    SharedState& state_;
    std::string server_version_;
    std::shared_ptr<const bool> alive_ = std::make_shared<const bool>(true);  // for answers of the lifecycle
};

}  // namespace anyserve
