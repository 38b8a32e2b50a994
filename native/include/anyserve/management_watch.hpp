// WatchEvents: one call's way from the event log to its client. Rules: spec `manage.event.*`.
#pragma once

#include <memory>

#include "anyserve/event_loop.hpp"
#include "anyserve/grpc_protocol.hpp"
#include "anyserve/management_messages.hpp"
#include "anyserve/registry.hpp"
#include "anyserve/shared_state.hpp"

namespace anyserve {

/// The handler of a WatchEvents call. It has one event on the way to its client at a time: what is behind it waits in
/// the `Watcher`, which has the bound.
[[nodiscard]] std::unique_ptr<CallHandler> watch_events(ServerCall& call, EventLoop& loop, SharedState& state);

/// A registration as ListWorkers and WatchEvents tell it; its texts are the registration's.
[[nodiscard]] messages::Registration registration_message(const Registration& registration);

}  // namespace anyserve
