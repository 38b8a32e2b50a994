// A server for tests and measurements of the gRPC rooms: model `identity` (INPUT0, FP32, [4]) and nothing else.
//
// Usage: echo_server [--port N] [--max-streams N] [--tls-cert FILE --tls-key FILE [--tls-client-ca FILE]].
// Prints the port on a line of its own. SIGTERM drains, SIGINT ends.
// It writes its few protobuf messages by hand: what is tested is HTTP/2 and gRPC, not this.
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "anyserve/http2_server.hpp"
#include "anyserve/sockets.hpp"
#include "anyserve/tls.hpp"

namespace {

using anyserve::Code;

// Protobuf: varints and fields with a length.

std::optional<std::uint64_t> take_varint(std::string_view& bytes) {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && !bytes.empty(); shift += 7) {
        const auto byte = static_cast<unsigned char>(bytes.front());
        bytes.remove_prefix(1);
        value |= std::uint64_t{byte & 0x7Fu} << shift;
        if (byte < 0x80) return value;
    }
    return std::nullopt;
}

struct Field {
    std::uint64_t number;
    std::string_view bytes;  // of a field with a length
    std::string_view whole;  // with its key
};

/// The fields of a message; nothing if it is none.
std::optional<std::vector<Field>> read_fields(std::string_view bytes) {
    std::vector<Field> fields;
    while (!bytes.empty()) {
        const char* begin = bytes.data();
        const auto key = take_varint(bytes);
        if (!key || *key >> 3 == 0) return std::nullopt;
        std::size_t size = 0;
        switch (*key & 7) {
            case 0:
                if (!take_varint(bytes)) return std::nullopt;
                break;
            case 1: size = 8; break;
            case 2: {
                const auto length = take_varint(bytes);
                if (!length || *length > bytes.size()) return std::nullopt;
                size = static_cast<std::size_t>(*length);
                break;
            }
            case 5: size = 4; break;
            default: return std::nullopt;
        }
        if (size > bytes.size()) return std::nullopt;
        const std::string_view content = bytes.substr(0, size);
        bytes.remove_prefix(size);
        fields.push_back({*key >> 3, content, {begin, static_cast<std::size_t>(bytes.data() - begin)}});
    }
    return fields;
}

void put_varint(std::string& out, std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
    out += static_cast<char>(value);
}

void put_bytes(std::string& out, unsigned number, std::string_view bytes) {
    put_varint(out, number << 3 | 2);
    put_varint(out, bytes.size());
    out += bytes;
}

// The methods.

constexpr std::string_view kService = "/inference.GRPCInferenceService/";
constexpr std::string_view kModel = "identity";
constexpr std::string_view kTrue = "\x08\x01";

struct Result {
    Code code = Code::ok;
    std::string text;  // the response, or what was wrong
};

std::string_view text_field(const std::vector<Field>& fields, unsigned number) {
    std::string_view found;
    for (const Field& field : fields) {
        if (field.number == number) found = field.bytes;
    }
    return found;
}

std::string tensor(std::string_view name) {
    std::string out;
    put_bytes(out, 1, name);
    put_bytes(out, 2, "FP32");
    put_bytes(out, 3, "\x04");
    return out;
}

std::string model_metadata() {
    std::string out;
    put_bytes(out, 1, kModel);
    put_bytes(out, 3, "echo");
    put_bytes(out, 4, tensor("INPUT0"));
    put_bytes(out, 5, tensor("OUTPUT0"));
    return out;
}

std::string output_of(std::string_view input) {
    std::string out;
    put_bytes(out, 1, "OUTPUT0");
    for (const Field& field : read_fields(input).value_or(std::vector<Field>{})) {
        if (field.number != 1) out += field.whole;  // datatype, shape and contents have the same numbers
    }
    return out;
}

Result infer(const std::vector<Field>& request) {
    std::string out;
    out.reserve(64 + text_field(request, 7).size() + text_field(request, 3).size());
    put_bytes(out, 1, kModel);
    put_bytes(out, 3, text_field(request, 3));
    for (const Field& field : request) {
        if (field.number == 5) put_bytes(out, 5, output_of(field.bytes));
        if (field.number == 7) put_bytes(out, 6, field.bytes);
    }
    return {Code::ok, std::move(out)};
}

Result answer(std::string_view method, std::string_view request) {
    const auto fields = read_fields(request);
    if (!fields) return {Code::invalid_argument, "the request is no protobuf message"};
    if (method == "ServerLive" || method == "ServerReady") return {Code::ok, std::string(kTrue)};
    if (method == "ServerMetadata") {
        std::string out;
        put_bytes(out, 1, "echo");
        return {Code::ok, std::move(out)};
    }
    const std::string_view model = text_field(*fields, 1);
    if (method == "ModelReady") return {Code::ok, model == kModel ? std::string(kTrue) : std::string()};
    if (model != kModel) return {Code::not_found, "there is no model " + std::string(model)};
    return method == "ModelMetadata" ? Result{Code::ok, model_metadata()} : infer(*fields);
}

class Echo final : public anyserve::UnaryHandler {
public:
    Echo(anyserve::ServerCall& server_call, std::string_view method) : UnaryHandler(server_call), method_(method) {}

private:
    void on_request(anyserve::Payload message) override {
        Result result = answer(method_, message.view());
        if (result.code == Code::ok) {
            reply(std::move(result.text));
        } else {
            call().finish(result.code, result.text);
        }
    }
    std::string_view method_;
};

std::unique_ptr<anyserve::CallHandler> route(anyserve::ServerCall& call) {
    constexpr std::array<std::string_view, 6> methods{"ServerLive", "ServerReady",   "ServerMetadata",
                                                      "ModelReady", "ModelMetadata", "ModelInfer"};
    std::string_view path = call.facts().path;
    if (!path.starts_with(kService)) return nullptr;
    path.remove_prefix(kService.size());
    for (const std::string_view method : methods) {
        if (path == method) return std::make_unique<Echo>(call, method);
    }
    return nullptr;
}

class Signals final : public anyserve::EventLoop::Handler {
public:
    Signals(anyserve::EventLoop& loop, anyserve::Http2Server& server) : loop_(loop), server_(server) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGINT);
        sigprocmask(SIG_BLOCK, &set, nullptr);
        fd_ = anyserve::Fd(signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
        loop_.add(fd_.get(), EPOLLIN, *this);
    }
    ~Signals() { loop_.remove(fd_.get()); }
    void ready(std::uint32_t) override {
        signalfd_siginfo info{};
        if (::read(fd_.get(), &info, sizeof info) != sizeof info) return;
        if (info.ssi_signo == SIGINT) return loop_.stop();
        server_.drain(std::chrono::seconds{5}, [this] { loop_.stop(); });
    }

private:
    anyserve::EventLoop& loop_;
    anyserve::Http2Server& server_;
    anyserve::Fd fd_;
};

}  // namespace

int main(int argc, char** argv) {
    std::uint16_t port = 0;
    anyserve::ServerLimits limits;
    anyserve::TlsFiles files;
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string_view name = argv[i], value = argv[i + 1];
        if (name == "--port") std::from_chars(value.data(), value.data() + value.size(), port);
        if (name == "--max-streams") std::from_chars(value.data(), value.data() + value.size(), limits.max_streams);
        if (name == "--tls-cert") files.cert = value;
        if (name == "--tls-key") files.key = value;
        if (name == "--tls-client-ca") files.client_ca = value;
    }
    anyserve::TlsLoaded tls;
    if (!files.cert.empty()) tls = anyserve::TlsContext::load(files);
    auto [listeners, error] = anyserve::listen_inet("127.0.0.1", port);
    if (!error.empty() || !tls.error.empty()) {
        std::fprintf(stderr, "%s\n", (tls.error + error).c_str());
        return 1;
    }
    anyserve::EventLoop loop;
    anyserve::Http2Server server(loop, limits, route);
    std::printf("%u\n", static_cast<unsigned>(anyserve::local_port(listeners.front())));
    std::fflush(stdout);
    for (anyserve::Fd& listener : listeners) server.serve(std::move(listener), tls.context);
    const Signals signals(loop, server);
    loop.run();
    return 0;
}
