#include "anyserve/worker_clients.hpp"

#include <utility>

namespace anyserve {

WorkerClients::WorkerClients(EventLoop& loop, const AgentConfig& config, OnViolation on_violation)
    : loop_(loop),
      sends_(loop),
      options_{config.max_message_bytes, config.connect_timeout},
      on_violation_(std::move(on_violation)) {}

WorkerClients::~WorkerClients() { close(); }

WorkerClient& WorkerClients::of(const WorkerEndpointPtr& endpoint) {
    if (const auto found = known_.find(endpoint.get()); found != known_.end()) return *found->second.client;
    auto client = WorkerClient::create(
        loop_, sends_, endpoint->path, options_,
        [this, endpoint](const Failure& violation) { on_violation_(endpoint, violation); }, endpoint->share);
    return *known_.emplace(endpoint.get(), Known{endpoint, std::move(client)}).first->second.client;
}

void WorkerClients::end(const WorkerEndpointPtr& endpoint, ClientEnd how) {
    const auto found = known_.find(endpoint.get());
    if (found == known_.end()) return;
    const std::shared_ptr<WorkerClient> client = std::move(found->second.client);
    known_.erase(found);
    client->retire();
    if (how == ClientEnd::close) client->close();
    if (how == ClientEnd::read_out) client->read_out();
}

void WorkerClients::close() {
    for (const auto& [key, known] : known_) known.client->close();
}

}  // namespace anyserve
