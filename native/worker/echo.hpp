// What the echo worker answers.
#pragma once

#include <memory>
#include <string_view>
#include <unordered_map>

#include "anyserve/event_loop.hpp"
#include "worker_server.hpp"

namespace anyserve {

/// Answers ModelInferRequests, on the loop's thread.
///
/// A unary request gets its tensors back, as they came: `inputs` as `outputs`, `raw_input_contents` as
/// `raw_output_contents`. A request for the capability `type=tokens`, or without one for the model `tokens`, gets a
/// stream: as many small responses as its parameter `tokens` says (1 if it does not), and the empty frame. Streams take
/// turns, one frame each, and an agent that does not read stops only its own (`stream.flow.worker`).
class Echo final : public WorkerSink {
public:
    explicit Echo(EventLoop& loop) : loop_(loop) {}

    void on_request(WorkerExchangePtr exchange) override;
    void on_cancelled(const WorkerExchangePtr& exchange) override { streams_.erase(exchange.get()); }
    void on_writable(const WorkerExchangePtr& exchange) override { send_next(exchange); }
    void on_drained() override {}
    void on_refused(const std::string& reason) override;

private:
    struct Stream;

    void send_next(const WorkerExchangePtr& exchange);

    EventLoop& loop_;
    std::unordered_map<WorkerExchange*, std::shared_ptr<Stream>> streams_;
};

}  // namespace anyserve
