// `anyserve.capability` of the reference.
#include "anyserve/capability.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <map>

#include "anyserve/decimal.hpp"
#include "anyserve/query.hpp"
#include "bindings.hpp"
#include "text.hpp"

namespace nb = nanobind;

namespace anyserve {
namespace {

using Items = std::vector<std::pair<Text, Text>>;

Capability capability_of(const std::map<Text, Text>& items) {
    std::vector<Capability::Item> made;
    made.reserve(items.size());
    for (const auto& [key, value] : items) made.emplace_back(key.bytes, value.bytes);
    return or_raise(Capability::make(std::move(made)));
}

Items items_of(const Capability& capability) {
    Items items;
    for (const auto& [key, value] : capability.items()) items.emplace_back(key, value);
    return items;
}

Query query_of(const Items& items) {
    std::vector<Query::Pair> pairs;
    for (const auto& [key, value] : items) pairs.emplace_back(key.bytes, value.bytes);
    return or_raise(Query::parse(pairs));
}

int match(const Pattern& pattern, const Text& value) {
    if (!is_utf8(value.bytes)) throw nb::value_error("the value of a capability is UTF-8");
    return static_cast<int>(pattern.match(value.bytes));
}

/// Negative, 0 or positive; nothing if either is no decimal number.
std::optional<int> compare_decimals(const Text& a, const Text& b) {
    const auto number_a = Decimal::parse(a.bytes);
    const auto number_b = Decimal::parse(b.bytes);
    if (!number_a || !number_b) return std::nullopt;
    return *number_a < *number_b ? -1 : *number_a == *number_b ? 0 : 1;
}

}  // namespace

void init_capability(nb::module_& m) {
    nb::exception<Raised<InvalidCapability>>(m, "InvalidCapability", PyExc_ValueError);
    nb::exception<Raised<InvalidQuery>>(m, "InvalidQuery", PyExc_ValueError);
    nb::class_<Capability>(m, "Capability")
        .def("__init__",
             [](Capability* self, const std::map<Text, Text>& items) { new (self) Capability(capability_of(items)); })
        .def_prop_ro("encoded", [](const Capability& self) { return Text(self.encoded()); })
        .def("items", &items_of)
        .def("get", [](const Capability& self, const Text& key) { return Text(self.get(key.bytes)); })
        .def("__len__", &Capability::size)
        .def("__repr__", [](const Capability& self) { return Text(self.text()); });
    m.def("decode_capability", [](const Text& encoded) { return or_raise(Capability::decode(encoded.bytes)); });
    nb::class_<Pattern>(m, "Pattern")
        .def_static("parse", [](const Text& text) { return or_raise(Pattern::parse(text.bytes)); })
        .def("match", &match)
        .def_prop_ro("text", [](const Pattern& self) { return Text(self.text()); });
    nb::class_<Query>(m, "Query")
        .def_static("parse", &query_of)
        .def("exact_matches", &Query::exact_matches)
        .def("__str__", [](const Query& self) { return Text(self.text()); });
    m.def("compare_decimals", &compare_decimals);
}

}  // namespace anyserve
