// `anyserve.scan` of the reference. What it gives as objects comes as tuples here, of the same fields in the same
// order.
#include "anyserve/scan.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <tuple>
#include <variant>

#include "bindings.hpp"
#include "text.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace anyserve {
namespace {

constexpr std::uint32_t kMaxFieldNumber = (1 << 29) - 1;

using Part = std::tuple<std::size_t, std::size_t, std::size_t>;

std::string_view view(const nb::bytes& bytes) { return {bytes.c_str(), bytes.size()}; }

nb::bytes bytes(std::string_view data) { return nb::bytes(data.data(), data.size()); }

void check(const Malformed& malformed) {
    if (malformed) throw Raised(malformed);
}

struct ToPython {
    nb::object operator()(std::monostate) const { return nb::none(); }
    nb::object operator()(std::string_view text) const { return nb::cast(Text(text)); }
    nb::object operator()(auto other) const { return nb::cast(other); }
};

struct ToParameter {
    Parameter operator()(const Text& text) const { return std::string_view(text.bytes); }
    Parameter operator()(auto other) const { return other; }
};

nb::tuple python(const MessageHead& head) {
    nb::dict parameters;
    for (const auto& [name, value] : head.parameters) parameters[nb::cast(Text(name))] = std::visit(ToPython(), value);
    return nb::make_tuple(Text(head.model_name), Text(head.model_version), Text(head.id), parameters, head.tensors);
}

nb::tuple scanned_message(const nb::bytes& data, std::uint32_t fields) {
    MessageHead head;
    check(scan_message(view(data), fields, head));
    return python(head);
}

nb::tuple scanned_stream_reply(const nb::bytes& data) {
    StreamReply reply;
    check(scan_stream_reply(view(data), reply));
    std::vector<Part> parts;
    parts.reserve(reply.parts.size());
    for (const auto& part : reply.parts) parts.emplace_back(part.begin, part.first, part.last);
    const nb::object response = reply.response ? nb::object(python(*reply.response)) : nb::none();
    return nb::make_tuple(Text(reply.error_message), response, nb::tuple(nb::cast(parts)));
}

nb::bytes extended_response(const nb::bytes& data, const std::vector<Part>& parts, const nb::bytes& fields) {
    StreamReply reply;
    std::size_t end = 0;
    for (const auto& [begin, first, last] : parts) {
        const bool in_order = end <= begin && begin <= first && first <= last;
        if (!in_order) throw nb::value_error("parts overlap");
        reply.parts.push_back({begin, first, end = last});
    }
    if (end > data.size()) throw nb::value_error("a part lies behind the data");
    return bytes(extend_response(view(data), reply, view(fields)));
}

nb::bytes parameter_bytes(const Text& name, const std::variant<bool, std::int64_t, double, Text>& value) {
    std::string out;
    append_parameter(out, name.bytes, std::visit(ToParameter(), value));
    return bytes(out);
}

nb::bytes submessage_field(std::uint32_t number, const nb::bytes& payload) {
    if (number < 1 || number > kMaxFieldNumber) throw nb::value_error("a field number is out of range");
    std::string out;
    append_bytes_field(out, number, view(payload));
    return bytes(out);
}

}  // namespace

void init_scan(nb::module_& m) {
    nb::exception<Raised<Malformed>>(m, "MalformedMessage", PyExc_ValueError);
    m.def("scan_message", &scanned_message, "data"_a, "fields"_a);
    m.def("scan_stream_reply", &scanned_stream_reply);
    m.def("extend_response", &extended_response, "data"_a, "parts"_a, "fields"_a);
    m.def("parameter_bytes", &parameter_bytes, "name"_a, "value"_a.noconvert());
    m.def("submessage_field", &submessage_field);
}

}  // namespace anyserve
