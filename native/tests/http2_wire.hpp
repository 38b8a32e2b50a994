// Frames by hand, and a connection in memory: what tests and fuzzing of the HTTP/2 rooms share.
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "anyserve/grpc_protocol.hpp"

namespace anyserve::wire {

constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
constexpr std::string_view kPath = "/test.Service/Method";

enum Type : std::uint8_t { data, headers, priority, rst_stream, settings, push_promise, ping, goaway, window_update };
constexpr std::uint8_t kEndStream = 1, kAck = 1, kEndHeaders = 4;

inline std::string number(std::uint32_t value, unsigned bytes = 4) {
    std::string out;
    while (bytes-- > 0) out += static_cast<char>((value >> (8 * bytes)) & 0xFF);
    return out;
}

inline std::string frame(Type type, unsigned flags, std::uint32_t stream, std::string_view payload) {
    std::string out = number(static_cast<std::uint32_t>(payload.size()), 3);
    out += static_cast<char>(type);
    out += static_cast<char>(flags);
    return out.append(number(stream)).append(payload);
}

/// A field as a literal that no table keeps; name and value shorter than 127 bytes.
inline std::string literal(std::string_view name, std::string_view value) {
    std::string out(1, '\0');
    out += static_cast<char>(name.size());
    out.append(name);
    out += static_cast<char>(value.size());
    return out.append(value);
}

inline std::string request(std::string_view path = kPath, std::string_view more = {}) {
    return literal(":method", "POST") + literal(":scheme", "http") + literal(":path", path) +
           literal(":authority", "test") + literal("te", "trailers") + literal("content-type", "application/grpc") +
           std::string(more);
}

inline std::string open(std::uint32_t stream, std::string_view more = {}, unsigned flags = 0) {
    return frame(headers, kEndHeaders | flags, stream, request(kPath, more));
}

/// A message with its prefix, which may announce another length.
inline std::string message(std::string_view bytes, std::uint32_t announced = 0) {
    return std::string(1, '\0') + number(announced > 0 ? announced : static_cast<std::uint32_t>(bytes.size())) +
           std::string(bytes);
}

inline std::string setting(unsigned id, std::uint32_t value) { return number(id, 2) + number(value); }

/// What the server sent on one stream.
struct Answer {
    std::vector<std::map<std::string, std::string>> blocks;
    std::string data;
    bool ended = false;
    std::optional<std::uint32_t> reset;

    std::string field(const std::string& name) const {
        for (const auto& block : blocks) {
            if (const auto found = block.find(name); found != block.end()) return found->second;
        }
        return "";
    }
    std::string status() const { return field("grpc-status"); }
};

/// A server's connection without sockets: `send` gives it bytes, and reads what it answers.
class Memory {
public:
    explicit Memory(Router router, ServerLimits limits = {})
        : server(loop, limits, std::move(router), std::make_shared<ServerTotals>()),
          connection(server, "unix:"),
          now(loop.now()),
          session(
              server.limits, now, [this](Http2Stream& stream) { return make_grpc_call(connection, stream); }, [] {}) {
        nghttp2_hd_inflate_new(&inflater_);
    }
    ~Memory() {
        session.close();
        nghttp2_hd_inflate_del(inflater_);
    }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;

    /// Preface and SETTINGS, ours acknowledged; windows are wide open unless `window` says otherwise.
    void begin(std::uint32_t window = 1u << 30) {
        send(std::string(kPreface) + frame(settings, 0, 0, setting(4, window)) + frame(settings, kAck, 0, {}) +
             frame(window_update, 0, 0, number(1u << 30)));
    }
    void send(std::string_view bytes) {
        session.receive(bytes, now);
        pump();
    }
    void pump() {
        do {
            output_.pop(output_.size());
            session.pump(output_, now);
            std::vector<iovec> vectors(1 << 12);
            vectors.resize(output_.gather(vectors));
            for (const iovec& vector : vectors)
                received_.append(static_cast<const char*>(vector.iov_base), vector.iov_len);
        } while (!output_.empty());
        connection.ended.clear();
        parse();
    }
    void pass(std::chrono::milliseconds time) {
        now += time;
        session.sweep(now);
        pump();
    }
    /// Runs the loop's timers and tasks for about `time` of the real clock.
    void run(std::chrono::milliseconds time) {
        const auto stop = loop.at(EventLoop::Clock::now() + time, [this] { loop.stop(); });
        loop.run();
        pump();
    }

    EventLoop loop;
    GrpcServerState server;
    GrpcConnectionState connection;
    Http2Session::Time now;
    Http2Session session;
    std::map<std::uint32_t, Answer> answers;
    std::vector<std::pair<std::uint32_t, std::string>> goaways;  // last stream and the rest of the payload
    std::map<std::uint32_t, std::uint32_t> updates;              // WINDOW_UPDATE, summed by stream
    std::size_t pongs = 0;

private:
    static std::uint32_t big_endian(std::string_view bytes) {
        std::uint32_t value = 0;
        for (const char c : bytes) value = value << 8 | static_cast<unsigned char>(c);
        return value;
    }
    void parse() {
        constexpr std::size_t head = 9;
        while (received_.size() >= head) {
            const std::string_view all = received_;
            const std::size_t size = big_endian(all.substr(0, 3));
            if (all.size() < head + size) return;
            take(static_cast<Type>(all[3]), static_cast<std::uint8_t>(all[4]), big_endian(all.substr(5, 4)),
                 all.substr(head, size));
            received_.erase(0, head + size);
        }
    }
    void take(Type type, std::uint8_t flags, std::uint32_t stream, std::string_view payload) {
        switch (type) {
            case data: answers[stream].data += payload; break;
            case headers: answers[stream].blocks.push_back(inflate(payload)); break;
            case rst_stream: answers[stream].reset = big_endian(payload); break;
            case goaway: goaways.emplace_back(big_endian(payload.substr(0, 4)), payload.substr(4)); break;
            case window_update: updates[stream] += big_endian(payload); break;
            case ping: pongs += (flags & kAck) != 0; break;
            default: break;
        }
        if ((type == data || type == headers) && (flags & kEndStream) != 0) answers[stream].ended = true;
    }
    std::map<std::string, std::string> inflate(std::string_view block) {
        std::map<std::string, std::string> fields;
        for (;;) {
            nghttp2_nv nv{};
            int flags = 0;
            const auto* in = reinterpret_cast<const std::uint8_t*>(block.data());
            const ssize_t used = nghttp2_hd_inflate_hd2(inflater_, &nv, &flags, in, block.size(), 1);
            if (used < 0) break;
            block.remove_prefix(static_cast<std::size_t>(used));
            if ((flags & NGHTTP2_HD_INFLATE_EMIT) != 0) {
                fields.emplace(std::string(reinterpret_cast<char*>(nv.name), nv.namelen),
                               std::string(reinterpret_cast<char*>(nv.value), nv.valuelen));
            }
            if ((flags & NGHTTP2_HD_INFLATE_FINAL) != 0) break;
        }
        nghttp2_hd_inflate_end_headers(inflater_);
        return fields;
    }

    OutputQueue output_;
    std::string received_;
    nghttp2_hd_inflater* inflater_ = nullptr;
};

}  // namespace anyserve::wire
