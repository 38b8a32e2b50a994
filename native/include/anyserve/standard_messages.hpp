// The messages of gRPC's health and reflection services, and of descriptors, by their files' names and field numbers.
// `message_fields.hpp` says what the tables mean, and how messages are read and written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string_view>
#include <tuple>
#include <variant>
#include <vector>

#include "anyserve/message_fields.hpp"

namespace anyserve::messages {

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
