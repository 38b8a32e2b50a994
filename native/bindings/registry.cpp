// `anyserve.agent.registry` of the reference.
#include "anyserve/registry.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>

#include "bindings.hpp"
#include "text.hpp"

namespace nb = nanobind;
using namespace nb::literals;

/// Its members say that they can be copied, and cannot.
template <>
struct nanobind::detail::is_copy_constructible<anyserve::Registry> : std::false_type {};

namespace anyserve {
namespace {

void make_registration(Registration* self, const Text& worker_id, const Text& socket_path, const Text& model_name,
                       const Text& model_version, const Capability& capability, std::uint32_t max_concurrency,
                       bool stream, std::int32_t priority) {
    auto* made = new (self) Registration;
    made->worker_id = worker_id.bytes;
    made->socket_path = socket_path.bytes;
    made->model_name = model_name.bytes;
    made->model_version = model_version.bytes;
    made->capability = capability;
    made->max_concurrency = max_concurrency;
    made->stream = stream;
    made->priority = priority;
}

void make_target(Target* self, const Text& model_name, const Text& model_version, std::optional<Query> query,
                 bool unary_only) {
    new (self) Target{model_name.bytes, model_version.bytes, std::move(query), unary_only};
}

std::vector<Text> texts(const std::vector<std::string>& strings) { return {strings.begin(), strings.end()}; }

std::tuple<Text, Text, Text, Text> key_of(const Registration& registration) {
    return {Text(registration.worker_id), Text(registration.model_name), Text(registration.model_version),
            Text(registration.capability.encoded())};
}

void init_registration(nb::module_& m) {
    nb::class_<Registration>(m, "Registration")
        .def("__init__", &make_registration, "worker_id"_a, "socket_path"_a, "model_name"_a, "model_version"_a,
             "capability"_a, "max_concurrency"_a, nb::kw_only(), "stream"_a = false, "priority"_a = 0)
        .def_prop_ro("worker_id", [](const Registration& self) { return Text(self.worker_id); })
        .def_prop_ro("model_name", [](const Registration& self) { return Text(self.model_name); })
        .def_prop_ro("model_version", [](const Registration& self) { return Text(self.model_version); })
        .def_ro("capability", &Registration::capability)
        .def_ro("max_concurrency", &Registration::max_concurrency)
        .def_ro("stream", &Registration::stream)
        .def_ro("priority", &Registration::priority)
        .def_prop_ro("key", &key_of)
        .def_prop_ro("listed_name", [](const Registration& self) { return Text(self.listed_name()); })
        .def_prop_ro("listed_version", [](const Registration& self) { return Text(self.listed_version()); });
}

}  // namespace

void init_registry(nb::module_& m) {
    init_registration(m);
    nb::exception<Raised<RegistryFull>>(m, "RegistryFull");
    nb::class_<Target>(m, "Target")
        .def("__init__", &make_target, "model_name"_a = Text(), "model_version"_a = Text(), "query"_a = nb::none(),
             "unary_only"_a = false)
        .def("streaming_too", &Target::streaming_too)
        .def("__str__", [](const Target& self) { return Text(self.text()); });
    nb::class_<Route>(m, "Route").def_ro("tiers", &Route::tiers);
    nb::class_<Registry>(m, "Registry")
        .def(nb::init<std::size_t, std::size_t>(), nb::kw_only(), "max_workers"_a, "max_registrations"_a)
        .def("__len__", &Registry::size)
        .def("__iter__", [](const Registry& self) { return nb::iter(nb::cast(self.all())); })
        .def("register", [](Registry& self, RegistrationPtr added) { return or_raise(self.add(std::move(added))); })
        .def("unregister",
             [](Registry& self, const Text& worker_id, const Text& model_name, const Text& model_version) {
                 return self.remove(worker_id.bytes, model_name.bytes, model_version.bytes);
             })
        .def("unregister_worker",
             [](Registry& self, const Text& worker_id) { return self.remove_worker(worker_id.bytes); })
        .def("of_worker", [](const Registry& self, const Text& worker_id) { return self.of_worker(worker_id.bytes); })
        .def("resolve", &Registry::resolve)
        .def(
            "named",
            [](const Registry& self, const Text& name, const Text& version) {
                return self.named(name.bytes, version.bytes);
            },
            "model_name"_a, "model_version"_a = Text())
        .def("named_any_version",
             [](const Registry& self, const Text& name) { return self.named_any_version(name.bytes); })
        .def("versions", [](const Registry& self, const Text& name) { return texts(self.versions(name.bytes)); })
        .def("model_names", [](const Registry& self) { return texts(self.model_names()); });
}

}  // namespace anyserve
