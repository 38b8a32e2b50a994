// `AgentThread` for Python. The interpreter's lock is let go while a thread is waited for, and never taken by one.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <variant>

#include "anyserve/agent_thread.hpp"
#include "bindings.hpp"
#include "text.hpp"

namespace nb = nanobind;

namespace anyserve {
namespace {

template <class... Cases>
struct Overloaded : Cases... {
    using Cases::operator()...;
};
template <class... Cases>
Overloaded(Cases...) -> Overloaded<Cases...>;  // for clang before 17

std::chrono::milliseconds milliseconds(double seconds) {
    // Beyond a hundred years times are of no use, and overflow clocks.
    constexpr double kLongest = 3.2e12;
    return std::chrono::milliseconds(static_cast<std::int64_t>(std::clamp(seconds * 1e3, 0.0, kLongest)));
}

/// From an `anyserve.agent.config.AgentConfig`, which has checked its values.
AgentConfig config_of(nb::handle python) {
    AgentConfig config;
    const auto set = [&](const char* name, auto& field) {
        field = nb::cast<std::decay_t<decltype(field)>>(python.attr(name));
    };
    set("host", config.host);
    set("port", config.port);
    set("tls_cert", config.tls_cert);
    set("tls_key", config.tls_key);
    set("tls_client_ca", config.tls_client_ca);
    set("private_socket", config.private_socket);
    for (const auto& [name, value] :
         nb::cast<std::vector<std::pair<std::string, double>>>(python.attr("http2_limits"))) {
        if (const std::string error = set_limit(config.http2, name, value); !error.empty()) {
            throw nb::builtin_exception(nb::exception_type::value_error, error.c_str());
        }
    }
    set("management_host", config.management_host);
    set("management_port", config.management_port);
    set("management_token", config.management_token);
    set("io_threads", config.io_threads);
    set("max_message_bytes", config.max_message_bytes);
    set("shared_memory_threshold", config.shared_memory.threshold);
    set("shared_memory_bytes", config.shared_memory.bytes);
    set("max_concurrent_rpcs", config.max_concurrent_rpcs);
    set("max_stream_requests", config.max_stream_requests);
    set("queue_size", config.queue_size);
    set("default_max_concurrency", config.default_max_concurrency);
    set("max_workers", config.max_workers);
    set("max_registrations", config.max_registrations);
    set("max_watchers", config.max_watchers);
    config.connect_timeout = milliseconds(nb::cast<double>(python.attr("connect_timeout")));
    config.heartbeat_timeout = milliseconds(nb::cast<double>(python.attr("heartbeat_timeout")));
    return config;
}

/// The fields of the reference agent's `Event` and `Registration`, but for tensors.
nb::tuple event_of(const Event& event) {
    nb::dict fields;
    fields["sequence"] = event.sequence;
    fields["time_unix_ms"] = event.time_unix_ms;
    fields["type"] = static_cast<int>(event.type);
    fields["worker_id"] = shown_text(event.worker_id);
    fields["message"] = shown_text(event.message);
    if (!event.registration) return nb::make_tuple("event", fields, nb::none());
    const Registration& of = *event.registration;
    nb::dict registration;
    registration["worker_id"] = shown_text(of.worker_id);
    registration["socket_path"] = shown_text(of.socket_path);
    registration["model_name"] = shown_text(of.model_name);
    registration["model_version"] = shown_text(of.model_version);
    registration["capability"] = shown_text(of.capability.encoded());
    registration["max_concurrency"] = of.max_concurrency;
    registration["annotate"] = of.annotate;
    registration["stream"] = of.stream;
    registration["priority"] = of.priority;
    registration["platform"] = shown_text(of.platform);
    return nb::make_tuple("event", fields, registration);
}

nb::tuple notice_of(const Notice& notice) {
    return std::visit(
        Overloaded{
            [](const LogLine& line) {
                nb::dict fields;
                for (const auto& [name, value] : line.fields) fields[name.c_str()] = shown_text(value);
                return nb::make_tuple("log", static_cast<int>(line.level), shown_text(line.message), fields);
            },
            [](const EventPtr& event) { return event_of(*event); },
            [](const AgentReady&) { return nb::make_tuple("ready"); },
            [](const AgentDrained&) { return nb::make_tuple("drained"); },
            [](const AgentStopped&) { return nb::make_tuple("stopped"); },
            [](const LifecycleCall& call) {
                return nb::make_tuple(call.load ? "load" : "unload", call.number, shown_text(call.model_name));
            },
        },
        notice);
}

nb::tuple take_notices(AgentThread& agent) {
    const NoticeQueue::Taken taken = agent.notices().take();
    nb::list notices;
    for (const Notice& notice : taken.notices) notices.append(notice_of(notice));
    return nb::make_tuple(notices, taken.dropped);
}

std::pair<std::uint16_t, std::uint16_t> start(AgentThread& agent) {
    auto started = [&] {
        const nb::gil_scoped_release unlocked;  // names may have to be resolved
        return agent.start();
    }();
    if (const auto* error = std::get_if<StartError>(&started)) {
        const auto type = error->tls ? nb::exception_type::value_error : nb::exception_type::runtime_error;
        throw nb::builtin_exception(type, error->message.c_str());
    }
    const auto& ports = std::get<AgentThread::Ports>(started);
    return {ports.port, ports.management_port};
}

nb::dict snapshot(AgentThread& agent) {
    const auto taken = [&] {
        const nb::gil_scoped_release unlocked;
        return agent.snapshot();
    }();
    if (!taken) throw std::runtime_error("the agent has not started");
    nb::dict workers;
    for (const Snapshot::Worker& worker : taken->workers) {
        nb::dict shown;
        nb::list models;
        for (const std::string& model : worker.models) models.append(shown_text(model));
        shown["in_flight"] = worker.in_flight;
        shown["connections"] = worker.connections;
        shown["models"] = models;
        workers[shown_text(worker.worker_id)] = shown;
    }
    nb::dict queues;
    for (const auto& [name, depth] : taken->queues) queues[shown_text(name)] = depth;
    nb::dict out;
    out["ready"] = taken->ready;
    out["workers"] = workers;
    out["registrations"] = taken->registrations;
    out["waiting"] = taken->waiting;
    out["queues"] = queues;
    return out;
}

}  // namespace

void init_agent(nb::module_& m) {
    using Guard = nb::call_guard<nb::gil_scoped_release>;
    nb::class_<AgentThread>(m, "AgentThread", "An agent on a thread of its own; see agent_thread.hpp.")
        .def(
            "__init__",
            [](AgentThread* self, nb::handle config, std::string instance_secret, std::string version) {
                new (self) AgentThread(config_of(config), std::move(instance_secret), std::move(version));
            },
            nb::arg("config"), nb::arg("instance_secret"), nb::arg("version"))
        .def("start", &start,
             "Listens and starts; returns both ports. Raises RuntimeError if it cannot listen, ValueError for files of "
             "TLS.")
        .def("descriptor", [](AgentThread& self) { return self.notices().descriptor(); })
        .def("take_notices", &take_notices, "All notices that wait, as tuples, and how many were dropped.")
        .def("expect_workers", &AgentThread::expect_workers, Guard())
        .def("expect_no_more", &AgentThread::expect_no_more, Guard())
        .def("keep_worker", &AgentThread::keep_worker, nb::arg("place"), nb::arg("worker_id").none(), Guard())
        .def("worker_ended", &AgentThread::worker_ended, Guard())
        .def("serve_lifecycle", &AgentThread::serve_lifecycle, Guard())
        .def(
            "lifecycle_done",
            [](AgentThread& self, std::uint64_t number, bool done) { self.answer_lifecycle(number, done); }, Guard())
        .def(
            "lifecycle_failed",
            [](AgentThread& self, std::uint64_t number, int code, std::string message) {
                if (code <= 0 || code > static_cast<int>(kLastCode)) throw std::invalid_argument("no error status");
                self.answer_lifecycle(number, InferenceError{static_cast<Code>(code), std::move(message)});
            },
            Guard())
        .def("watch", &AgentThread::watch, Guard())
        .def("snapshot", &snapshot)
        .def(
            "begin_stop", [](AgentThread& self, double grace) { self.begin_stop(milliseconds(grace)); }, Guard())
        .def("hurry", &AgentThread::hurry, Guard())
        .def("finish_stop", &AgentThread::finish_stop, Guard());
}

}  // namespace anyserve
