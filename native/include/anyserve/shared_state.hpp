// What the I/O threads of an agent share, and the one lock that guards it.
//
// Each thread has its own loop, its own clients' connections and its own connections to workers. All that they decide
// together is here. The lock is taken for one decision: never over I/O, and never while a service or a sink is called.
// What a change means for another thread is handed to that thread's loop (`EventLoop::run_soon`).
#pragma once

#include <mutex>
#include <utility>

#include "anyserve/config.hpp"
#include "anyserve/events.hpp"
#include "anyserve/queues.hpp"
#include "anyserve/registry.hpp"
#include "anyserve/shared_memory.hpp"
#include "anyserve/statistics.hpp"
#include "anyserve/workers.hpp"

namespace anyserve {

struct SharedState {
    /// See `Workers`.
    SharedState(EventLoop& loop, const AgentConfig& config, Workers::EndClients end_clients, Log log)
        : memory(SharedMemoryPool::create(config.shared_memory)),
          registry(config.max_workers, config.max_registrations),
          admission(config.queue_size, config.default_max_concurrency),
          events(config.max_watchers),
          statistics(config.max_registrations),
          workers(loop, config, registry, admission, events, std::move(end_clients), std::move(log)) {}

    const std::shared_ptr<SharedMemoryPool> memory;  ///< with a lock of its own

    /// To be held in every use of the rest, watchers included.
    std::mutex mutex;
    Registry registry;
    Admission admission;
    EventLog events;
    Statistics statistics;
    Workers workers;
};

}  // namespace anyserve
