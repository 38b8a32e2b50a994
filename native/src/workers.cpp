#include "anyserve/workers.hpp"

#include <array>
#include <chrono>
#include <cstdio>
#include <iterator>
#include <utility>

#include "anyserve/capability_text.hpp"

namespace anyserve {
namespace {

/// Seconds for people: `10`, `0.5`.
std::string seconds(std::chrono::milliseconds time) {
    std::array<char, 32> text{};
    const int size = std::snprintf(text.data(), text.size(), "%g", static_cast<double>(time.count()) / 1e3);
    return {text.data(), static_cast<std::size_t>(size)};
}

}  // namespace

Workers::Workers(EventLoop& loop, const AgentConfig& config, Registry& registry, Admission& admission, EventLog& events,
                 EndClients end_clients, Log log)
    : loop_(loop),
      config_(config),
      registry_(registry),
      admission_(admission),
      events_(events),
      end_clients_(std::move(end_clients)),
      log_(std::move(log)),
      absent_(config.max_workers, config.max_registrations) {}

std::vector<const KnownWorker*> Workers::all() const {
    std::vector<const KnownWorker*> workers;
    workers.reserve(known_.size());
    for (const KnownWorker& known : known_) workers.push_back(&known);
    return workers;
}

void Workers::expect(std::span<const std::string> worker_ids) {
    launched_waiting_.insert(worker_ids.begin(), worker_ids.end());
}

void Workers::expect_no_more(std::span<const std::string> worker_ids) {
    for (const std::string& worker_id : worker_ids) came(worker_id);
}

void Workers::keep(std::string_view place, std::optional<std::string_view> worker_id) {
    absent_.keep(place, worker_id);
    const KnownWorker* known = worker_id ? find(*worker_id) : nullptr;
    if (known != nullptr && known->last_heartbeat) absent_.there(known->worker_id);
}

WorkerEndpointPtr Workers::endpoint(std::string_view worker_id) const noexcept {
    const KnownWorker* known = find(worker_id);
    return known != nullptr ? known->endpoint : nullptr;
}

std::variant<Workers::Registered, RegistryFull, WorkerEnded> Workers::add(const RegistrationPtr& registration) {
    const std::string& worker_id = registration->worker_id;
    if (ended_.contains(worker_id)) {
        return WorkerEnded{"the process of worker " + in_quotes(worker_id) + " has ended"};
    }
    auto added = registry_.add(registration);
    if (auto* full = std::get_if<RegistryFull>(&added)) return std::move(*full);
    KnownWorker* known = find(worker_id);
    if (known == nullptr) {
        const std::string& path = registration->socket_path;
        known_.push_back({worker_id, std::make_shared<WorkerEndpoint>(worker_id, path), std::nullopt});
        by_id_.emplace(worker_id, std::prev(known_.end()));
    } else if (known->endpoint->path != registration->socket_path) {
        // It has moved; exchanges under way end on the old connections.
        end_clients_(known->endpoint, ClientEnd::retire);
        known->endpoint = std::make_shared<WorkerEndpoint>(worker_id, registration->socket_path);
    }
    find(worker_id)->endpoint->shared_memory = registration->shared_memory != nullptr;
    changed(worker_id);
    publish(EventType::model_registered, worker_id, registration, {});
    say(LogLevel::info, "registered",
        {{"worker", worker_id},
         {"model", registration->model_name},
         {"version", registration->model_version},
         {"capability", registration->capability.text()}});
    return Registered{};
}

bool Workers::unregister_model(std::string_view worker_id, std::string_view model_name,
                               std::string_view model_version) {
    const std::vector<RegistrationPtr> gone = registry_.remove(worker_id, model_name, model_version);
    if (!gone.empty()) removed(worker_id, gone);
    if (!registry_.has_worker(worker_id)) forget(worker_id, ClientEnd::retire);
    return !gone.empty();
}

bool Workers::unregister_worker(std::string_view worker_id) {
    if (find(worker_id) == nullptr) return false;
    const std::vector<RegistrationPtr> gone = registry_.remove_worker(worker_id);
    absent_.gone(worker_id, gone);
    removed(worker_id, gone);
    forget(worker_id, ClientEnd::retire);
    publish(EventType::worker_unregistered, worker_id, nullptr, {});
    say(LogLevel::info, "unregistered", {{"worker", std::string(worker_id)}});
    return true;
}

void Workers::drop(std::string_view worker_id, std::string_view reason) { lose(worker_id, reason, ClientEnd::close); }

void Workers::ended(std::string_view worker_id, std::string_view reason) {
    if (const auto [place, inserted] = ended_.emplace(worker_id); inserted) {
        ended_order_.push_back(*place);
        if (ended_.size() > kEndedRemembered) {
            ended_.erase(ended_order_.front());
            ended_order_.pop_front();
        }
    }
    lose(worker_id, reason, ClientEnd::read_out);
}

void Workers::lose(std::string_view worker_id, std::string_view reason, ClientEnd how) {
    if (find(worker_id) == nullptr) return;
    const std::string id(worker_id);  // what the caller names may be the worker's own
    say(LogLevel::warning, "worker lost", {{"worker", id}, {"reason", std::string(reason)}});
    const std::vector<RegistrationPtr> gone = registry_.remove_worker(id);
    absent_.gone(id, gone);
    forget(id, how);
    publish(EventType::worker_lost, id, nullptr, reason);
    removed(id, gone);
}

bool Workers::heartbeat(std::string_view worker_id) {
    KnownWorker* known = find(worker_id);
    if (known == nullptr) return false;
    known->last_heartbeat = loop_.now();
    absent_.there(worker_id);
    came(worker_id);
    return true;
}

void Workers::unreachable(std::string_view worker_id, const Failure& failure) {
    say(LogLevel::warning, "worker unreachable", {{"worker", std::string(worker_id)}, {"reason", failure.text}});
    const KnownWorker* known = find(worker_id);
    if (known != nullptr && !known->last_heartbeat && failure.refused) {
        drop(worker_id, "refuses connections: " + failure.text);
    }
}

void Workers::sweep() {
    std::vector<std::string> silent;
    for (const KnownWorker& known : known_) {
        if (known.last_heartbeat && loop_.now() - *known.last_heartbeat > config_.heartbeat_timeout) {
            silent.push_back(known.worker_id);
        }
    }
    for (const std::string& worker_id : silent) {
        drop(worker_id, "no heartbeat for " + seconds(config_.heartbeat_timeout) + " s");
    }
}

KnownWorker* Workers::find(std::string_view worker_id) const noexcept {
    const auto found = by_id_.find(worker_id);
    return found != by_id_.end() ? &*found->second : nullptr;
}

/// A launched worker has sent its first heartbeat, or is not waited for any longer.
void Workers::came(std::string_view worker_id) {
    const auto waiting = launched_waiting_.find(worker_id);
    if (waiting == launched_waiting_.end()) return;
    launched_waiting_.erase(waiting);
    if (launched_waiting_.empty() && on_all_launched_registered) on_all_launched_registered();
}

void Workers::violated(const WorkerEndpointPtr& endpoint, const Failure& violation) {
    const int in_a_row = ++endpoint->violations;
    const KnownWorker* known = find(endpoint->worker_id);
    if (known == nullptr || known->endpoint != endpoint) return;
    say(LogLevel::warning, "protocol violation",
        {{"worker", endpoint->worker_id}, {"violation", violation.text}, {"in_a_row", std::to_string(in_a_row)}});
    if (in_a_row < kViolationLimit) return;
    drop(endpoint->worker_id,
         "broke the protocol " + std::to_string(kViolationLimit) + " times in a row: " + violation.text);
}

void Workers::removed(std::string_view worker_id, std::span<const RegistrationPtr> registrations) {
    changed(worker_id);
    for (const RegistrationPtr& registration : registrations) {
        publish(EventType::model_unregistered, worker_id, registration, {});
    }
}

void Workers::changed(std::string_view worker_id) {
    if (!registry_.has_worker(worker_id)) admission_.forget_worker(worker_id);
    admission_.reconsider();
}

void Workers::forget(std::string_view worker_id, ClientEnd how) {
    const auto found = by_id_.find(worker_id);
    if (found == by_id_.end()) return;
    end_clients_(found->second->endpoint, how);
    known_.erase(found->second);
    by_id_.erase(found);
}

void Workers::publish(EventType type, std::string_view worker_id, RegistrationPtr registration,
                      std::string_view message) {
    const auto since_1970 = std::chrono::system_clock::now().time_since_epoch();
    Event event;
    event.time_unix_ms = std::chrono::duration_cast<std::chrono::milliseconds>(since_1970).count();
    event.type = type;
    event.worker_id = worker_id;
    event.registration = std::move(registration);
    event.message = message;
    events_.publish(std::move(event));
}

void Workers::say(LogLevel level, std::string_view message,
                  std::vector<std::pair<std::string_view, std::string>> fields) const {
    if (log_) log_({level, message, std::move(fields)});
}

}  // namespace anyserve
