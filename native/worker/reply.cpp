#include <algorithm>
#include <stdexcept>
#include <utility>

#include "anyserve/scan.hpp"
#include "datatypes.hpp"
#include "reply_state.hpp"

namespace anyserve {
namespace {

// Fields of ModelInferResponse and InferOutputTensor.
constexpr std::uint32_t kOutputs = 5;
constexpr std::uint32_t kRawOutputs = 6;
constexpr std::uint32_t kInferResponse = 2;  // of ModelStreamInferResponse
enum OutputField : std::uint32_t { kName = 1, kDatatype = 2, kShape = 3 };

/// Contents from here on are sent from where they are; smaller ones are copied into the frame, which costs less than
/// another part of `writev`.
constexpr std::size_t kSentFromTheirPlace = std::size_t{4} << 10;
constexpr std::size_t kMostHeaderBytes = 11;  // of a field: its tag and length

std::string output_head(std::string_view name, std::string_view datatype, std::span<const std::int64_t> shape) {
    std::string sizes;
    for (const std::int64_t size : shape) append_varint(sizes, static_cast<std::uint64_t>(size));
    std::string head;
    append_bytes_field(head, kName, name);
    append_bytes_field(head, kDatatype, datatype);
    append_bytes_field(head, kShape, sizes);
    return head;
}

std::string about(std::string_view name, std::string_view datatype, std::span<const std::int64_t> shape) {
    return "output '" + std::string(name) + "': " + std::string(datatype) + " with shape " + shape_text(shape);
}

std::string_view view(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

inline namespace v1 {

Reply::Reply() : state_(std::make_unique<ReplyState>(nullptr)) {}
Reply::Reply(const Request& request) : state_(std::make_unique<ReplyState>(&request.state_)) {}
Reply::~Reply() = default;
Reply::Reply(Reply&&) noexcept = default;
Reply& Reply::operator=(Reply&&) noexcept = default;

ReplyState::Output& ReplyState::add(std::string_view name, std::string_view datatype,
                                    std::span<const std::int64_t> shape) {
    Output& output = outputs.emplace_back();
    output.head = output_head(name, datatype, shape);
    return output;
}

std::span<std::byte> Reply::add_room(std::string_view name, std::string_view datatype, std::vector<std::int64_t> shape,
                                     std::size_t element_bytes) {
    const auto count = element_count(shape, element_bytes);
    if (!count) throw std::invalid_argument(about(name, datatype, shape) + " is too large, or has a negative size");
    const std::size_t size = *count * element_bytes;
    auto own = make_heap_bytes(size);
    const std::span<std::byte> room(own.get(), size);
    ReplyState::Output& output = state_->add(name, datatype, shape);
    output.own = std::move(own);
    output.bytes = room;
    return room;
}

void Reply::add(std::string_view name, std::string_view datatype, std::vector<std::int64_t> shape,
                std::span<const std::byte> bytes, std::shared_ptr<const void> owner) {
    const Datatype* known = find_datatype(datatype);
    const std::size_t element_bytes = known != nullptr ? known->bytes : 0;
    const auto count = element_count(shape, element_bytes);
    if (!count || (element_bytes > 0 && bytes.size() != *count * element_bytes)) {
        throw std::invalid_argument(about(name, datatype, shape) + " does not have " + std::to_string(bytes.size()) +
                                    " bytes");
    }
    ReplyState::Output& output = state_->add(name, datatype, shape);
    const bool requests_own = state_->request != nullptr && state_->request->owns(bytes);
    if (!owner && !requests_own) {
        output.own = make_heap_bytes(bytes.size());
        std::ranges::copy(bytes, output.own.get());
        bytes = {output.own.get(), bytes.size()};
    }
    output.bytes = bytes;
    output.owner = std::move(owner);
}

void Reply::add_texts(std::string_view name, std::vector<std::int64_t> shape, std::span<const std::string_view> texts) {
    if (element_count(shape, 1) != texts.size()) {
        throw std::invalid_argument(about(name, "BYTES", shape) + " does not have " + std::to_string(texts.size()) +
                                    " elements");
    }
    std::string raw;
    for (const std::string_view text : texts) {
        for (unsigned shift = 0; shift < 32; shift += 8) raw += static_cast<char>(text.size() >> shift & 0xFF);
        raw += text;
    }
    const auto owner = std::make_shared<const std::string>(std::move(raw));
    add(name, "BYTES", std::move(shape), std::as_bytes(std::span(*owner)), owner);
}

void Reply::add(const Tensor& tensor) {
    ReplyState::Output& output = state_->add(tensor.name_, tensor.datatype_, tensor.shape_);
    output.typed = tensor.typed_;
    output.bytes = tensor.bytes_;
    if (state_->request != nullptr && state_->request->owns(tensor.bytes_)) return;
    output.own = make_heap_bytes(tensor.bytes_.size());
    std::ranges::copy(tensor.bytes_, output.own.get());
    output.bytes = {output.own.get(), tensor.bytes_.size()};
}

void Reply::set_parameter(std::string_view name, const Parameter& value) {
    append_parameter(state_->parameters, name, value);
}

ReplyFrame reply_frame(std::unique_ptr<ReplyState> reply, bool in_stream, std::size_t limit) {
    const std::shared_ptr<ReplyState> state = std::move(reply);
    // Raw contents are there for all outputs or for none: only where all came in typed form do they go in it.
    const bool typed = std::ranges::none_of(state->outputs, [](const auto& each) { return each.typed.empty(); });
    std::string begin = std::move(state->parameters);
    std::vector<std::string> headers;  // of the raw contents
    std::size_t size = 0;
    for (const auto& output : state->outputs) {
        append_bytes_field(begin, kOutputs, typed ? output.typed : std::string_view(output.head));
        if (typed) continue;
        append_field_header(headers.emplace_back(), kRawOutputs, output.bytes.size());
        size += headers.back().size() + output.bytes.size();
    }
    size += begin.size();
    ReplyFrame frame;
    frame.own().reserve(frame.own().size() + kMostHeaderBytes + begin.size());
    if (in_stream) append_field_header(frame.own(), kInferResponse, size);
    frame.own() += begin;
    for (std::size_t i = 0; i < headers.size(); ++i) {
        const std::string_view contents = view(state->outputs[i].bytes);
        frame.own() += headers[i];
        if (contents.size() < kSentFromTheirPlace) {
            frame.own() += contents;
            continue;
        }
        frame.append_view(contents);
        frame.keep(state);
        if (state->request != nullptr) frame.keep(state->request->exchange->request());
    }
    if (frame.payload_size() > limit) {
        throw std::length_error("the reply has " + std::to_string(frame.payload_size()) + " bytes, the limit is " +
                                std::to_string(limit) + " (max_message_bytes)");
    }
    return frame;
}

}  // namespace v1
}  // namespace anyserve
