#include "registrar.hpp"

#include <algorithm>
#include <utility>

#include "anyserve/management_messages.hpp"

namespace anyserve {
namespace {

std::string heartbeat_request(const RegistrarOptions& options) {
    messages::HeartbeatRequest request;
    request.worker_id = options.worker_id;
    request.model_names.assign(options.model_names.begin(), options.model_names.end());
    return write_message(request);
}

/// Whether an agent that answers so wants no more of this worker.
bool is_refusal(Code code) noexcept {
    switch (code) {
        case Code::invalid_argument:
        case Code::unauthenticated:
        case Code::unimplemented:
        case Code::resource_exhausted: return true;
        default: return false;
    }
}

}  // namespace

Registrar::Registrar(EventLoop& loop, Call call, RegistrarOptions options,
                     std::function<void(Reason, std::string)> ended, Log log)
    : loop_(loop),
      call_(std::move(call)),
      options_(std::move(options)),
      ended_(std::move(ended)),
      log_(std::move(log)),
      heartbeat_(heartbeat_request(options_)),
      alive_(std::make_shared<bool>(true)) {}

Registrar::~Registrar() { *alive_ = false; }

void Registrar::start() {
    heard_ = EventLoop::Clock::now();
    beat();
}

void Registrar::beat() { healthy_ ? heartbeat() : register_next(0); }

void Registrar::register_next(std::size_t index) {
    // Until it is known what the agent says to it: requests may come before the answer.
    options_.share_memory(index == 0 || agreed_);
    if (index == options_.registrations.size()) return heartbeat();
    call("RegisterModel", options_.registrations[index], [this, index](const CallResult& result) {
        if (result.code != Code::ok) return failed(result);
        const auto reply = read_message<messages::RegisterModelResponse>(result.reply);
        if (!reply) return failed({Code::internal, "the answer is no RegisterModelResponse", {}});
        if (!reply->success) return refuse(std::string(reply->message));
        agreed_ = reply->shared_memory;
        register_next(index + 1);
    });
}

void Registrar::heartbeat() {
    call("Heartbeat", heartbeat_, [this](const CallResult& result) {
        if (result.code != Code::ok) return failed(result);
        const auto reply = read_message<messages::HeartbeatResponse>(result.reply);
        if (!reply) return failed({Code::internal, "the answer is no HeartbeatResponse", {}});
        answered(reply->healthy);
    });
}

void Registrar::answered(bool healthy) {
    const bool was_healthy = std::exchange(healthy_, healthy);
    if (was_healthy && !healthy) return beat();  // the agent does not know us: it has restarted
    if (healthy && !was_healthy) log(LogLevel::info, "registered", {});
    pause();
}

void Registrar::failed(const CallResult& result) {
    if (is_refusal(result.code)) return refuse(result.message);
    const std::string reason = std::string(code_name(result.code)) + ": " + result.message;
    if (std::exchange(healthy_, false)) log(LogLevel::warning, "the agent does not answer", reason);
    if (EventLoop::Clock::now() - heard_ > options_.orphan_timeout) {
        return end(Reason::orphaned, "no agent has answered for " + std::to_string(options_.orphan_timeout.count()) +
                                         " ms, at last with " + reason);
    }
    pause();
}

void Registrar::refuse(std::string message) {
    end(Reason::refused, "the agent refuses this worker: " + std::move(message));
}

void Registrar::end(Reason reason, std::string message) {
    over_ = true;
    ended_(reason, std::move(message));
}

void Registrar::pause() {
    const auto wait = healthy_ ? options_.interval : std::min(options_.interval, kMostRetry);
    timer_ = loop_.at(EventLoop::Clock::now() + wait, [this] { beat(); });
}

void Registrar::leave(std::function<void()> left) {
    over_ = true;
    left_ = std::move(left);
    timer_ = loop_.at(EventLoop::Clock::now() + kCallLimit, [this] {
        log(LogLevel::info, "the agent was not told of the leave", "it does not answer");
        std::exchange(left_, nullptr)();
    });
    if (!calling_) unregister();
}

void Registrar::unregister() {
    messages::UnregisterWorkerRequest request;
    request.worker_id = options_.worker_id;
    call_("UnregisterWorker", write_message(request), kCallLimit, [this, alive = alive_](const CallResult& result) {
        if (!*alive || !left_) return;  // or the time was over
        if (result.code != Code::ok) {
            log(LogLevel::info, "the agent was not told of the leave", std::string(code_name(result.code)));
        }
        timer_ = {};
        std::exchange(left_, nullptr)();
    });
}

void Registrar::call(std::string_view method, std::string_view request, std::function<void(CallResult)> done) {
    calling_ = true;
    call_(method, request, kCallLimit, [this, alive = alive_, done = std::move(done)](CallResult result) {
        if (!*alive) return;
        calling_ = false;
        if (result.code == Code::ok) heard_ = EventLoop::Clock::now();  // an answer is a reply, not an error
        if (!over_) return done(std::move(result));
        if (left_) unregister();
    });
}

void Registrar::log(LogLevel level, std::string_view message, std::string reason) const {
    if (!log_) return;
    LogRecord record{level, message, {}};
    if (!reason.empty()) record.fields.emplace_back("reason", std::move(reason));
    log_(record);
}

}  // namespace anyserve
