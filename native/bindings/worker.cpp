// `HandlerThreads` and its exchanges for Python: the native worker loop. `anyserve.worker.native_server` is its face.
//
// The interpreter's lock is let go while a thread waits, runs the loop or sends; Python is entered once for a request.
#include "worker.hpp"

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include <atomic>
#include <chrono>
#include <system_error>

#include "anyserve/wire.hpp"
#include "bindings.hpp"
#include "handler_threads.hpp"
#include "text.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace anyserve {
namespace {

/// Where more is copied others may run meanwhile.
constexpr std::size_t kUnlockedBytes = std::size_t{128} << 10;

class WorkerIo;

/// How often this process and those that it comes from were forked.
std::atomic<unsigned> forks{0};

/// One request, for its handler.
struct PyExchange {
    WorkerExchangePtr exchange;
    WorkerIo* io;
};

enum class Event : std::uint8_t { request, cancelled, writable, drained, refused };

/// What has happened that handler threads do not see to.
struct Notice {
    Event event;
    WorkerExchangePtr exchange = nullptr;
    std::string text = {};
};

class Notices final : public WorkerSink {
public:
    Notices() : readable_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
        if (!readable_) throw std::system_error(errno, std::generic_category(), "eventfd");
    }
    void on_request(WorkerExchangePtr exchange) override { put({Event::request, std::move(exchange)}); }
    void on_cancelled(const WorkerExchangePtr& exchange) override { put({Event::cancelled, exchange}); }
    void on_writable(const WorkerExchangePtr& exchange) override { put({Event::writable, exchange}); }
    void on_drained() override { put({Event::drained}); }
    void on_refused(const std::string& reason) override { put({Event::refused, nullptr, reason}); }

    [[nodiscard]] std::vector<Notice> take() {
        const std::lock_guard lock(mutex_);
        eventfd_t count = 0;
        if (!quiet_) eventfd_read(readable_.get(), &count);
        return std::exchange(waiting_, {});
    }
    /// Readable while something waits.
    [[nodiscard]] int descriptor() const noexcept { return readable_.get(); }
    /// Whoever runs the loop looks by itself.
    void quiet() noexcept { quiet_ = true; }

private:
    void put(Notice notice) {
        bool first = false;
        {
            const std::lock_guard lock(mutex_);
            first = waiting_.empty();
            waiting_.push_back(std::move(notice));
        }
        if (first && !quiet_) eventfd_write(readable_.get(), 1);
    }

    Fd readable_;
    bool quiet_ = false;
    std::mutex mutex_;
    std::vector<Notice> waiting_;  // bounded by the connections: two of each exchange, and one of each that was refused
};

using ServedRow = std::tuple<std::string, std::string, std::string, std::size_t, bool, bool>;

std::vector<Served> served_of(const std::vector<ServedRow>& rows) {
    std::vector<Served> served;
    for (const auto& [capability, name, version, places, stream, in_threads] : rows) {
        served.push_back({capability, name, version, places, stream, in_threads});
    }
    return served;
}

WorkerServerOptions options_of(std::size_t max_frame_bytes) {
    WorkerServerOptions options;
    options.max_frame_bytes = max_frame_bytes;
    options.sigpipe = SendBatch::Sigpipe::ignored;  // by the interpreter
    return options;
}

class WorkerIo {
public:
    WorkerIo(const std::vector<ServedRow>& served, std::size_t max_request_bytes, std::size_t most_reply_bytes,
             nb::object ndarray, const nb::dict& datatypes, nb::object start_thread, bool threads)
        : types(std::move(ndarray), datatypes),
          max_reply_bytes(most_reply_bytes),
          handlers(loop, served_of(served), notices, options_of(max_request_bytes)),
          start_thread_(std::move(start_thread)),
          threads_(threads) {
        if (!threads) notices.quiet();
    }

    /// Not in a child that a handler has forked: its sockets are the parent's too, and its mutexes may be locked for
    /// ever.
    [[nodiscard]] bool ours() const noexcept { return forks_ == forks.load(std::memory_order_relaxed); }

    /// The next request for a handler thread; None: closed.
    nb::object take() {
        if (!ours()) return nb::none();
        auto taken = handlers.try_take();
        if (!taken) {
            const nb::gil_scoped_release unlocked;
            taken = handlers.take();
        }
        if (!taken->exchange) return nb::none();
        if (taken->start_thread && !nb::cast<bool>(start_thread_())) handlers.thread_not_started();
        return nb::cast(PyExchange{std::move(taken->exchange), this});
    }

    void poll() {
        if (!ours()) return;
        const nb::gil_scoped_release unlocked;
        handlers.poll();
    }

    nb::list take_notices() {
        nb::list taken;
        for (Notice& notice : notices.take()) {
            const auto event = static_cast<int>(notice.event);
            if (notice.exchange) {
                taken.append(nb::make_tuple(event, PyExchange{std::move(notice.exchange), this}));
            } else {
                taken.append(nb::make_tuple(event, notice.text));
            }
        }
        return taken;
    }

    [[nodiscard]] int descriptor() { return threads_ ? notices.descriptor() : loop.descriptor(); }

    [[nodiscard]] nb::object next_timer() {
        const auto next = loop.next_timer();
        if (!next) return nb::none();
        return nb::float_(std::chrono::duration<double>(*next - EventLoop::Clock::now()).count());
    }

    EventLoop loop;
    Notices notices;
    NumpyTypes types;
    const std::size_t max_reply_bytes;
    HandlerThreads handlers;

private:
    nb::object start_thread_;  // returns whether it has
    bool threads_;
    const unsigned forks_ = forks.load();
};

void check_length(const PyExchange& self, std::size_t size) {
    if (size <= self.io->max_reply_bytes) return;
    throw nb::value_error(("the reply has " + std::to_string(size) + " bytes, the limit is " +
                           std::to_string(self.io->max_reply_bytes) + " (--max-message-bytes)")
                              .c_str());
}

/// A text among the request's parameters; None if it is none.
nb::object text_parameter(const PyExchange& self, std::string_view name) {
    const Parameter* found = self.exchange->notes.head.parameter(name);
    const auto* value = found != nullptr ? std::get_if<std::string_view>(found) : nullptr;
    return value != nullptr ? shown_text(*value) : nb::none();
}

/// Seconds on the monotonic clock, which asyncio's is; None: there is no deadline.
nb::object deadline(const PyExchange& self) {
    const Parameter* found = self.exchange->notes.head.parameter(wire::kTimeoutMs);
    const auto* timeout = found != nullptr ? std::get_if<std::int64_t>(found) : nullptr;
    if (timeout == nullptr) return nb::none();
    const double arrived = std::chrono::duration<double>(self.exchange->notes.arrived.time_since_epoch()).count();
    return nb::float_(arrived + static_cast<double>(*timeout) / 1e3);
}

void reply(const PyExchange& self, ReplyFrame frame, bool now) {
    if (!self.io->ours()) return;
    if (now || frame.payload_size() > kUnlockedBytes) {
        const nb::gil_scoped_release unlocked;
        now ? self.exchange->send(std::move(frame), true) : self.exchange->queue(std::move(frame), true);
    } else {
        self.exchange->reply(std::move(frame));
    }
}

void reply_bytes(const PyExchange& self, const nb::bytes& payload, bool now) {
    check_length(self, payload.size());
    ReplyFrame frame;
    append_bytes(frame, payload);
    reply(self, std::move(frame), now);
}

bool reply_tensors(const PyExchange& self, nb::handle arrays, nb::handle datatypes, bool now) {
    ReplyFrame frame;
    if (!append_tensors(frame, arrays, datatypes, self.io->types, self.exchange.get())) return false;
    check_length(self, frame.payload_size());
    reply(self, std::move(frame), now);
    return true;
}

/// As `Sent` numbers it.
int send(const PyExchange& self, const nb::bytes& payload, bool last, bool now) {
    if (!self.io->ours()) return static_cast<int>(WorkerExchange::Sent::over);
    ReplyFrame frame;
    append_bytes(frame, payload);
    if (!now) return static_cast<int>(self.exchange->queue(std::move(frame), last));
    const nb::gil_scoped_release unlocked;
    return static_cast<int>(self.exchange->send(std::move(frame), last));
}

/// A ModelStreamInferResponse with these arrays in its response; None where that cannot be done, see `append_tensors`.
nb::object stream_reply(const WorkerIo& self, nb::handle arrays) {
    constexpr std::uint32_t kInferResponse = 2;
    ReplyFrame response;
    if (!append_tensors(response, arrays, nb::none(), self.types, nullptr)) return nb::none();
    std::string payload;
    append_field_header(payload, kInferResponse, response.payload_size());
    const std::size_t head = payload.size();
    payload.resize(head + response.payload_size());
    response.copy_payload_to(std::span(payload).subspan(head));
    return nb::bytes(payload.data(), payload.size());
}

}  // namespace

void init_worker(nb::module_& m) {
    using Unlocked = nb::call_guard<nb::gil_scoped_release>;
    init_request_memory(m);
    pthread_atfork(nullptr, nullptr, [] { ++forks; });
    nb::class_<PyExchange>(m, "Exchange", "One request, for its handler; see worker_server.hpp.")
        .def_prop_ro("key",
                     [](const PyExchange& self) { return reinterpret_cast<std::uintptr_t>(self.exchange.get()); })
        .def_prop_ro("served", [](const PyExchange& self) { return self.exchange->notes.served; })
        .def_prop_ro("id", [](const PyExchange& self) { return shown_text(self.exchange->notes.head.id); })
        .def_prop_ro("traceparent", [](const PyExchange& self) { return text_parameter(self, wire::kTraceparent); })
        .def_prop_ro("deadline", &deadline)
        .def_prop_ro("cancelled", [](const PyExchange& self) { return self.exchange->cancelled(); })
        .def("payload",
             [](const PyExchange& self) {
                 const RequestPayload& request = *self.exchange->request();
                 if (request.rest().empty()) return nb::bytes(request.bytes().data(), request.bytes().size());
                 const std::string whole = request.whole();
                 return nb::bytes(whole.data(), whole.size());
             })
        .def("tensors", [](const PyExchange& self) { return tensors_of(self.exchange, self.io->types); })
        .def("reply", &reply_bytes, "payload"_a, "now"_a)
        .def("reply_tensors", &reply_tensors, "arrays"_a, "datatypes"_a.none(), "now"_a)
        .def("send", &send, "payload"_a, "last"_a, "now"_a)
        .def_prop_ro("full", [](const PyExchange& self) { return self.exchange->full(); })
        .def(
            "wait_writable", [](const PyExchange& self) { return self.exchange->wait_writable(); }, Unlocked())
        .def("ended", [](const PyExchange& self) {
            if (self.io->ours()) self.io->handlers.ended(self.exchange);
        });
    nb::class_<WorkerIo>(m, "WorkerIo", "The native worker loop; see handler_threads.hpp.")
        .def(nb::init<const std::vector<ServedRow>&, std::size_t, std::size_t, nb::object, const nb::dict&, nb::object,
                      bool>(),
             "served"_a, "max_request_bytes"_a, "max_reply_bytes"_a, "ndarray"_a, "datatypes"_a, "start_thread"_a,
             "threads"_a)
        .def("take", &WorkerIo::take)
        .def("stream_reply", &stream_reply, "arrays"_a)
        .def("poll", &WorkerIo::poll)
        .def("take_notices", &WorkerIo::take_notices)
        .def("descriptor", &WorkerIo::descriptor)
        .def("next_timer", &WorkerIo::next_timer)
        .def("listen", [](WorkerIo& self, int fd) { self.handlers.listen(Fd(fd)); })
        .def("share_memory", [](WorkerIo& self, bool agreed) { self.handlers.share_memory(agreed); })
        .def("drain", [](WorkerIo& self) { self.handlers.drain(); })
        .def("close", [](WorkerIo& self) { self.handlers.close(); });
}

}  // namespace anyserve
