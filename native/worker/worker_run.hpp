// The life of one worker: listen, register, serve, leave, drain. Mirrors reference/anyserve/worker/runtime.py.
//
// Rules: spec `lifecycle.worker.*`. All that happens here happens on the loop's thread, which is one of those that run
// handlers; the thread that calls `run` waits for their end.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "anyserve/event_loop.hpp"
#include "anyserve/fd.hpp"
#include "anyserve/sockets.hpp"
#include "anyserve/worker.hpp"
#include "cancellations.hpp"
#include "declared.hpp"
#include "handler_threads.hpp"
#include "management_channel.hpp"
#include "registrar.hpp"

namespace anyserve {

/// One `Worker::run`. `stop` is readable when it is to end.
class WorkerRun final : private WorkerSink, private EventLoop::Handler {
public:
    /// Listens. Throws std::runtime_error: it cannot.
    WorkerRun(const WorkerOptions& options, const std::vector<Declared>& declared, const Fd& stop);
    ~WorkerRun();
    WorkerRun(const WorkerRun&) = delete;
    WorkerRun& operator=(const WorkerRun&) = delete;

    /// Serves to the end; returns the exit status. Ends the process if a handler does not end.
    [[nodiscard]] int run();

private:
    // WorkerSink; handlers run in the threads, so no request comes here.
    void on_request(WorkerExchangePtr) override {}
    void on_cancelled(const WorkerExchangePtr& exchange) override { cancellations_.cancelled(*exchange); }
    void on_writable(const WorkerExchangePtr&) override {}
    void on_drained() override { close(); }
    void on_refused(const std::string& reason) override { log(LogLevel::warning, "closing a connection", reason); }

    void ready(std::uint32_t events) override;  // of `stop`
    void begin();
    void keep_listening();
    void end(int status, const std::string& reason);
    void drain();
    void cut_off();
    void close();

    [[nodiscard]] bool start_thread();
    void serve();
    void handle(const WorkerExchangePtr& exchange);
    [[nodiscard]] ReplyFrame unary(const Declared& declared, const WorkerExchangePtr& exchange);
    void stream(const Declared& declared, const WorkerExchangePtr& exchange);
    [[nodiscard]] InferenceError failed(const Declared& declared);
    [[nodiscard]] bool wait_for_threads();

    void log(LogLevel level, std::string_view message, std::string reason = {}) const;

    const WorkerOptions& options_;
    const std::vector<Declared>& declared_;
    const Fd& stop_;
    const std::string worker_id_;
    const std::string path_;
    std::unique_ptr<SocketFile> file_;
    Cancellations cancellations_;
    bool ending_ = false;
    int status_ = 0;

    std::mutex mutex_;  // guards what follows
    std::condition_variable changed_;
    std::vector<std::thread> started_;
    std::size_t running_ = 0;  // of those
    bool closed_ = false;      // threads end when they come back

    EventLoop loop_;
    EventLoop::Timer listening_;
    EventLoop::Timer grace_;
    HandlerThreads threads_;  // which tell us of the rest at their end
    ManagementChannel channel_;
    Registrar registrar_;
};

}  // namespace anyserve
