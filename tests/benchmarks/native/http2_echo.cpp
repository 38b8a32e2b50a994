// The agent's own HTTP/2 and gRPC rooms with nothing behind them: each message comes back as it is, whatever the
// method.
//
// Usage: http2_echo [PATH]. Listens at the Unix socket PATH (the relay's other end), or at a TCP port (what the agent
// costs without routing and without the hop to a worker); prints its port, 0 for the Unix socket.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "anyserve/event_loop.hpp"
#include "anyserve/grpc_protocol.hpp"
#include "anyserve/http2_server.hpp"
#include "anyserve/sockets.hpp"

namespace {

class Echo final : public anyserve::UnaryHandler {
public:
    using UnaryHandler::UnaryHandler;

private:
    void on_request(anyserve::Payload message) override { reply(std::move(message)); }
};

}  // namespace

int main(int argc, char** argv) {
    anyserve::Listening listening = argc > 1 ? anyserve::listen_unix(argv[1]) : anyserve::listen_inet("127.0.0.1", 0);
    if (!listening.error.empty()) {
        std::fprintf(stderr, "%s\n", listening.error.c_str());
        return EXIT_FAILURE;
    }
    std::printf("%u\n", static_cast<unsigned>(anyserve::local_port(listening.sockets.front())));
    std::fflush(stdout);
    anyserve::EventLoop loop;
    anyserve::Http2Server server(loop, anyserve::ServerLimits{},
                                 [](anyserve::ServerCall& call) { return std::make_unique<Echo>(call); });
    server.serve(std::move(listening.sockets.front()));
    loop.run();
    return EXIT_SUCCESS;
}
