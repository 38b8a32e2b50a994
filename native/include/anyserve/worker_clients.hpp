// The connections of one I/O thread to all workers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>

#include "anyserve/config.hpp"
#include "anyserve/event_loop.hpp"
#include "anyserve/send_batch.hpp"
#include "anyserve/worker_client.hpp"
#include "anyserve/worker_endpoint.hpp"

namespace anyserve {

/// How a worker's connections end: see the functions of `WorkerClient`.
enum class ClientEnd : std::uint8_t { retire, close, read_out };

/// One `WorkerClient` for each worker that this thread has had a request for. On the loop's thread.
class WorkerClients {
public:
    using OnViolation = std::function<void(const WorkerEndpointPtr& endpoint, const Failure& violation)>;

    /// `on_violation`: see `WorkerClient`.
    WorkerClients(EventLoop& loop, const AgentConfig& config, OnViolation on_violation);
    ~WorkerClients();
    WorkerClients(const WorkerClients&) = delete;
    WorkerClients& operator=(const WorkerClients&) = delete;

    /// The connections to a worker; made when it is first asked for.
    [[nodiscard]] WorkerClient& of(const WorkerEndpointPtr& endpoint);

    /// Nobody will ask for this worker any more.
    void end(const WorkerEndpointPtr& endpoint, ClientEnd how);
    /// Closes the connections to all workers.
    void close();

private:
    struct Known {
        WorkerEndpointPtr endpoint;
        std::shared_ptr<WorkerClient> client;
    };

    EventLoop& loop_;
    SendBatch sends_;
    const WorkerClientOptions options_;
    const OnViolation on_violation_;
    std::unordered_map<const WorkerEndpoint*, Known> known_;
};

}  // namespace anyserve
