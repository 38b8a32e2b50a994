// A worker in C++ that echoes: for benchmarks and the soak, and a small example of a worker on this library.
//
// Usage: echo_worker PATH. Listens at the Unix socket PATH, says so in one line, and serves until it is killed.
// Whoever started it registers it (`echo`, unary; `tokens`, streaming) at an agent's management port, with or without
// `shared_memory`.
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "anyserve/event_loop.hpp"
#include "anyserve/sockets.hpp"
#include "echo.hpp"
#include "worker_server.hpp"

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fputs("usage: echo_worker PATH\n", stderr);
        return EXIT_FAILURE;
    }
    anyserve::Listening listening = anyserve::listen_unix(argv[1]);
    if (!listening.error.empty()) {
        std::fprintf(stderr, "cannot listen at %s: %s\n", argv[1], listening.error.c_str());
        return EXIT_FAILURE;
    }
    anyserve::EventLoop loop;
    anyserve::Echo echo(loop);
    anyserve::WorkerServer server(loop, echo);
    server.share_memory(true);
    server.listen(std::move(listening.sockets.front()));
    std::puts("listening");
    std::fflush(stdout);
    loop.run();
    return EXIT_SUCCESS;
}
