// The management side: workers register, send heartbeats and leave; operators list and watch.
//
// Checks what comes over the wire and turns it into calls of `Workers`. Rules: spec `manage.*`. Mirrors
// reference/anyserve/agent/management_service.py.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "anyserve/code.hpp"
#include "anyserve/config.hpp"
#include "anyserve/grpc_protocol.hpp"
#include "anyserve/management_messages.hpp"
#include "anyserve/registry.hpp"
#include "anyserve/shared_state.hpp"

namespace anyserve {

/// The greatest message of the management port.
inline constexpr std::size_t kManagementMessageBytes = std::size_t{1} << 20;

/// Checks a RegisterModelRequest; INVALID_ARGUMENT names the field and what is wrong with it.
[[nodiscard]] std::variant<RegistrationPtr, InferenceError> registration_of(
    const messages::RegisterModelRequest& request, SharedMemoryPool& memory);

/// The RPCs of `anyserve.WorkerManagement`.
class ManagementService {
public:
    ManagementService(EventLoop& loop, const AgentConfig& config, SharedState& state);

    /// The handler of a call to one of the service's methods; null for every other path.
    [[nodiscard]] std::unique_ptr<CallHandler> route(ServerCall& call);

private:
    /// A serialized response, or why there is none.
    using Answer = std::variant<std::string, InferenceError>;

    [[nodiscard]] bool has_token(const ServerCall& call) const;
    [[nodiscard]] Answer register_model(const messages::RegisterModelRequest& request);
    [[nodiscard]] Answer unregister_model(const messages::UnregisterModelRequest& request);
    [[nodiscard]] Answer heartbeat(const messages::HeartbeatRequest& request);
    void count(const messages::HeartbeatRequest& request);
    [[nodiscard]] Answer unregister_worker(const messages::UnregisterWorkerRequest& request);
    [[nodiscard]] Answer list_workers();

    EventLoop& loop_;
    const std::optional<std::string> authorization_;  // what calls must carry, if anything
    SharedState& state_;
};

}  // namespace anyserve
