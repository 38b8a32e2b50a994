// Tells handlers that wait for it that their exchange is cancelled. Those that do not wait cost nothing: they ask the
// exchange.
#pragma once

#include <mutex>
#include <stop_token>
#include <unordered_map>

#include "worker_server.hpp"

namespace anyserve {

/// Any thread.
class Cancellations {
public:
    /// Stopped when the exchange is cancelled, or is already.
    [[nodiscard]] std::stop_token token(const WorkerExchange& exchange) {
        const std::lock_guard lock(mutex_);
        std::stop_source& source = sources_[&exchange];
        if (exchange.cancelled()) source.request_stop();
        return source.get_token();
    }
    /// What waits is told, on this thread.
    void cancelled(const WorkerExchange& exchange) { take(exchange).request_stop(); }
    /// The exchange's handler has ended.
    void forget(const WorkerExchange& exchange) { static_cast<void>(take(exchange)); }

private:
    [[nodiscard]] std::stop_source take(const WorkerExchange& exchange) {
        const std::lock_guard lock(mutex_);
        const auto found = sources_.find(&exchange);
        if (found == sources_.end()) return std::stop_source(std::nostopstate);
        std::stop_source source = std::move(found->second);
        sources_.erase(found);
        return source;
    }

    std::mutex mutex_;
    std::unordered_map<const WorkerExchange*, std::stop_source> sources_;  // of those that somebody asked for
};

}  // namespace anyserve
