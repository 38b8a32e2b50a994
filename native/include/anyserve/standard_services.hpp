// The services that every gRPC server is expected to have: health and reflection. Their descriptors are embedded by the
// build. Rules: spec `serving.health.*` and `serving.reflection.*`. Mirrors
// reference/anyserve/agent/standard_services.py.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "anyserve/event_loop.hpp"
#include "anyserve/grpc_protocol.hpp"

namespace anyserve {

/// Health and reflection of one server. Must outlive its calls.
class StandardServices {
public:
    /// `services`: the full names of the server's own; the health of each is that of the server.
    StandardServices(EventLoop& loop, std::vector<std::string> services);
    ~StandardServices();

    /// The handler of a call to one of these services' methods; null for every other path.
    [[nodiscard]] std::unique_ptr<CallHandler> route(ServerCall& call);

    /// Sets the health of the server and of its services, and tells those that watch.
    void set_serving(bool serving);
    /// Ends the calls that would last as long as their clients like, after they have told the last status.
    void close();

private:
    class Health;
    class Reflection;
    std::unique_ptr<Health> health_;
    std::unique_ptr<Reflection> reflection_;
};

}  // namespace anyserve
