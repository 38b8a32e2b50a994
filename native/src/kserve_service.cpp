#include "anyserve/kserve_service.hpp"

#include <optional>
#include <string_view>
#include <utility>

#include "anyserve/answered_call.hpp"
#include "anyserve/model_calls.hpp"
#include "anyserve/request.hpp"
#include "anyserve/stream_call.hpp"
#include "anyserve/wire.hpp"

namespace anyserve {
namespace {

constexpr std::string_view kService = "/inference.GRPCInferenceService/";
constexpr std::string_view kModelInfer = "ModelInfer";
constexpr std::string_view kModelStreamInfer = "ModelStreamInfer";

/// One ModelInfer call: one request and its reply.
class InferCall final : public UnaryHandler, private CallsUnderWay::Call, private Outcome {
public:
    InferCall(Dispatcher& dispatcher, CallsUnderWay& calls, ServerCall& call, CallTerms terms)
        : UnaryHandler(call),
          CallsUnderWay::Call(calls),
          dispatcher_(dispatcher),
          terms_(std::move(terms)),
          inference_(dispatcher, *this) {}

    void on_cancel() override { inference_.cancel(); }

private:
    void on_request(Payload message) override {
        auto error = read_request(std::move(message), std::move(terms_), true, inference_.request);
        if (!error) error = dispatcher_.unary(inference_);
        if (error) on_error(*std::move(error));
    }
    bool on_reply(Payload message) override {
        reply(std::move(message));
        return false;
    }
    void on_done() override {}
    void on_error(InferenceError error) override { call().finish(error.code, error.message); }

    Dispatcher& dispatcher_;
    CallTerms terms_;
    Inference inference_;
};

}  // namespace

KServeService::KServeService(EventLoop& loop, const AgentConfig& config, Dispatcher& dispatcher, ModelInfo& info,
                             std::function<bool()> ready, std::string instance_secret)
    : loop_(loop),
      config_(config),
      dispatcher_(dispatcher),
      info_(info),
      ready_(std::move(ready)),
      instance_secret_(std::move(instance_secret)),
      calls_(loop) {}

std::unique_ptr<CallHandler> KServeService::route(ServerCall& call) {
    std::string_view path = call.facts().path;
    if (!path.starts_with(kService)) return nullptr;
    path.remove_prefix(kService.size());
    if (path == kModelInfer) return inference_call(call, false);
    if (path == kModelStreamInfer) return inference_call(call, true);
    return route_model_call(call, info_, ready_);
}

std::unique_ptr<CallHandler> KServeService::inference_call(ServerCall& call, bool stream) {
    const CallFacts& facts = call.facts();
    const bool draining = calls_.draining();
    // A call of one of this instance's own workers belongs to a call under way (`serving.infer.draining`).
    const bool own = (draining || stream) && carries(facts.metadata, wire::kInstanceKey, instance_secret_);
    if (draining && !own) return refused(call, Code::unavailable, kDraining);
    CallTerms terms;
    if (const auto error = read_terms(facts.metadata, terms)) {
        return refused(call, error->code, error->message);
    }
    terms.deadline = facts.deadline;
    if (!stream) return std::make_unique<InferCall>(dispatcher_, calls_, call, std::move(terms));
    const StreamCall::Service service{loop_, dispatcher_, calls_, config_.max_stream_requests};
    return std::make_unique<StreamCall>(service, call, std::move(terms), !own);
}

void KServeService::begin_drain() { calls_.begin_drain(); }

void KServeService::calls_ended(std::chrono::milliseconds grace, std::function<void()> ended) {
    calls_.when_ended(grace, std::move(ended));
}

}  // namespace anyserve
