// The RPCs of `inference.GRPCInferenceService` that are about the server and its models, not inference: reads what a
// call asks for, lets `ModelInfo` answer. In the reference agent this is a part of
// reference/anyserve/agent/kserve_service.py.
#pragma once

#include <functional>
#include <memory>

#include "anyserve/grpc_protocol.hpp"
#include "anyserve/model_info.hpp"

namespace anyserve {

/// The handler of a call to one of the service's methods but ModelInfer and ModelStreamInfer; null for every other
/// path. Those that are not built are refused by their name (`serving.unimplemented.named`).
///
/// `info`, and `ready`, which answers ServerReady, must outlive the call.
[[nodiscard]] std::unique_ptr<CallHandler> route_model_call(ServerCall& call, ModelInfo& info,
                                                            const std::function<bool()>& ready);

}  // namespace anyserve
