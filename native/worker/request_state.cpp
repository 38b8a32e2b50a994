#include "request_state.hpp"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <tuple>
#include <utility>

#include "anyserve/message_fields.hpp"
#include "datatypes.hpp"
#include "typed_contents.hpp"

namespace anyserve {
namespace {

// Of grpc_predict_v2.proto, as far as handlers need it. `scan.hpp` has read what the agent reads too.

/// InferInputTensor.
struct InputTensor {
    std::string_view name;
    std::string_view datatype;
    std::vector<std::int64_t> shape;
    Bytes contents;

    static constexpr auto fields() {
        using M = InputTensor;
        return std::tuple(field(1, &M::name), field(2, &M::datatype), field(3, &M::shape), field(5, &M::contents));
    }
};

/// ModelInferRequest.
struct RequestTensors {
    std::vector<Bytes> inputs;
    std::vector<Bytes> raw_input_contents;

    static constexpr auto fields() {
        using M = RequestTensors;
        return std::tuple(field(5, &M::inputs), field(7, &M::raw_input_contents));
    }
};

[[noreturn]] void refuse(std::string message) { throw InferenceError(Code::invalid_argument, std::move(message)); }

std::span<const std::byte> bytes_of(std::string_view text) {
    return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace

inline namespace v1 {

RequestState::~RequestState() {
    if (watched) cancellations.forget(*exchange);
}

void RequestState::read_tensors() {
    const RequestPayload& payload = *exchange->request();
    RequestTensors read;
    const bool whole = message_fields::merge(payload.bytes(), read) && message_fields::merge(payload.rest(), read);
    if (!whole) refuse("the request cannot be parsed");
    const auto& raw = read.raw_input_contents;
    if (!raw.empty() && raw.size() != read.inputs.size()) {
        refuse("raw_input_contents needs " + std::to_string(read.inputs.size()) + " entries, one for each input, got " +
               std::to_string(raw.size()));
    }
    tensors.reserve(read.inputs.size());
    for (std::size_t i = 0; i < read.inputs.size(); ++i) {
        Tensor tensor = read_tensor(read.inputs[i].value);
        if (!raw.empty() && !tensor.typed_.empty()) {
            refuse("input '" + std::string(tensor.name_) + "': a message takes typed or raw contents, not both");
        }
        if (!raw.empty()) tensor.bytes_ = bytes_of(raw[i].value);
        tensors.push_back(std::move(tensor));
    }
}

Tensor RequestState::read_tensor(std::string_view message) {
    auto read = read_message<InputTensor>(message);
    if (!read) refuse("an input of the request cannot be parsed");
    Tensor tensor;
    tensor.name_ = read->name;
    tensor.datatype_ = read->datatype;
    tensor.shape_ = std::move(read->shape);
    tensor.state_ = this;
    if (!read->contents.value.empty()) read_typed(tensor, message, read->contents.value);
    return tensor;
}

void RequestState::read_typed(Tensor& tensor, std::string_view message, std::string_view contents) {
    const Datatype* datatype = find_datatype(tensor.datatype_);
    auto raw = datatype != nullptr ? raw_contents(*datatype, contents) : std::nullopt;
    if (!raw)
        refuse("input '" + std::string(tensor.name_) + "': the contents are not " + std::string(tensor.datatype_));
    tensor.typed_ = message;
    tensor.bytes_ = bytes_of(typed_.emplace_back(*std::move(raw)));
}

std::span<const std::byte> RequestState::aligned(std::span<const std::byte> bytes, std::size_t alignment) {
    if (reinterpret_cast<std::uintptr_t>(bytes.data()) % alignment == 0) return bytes;
    const std::lock_guard lock(mutex_);
    auto& copy = copies_[bytes.data()];
    if (!copy) {
        copy = make_heap_bytes(bytes.size());
        std::ranges::copy(bytes, copy.get());
    }
    return {copy.get(), bytes.size()};
}

bool RequestState::owns(std::span<const std::byte> bytes) const noexcept {
    const auto request = bytes_of(exchange->request()->bytes());
    const std::less_equal<const std::byte*> before;
    return before(request.data(), bytes.data()) && before(bytes.data() + bytes.size(), request.data() + request.size());
}

}  // namespace v1
}  // namespace anyserve
