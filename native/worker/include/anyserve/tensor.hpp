// Tensors as handlers see them. Part of the public interface of the C++ worker library: see `worker.hpp`.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#if defined(__GNUC__)
#define ANYSERVE_WORKER_API [[gnu::visibility("default")]]
#else
#define ANYSERVE_WORKER_API
#endif

// In a namespace of its own, though users need not name it: the agent has rooms with the same names.
namespace anyserve::inline v1 {

static_assert(std::endian::native == std::endian::little, "tensors are little-endian on the wire, and not converted");

/// What a worker declares of one input or output, for ModelMetadata. -1 matches any size.
struct TensorSpec {
    std::string name;
    std::string datatype;
    std::vector<std::int64_t> shape{-1};
};

/// The datatype of tensors that a C++ type is written as.
template <class T>
inline constexpr std::string_view kDatatypeOf;
template <>
inline constexpr std::string_view kDatatypeOf<bool> = "BOOL";
template <>
inline constexpr std::string_view kDatatypeOf<std::int8_t> = "INT8";
template <>
inline constexpr std::string_view kDatatypeOf<std::int16_t> = "INT16";
template <>
inline constexpr std::string_view kDatatypeOf<std::int32_t> = "INT32";
template <>
inline constexpr std::string_view kDatatypeOf<std::int64_t> = "INT64";
template <>
inline constexpr std::string_view kDatatypeOf<std::uint8_t> = "UINT8";
template <>
inline constexpr std::string_view kDatatypeOf<std::uint16_t> = "UINT16";
template <>
inline constexpr std::string_view kDatatypeOf<std::uint32_t> = "UINT32";
template <>
inline constexpr std::string_view kDatatypeOf<std::uint64_t> = "UINT64";
template <>
inline constexpr std::string_view kDatatypeOf<float> = "FP32";
template <>
inline constexpr std::string_view kDatatypeOf<double> = "FP64";

/// A C++ type that tensors have elements of. `std::uint16_t` also reads FP16 and BF16, as bits.
template <class T>
concept TensorElement = !kDatatypeOf<T>.empty();

static_assert(sizeof(bool) == 1);

struct RequestState;  // private to the library

/// One input of a request. Views of the request's memory, which lasts as long as the handler's call.
class ANYSERVE_WORKER_API Tensor {
public:
    [[nodiscard]] std::string_view name() const noexcept { return name_; }
    /// As the client wrote it: `FP32`, `BYTES`, or something that the protocol does not have.
    [[nodiscard]] std::string_view datatype() const noexcept { return datatype_; }
    [[nodiscard]] std::span<const std::int64_t> shape() const noexcept { return shape_; }
    /// The elements in the protocol's raw form, little-endian and without gaps, where they were received. They may lie
    /// at any address, and their number has not been compared with the shape.
    [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return bytes_; }

    /// The elements, checked: there are as many as the shape says. They are where they were received if they lie on
    /// their boundary there, else they are copied once.
    ///
    /// Throws InferenceError with INVALID_ARGUMENT: the tensor has another datatype, or more or fewer bytes.
    template <TensorElement T>
    [[nodiscard]] std::span<const T> values() const {
        const std::span<const std::byte> checked = elements(kDatatypeOf<T>, alignof(T));
        return {reinterpret_cast<const T*>(checked.data()), checked.size() / sizeof(T)};
    }

    /// The elements of a BYTES tensor, checked as `values` does.
    [[nodiscard]] std::vector<std::string_view> texts() const;

private:
    friend struct RequestState;

    [[nodiscard]] std::span<const std::byte> elements(std::string_view datatype, std::size_t alignment) const;

    std::string_view name_;
    std::string_view datatype_;
    std::vector<std::int64_t> shape_;
    std::span<const std::byte> bytes_;
    std::string_view typed_;  // the whole tensor as a message, where its elements came in typed form
    RequestState* state_ = nullptr;

    friend class Reply;
};

}  // namespace anyserve::inline v1
