#include "anyserve/agent_thread.hpp"

#include <malloc.h>
#include <pthread.h>
#include <unistd.h>

#include <csignal>
#include <future>
#include <mutex>
#include <utility>

namespace anyserve {
namespace {

constexpr int kMappedBytes = 32 << 20;  // larger blocks are mapped; glibc takes no greater number
constexpr int kKeptBytes = 128 << 20;   // of free memory at the end of the heap

LogLine owned(const LogRecord& record) {
    LogLine line{record.level, std::string(record.message), {}};
    for (const auto& [name, value] : record.fields) line.fields.emplace_back(name, value);
    return line;
}

/// A thread inherits the mask of the one that starts it: signals are for the owner's threads.
std::thread start_without_signals(std::function<void()> body) {
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    std::thread thread(std::move(body));
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return thread;
}

/// Messages of megabytes come and go: fresh pages for each cost more than carrying them (a third of the CPU at 1 MiB
/// and at 16 MiB). So what is freed is kept, up to a bound. It holds for the whole process, as an allocator does.
void keep_freed_memory() noexcept {
    mallopt(M_MMAP_THRESHOLD, kMappedBytes);
    mallopt(M_TRIM_THRESHOLD, kKeptBytes);
}

}  // namespace

/// Asks the owner, and keeps who waits for the answer. Any thread.
class AgentThread::AskedLifecycle final : public Lifecycle {
public:
    explicit AskedLifecycle(NoticeQueue& notices) : notices_(notices) {}

    void load(std::string model_name, Done done) override { ask(true, std::move(model_name), std::move(done)); }
    void unload(std::string model_name, Done done) override { ask(false, std::move(model_name), std::move(done)); }

    void answer(std::uint64_t number, std::variant<bool, InferenceError> answer) {
        std::unique_lock lock(mutex_);
        const auto asked = waiting_.extract(number);
        lock.unlock();
        if (!asked.empty()) asked.mapped()(std::move(answer));
    }

private:
    void ask(bool load, std::string model_name, Done done) {
        std::unique_lock lock(mutex_);
        const std::uint64_t number = ++last_;
        waiting_.emplace(number, std::move(done));
        lock.unlock();
        notices_.put(LifecycleCall{number, load, std::move(model_name)});
    }

    NoticeQueue& notices_;
    std::mutex mutex_;  // guards the rest
    std::unordered_map<std::uint64_t, Done> waiting_;
    std::uint64_t last_ = 0;
};

AgentThread::AgentThread(AgentConfig config, std::string instance_secret, std::string server_version)
    : process_(getpid()), lifecycle_(std::make_unique<AskedLifecycle>(notices_)) {
    const Log log = [this](const LogRecord& record) { notices_.put(owned(record)); };
    std::vector<EventLoop*> loops;
    do {
        loops.push_back(loops_.emplace_back(std::make_unique<EventLoop>()).get());
    } while (loops.size() < config.io_threads);
    agent_ =
        std::make_unique<Agent>(loops, std::move(config), std::move(instance_secret), std::move(server_version), log);
    agent_->set_on_ready([this] { notices_.put(AgentReady{}); });
}

AgentThread::~AgentThread() {
    if (getpid() != process_) {  // the threads have stayed in the other process, and so have their locks
        for (std::thread& thread : threads_) thread.detach();
        static_cast<void>(agent_.release());
        return;
    }
    if (threads_.empty()) return;
    for (std::size_t index = 1; index < threads_.size(); ++index) {
        loops_[index]->stop();
        threads_[index].join();
    }
    loops_.front()->post([this] {
        agent_.reset();
        loops_.front()->stop();
    });
    threads_.front().join();
}

std::variant<AgentThread::Ports, StartError> AgentThread::start() {
    if (auto error = agent_->start()) return *error;
    keep_freed_memory();
    const Ports ports{agent_->port(), agent_->management_port()};
    for (const auto& loop : loops_) {
        threads_.push_back(start_without_signals([&loop = *loop] { loop.run(); }));
        const std::string name = "anyserve-io-" + std::to_string(threads_.size());  // for top and debuggers
        pthread_setname_np(threads_.back().native_handle(), name.c_str());
    }
    return ports;
}

void AgentThread::post(std::function<void(Agent&)> task) {
    if (threads_.empty()) return task(*agent_);  // not started: what is said before counts from the start
    loops_.front()->post([this, task = std::move(task)] { task(*agent_); });
}

void AgentThread::expect_workers(std::vector<std::string> worker_ids) {
    post([worker_ids = std::move(worker_ids)](Agent& agent) { agent.expect_workers(worker_ids); });
}

void AgentThread::expect_no_more(std::vector<std::string> worker_ids) {
    post([worker_ids = std::move(worker_ids)](Agent& agent) { agent.expect_no_more(worker_ids); });
}

void AgentThread::keep_worker(std::string place, std::optional<std::string> worker_id) {
    post([place = std::move(place), worker_id = std::move(worker_id)](Agent& agent) {
        agent.keep_worker(place, worker_id ? std::optional<std::string_view>(*worker_id) : std::nullopt);
    });
}

void AgentThread::worker_ended(std::string worker_id, std::string reason) {
    post([worker_id = std::move(worker_id), reason = std::move(reason)](Agent& agent) {
        agent.worker_ended(worker_id, reason);
    });
}

void AgentThread::serve_lifecycle() {
    post([this](Agent& agent) { agent.set_lifecycle(lifecycle_.get()); });
}

void AgentThread::answer_lifecycle(std::uint64_t number, std::variant<bool, InferenceError> answer) {
    lifecycle_->answer(number, std::move(answer));
}

void AgentThread::watch() {
    post([this](Agent& agent) { agent.watch([this](EventPtr event) { notices_.put(std::move(event)); }); });
}

std::optional<Snapshot> AgentThread::snapshot() {
    if (threads_.empty()) return std::nullopt;
    std::promise<Snapshot> answer;
    post([&answer](Agent& agent) { answer.set_value(agent.snapshot()); });
    return answer.get_future().get();
}

void AgentThread::begin_stop(std::chrono::milliseconds grace) {
    post([this, grace](Agent& agent) { agent.begin_stop(grace, [this] { notices_.put(AgentDrained{}); }); });
}

void AgentThread::hurry() {
    post([](Agent& agent) { agent.hurry(); });
}

void AgentThread::finish_stop() {
    post([this](Agent& agent) { agent.finish_stop([this] { notices_.put(AgentStopped{}); }); });
}

}  // namespace anyserve
