#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <utility>

#include "anyserve/exchange.hpp"
#include "anyserve/grpc_metadata.hpp"
#include "anyserve/wire.hpp"
#include "datatypes.hpp"
#include "request_state.hpp"

namespace anyserve {
namespace {

constexpr std::size_t kLengthBytes = 4;  // before each element of a raw BYTES tensor

[[noreturn]] void refuse(std::string message) { throw InferenceError(Code::invalid_argument, std::move(message)); }

std::string about(const Tensor& tensor) {
    return "input '" + std::string(tensor.name()) + "': " + std::string(tensor.datatype()) + " with shape " +
           shape_text(tensor.shape());
}

/// What the agent has appended is not the client's.
bool is_the_agents(std::string_view parameter) {
    return parameter == wire::kCapability || parameter == wire::kTimeoutMs || parameter == wire::kTraceparent;
}

/// `Value` is what a parameter may be read as.
template <class Value>
Value parameter_as(const Request& request, std::string_view name, Value otherwise, std::string_view kind) {
    const Parameter* found = request.parameter(name);
    if (found == nullptr) return otherwise;
    if (const auto* value = std::get_if<Value>(found)) return *value;
    std::string message = "parameter '";
    refuse(message.append(name).append("' takes ").append(kind));
}

}  // namespace

inline namespace v1 {

std::span<const std::byte> Tensor::elements(std::string_view datatype, std::size_t alignment) const {
    const bool as_bits = datatype == "UINT16" && (datatype_ == "FP16" || datatype_ == "BF16");
    if (datatype != datatype_ && !as_bits) {
        refuse("input '" + std::string(name_) + "': expected " + std::string(datatype) + ", got " +
               std::string(datatype_));
    }
    const std::size_t size = find_datatype(datatype)->bytes;
    const auto count = element_count(shape_, size);
    if (!count || bytes_.size() != *count * size) {
        refuse(about(*this) + " does not have the " + std::to_string(bytes_.size()) + " bytes that came");
    }
    if (datatype == "BOOL" && std::ranges::any_of(bytes_, [](std::byte each) { return each > std::byte{1}; })) {
        refuse(about(*this) + " needs bytes 0 or 1");
    }
    return state_->aligned(bytes_, alignment);
}

std::vector<std::string_view> Tensor::texts() const {
    if (datatype_ != "BYTES") {
        refuse("input '" + std::string(name_) + "': expected BYTES, got " + std::string(datatype_));
    }
    const auto count = element_count(shape_, kLengthBytes);
    std::vector<std::string_view> texts;
    std::string_view rest(reinterpret_cast<const char*>(bytes_.data()), bytes_.size());
    while (rest.size() >= kLengthBytes) {
        std::uint32_t length = 0;
        std::memcpy(&length, rest.data(), kLengthBytes);
        rest.remove_prefix(kLengthBytes);
        if (length > rest.size()) break;
        texts.push_back(rest.substr(0, length));
        rest.remove_prefix(length);
        if (rest.empty() && count == texts.size()) return texts;
    }
    if (bytes_.empty() && count == 0) return texts;
    refuse(about(*this) + " does not have the elements that came");
}

std::string_view Request::id() const noexcept { return state_.exchange->notes.head.id; }
std::string_view Request::model_name() const noexcept { return state_.exchange->notes.head.model_name; }
std::string_view Request::model_version() const noexcept { return state_.exchange->notes.head.model_version; }
const std::map<std::string, std::string>& Request::capability() const noexcept { return state_.capability; }

std::string_view Request::traceparent() const noexcept {
    const Parameter* found = state_.exchange->notes.head.parameter(wire::kTraceparent);
    const auto* text = found != nullptr ? std::get_if<std::string_view>(found) : nullptr;
    return text != nullptr ? *text : std::string_view();
}

std::span<const Tensor> Request::tensors() const noexcept { return state_.tensors; }

const Tensor* Request::find(std::string_view name) const noexcept {
    const auto found = std::ranges::find(state_.tensors, name, &Tensor::name);
    return found == state_.tensors.end() ? nullptr : &*found;
}

const Tensor& Request::tensor(std::string_view name) const {
    if (const Tensor* found = find(name)) return *found;
    std::string message = "there is no input '";
    refuse(message.append(name).append("'"));
}

const Parameter* Request::parameter(std::string_view name) const noexcept {
    return is_the_agents(name) ? nullptr : state_.exchange->notes.head.parameter(name);
}

bool Request::flag(std::string_view name, bool otherwise) const {
    return parameter_as(*this, name, otherwise, "a bool");
}
std::int64_t Request::integer(std::string_view name, std::int64_t otherwise) const {
    return parameter_as(*this, name, otherwise, "an int64");
}
double Request::number(std::string_view name, double otherwise) const {
    return parameter_as(*this, name, otherwise, "a double");
}
std::string_view Request::text(std::string_view name, std::string_view otherwise) const {
    return parameter_as(*this, name, otherwise, "a string");
}

std::optional<std::chrono::steady_clock::time_point> Request::deadline() const noexcept {
    const WorkerExchange::Notes& notes = state_.exchange->notes;
    const Parameter* found = notes.head.parameter(wire::kTimeoutMs);
    const auto* left = found != nullptr ? std::get_if<std::int64_t>(found) : nullptr;
    if (left == nullptr) return std::nullopt;
    return notes.arrived + std::min(std::chrono::milliseconds(*left), std::chrono::milliseconds(kLongestTimeout));
}

bool Request::cancelled() const noexcept { return state_.exchange->cancelled(); }

std::stop_token Request::cancellation() const {
    state_.watched = true;
    return state_.cancellations.token(*state_.exchange);
}

}  // namespace v1
}  // namespace anyserve
