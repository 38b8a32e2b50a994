// Requests of an agent and replies of a worker, by hand: what tests of the worker library share.
#pragma once

#include <bit>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "anyserve/message_fields.hpp"
#include "anyserve/scan.hpp"
#include "worker_server.hpp"

namespace anyserve::testing {

struct Output {
    std::string_view name;
    std::string_view datatype;
    std::vector<std::int64_t> shape;
    Bytes contents;

    static constexpr auto fields() {
        using M = Output;
        return std::tuple(field(1, &M::name), field(2, &M::datatype), field(3, &M::shape), field(5, &M::contents));
    }
};
using Input = Output;

struct Response {
    std::vector<Output> outputs;
    std::vector<Bytes> raw;

    static constexpr auto fields() { return std::tuple(field(5, &Response::outputs), field(6, &Response::raw)); }
};

/// A ModelInferRequest, field by field.
class RequestText {
public:
    explicit RequestText(std::string_view model) { append_bytes_field(bytes_, 1, model); }
    RequestText& id(std::string_view id) {
        append_bytes_field(bytes_, 3, id);
        return *this;
    }
    RequestText& parameter(std::string_view name, const Parameter& value) {
        append_parameter(bytes_, name, value);
        return *this;
    }
    RequestText& input(const Input& input) {
        append_bytes_field(bytes_, 5, write_message(input));
        return *this;
    }
    RequestText& raw(std::string_view contents) {
        append_bytes_field(bytes_, 7, contents);
        return *this;
    }
    // NOLINTBEGIN(*-explicit-*): what it is for
    operator std::string() const { return bytes_; }
    operator std::string_view() const { return bytes_; }
    // NOLINTEND(*-explicit-*)

private:
    std::string bytes_;
};

/// An exchange of no connection.
inline WorkerExchangePtr exchange_of(std::string request) {
    return std::make_shared<WorkerExchange>(nullptr, std::make_shared<const RequestPayload>(std::move(request)));
}

/// Numbers as raw contents have them.
template <class T>
std::string raw_of(const std::vector<T>& numbers) {
    const auto bytes = std::as_bytes(std::span(numbers));
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// The payload of a ReplyFrame.
template <class Frame>
std::string payload_of(Frame frame) {
    std::vector<iovec> parts;
    frame.append_parts(4, 1024, parts);
    std::string payload;
    for (const iovec& part : parts) payload.append(static_cast<const char*>(part.iov_base), part.iov_len);
    return payload;
}

}  // namespace anyserve::testing
