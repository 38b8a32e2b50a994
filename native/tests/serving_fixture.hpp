// Everything between a call and its workers, for tests: real sockets on the workers' side, calls without HTTP/2 on the
// other.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "anyserve/config.hpp"
#include "anyserve/dispatcher.hpp"
#include "anyserve/grpc_protocol.hpp"
#include "anyserve/registry.hpp"
#include "anyserve/scan.hpp"
#include "anyserve/shared_state.hpp"
#include "anyserve/worker_clients.hpp"
#include "worker_client_peer.hpp"

namespace anyserve::testing {

inline constexpr std::string_view kInfer = "/inference.GRPCInferenceService/ModelInfer";
inline constexpr std::string_view kStreamInfer = "/inference.GRPCInferenceService/ModelStreamInfer";

/// A ModelInferRequest or ModelInferResponse: name, version and id, as far as they are given.
inline std::string message_of(std::string_view name, std::string_view version = {}, std::string_view id = {}) {
    std::string out;
    if (!name.empty()) append_bytes_field(out, 1, name);
    if (!version.empty()) append_bytes_field(out, 2, version);
    if (!id.empty()) append_bytes_field(out, 3, id);
    return out;
}

/// A ModelStreamInferResponse of a streaming worker that lacks nothing.
inline std::string stream_reply_of(std::string_view name, std::string_view id) {
    std::string out;
    append_bytes_field(out, 2, message_of(name, {}, id));
    return out;
}

/// A reply that tells a failure.
inline std::string failure_of(std::int64_t code, std::string_view text) {
    std::string out;
    append_parameter(out, "anyserve_error_code", code);
    append_parameter(out, "anyserve_error_message", text);
    return out;
}

/// What a client is told in a stream: a reply's error and its code, or its id.
struct InBand {
    std::string error;
    std::string id;
    std::optional<std::int64_t> code;
    std::optional<bool> final;
};

inline InBand in_band(std::string_view bytes) {
    StreamReply reply;
    EXPECT_FALSE(scan_stream_reply(bytes, reply)) << "the client cannot read its reply";
    InBand read;
    read.error = reply.error_message;
    if (!reply.response) return read;
    read.id = reply.response->id;
    if (const auto* code = reply.response->parameter("anyserve_error_code")) read.code = std::get<std::int64_t>(*code);
    if (const auto* mark = reply.response->parameter("triton_final_response")) read.final = std::get<bool>(*mark);
    return read;
}

/// All parts of an agent that a request meets behind its call.
class Serving : public ::testing::Test {
protected:
    /// Registers a worker at a socket in the test's directory; nobody listens there yet.
    RegistrationPtr add(Registration registration) {
        if (registration.worker_id.empty()) registration.worker_id = "w";
        if (registration.socket_path.empty()) registration.socket_path = directory / registration.worker_id;
        if (registration.model_name.empty()) registration.model_name = "m";
        if (registration.capability.size() == 0) {
            registration.capability = std::get<Capability>(Capability::make({{"type", registration.model_name}}));
            registration.annotate = false;
        }
        auto shared = std::make_shared<const Registration>(std::move(registration));
        EXPECT_TRUE(std::holds_alternative<Workers::Registered>(workers.add(shared)));
        return shared;
    }
    /// A worker that listens and is registered.
    ListeningWorker worker(Registration registration = {}) {
        if (registration.worker_id.empty()) registration.worker_id = "w";
        ListeningWorker listening(directory / registration.worker_id);
        add(std::move(registration));
        return listening;
    }
    [[nodiscard]] ModelCounts counts() const { return statistics.of("m", ""); }

    Driver driver;
    TemporaryDirectory directory;
    AgentConfig config = [] {
        AgentConfig small;
        small.queue_size = 4;
        small.default_max_concurrency = 1;
        small.max_stream_requests = 4;
        return small;
    }();
    SharedState state{driver.loop,
                      config,
                      [this](const WorkerEndpointPtr& endpoint, ClientEnd how) {
                          driver.loop.run_soon([this, endpoint, how] { clients.end(endpoint, how); });
                      },
                      {}};
    Registry& registry = state.registry;
    Admission& admission = state.admission;
    Statistics& statistics = state.statistics;
    Workers& workers = state.workers;
    WorkerClients clients{driver.loop, config, [this](const WorkerEndpointPtr& endpoint, const Failure& violation) {
                              workers.violated(endpoint, violation);
                          }};
    Dispatcher dispatcher{driver.loop, state, clients};
};

/// A call as a service sees it; the test is its client. Its handler goes at the end of the turn in which it ends.
class FakeCall final : public ServerCall {
public:
    FakeCall(EventLoop& loop, std::string_view path, Metadata metadata = {}) : loop_(loop) {
        facts_.path = path;
        facts_.metadata = std::move(metadata);
        facts_.peer = "unix:";
    }
    ~FakeCall() { deadline_ = {}; }

    // What the client does.
    void begin(const std::function<std::unique_ptr<CallHandler>(ServerCall&)>& router) {
        auto handler = router(*this);
        ASSERT_TRUE(handler);
        handler_ = std::move(handler);
        if (facts_.deadline) deadline_ = loop_.at(*facts_.deadline, [this] { expire(); });
    }
    void set_deadline(EventLoop::Clock::time_point deadline) { facts_.deadline = deadline; }
    void message(std::string bytes) {
        incoming_.push_back(std::move(bytes));
        deliver();
    }
    void half_close() {
        half_close_ = true;
        deliver();
    }
    void cancel() {
        if (ended_) return;
        handler_->on_cancel();
        end();
    }
    /// Takes so many replies from the server.
    void take(std::size_t count = 1) {
        for (; count > 0 && !untaken_.empty() && !ended_; --count) {
            const auto taken = std::move(untaken_.front());
            untaken_.pop_front();
            if (taken) taken();
        }
    }
    [[nodiscard]] std::size_t untaken() const { return untaken_.size(); }
    [[nodiscard]] std::size_t unread() const { return incoming_.size(); }
    [[nodiscard]] bool finished(Code code) const { return status && status->code == code; }

    // What the service does.
    const CallFacts& facts() const override { return facts_; }
    void read() override {
        EXPECT_FALSE(ended_);
        ++wanted_;
        deliver();
    }
    void send_initial_metadata() override {}
    void send(Payload bytes, std::function<void()> taken) override {
        EXPECT_FALSE(ended_);
        sent.push_back(std::move(bytes).take());
        untaken_.push_back(std::move(taken));
        if (!slow) loop_.defer([this] { take(); });
        loop_.stop();
    }
    void finish(Code code, std::string_view text) override {
        EXPECT_FALSE(ended_) << text;
        EXPECT_EQ(code == Code::ok, text.empty());
        status = InferenceError{code, std::string(text)};
        end();
    }

    bool slow = false;  ///< the client takes replies only when the test says so
    std::vector<std::string> sent;
    std::optional<InferenceError> status;

private:
    void deliver() {
        if (std::exchange(delivering_, true)) return;
        while (handler_ && !ended_ && wanted_ > 0 && !incoming_.empty()) {
            --wanted_;
            std::string bytes = std::move(incoming_.front());
            incoming_.pop_front();
            handler_->on_message(std::move(bytes));
        }
        delivering_ = false;
        if (handler_ && !ended_ && half_close_ && incoming_.empty()) {
            half_close_ = false;
            handler_->on_half_close();
        }
    }
    void expire() {
        if (ended_) return;
        status = InferenceError{Code::deadline_exceeded, "the deadline of the call has passed"};
        cancel();
    }
    void end() {
        ended_ = true;
        loop_.defer([this] { handler_.reset(); });
        loop_.stop();
    }

    EventLoop& loop_;
    CallFacts facts_;
    std::unique_ptr<CallHandler> handler_;
    EventLoop::Timer deadline_;
    std::deque<std::string> incoming_;
    std::deque<std::function<void()>> untaken_;
    std::size_t wanted_ = 0;
    bool half_close_ = false;
    bool delivering_ = false;
    bool ended_ = false;
};

}  // namespace anyserve::testing
