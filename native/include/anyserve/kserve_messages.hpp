// The messages of grpc_predict_v2.proto but for inference, whose tensors are never decoded: see `scan.hpp`. By the
// file's names and field numbers; `message_fields.hpp` says what the tables mean, and how messages are read and
// written.
//
// Requests have all their texts, used or not, since a text that is no UTF-8 makes a message malformed.
#pragma once

#include <cstdint>
#include <map>
#include <string_view>
#include <tuple>
#include <vector>

#include "anyserve/management_messages.hpp"
#include "anyserve/message_fields.hpp"

namespace anyserve::messages {

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

/// Of its durations the one that workers tell.
struct InferBatchStatistics {
    std::uint64_t batch_size = 0;
    StatisticDuration compute_infer;

    static constexpr auto fields() {
        using M = InferBatchStatistics;
        return std::tuple(field(1, &M::batch_size), field(3, &M::compute_infer));
    }
};

struct ModelStatistics {
    std::string_view name;
    std::string_view version;
    std::uint64_t last_inference = 0;
    std::uint64_t inference_count = 0;
    std::uint64_t execution_count = 0;
    InferStatistics inference_stats;
    std::vector<InferBatchStatistics> batch_stats;

    static constexpr auto fields() {
        using M = ModelStatistics;
        return std::tuple(field(1, &M::name), field(2, &M::version), field(3, &M::last_inference),
                          field(4, &M::inference_count), field(5, &M::execution_count), field(6, &M::inference_stats),
                          field(7, &M::batch_stats));
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

}  // namespace anyserve::messages
