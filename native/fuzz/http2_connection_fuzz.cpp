// Any bytes as a client's connection, without sockets: no crash, no leak, and nothing held when it has ended.
//
// The first byte says in how large pieces the rest comes, and how the service behaves. It is given behind preface and
// SETTINGS, which a fuzzer would have to find first.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "anyserve/grpc_protocol.hpp"

namespace {

using namespace anyserve;

class Identity final : public UnaryHandler {
public:
    using UnaryHandler::UnaryHandler;
    void on_request(Payload bytes) override { reply(std::move(bytes)); }
};

/// Answers each message by itself, and reads the next when the client has taken it.
class Stream final : public CallHandler {
public:
    explicit Stream(ServerCall& call) : call_(call) { call_.read(); }
    void on_message(Payload bytes) override {
        call_.send(std::move(bytes), [this] { call_.read(); });
    }
    void on_half_close() override { call_.finish(Code::ok, "half-close"); }
    void on_cancel() override {}

private:
    ServerCall& call_;
};

Router router(bool streams) {
    return [streams](ServerCall& call) -> std::unique_ptr<CallHandler> {
        if (call.facts().path.size() % 7 == 1) return nullptr;
        if (streams) return std::make_unique<Stream>(call);
        return std::make_unique<Identity>(call);
    };
}

ServerLimits small_limits() {
    ServerLimits limits;
    limits.max_calls = 20;
    limits.max_streams = 10;
    limits.max_message_bytes = 10'000;
    limits.max_connection_held_bytes = 50'000;
    limits.max_header_list_bytes = 1'000;
    limits.output_bytes = 4'000;
    limits.resets = {20, 1};
    limits.idle_frames = {50, 1};
    return limits;
}

constexpr std::string_view kBegin("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0\0\0\0\4\1\0\0\0\0", 42);

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    std::string bytes(kBegin);
    bytes.append(reinterpret_cast<const char*>(data) + 1, size - 1);
    const std::size_t piece = (data[0] & 0x40) != 0 ? bytes.size() : std::size_t{data[0]} % 64 + 1;
    EventLoop loop;
    const auto totals = std::make_shared<ServerTotals>();
    GrpcServerState server(loop, small_limits(), router((data[0] & 0x80) != 0), totals);
    GrpcConnectionState connection(server, "unix:");
    Http2Session::Time now = loop.now();
    Http2Session session(
        server.limits, now, [&](Http2Stream& stream) { return make_grpc_call(connection, stream); }, [] {});
    OutputQueue output;
    for (std::size_t begin = 0; begin < bytes.size() && !session.done(); begin += piece) {
        now += std::chrono::milliseconds{10};
        session.receive(std::string_view(bytes).substr(begin, piece), now);
        session.pump(output, now);
        if (begin % 3 != 0) output.pop(output.size());  // sometimes the client takes nothing
        if (begin % 5 == 0) session.sweep(now);
        connection.ended.clear();
    }
    session.close();
    connection.ended.clear();
    const bool held = totals->calls.value() != 0 || totals->held_bytes.value() != 0;
    if (held || session.streams() != 0) std::abort();
    return 0;
}
