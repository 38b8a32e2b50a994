// `anyserve.agent.queues` of the reference.
//
// The core trusts its caller: a ticket outlives its waiting, a slot is given back once, to whom it came from, and
// `granted` throws nothing. Python is not trusted: the classes here see to all of it.
#include "anyserve/queues.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>

#include <array>
#include <exception>
#include <memory>
#include <unordered_map>

#include "bindings.hpp"
#include "text.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace anyserve {

template <>
struct Raised<NothingLeft> : std::runtime_error {
    Raised() : std::runtime_error("") {}  // there is nothing to add
};

namespace {

class PythonAdmission;

/// A slot, until it is given back, and which admission it is of.
struct PythonSlot {
    RegistrationPtr registration;
    std::optional<Slot> slot;
    std::shared_ptr<const int> admission;
};

/// A ticket for what a target means in a registry.
class PythonTicket final : public Ticket {
public:
    PythonTicket(std::shared_ptr<Registry> registry, Target target, nb::callable told)
        : registry_(std::move(registry)), target_(std::move(target)), told_(std::move(told)) {}
    ~PythonTicket() = default;

    RoutePtr resolve() override { return registry_->resolve(target_); }
    void granted(std::optional<Slot> slot) noexcept override;

private:
    friend class PythonAdmission;
    friend int traverse_ticket(PyObject*, visitproc, void*);
    friend int clear_ticket(PyObject*);

    std::shared_ptr<Registry> registry_;
    Target target_;
    nb::object told_;
    PythonAdmission* waits_in_ = nullptr;
};

/// An admission that keeps its waiting tickets alive. What their callbacks raise comes out of the outermost call.
class PythonAdmission {
public:
    PythonAdmission(std::size_t queue_size, std::uint32_t default_max_concurrency)
        : admission_(queue_size, default_max_concurrency) {}
    ~PythonAdmission() { let_go(); }
    PythonAdmission(const PythonAdmission&) = delete;
    PythonAdmission& operator=(const PythonAdmission&) = delete;

    std::optional<PythonSlot> submit(nb::handle_t<PythonTicket> object) {
        auto& ticket = nb::cast<PythonTicket&>(object);
        if (ticket.waits_in_ != nullptr) throw nb::value_error("the ticket waits already");
        auto result = admission_.submit(ticket);
        if (auto* slot = std::get_if<Slot>(&result)) return granted(std::move(*slot));
        if (const auto* full = std::get_if<QueueFull>(&result)) throw Raised(*full);
        if (std::holds_alternative<NothingLeft>(result)) throw Raised<NothingLeft>();
        ticket.waits_in_ = this;
        waiting_.emplace(&ticket, nb::borrow(object));
        return std::nullopt;
    }

    void withdraw(PythonTicket& ticket) {
        if (ticket.waits_in_ == nullptr) return;
        if (ticket.waits_in_ != this) throw nb::value_error("the ticket waits elsewhere");
        const nb::object kept = taken_out(ticket);
        outermost([&] { admission_.withdraw(ticket); });
    }

    void release(PythonSlot& slot) {
        if (slot.admission != identity_) throw nb::value_error("the slot is not of this admission");
        if (!slot.slot) throw nb::value_error("the slot was given back already");
        outermost([&] { admission_.release(*std::exchange(slot.slot, std::nullopt)); });
    }

    void reconsider() {
        outermost([&] { admission_.reconsider(); });
    }

    Admission& admission() noexcept { return admission_; }

    /// The ticket's turn has come. It lives to the end of this at least.
    void tell(PythonTicket& ticket, std::optional<Slot> slot) noexcept {
        try {
            const nb::object kept = taken_out(ticket);
            const nb::object told = ticket.told_;
            if (told.is_valid()) told(slot ? nb::cast(granted(*std::move(slot))) : nb::object(nb::none()));
        } catch (...) {
            if (!error_) error_ = std::current_exception();
        }
    }

    int traverse(visitproc visit, void* arg) const {
        for (const auto& [ticket, object] : waiting_) Py_VISIT(object.ptr());
        return 0;
    }

    /// Withdraws all tickets. None of them is told.
    void let_go() {
        while (!waiting_.empty()) {
            PythonTicket& ticket = *waiting_.begin()->first;
            const nb::object kept = taken_out(ticket);
            admission_.withdraw(ticket);
        }
    }

private:
    PythonSlot granted(Slot slot) const { return {slot.registration(), std::move(slot), identity_}; }

    nb::object taken_out(PythonTicket& ticket) {
        ticket.waits_in_ = nullptr;
        return std::move(waiting_.extract(&ticket).mapped());
    }

    template <class Call>
    void outermost(const Call& call) {
        ++depth_;
        call();
        if (--depth_ == 0 && error_) std::rethrow_exception(std::exchange(error_, nullptr));
    }

    Admission admission_;
    std::shared_ptr<const int> identity_ = std::make_shared<const int>();
    std::unordered_map<PythonTicket*, nb::object> waiting_;
    std::size_t depth_ = 0;
    std::exception_ptr error_;
};

void PythonTicket::granted(std::optional<Slot> slot) noexcept { waits_in_->tell(*this, std::move(slot)); }

// Callbacks refer to whatever holds the tickets and the admission: such circles are the garbage collector's.

int traverse_ticket(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    if (nb::inst_ready(self)) Py_VISIT(nb::inst_ptr<PythonTicket>(self)->told_.ptr());
    return 0;
}

int clear_ticket(PyObject* self) {
    if (nb::inst_ready(self)) const nb::object told = std::move(nb::inst_ptr<PythonTicket>(self)->told_);
    return 0;
}

int traverse_admission(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    return nb::inst_ready(self) ? nb::inst_ptr<PythonAdmission>(self)->traverse(visit, arg) : 0;
}

int clear_admission(PyObject* self) {
    if (nb::inst_ready(self)) nb::inst_ptr<PythonAdmission>(self)->let_go();
    return 0;
}

nb::dict depths_of(PythonAdmission& self) {
    nb::dict depths;
    for (const auto& [models, depth] : self.admission().depths()) {
        nb::list queue;
        for (const ModelKey& model : models) {
            queue.append(nb::make_tuple(Text(model.model_name), Text(model.model_version), Text(model.capability)));
        }
        depths[nb::tuple(queue)] = depth;
    }
    return depths;
}

}  // namespace

void init_queues(nb::module_& m) {
    static std::array ticket_slots = {PyType_Slot{Py_tp_traverse, reinterpret_cast<void*>(traverse_ticket)},
                                      PyType_Slot{Py_tp_clear, reinterpret_cast<void*>(clear_ticket)},
                                      PyType_Slot{0, nullptr}};
    static std::array admission_slots = {PyType_Slot{Py_tp_traverse, reinterpret_cast<void*>(traverse_admission)},
                                         PyType_Slot{Py_tp_clear, reinterpret_cast<void*>(clear_admission)},
                                         PyType_Slot{0, nullptr}};
    nb::exception<Raised<QueueFull>>(m, "QueueFull");
    nb::exception<Raised<NothingLeft>>(m, "NothingLeft");
    nb::class_<PythonSlot>(m, "Slot").def_ro("registration", &PythonSlot::registration);
    nb::class_<PythonTicket>(m, "Ticket", nb::type_slots(ticket_slots.data()))
        .def(nb::init<std::shared_ptr<Registry>, Target, nb::callable>(), "registry"_a, "target"_a, "granted"_a)
        .def("exclude", [](PythonTicket& self, RegistrationPtr tried) { self.exclude(std::move(tried)); });
    nb::class_<PythonAdmission>(m, "Admission", nb::type_slots(admission_slots.data()))
        .def(nb::init<std::size_t, std::uint32_t>(), "queue_size"_a, "default_max_concurrency"_a)
        .def("submit", &PythonAdmission::submit)
        .def("withdraw", &PythonAdmission::withdraw)
        .def("release", &PythonAdmission::release)
        .def("reconsider", &PythonAdmission::reconsider)
        .def("forget_worker", [](PythonAdmission& self, const Text& id) { self.admission().forget_worker(id.bytes); })
        .def("in_flight", [](PythonAdmission& self, const Text& id) { return self.admission().in_flight(id.bytes); })
        .def("depths", &depths_of)
        .def_prop_ro("waiting", [](PythonAdmission& self) { return self.admission().waiting(); });
}

}  // namespace anyserve
