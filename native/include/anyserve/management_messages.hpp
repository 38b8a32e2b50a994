// The messages of worker_management.proto, by its names and field numbers. `message_fields.hpp` says what the tables
// mean, and how messages are read and written.
//
// Requests have all their texts, used or not, since a text that is no UTF-8 makes a message malformed.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string_view>
#include <tuple>
#include <vector>

#include "anyserve/events.hpp"
#include "anyserve/message_fields.hpp"

namespace anyserve::messages {

// worker_management.proto, package `anyserve`.

struct TensorMetadata {
    std::string_view name;
    std::string_view datatype;
    std::vector<std::int64_t> shape;

    static constexpr auto fields() {
        using M = TensorMetadata;
        return std::tuple(field(1, &M::name), field(2, &M::datatype), field(3, &M::shape));
    }
};

using CapabilityMap = std::map<std::string_view, std::string_view>;

struct RegisterModelRequest {
    std::string_view model_name;
    std::string_view model_version;
    std::string_view worker_address;
    std::string_view worker_id;
    CapabilityMap capability;
    bool stream = false;
    std::uint32_t max_concurrency = 0;
    std::int32_t priority = 0;
    std::vector<TensorMetadata> inputs;
    std::vector<TensorMetadata> outputs;
    std::string_view platform;
    bool shared_memory = false;

    static constexpr auto fields() {
        using M = RegisterModelRequest;
        return std::tuple(field(1, &M::model_name), field(2, &M::model_version), field(3, &M::worker_address),
                          field(4, &M::worker_id), field(5, &M::capability), field(6, &M::stream),
                          field(7, &M::max_concurrency), field(8, &M::priority), field(9, &M::inputs),
                          field(10, &M::outputs), field(11, &M::platform), field(12, &M::shared_memory));
    }
};

/// Also UnregisterModelResponse and UnregisterWorkerResponse.
struct RegisterModelResponse {
    bool success = false;
    std::string_view message;
    bool shared_memory = false;  // of the first alone

    static constexpr auto fields() {
        using M = RegisterModelResponse;
        return std::tuple(field(1, &M::success), field(2, &M::message), field(3, &M::shared_memory));
    }
};
using UnregisterModelResponse = RegisterModelResponse;
using UnregisterWorkerResponse = RegisterModelResponse;

struct UnregisterModelRequest {
    std::string_view model_name;
    std::string_view model_version;
    std::string_view worker_id;

    static constexpr auto fields() {
        using M = UnregisterModelRequest;
        return std::tuple(field(1, &M::model_name), field(2, &M::model_version), field(3, &M::worker_id));
    }
};

struct HeartbeatRequest {
    std::string_view worker_id;
    std::vector<std::string_view> model_names;

    static constexpr auto fields() {
        using M = HeartbeatRequest;
        return std::tuple(field(1, &M::worker_id), field(2, &M::model_names));
    }
};

struct HeartbeatResponse {
    bool healthy = false;

    static constexpr auto fields() { return std::tuple(field(1, &HeartbeatResponse::healthy)); }
};

struct UnregisterWorkerRequest {
    std::string_view worker_id;

    static constexpr auto fields() { return std::tuple(field(1, &UnregisterWorkerRequest::worker_id)); }
};

struct ListWorkersRequest {
    static constexpr auto fields() { return std::tuple(); }
};

struct Registration {
    std::string_view model_name;
    std::string_view model_version;
    CapabilityMap capability;
    bool stream = false;
    std::uint32_t max_concurrency = 0;
    std::int32_t priority = 0;
    std::string_view platform;

    static constexpr auto fields() {
        using M = Registration;
        return std::tuple(field(1, &M::model_name), field(2, &M::model_version), field(3, &M::capability),
                          field(4, &M::stream), field(5, &M::max_concurrency), field(6, &M::priority),
                          field(7, &M::platform));
    }
};

struct Worker {
    std::string_view worker_id;
    std::string_view address;
    std::vector<Registration> registrations;
    std::uint32_t in_flight = 0;
    std::uint32_t connections = 0;
    std::int64_t heartbeat_age_ms = 0;

    static constexpr auto fields() {
        using M = Worker;
        return std::tuple(field(1, &M::worker_id), field(2, &M::address), field(3, &M::registrations),
                          field(4, &M::in_flight), field(5, &M::connections), field(6, &M::heartbeat_age_ms));
    }
};

struct ListWorkersResponse {
    std::vector<Worker> workers;

    static constexpr auto fields() { return std::tuple(field(1, &ListWorkersResponse::workers)); }
};

struct WatchEventsRequest {
    bool include_existing = false;

    static constexpr auto fields() { return std::tuple(field(1, &WatchEventsRequest::include_existing)); }
};

struct Event {
    std::uint64_t sequence = 0;
    std::int64_t time_unix_ms = 0;
    EventType type{};
    std::string_view worker_id;
    std::optional<Registration> registration;
    std::string_view message;

    static constexpr auto fields() {
        using M = Event;
        return std::tuple(field(1, &M::sequence), field(2, &M::time_unix_ms), field(3, &M::type),
                          field(4, &M::worker_id), field(5, &M::registration), field(6, &M::message));
    }
};

}  // namespace anyserve::messages
