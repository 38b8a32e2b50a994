#include "anyserve/worker.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "declared.hpp"
#include "worker_run.hpp"

namespace anyserve {
namespace {

/// Where a signal is told; -1: no worker runs that wants to know. Signals are the process's, so there is one.
std::atomic<int> signalled{-1};
static_assert(std::atomic<int>::is_always_lock_free);

/// Adds to an eventfd; may be called in a signal handler.
void wake(int fd) noexcept {
    const int before = errno;
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t written =
        ::write(fd, &one, sizeof one);  // it fails only where it is full, and woken
    errno = before;
}

extern "C" void anyserve_worker_on_signal(int) { wake(signalled); }

/// Handles SIGTERM and SIGINT while it lives.
class Signals {
public:
    explicit Signals(int fd) {
        int nobody = -1;
        if (!signalled.compare_exchange_strong(nobody, fd)) {
            throw std::runtime_error("another worker of this process handles signals: set handle_signals to false");
        }
        struct sigaction ours {};
        ours.sa_handler = anyserve_worker_on_signal;
        ours.sa_flags = SA_RESTART;
        for (Handled& each : handled_) {
            sigaction(each.number, nullptr, &each.before);
            // Ctrl-C reaches the whole foreground process group; who has it ignored is told otherwise.
            each.taken = each.before.sa_handler != SIG_IGN;
            if (each.taken) sigaction(each.number, &ours, nullptr);
        }
    }
    ~Signals() {
        for (const Handled& each : handled_) {
            if (each.taken) sigaction(each.number, &each.before, nullptr);
        }
        signalled = -1;
    }
    Signals(const Signals&) = delete;
    Signals& operator=(const Signals&) = delete;

private:
    struct Handled {
        int number;
        bool taken = false;
        struct sigaction before {};
    };
    std::array<Handled, 2> handled_{{{SIGTERM}, {SIGINT}}};
};

std::string_view level_name(LogLevel level) {
    switch (level) {
        case LogLevel::info: return "INFO";
        case LogLevel::warning: return "WARNING";
        default: return "ERROR";
    }
}

/// One line to standard error, by one call: other threads write there too.
void log_to_stderr(const LogRecord& record) {
    std::string line = "anyserve ";
    line.append(level_name(record.level)).append(" ").append(record.message);
    for (const auto& [name, value] : record.fields) line.append(" ").append(name).append("=").append(value);
    line += '\n';
    std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace

inline namespace v1 {

struct Worker::Parts {
    explicit Parts(WorkerOptions given) : options(std::move(given)), stop(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
        if (!stop) throw std::system_error(errno, std::generic_category(), "eventfd");
        check_options(options);
        if (!options.log) options.log = log_to_stderr;
    }

    void add(Declared declared) {
        if (std::ranges::any_of(
                all, [&](const Declared& each) { return each.served.capability == declared.served.capability; })) {
            throw std::invalid_argument("the capability " + declared.served.capability + " is declared already");
        }
        all.push_back(std::move(declared));
    }

    WorkerOptions options;
    Fd stop;  // readable when the run is to end
    std::vector<Declared> all;
};

Worker::Worker(WorkerOptions options) : parts_(std::make_unique<Parts>(std::move(options))) {}
Worker::~Worker() = default;

void Worker::serve(const std::map<std::string, std::string>& capability, Handler handler, CapabilityOptions options) {
    if (!handler) throw std::invalid_argument("a handler is empty");
    Declared declared = declare(capability, std::move(options));
    declared.handler = std::move(handler);
    parts_->add(std::move(declared));
}

void Worker::serve_stream(const std::map<std::string, std::string>& capability, StreamHandler handler,
                          CapabilityOptions options) {
    if (!handler) throw std::invalid_argument("a handler is empty");
    Declared declared = declare(capability, std::move(options));
    declared.served.stream = true;
    declared.stream_handler = std::move(handler);
    parts_->add(std::move(declared));
}

int Worker::run() {
    if (parts_->all.empty()) throw std::logic_error("a worker that serves nothing cannot run");
    try {
        const std::unique_ptr<Signals> signals =
            parts_->options.handle_signals ? std::make_unique<Signals>(parts_->stop.get()) : nullptr;
        return WorkerRun(parts_->options, parts_->all, parts_->stop).run();
    } catch (const std::runtime_error& error) {
        parts_->options.log({LogLevel::error, "the worker cannot begin", {{"reason", error.what()}}});
        return 1;
    }
}

void Worker::stop() noexcept { wake(parts_->stop.get()); }

}  // namespace v1
}  // namespace anyserve
