#include "anyserve/agent.hpp"

#include <list>

#include "anyserve/absent.hpp"
#include "anyserve/dispatcher.hpp"
#include "anyserve/http2_server.hpp"
#include "anyserve/kserve_service.hpp"
#include "anyserve/management_service.hpp"
#include "anyserve/queues.hpp"
#include "anyserve/sockets.hpp"
#include "anyserve/standard_services.hpp"
#include "anyserve/statistics.hpp"
#include "anyserve/tls.hpp"
#include "anyserve/workers.hpp"

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

/// In the order in which they are made: each knows only those above it.
struct Agent::Parts {
    Parts(EventLoop& event_loop, AgentConfig agent_config, std::string instance_secret, std::string server_version,
          Log agent_log)
        : loop(event_loop),
          config(std::move(agent_config)),
          log(std::move(agent_log)),
          registry(config.max_workers, config.max_registrations),
          admission(config.queue_size, config.default_max_concurrency),
          events(config.max_watchers),
          statistics(config.max_registrations),
          workers(loop, config, registry, admission, events, log),
          info(registry, statistics, std::move(server_version)),
          dispatcher(loop, registry, admission, workers, statistics),
          kserve(
              loop, config, dispatcher, info, [this] { return ready(); }, std::move(instance_secret)),
          management(loop, config, registry, admission, workers, events),
          standard(loop, {"inference.GRPCInferenceService"}),
          server(loop, client_limits(config),
                 [this](ServerCall& call) {
                     auto handler = kserve.route(call);
                     return handler ? std::move(handler) : standard.route(call);
                 }),
          management_server(loop, management_limits(config),
                            [this](ServerCall& call) { return management.route(call); }) {
        workers.on_all_launched_registered = [this] { become_ready(); };
    }

    bool ready() const noexcept { return serving && workers.all_launched_registered(); }

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
                             : listen_at(server, config.host, config.port, port, tls);
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
        for (Fd& socket : listening.sockets) server.serve(std::move(socket), tls);
        return std::nullopt;
    }

    void become_ready() {
        if (told_ready || !ready()) return;
        told_ready = true;
        standard.set_serving(true);
        publish(EventType::server_ready);
        if (on_ready) on_ready();
    }

    void publish(EventType type) {
        Event event;
        event.type = type;
        event.time_unix_ms = unix_ms();
        events.publish(std::move(event));
    }

    void sweep() {
        workers.sweep();
        sweep_timer = loop.at(loop.now() + config.heartbeat_timeout / kSweepsPerTimeout, [this] { sweep(); });
    }

    void info_line(std::string_view message, std::vector<std::pair<std::string_view, std::string>> fields = {}) {
        if (log) log({LogLevel::info, message, std::move(fields)});
    }

    void client_side_ended() {
        files.clear();
        if (drained) std::exchange(drained, nullptr)();
    }

    EventLoop& loop;
    const AgentConfig config;
    const Log log;
    Registry registry;
    Admission admission;
    EventLog events;
    Statistics statistics;
    Workers workers;
    ModelInfo info;
    Dispatcher dispatcher;
    KServeService kserve;
    ManagementService management;
    StandardServices standard;
    Http2Server server;
    Http2Server management_server;
    std::list<SocketFile> files;
    EventLoop::Timer sweep_timer;
    std::function<void()> on_ready;
    std::function<void()> drained;
    std::uint16_t port = 0;
    std::uint16_t management_port = 0;
    bool serving = false;
    bool told_ready = false;
};

Agent::Agent(EventLoop& loop, AgentConfig config, std::string instance_secret, std::string server_version, Log log)
    : parts_(std::make_unique<Parts>(loop, std::move(config), std::move(instance_secret), std::move(server_version),
                                     std::move(log))) {}

Agent::~Agent() = default;

std::optional<StartError> Agent::start() {
    Parts& p = *parts_;
    if (auto error = p.listen()) {
        p.server.drain(std::chrono::milliseconds(0), nullptr);  // gives up its port
        p.files.clear();
        return error;
    }
    p.serving = true;
    p.sweep();
    p.become_ready();
    return std::nullopt;
}

std::uint16_t Agent::port() const noexcept { return parts_->port; }

std::uint16_t Agent::management_port() const noexcept { return parts_->management_port; }

bool Agent::ready() const noexcept { return parts_->ready(); }

void Agent::set_on_ready(std::function<void()> told) { parts_->on_ready = std::move(told); }

void Agent::expect_workers(std::span<const std::string> worker_ids) { parts_->workers.expect(worker_ids); }

void Agent::expect_no_more(std::span<const std::string> worker_ids) { parts_->workers.expect_no_more(worker_ids); }

void Agent::keep_worker(std::string_view place, std::optional<std::string_view> worker_id) {
    parts_->workers.keep(place, worker_id);
}

void Agent::worker_ended(std::string_view worker_id, std::string_view reason) {
    parts_->workers.ended(worker_id, reason);
}

void Agent::set_lifecycle(Lifecycle* lifecycle) noexcept { parts_->info.lifecycle = lifecycle; }

std::variant<std::unique_ptr<Watcher>, TooManyWatchers> Agent::watch(std::function<void()> wake) {
    return parts_->events.watch(std::move(wake));
}

Snapshot Agent::snapshot() const {
    const Parts& p = *parts_;
    Snapshot snapshot{p.ready(), {}, p.registry.size(), p.admission.waiting(), {}};
    for (const KnownWorker* worker : p.workers.all()) {
        Snapshot::Worker shown{
            worker->worker_id, p.admission.in_flight(worker->worker_id), worker->client->connections(), {}};
        for (const RegistrationPtr& registration : p.registry.of_worker(worker->worker_id)) {
            shown.models.push_back(registration->model_name);
        }
        snapshot.workers.push_back(std::move(shown));
    }
    for (const auto& [models, depth] : p.admission.depths()) {
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
    p.serving = false;
    p.drained = std::move(drained);
    p.kserve.begin_drain();
    p.info_line("draining", {{"grace", std::to_string(static_cast<double>(grace.count()) / 1e3)}});
    p.publish(EventType::server_draining);
    p.standard.set_serving(false);
    p.standard.close();
    p.kserve.calls_ended(grace, [&p] { p.server.drain(kLastReplies, [&p] { p.client_side_ended(); }); });
}

void Agent::hurry() {
    Parts& p = *parts_;
    p.server.drain(std::chrono::milliseconds(0), [&p] { p.client_side_ended(); });
}

void Agent::finish_stop(std::function<void()> stopped) {
    Parts& p = *parts_;
    p.sweep_timer = {};
    p.events.close();
    p.management_server.drain(kLastReplies, [&p, stopped = std::move(stopped)] {
        p.workers.close();
        p.info_line("stopped");
        stopped();
    });
}

}  // namespace anyserve
