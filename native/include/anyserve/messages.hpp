// The control plane's protobuf messages, by the names and field numbers of proto/*.proto. `message_fields.hpp` says
// what the tables mean, and how the messages are read and written.
//
// Inference messages are not here: their tensors are never decoded, see `scan.hpp`. Requests have all their texts, used
// or not, since a text that is no UTF-8 makes a message malformed.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string_view>
#include <tuple>
#include <variant>
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

    static constexpr auto fields() {
        using M = RegisterModelRequest;
        return std::tuple(field(1, &M::model_name), field(2, &M::model_version), field(3, &M::worker_address),
                          field(4, &M::worker_id), field(5, &M::capability), field(6, &M::stream),
                          field(7, &M::max_concurrency), field(8, &M::priority), field(9, &M::inputs),
                          field(10, &M::outputs), field(11, &M::platform));
    }
};

/// Also UnregisterModelResponse and UnregisterWorkerResponse.
struct RegisterModelResponse {
    bool success = false;
    std::string_view message;

    static constexpr auto fields() {
        using M = RegisterModelResponse;
        return std::tuple(field(1, &M::success), field(2, &M::message));
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

// grpc_predict_v2.proto, package `inference`.

struct ServerLiveRequest {
    static constexpr auto fields() { return std::tuple(); }
};
using ServerReadyRequest = ServerLiveRequest;
using ServerMetadataRequest = ServerLiveRequest;

struct ServerLiveResponse {
    bool live = false;

    static constexpr auto fields() { return std::tuple(field(1, &ServerLiveResponse::live)); }
};

/// Also ModelReadyResponse.
struct ServerReadyResponse {
    bool ready = false;

    static constexpr auto fields() { return std::tuple(field(1, &ServerReadyResponse::ready)); }
};
using ModelReadyResponse = ServerReadyResponse;

struct ServerMetadataResponse {
    std::string_view name;
    std::string_view version;
    std::vector<std::string_view> extensions;

    static constexpr auto fields() {
        using M = ServerMetadataResponse;
        return std::tuple(field(1, &M::name), field(2, &M::version), field(3, &M::extensions));
    }
};

/// Also ModelMetadataRequest, ModelConfigRequest and ModelStatisticsRequest.
struct ModelReadyRequest {
    std::string_view name;
    std::string_view version;

    static constexpr auto fields() {
        using M = ModelReadyRequest;
        return std::tuple(field(1, &M::name), field(2, &M::version));
    }
};
using ModelMetadataRequest = ModelReadyRequest;
using ModelConfigRequest = ModelReadyRequest;
using ModelStatisticsRequest = ModelReadyRequest;

/// Its TensorMetadata is the one of a registration, field by field.
struct ModelMetadataResponse {
    std::string_view name;
    std::vector<std::string_view> versions;
    std::string_view platform;
    std::vector<TensorMetadata> inputs;
    std::vector<TensorMetadata> outputs;

    static constexpr auto fields() {
        using M = ModelMetadataResponse;
        return std::tuple(field(1, &M::name), field(2, &M::versions), field(3, &M::platform), field(4, &M::inputs),
                          field(5, &M::outputs));
    }
};

enum class DataType : std::int32_t {
    type_invalid = 0,
    type_bool = 1,
    type_uint8 = 2,
    type_uint16 = 3,
    type_uint32 = 4,
    type_uint64 = 5,
    type_int8 = 6,
    type_int16 = 7,
    type_int32 = 8,
    type_int64 = 9,
    type_fp16 = 10,
    type_fp32 = 11,
    type_fp64 = 12,
    type_string = 13,
    type_bf16 = 14,
};

struct ModelInput {
    std::string_view name;
    DataType data_type{};
    std::vector<std::int64_t> dims;

    static constexpr auto fields() {
        using M = ModelInput;
        return std::tuple(field(1, &M::name), field(2, &M::data_type), field(4, &M::dims));
    }
};

struct ModelOutput {
    std::string_view name;
    DataType data_type{};
    std::vector<std::int64_t> dims;

    static constexpr auto fields() {
        using M = ModelOutput;
        return std::tuple(field(1, &M::name), field(2, &M::data_type), field(3, &M::dims));
    }
};

struct ModelTransactionPolicy {
    bool decoupled = false;

    static constexpr auto fields() { return std::tuple(field(1, &ModelTransactionPolicy::decoupled)); }
};

/// Field 4, `max_batch_size`, is always 0.
struct ModelConfig {
    std::string_view name;
    std::string_view platform;
    std::vector<ModelInput> input;
    std::vector<ModelOutput> output;
    std::string_view backend;
    ModelTransactionPolicy model_transaction_policy;

    static constexpr auto fields() {
        using M = ModelConfig;
        return std::tuple(field(1, &M::name), field(2, &M::platform), field(5, &M::input), field(6, &M::output),
                          field(17, &M::backend), field(19, &M::model_transaction_policy));
    }
};

struct ModelConfigResponse {
    ModelConfig config;

    static constexpr auto fields() { return std::tuple(field(1, &ModelConfigResponse::config)); }
};

struct StatisticDuration {
    std::uint64_t count = 0;
    std::uint64_t ns = 0;

    static constexpr auto fields() {
        return std::tuple(field(1, &StatisticDuration::count), field(2, &StatisticDuration::ns));
    }
};

/// Of its eight durations those that the agent knows.
struct InferStatistics {
    StatisticDuration success;
    StatisticDuration fail;
    StatisticDuration queue;
    StatisticDuration compute_infer;

    static constexpr auto fields() {
        using M = InferStatistics;
        return std::tuple(field(1, &M::success), field(2, &M::fail), field(3, &M::queue), field(5, &M::compute_infer));
    }
};

struct ModelStatistics {
    std::string_view name;
    std::string_view version;
    std::uint64_t last_inference = 0;
    std::uint64_t inference_count = 0;
    std::uint64_t execution_count = 0;
    InferStatistics inference_stats;

    static constexpr auto fields() {
        using M = ModelStatistics;
        return std::tuple(field(1, &M::name), field(2, &M::version), field(3, &M::last_inference),
                          field(4, &M::inference_count), field(5, &M::execution_count), field(6, &M::inference_stats));
    }
};

struct ModelStatisticsResponse {
    std::vector<ModelStatistics> model_stats;

    static constexpr auto fields() { return std::tuple(field(1, &ModelStatisticsResponse::model_stats)); }
};

struct RepositoryIndexRequest {
    std::string_view repository_name;
    bool ready = false;

    static constexpr auto fields() {
        using M = RepositoryIndexRequest;
        return std::tuple(field(1, &M::repository_name), field(2, &M::ready));
    }
};

struct ModelIndex {
    std::string_view name;
    std::string_view version;
    std::string_view state;

    static constexpr auto fields() {
        using M = ModelIndex;
        return std::tuple(field(1, &M::name), field(2, &M::version), field(3, &M::state));
    }
};

struct RepositoryIndexResponse {
    std::vector<ModelIndex> models;

    static constexpr auto fields() { return std::tuple(field(1, &RepositoryIndexResponse::models)); }
};

/// Of its choices the one that is a text.
struct ModelRepositoryParameter {
    std::string_view string_param;

    static constexpr auto fields() { return std::tuple(field(3, &ModelRepositoryParameter::string_param)); }
};

/// Also RepositoryModelUnloadRequest.
struct RepositoryModelLoadRequest {
    std::string_view repository_name;
    std::string_view model_name;
    std::map<std::string_view, ModelRepositoryParameter> parameters;

    static constexpr auto fields() {
        using M = RepositoryModelLoadRequest;
        return std::tuple(field(1, &M::repository_name), field(2, &M::model_name), field(3, &M::parameters));
    }
};

/// Also RepositoryModelUnloadResponse, where field 2 is `isUnloaded`.
struct RepositoryModelLoadResponse {
    std::string_view model_name;
    bool is_loaded = false;

    static constexpr auto fields() {
        using M = RepositoryModelLoadResponse;
        return std::tuple(field(1, &M::model_name), field(2, &M::is_loaded));
    }
};

// health.proto, package `grpc.health.v1`.

enum class ServingStatus : std::int32_t { unknown = 0, serving = 1, not_serving = 2, service_unknown = 3 };

struct HealthCheckRequest {
    std::string_view service;

    static constexpr auto fields() { return std::tuple(field(1, &HealthCheckRequest::service)); }
};

struct HealthCheckResponse {
    ServingStatus status{};

    static constexpr auto fields() { return std::tuple(field(1, &HealthCheckResponse::status)); }
};

struct HealthListRequest {
    static constexpr auto fields() { return std::tuple(); }
};

struct HealthListResponse {
    std::map<std::string_view, HealthCheckResponse> statuses;

    static constexpr auto fields() { return std::tuple(field(1, &HealthListResponse::statuses)); }
};

// reflection.proto, packages `grpc.reflection.v1` and `grpc.reflection.v1alpha`.

struct ExtensionRequest {
    std::string_view containing_type;
    std::int32_t extension_number = 0;

    static constexpr auto fields() {
        using M = ExtensionRequest;
        return std::tuple(field(1, &M::containing_type), field(2, &M::extension_number));
    }
};

struct ServerReflectionRequest {
    /// Alternatives of `message_request`.
    enum Asked : std::size_t {
        kNothing,
        kFileByFilename,
        kFileContainingSymbol,
        kFileContainingExtension,
        kAllExtensionNumbersOfType,
        kListServices,
    };
    std::string_view host;
    std::variant<std::monostate, std::string_view, std::string_view, ExtensionRequest, std::string_view,
                 std::string_view>
        message_request;

    static constexpr auto fields() {
        using M = ServerReflectionRequest;
        return std::tuple(field(1, &M::host), choice<kFileByFilename>(3, &M::message_request),
                          choice<kFileContainingSymbol>(4, &M::message_request),
                          choice<kFileContainingExtension>(5, &M::message_request),
                          choice<kAllExtensionNumbersOfType>(6, &M::message_request),
                          choice<kListServices>(7, &M::message_request));
    }
};

struct FileDescriptorResponse {
    std::vector<Bytes> file_descriptor_proto;

    static constexpr auto fields() { return std::tuple(field(1, &FileDescriptorResponse::file_descriptor_proto)); }
};

/// Field 2, the extension's numbers, is always empty.
struct ExtensionNumberResponse {
    std::string_view base_type_name;

    static constexpr auto fields() { return std::tuple(field(1, &ExtensionNumberResponse::base_type_name)); }
};

struct ServiceResponse {
    std::string_view name;

    static constexpr auto fields() { return std::tuple(field(1, &ServiceResponse::name)); }
};

struct ListServiceResponse {
    std::vector<ServiceResponse> service;

    static constexpr auto fields() { return std::tuple(field(1, &ListServiceResponse::service)); }
};

struct ErrorResponse {
    std::int32_t error_code = 0;
    std::string_view error_message;

    static constexpr auto fields() {
        using M = ErrorResponse;
        return std::tuple(field(1, &M::error_code), field(2, &M::error_message));
    }
};

struct ServerReflectionResponse {
    std::string_view valid_host;
    Bytes original_request;
    std::variant<std::monostate, FileDescriptorResponse, ExtensionNumberResponse, ListServiceResponse, ErrorResponse>
        message_response;

    static constexpr auto fields() {
        using M = ServerReflectionResponse;
        return std::tuple(field(1, &M::valid_host), field(2, &M::original_request), choice<1>(4, &M::message_response),
                          choice<2>(5, &M::message_response), choice<3>(6, &M::message_response),
                          choice<4>(7, &M::message_response));
    }
};

// google/protobuf/descriptor.proto: what names the things that a file defines.

/// A field, a oneof, a value of an enum, or a method: whatever has no more than a name here.
struct NamedDescriptorProto {
    std::string_view name;

    static constexpr auto fields() { return std::tuple(field(1, &NamedDescriptorProto::name)); }
};

struct EnumDescriptorProto {
    std::string_view name;
    std::vector<NamedDescriptorProto> value;

    static constexpr auto fields() {
        using M = EnumDescriptorProto;
        return std::tuple(field(1, &M::name), field(2, &M::value));
    }
};

struct DescriptorProto {
    std::string_view name;
    std::vector<NamedDescriptorProto> field_proto;  // `field` in descriptor.proto
    std::vector<DescriptorProto> nested_type;
    std::vector<EnumDescriptorProto> enum_type;
    std::vector<NamedDescriptorProto> oneof_decl;

    static constexpr auto fields() {
        using M = DescriptorProto;
        return std::tuple(field(1, &M::name), field(2, &M::field_proto), field(3, &M::nested_type),
                          field(4, &M::enum_type), field(8, &M::oneof_decl));
    }
};

struct ServiceDescriptorProto {
    std::string_view name;
    std::vector<NamedDescriptorProto> method;

    static constexpr auto fields() {
        using M = ServiceDescriptorProto;
        return std::tuple(field(1, &M::name), field(2, &M::method));
    }
};

struct FileDescriptorProto {
    std::string_view name;
    std::string_view package;
    std::vector<DescriptorProto> message_type;
    std::vector<EnumDescriptorProto> enum_type;
    std::vector<ServiceDescriptorProto> service;

    static constexpr auto fields() {
        using M = FileDescriptorProto;
        return std::tuple(field(1, &M::name), field(2, &M::package), field(4, &M::message_type),
                          field(5, &M::enum_type), field(6, &M::service));
    }
};

struct FileDescriptorSet {
    std::vector<Bytes> file;  // each a FileDescriptorProto

    static constexpr auto fields() { return std::tuple(field(1, &FileDescriptorSet::file)); }
};

}  // namespace anyserve::messages
