// Calls of the services, over a connection in memory.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "anyserve/message_fields.hpp"
#include "http2_wire.hpp"

namespace anyserve::testing {

/// What has come of a call.
struct Outcome {
    std::string code;     ///< as a number; empty: it is open
    std::string message;  ///< as it stands in `grpc-message`
    std::vector<std::string> replies;
    bool began = false;  ///< the response's headers have come

    /// The only reply of a call that went well.
    [[nodiscard]] std::string reply() const { return code == "0" && replies.size() == 1 ? replies[0] : "no reply"; }
    [[nodiscard]] bool says(std::string_view text) const { return message.find(text) != std::string::npos; }
};

class Calls {
public:
    explicit Calls(Router router, ServerLimits limits = {}) : memory(std::move(router), limits) { memory.begin(); }

    /// Opens a call; returns its stream.
    std::uint32_t open(std::string_view path, std::string_view headers = {}) {
        next_ += 2;
        memory.send(wire::frame(wire::headers, wire::kEndHeaders, next_, wire::request(path, headers)));
        return next_;
    }
    void send(std::uint32_t stream, std::string_view message) {
        memory.send(wire::frame(wire::data, 0, stream, wire::message(message)));
    }
    void half_close(std::uint32_t stream) { memory.send(wire::frame(wire::data, wire::kEndStream, stream, {})); }
    void cancel(std::uint32_t stream) { memory.send(wire::frame(wire::rst_stream, 0, stream, wire::number(8))); }

    /// A call with one request.
    std::uint32_t start(std::string_view path, std::string_view message, std::string_view headers = {}) {
        const std::uint32_t stream = open(path, headers);
        if (memory.answers[stream].ended) return stream;  // refused
        memory.send(wire::frame(wire::data, wire::kEndStream, stream, wire::message(message)));
        return stream;
    }
    Outcome call(std::string_view path, std::string_view message, std::string_view headers = {}) {
        return outcome(start(path, message, headers));
    }
    template <class Request>
    Outcome call_with(std::string_view path, const Request& request) {
        return call(path, write_message(request));
    }

    /// What has come of a call by now, once the loop has had its turn and what it made has been sent.
    Outcome outcome(std::uint32_t stream) {
        for (int turn = 0; turn < 3; ++turn) {
            memory.loop.stop();
            memory.loop.run();
            memory.pump();
        }
        const wire::Answer& answer = memory.answers[stream];
        Outcome outcome{answer.status(), answer.field("grpc-message"), {}, !answer.blocks.empty()};
        std::string_view data = answer.data;
        while (data.size() >= kPrefix) {
            std::size_t size = 0;
            for (const char c : data.substr(1, kPrefix - 1)) size = size << 8 | static_cast<unsigned char>(c);
            outcome.replies.emplace_back(data.substr(kPrefix, size));
            data.remove_prefix(std::min(data.size(), kPrefix + size));
        }
        return outcome;
    }

    wire::Memory memory;

private:
    static constexpr std::size_t kPrefix = 5;

    std::uint32_t next_ = static_cast<std::uint32_t>(-1);
};

}  // namespace anyserve::testing
