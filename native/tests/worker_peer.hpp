// The agent's end of a worker's socket, for tests, and what a worker's sink is told.
#pragma once

#include <fcntl.h>

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "anyserve/sockets.hpp"
#include "worker_client_peer.hpp"
#include "worker_server.hpp"

namespace anyserve::testing {

[[nodiscard]] inline std::string_view bytes_of(const WorkerExchangePtr& exchange) {
    return exchange->request()->bytes();
}

/// A socket that listens in a directory of its own.
class WorkerSocket {
public:
    [[nodiscard]] Fd listen() {
        Listening listening = listen_unix(path());
        EXPECT_TRUE(listening.error.empty()) << listening.error;
        return std::move(listening.sockets.front());
    }
    /// A connection whose calls block.
    [[nodiscard]] Peer connect() const {
        Connected connected = connect_unix(path());
        EXPECT_EQ(connected.error, 0);
        fcntl(connected.socket.get(), F_SETFL, 0);
        return Peer(std::move(connected.socket));
    }
    [[nodiscard]] std::string path() const { return directory_ / "w"; }

private:
    TemporaryDirectory directory_;
};

/// Records what a worker is told. Whoever runs the loop tells it; the test may ask and wait on another thread.
class WorkerRecorder final : public WorkerSink {
public:
    void on_request(WorkerExchangePtr exchange) override {
        note([&] { requests.push_back(exchange); });
        if (act) act(exchange);
    }
    void on_cancelled(const WorkerExchangePtr& exchange) override {
        note([&] { cancelled.push_back(exchange); });
    }
    void on_writable(const WorkerExchangePtr& exchange) override {
        note([&] { writable.push_back(exchange); });
    }
    void on_drained() override {
        note([&] { ++drained; });
    }
    void on_refused(const std::string& reason) override {
        note([&] { refused.push_back(reason); });
    }

    /// Waits until the predicate holds, while others run the loop; false if it never did.
    template <class Predicate>
    [[nodiscard]] bool wait(const Predicate& predicate) {
        std::unique_lock lock(mutex_);
        return news_.wait_for(lock, kPatience, predicate);
    }

    std::vector<WorkerExchangePtr> requests, cancelled, writable;
    std::size_t drained = 0;
    std::vector<std::string> refused;
    std::function<void(const WorkerExchangePtr&)> act;  // at each request

private:
    template <class Note>
    void note(const Note& note) {
        {
            const std::lock_guard lock(mutex_);
            note();
        }
        news_.notify_all();
    }

    std::mutex mutex_;
    std::condition_variable news_;
};

/// Where threads wait until the test lets them go.
class Gate {
public:
    void pass() {
        std::unique_lock lock(mutex_);
        ++arrived_;
        changed_.notify_all();
        changed_.wait(lock, [this] { return open_; });
    }
    void open() {
        {
            const std::lock_guard lock(mutex_);
            open_ = true;
        }
        changed_.notify_all();
    }
    /// Waits until so many have come; false if they never did.
    [[nodiscard]] bool reached_by(std::size_t count) {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, kPatience, [&] { return arrived_ >= count; });
    }
    [[nodiscard]] std::size_t arrived() {
        const std::lock_guard lock(mutex_);
        return arrived_;
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::size_t arrived_ = 0;
    bool open_ = false;
};

}  // namespace anyserve::testing
