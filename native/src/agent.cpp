#include "anyserve/agent.hpp"

#include <algorithm>
#include <atomic>
#include <list>

#include "anyserve/dispatcher.hpp"
#include "anyserve/http2_server.hpp"
#include "anyserve/kserve_service.hpp"
#include "anyserve/management_service.hpp"
#include "anyserve/shared_state.hpp"
#include "anyserve/sockets.hpp"
#include "anyserve/standard_services.hpp"
#include "anyserve/tls.hpp"
#include "anyserve/worker_clients.hpp"

namespace anyserve {
namespace {

constexpr int kSweepsPerTimeout = 4;
/// For replies on their way when the calls have ended; then the connections are closed.
constexpr std::chrono::milliseconds kLastReplies{1'000};
/// Clients of calls that have ended need to learn of the end, and not to lose a call that crosses it.
constexpr std::chrono::milliseconds kGoAwayNotice{100};

ServerLimits client_limits(const AgentConfig& config) {
    ServerLimits limits = config.http2;
    limits.max_calls = config.max_concurrent_rpcs;
    limits.max_message_bytes = config.max_message_bytes;
    limits.goaway_notice = kGoAwayNotice;
    return limits;
}

ServerLimits management_limits(const AgentConfig& config) {
    ServerLimits limits;
    limits.max_calls = config.max_concurrent_rpcs;
    limits.max_message_bytes = kManagementMessageBytes;
    limits.goaway_notice = kGoAwayNotice;
    return limits;
}

constexpr std::string_view kUnixPrefix = "unix:";

std::string address_of(const std::string& host, std::uint16_t port) {
    const bool ipv6 = host.find(':') != std::string::npos;
    return (ipv6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

std::int64_t unix_ms() {
    const auto since_1970 = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::milliseconds>(since_1970).count();
}

}  // namespace

/// What all threads know and none changes, but for `ready`.
struct Common {
    const AgentConfig config;
    const std::string instance_secret;
    const std::string server_version;
    const std::shared_ptr<ServerTotals> totals = std::make_shared<ServerTotals>();
    std::atomic<bool> ready{false};  ///< what ServerReady answers
};

/// The client side on one I/O thread. In the order in which they are made: each knows only those above it.
struct ClientSide {
    ClientSide(EventLoop& event_loop, Common& common, SharedState& state)
        : loop(event_loop),
          clients(loop, common.config,
                  [&state](const WorkerEndpointPtr& endpoint, const Failure& violation) {
                      const std::lock_guard lock(state.mutex);
                      state.workers.violated(endpoint, violation);
                  }),
          info(loop, state, common.server_version),
          dispatcher(loop, state, clients),
          kserve(
              loop, common.config, dispatcher, info, [&common] { return common.ready.load(); }, common.instance_secret),
          standard(loop, {"inference.GRPCInferenceService"}),
          server(
              loop, client_limits(common.config),
              [this](ServerCall& call) {
                  auto handler = kserve.route(call);
                  return handler ? std::move(handler) : standard.route(call);
              },
              common.totals, state.memory.get()) {}

    EventLoop& loop;
    WorkerClients clients;
    ModelInfo info;
    Dispatcher dispatcher;
    KServeService kserve;
    StandardServices standard;
    Http2Server server;
    bool ended = false;  // its connections, in a drain; on the agent's thread
};

/// In the order in which they are made: each knows only those above it.
struct Agent::Parts {
    Parts(std::span<EventLoop* const> loops, AgentConfig agent_config, std::string instance_secret,
          std::string server_version, Log agent_log)
        : loop(*loops.front()),
          common{std::move(agent_config), std::move(instance_secret), std::move(server_version)},
          config(common.config),
          log(std::move(agent_log)),
          state(
              loop, config, [this](const WorkerEndpointPtr& endpoint, ClientEnd how) { end_clients(endpoint, how); },
              log),
          management(loop, config, state),
          management_server(loop, management_limits(config),
                            [this](ServerCall& call) { return management.route(call); }) {
        for (EventLoop* each : loops) sides.push_back(std::make_unique<ClientSide>(*each, common, state));
        std::vector<Http2Server*> others;
        for (const auto& side : sides) {
            if (side != sides.front()) others.push_back(&side->server);
        }
        acceptor().deal_to(std::move(others));
        state.workers.on_all_launched_registered = [this] { become_ready(); };
    }
    ~Parts() {
        const std::lock_guard lock(state.mutex);
        watcher.reset();
    }
    Parts(const Parts&) = delete;
    Parts& operator=(const Parts&) = delete;

    /// The one that listens, and deals out connections among all.
    Http2Server& acceptor() { return sides.front()->server; }

    /// Runs a task on each I/O thread, soon.
    void on_each(const std::function<void(ClientSide&)>& task) {
        for (const auto& side : sides) side->loop.run_soon([task, &side = *side] { task(side); });
    }

    void end_clients(const WorkerEndpointPtr& endpoint, ClientEnd how) {
        on_each([endpoint, how](ClientSide& side) { side.clients.end(endpoint, how); });
    }

    std::optional<StartError> listen() {
        std::shared_ptr<const TlsContext> tls;
        if (config.tls_cert) {
            TlsLoaded loaded =
                TlsContext::load({*config.tls_cert, config.tls_key.value_or(""), config.tls_client_ca.value_or("")});
            if (!loaded.context) return StartError{true, std::move(loaded.error)};
            tls = std::move(loaded.context);
        }
        const bool on_unix = config.host.starts_with(kUnixPrefix);
        auto error = on_unix ? listen_at(config.host.substr(kUnixPrefix.size()), tls)
                             : listen_at(acceptor(), config.host, config.port, port, tls);
        if (!error && config.private_socket) error = listen_at(*config.private_socket, nullptr);
        if (!error) {
            error =
                listen_at(management_server, config.management_host, config.management_port, management_port, nullptr);
        }
        return error;
    }

    std::optional<StartError> listen_at(Http2Server& on, const std::string& host, std::uint16_t wanted,
                                        std::uint16_t& bound, const std::shared_ptr<const TlsContext>& tls) {
        Listening listening = listen_inet(host, wanted);
        if (listening.sockets.empty()) {
            return StartError{false, "cannot listen on " + address_of(host, wanted) + ": " + listening.error};
        }
        bound = local_port(listening.sockets.front());
        for (Fd& socket : listening.sockets) on.serve(std::move(socket), tls);
        return std::nullopt;
    }

    std::optional<StartError> listen_at(const std::string& path, const std::shared_ptr<const TlsContext>& tls) {
        Listening listening = listen_unix(path);
        if (listening.sockets.empty()) {
            return StartError{false, "cannot listen on unix:" + path + ": " + listening.error};
        }
        files.emplace_back(path);
        for (Fd& socket : listening.sockets) acceptor().serve(std::move(socket), tls);
        return std::nullopt;
    }

    /// Under the lock.
    void become_ready() {
        common.ready = serving && state.workers.all_launched_registered();
        if (told_ready || !common.ready) return;
        told_ready = true;
        on_each([](ClientSide& side) { side.standard.set_serving(true); });
        publish(EventType::server_ready);
        if (on_ready) on_ready();
    }

    /// Under the lock.
    void publish(EventType type) {
        Event event;
        event.type = type;
        event.time_unix_ms = unix_ms();
        state.events.publish(std::move(event));
    }

    /// Hands over what the watcher has; behind the last event there is nothing more to wait for.
    void tell_events() {
        for (;;) {
            std::unique_lock lock(state.mutex);
            Watcher::Taken taken = watcher->take();
            lock.unlock();
            auto* event = std::get_if<EventPtr>(&taken);
            if (event == nullptr) return;
            told(std::move(*event));
        }
    }

    void sweep() {
        {
            const std::lock_guard lock(state.mutex);
            state.workers.sweep();
        }
        sweep_timer = loop.at(loop.now() + config.heartbeat_timeout / kSweepsPerTimeout, [this] { sweep(); });
    }

    void info_line(std::string_view message, std::vector<std::pair<std::string_view, std::string>> fields = {}) {
        if (log) log({LogLevel::info, message, std::move(fields)});
    }

    /// No call is under way on one more of the threads.
    void calls_ended() {
        if (--with_calls == 0) drain(kLastReplies);
    }

    void drain(std::chrono::milliseconds grace) {
        on_each([this, grace](ClientSide& side) {
            side.server.drain(grace, [this, &side] { loop.run_soon([this, &side] { ended(side); }); });
        });
    }

    void ended(ClientSide& one) {
        one.ended = true;
        if (!std::ranges::all_of(sides, [](const auto& side) { return side->ended; })) return;
        files.clear();
        if (drained) std::exchange(drained, nullptr)();
    }

    EventLoop& loop;
    Common common;
    const AgentConfig& config;
    const Log log;
    SharedState state;
    std::vector<std::unique_ptr<ClientSide>> sides;
    ManagementService management;
    Http2Server management_server;
    std::list<SocketFile> files;
    EventLoop::Timer sweep_timer;
    std::unique_ptr<Watcher> watcher;
    std::function<void(EventPtr)> told;
    std::function<void()> on_ready;
    std::function<void()> drained;
    std::size_t with_calls = 0;  // threads, in a drain
    std::uint16_t port = 0;
    std::uint16_t management_port = 0;
    bool serving = false;
    bool told_ready = false;
};

Agent::Agent(std::span<EventLoop* const> loops, AgentConfig config, std::string instance_secret,
             std::string server_version, Log log)
    : parts_(std::make_unique<Parts>(loops, std::move(config), std::move(instance_secret), std::move(server_version),
                                     std::move(log))) {}

Agent::~Agent() = default;

std::optional<StartError> Agent::start() {
    Parts& p = *parts_;
    if (auto error = p.listen()) {
        p.acceptor().drain(std::chrono::milliseconds(0), nullptr);  // gives up its port
        p.files.clear();
        return error;
    }
    p.serving = true;
    p.sweep();
    const std::lock_guard lock(p.state.mutex);
    p.become_ready();
    return std::nullopt;
}

std::uint16_t Agent::port() const noexcept { return parts_->port; }

std::uint16_t Agent::management_port() const noexcept { return parts_->management_port; }

bool Agent::ready() const noexcept { return parts_->common.ready; }

void Agent::set_on_ready(std::function<void()> told) { parts_->on_ready = std::move(told); }

void Agent::expect_workers(std::span<const std::string> worker_ids) {
    const std::lock_guard lock(parts_->state.mutex);
    parts_->state.workers.expect(worker_ids);
    parts_->become_ready();
}

void Agent::expect_no_more(std::span<const std::string> worker_ids) {
    const std::lock_guard lock(parts_->state.mutex);
    parts_->state.workers.expect_no_more(worker_ids);
}

void Agent::keep_worker(std::string_view place, std::optional<std::string_view> worker_id) {
    const std::lock_guard lock(parts_->state.mutex);
    parts_->state.workers.keep(place, worker_id);
}

void Agent::worker_ended(std::string_view worker_id, std::string_view reason) {
    const std::lock_guard lock(parts_->state.mutex);
    parts_->state.workers.ended(worker_id, reason);
}

void Agent::set_lifecycle(Lifecycle* lifecycle) {
    parts_->on_each([lifecycle](ClientSide& side) { side.info.lifecycle = lifecycle; });
}

void Agent::watch(std::function<void(EventPtr)> told) {
    Parts& p = *parts_;
    if (p.watcher) return;
    {
        const std::lock_guard lock(p.state.mutex);
        auto watching = p.state.events.watch([&p] { p.loop.run_soon([&p] { p.tell_events(); }); });
        auto* watcher = std::get_if<std::unique_ptr<Watcher>>(&watching);
        if (watcher == nullptr) return;
        p.watcher = std::move(*watcher);
    }
    p.told = std::move(told);
    p.tell_events();
}

Snapshot Agent::snapshot() const {
    Parts& p = *parts_;
    const std::lock_guard lock(p.state.mutex);
    const SharedState& state = p.state;
    Snapshot snapshot{ready(), {}, state.registry.size(), state.admission.waiting(), {}};
    for (const KnownWorker* worker : state.workers.all()) {
        const std::string& id = worker->worker_id;
        Snapshot::Worker shown{id, state.admission.in_flight(id), worker->endpoint->share->open(), {}};
        for (const RegistrationPtr& registration : state.registry.of_worker(id)) {
            shown.models.push_back(registration->model_name);
        }
        snapshot.workers.push_back(std::move(shown));
    }
    for (const auto& [models, depth] : state.admission.depths()) {
        std::string name;
        for (const ModelKey& key : models) {
            if (!name.empty()) name += ", ";
            name += key.model_name + "/" + key.model_version + "/" + key.capability;
        }
        snapshot.queues.emplace_back(std::move(name), depth);
    }
    return snapshot;
}

void Agent::begin_stop(std::chrono::milliseconds grace, std::function<void()> drained) {
    Parts& p = *parts_;
    p.info_line("draining", {{"grace", std::to_string(static_cast<double>(grace.count()) / 1e3)}});
    p.drained = std::move(drained);
    p.with_calls = p.sides.size();
    {
        const std::lock_guard lock(p.state.mutex);
        p.serving = false;
        p.become_ready();
        p.publish(EventType::server_draining);
    }
    p.on_each([&p, grace](ClientSide& side) {
        side.kserve.begin_drain();
        side.standard.set_serving(false);
        side.standard.close();
        side.kserve.calls_ended(grace, [&p] { p.loop.run_soon([&p] { p.calls_ended(); }); });
    });
}

void Agent::hurry() { parts_->drain(std::chrono::milliseconds(0)); }

void Agent::finish_stop(std::function<void()> stopped) {
    Parts& p = *parts_;
    p.sweep_timer = {};
    {
        const std::lock_guard lock(p.state.mutex);
        p.state.events.close();
    }
    p.management_server.drain(kLastReplies, [&p, stopped = std::move(stopped)] {
        p.on_each([](ClientSide& side) { side.clients.close(); });
        p.info_line("stopped");
        stopped();
    });
}

}  // namespace anyserve
