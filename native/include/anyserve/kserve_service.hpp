// The client side: KServe v2 gRPC. Reads what a call asks for, lets the dispatcher serve it, answers.
//
// ModelInfer and ModelStreamInfer work on bytes: the tensors in them are never decoded. Rules: spec `serving.*` and
// `stream.*`. Mirrors reference/anyserve/agent/kserve_service.py.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "anyserve/calls_under_way.hpp"
#include "anyserve/config.hpp"
#include "anyserve/dispatcher.hpp"
#include "anyserve/event_loop.hpp"
#include "anyserve/grpc_protocol.hpp"
#include "anyserve/model_info.hpp"

namespace anyserve {

/// The RPCs of `inference.GRPCInferenceService`.
class KServeService {
public:
    /// `instance_secret`: told to the workers that this instance starts; their calls are let in while it drains.
    KServeService(EventLoop& loop, const AgentConfig& config, Dispatcher& dispatcher, ModelInfo& info,
                  std::function<bool()> ready, std::string instance_secret);

    /// The handler of a call to one of the service's methods; null for every other path. May finish the call at once.
    [[nodiscard]] std::unique_ptr<CallHandler> route(ServerCall& call);

    /// From now on new calls are refused; streams take no further requests, and end when those taken have ended.
    void begin_drain();
    /// Calls `ended`, once and from the loop, when no call is under way, after `grace` at the latest.
    void calls_ended(std::chrono::milliseconds grace, std::function<void()> ended);

private:
    [[nodiscard]] std::unique_ptr<CallHandler> inference_call(ServerCall& call, bool stream);

    EventLoop& loop_;
    const AgentConfig& config_;
    Dispatcher& dispatcher_;
    ModelInfo& info_;
    std::function<bool()> ready_;
    std::string instance_secret_;
    CallsUnderWay calls_;  // of ModelInfer and ModelStreamInfer: the others are answered at once
};

}  // namespace anyserve
