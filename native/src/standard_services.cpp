#include "anyserve/standard_services.hpp"

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <variant>

#include "anyserve/answered_call.hpp"
#include "anyserve/capability_text.hpp"
#include "anyserve/descriptor_index.hpp"
#include "anyserve/descriptors.hpp"
#include "anyserve/standard_messages.hpp"

namespace anyserve {
namespace {

using messages::ServingStatus;

constexpr std::string_view kHealth = "grpc.health.v1.Health";
constexpr std::string_view kReflection = "grpc.reflection.v1.ServerReflection";
constexpr std::string_view kReflectionAlpha = "grpc.reflection.v1alpha.ServerReflection";

/// Whether a path is that of a service's method.
bool is_path(std::string_view path, std::string_view service, std::string_view method) noexcept {
    return path.size() == service.size() + method.size() + 2 && path.starts_with('/') &&
           path.substr(1).starts_with(service) && path[service.size() + 1] == '/' && path.ends_with(method);
}

}  // namespace

/// The RPCs of `grpc.health.v1.Health`.
class StandardServices::Health {
public:
    /// `services`: names that are asked for; empty means the server as a whole.
    explicit Health(std::set<std::string, std::less<>> services) : services_(std::move(services)) {}

    std::unique_ptr<CallHandler> route(ServerCall& call) {
        const std::string_view path = call.facts().path;
        if (is_path(path, kHealth, "Check")) {
            return answered<messages::HealthCheckRequest>(call, [this](const auto& r) { return check(r.service); });
        }
        if (is_path(path, kHealth, "List")) {
            return answered<messages::HealthListRequest>(call, [this](const auto&) { return list(); });
        }
        if (is_path(path, kHealth, "Watch")) return std::make_unique<WatchCall>(call, *this);
        return nullptr;
    }

    void set_serving(bool serving) {
        status_ = serving ? ServingStatus::serving : ServingStatus::not_serving;
        tell();
    }
    void close() {
        closing_ = true;
        tell();
    }

private:
    /// A call that is told each status which it has not been told, one at a time: what changes while its client takes
    /// no messages is told as it is in the end.
    class WatchCall final : public UnaryHandler {
    public:
        WatchCall(ServerCall& call, Health& health) : UnaryHandler(call), health_(health) {}
        ~WatchCall() override { leave(); }
        void on_cancel() override { leave(); }

        void tell() {
            if (sending_) return;
            const ServingStatus status = known_ ? health_.status_ : ServingStatus::service_unknown;
            if (told_ != status) {
                told_ = status;
                sending_ = true;
                return call().send(write_message(messages::HealthCheckResponse{status}), [this] {
                    sending_ = false;
                    tell();
                });
            }
            if (!health_.closing_) return;
            leave();
            call().finish(Code::ok, {});
        }

    private:
        void on_request(Payload bytes) override {
            const auto request = read_message<messages::HealthCheckRequest>(bytes.view());
            if (!request) {
                const InferenceError error = malformed_request(call());
                return call().finish(error.code, error.message);
            }
            known_ = health_.services_.contains(request->service);
            health_.watching_.push_back(this);
            tell();
        }
        void leave() noexcept { std::erase(health_.watching_, this); }

        Health& health_;
        bool known_ = false;
        bool sending_ = false;
        std::optional<ServingStatus> told_;
    };

    std::variant<std::string, InferenceError> check(std::string_view service) const {
        if (services_.contains(service)) return write_message(messages::HealthCheckResponse{status_});
        return InferenceError{Code::not_found, "no service " + in_quotes(service) + " is served here"};
    }
    std::string list() const {
        messages::HealthListResponse response;
        for (const std::string& service : services_) response.statuses[service] = {status_};
        return write_message(response);
    }
    void tell() {
        const std::vector<WatchCall*> watching = watching_;  // calls leave it when they end
        for (WatchCall* call : watching) call->tell();
    }

    std::set<std::string, std::less<>> services_;
    std::vector<WatchCall*> watching_;
    ServingStatus status_ = ServingStatus::not_serving;
    bool closing_ = false;
};

/// The RPC of `grpc.reflection.v1.ServerReflection`, and of v1alpha.
class StandardServices::Reflection {
public:
    /// `services`: the full names of all services, sorted.
    explicit Reflection(std::vector<std::string> services) : services_(std::move(services)) {}

    std::unique_ptr<CallHandler> route(ServerCall& call) {
        const std::string_view path = call.facts().path;
        constexpr std::string_view method = "ServerReflectionInfo";
        if (!is_path(path, kReflection, method) && !is_path(path, kReflectionAlpha, method)) return nullptr;
        if (closing_) return refused(call, Code::ok, {});
        return std::make_unique<Call>(call, *this);
    }

    void close() {
        closing_ = true;
        for (Call* call : std::exchange(calls_, {})) call->end();
    }

private:
    /// Answers one question after the other; the next is read when the client has taken the answer.
    class Call final : public CallHandler {
    public:
        Call(ServerCall& call, Reflection& reflection) : call_(call), reflection_(reflection) {
            reflection_.calls_.push_back(this);
            call_.read();
        }
        ~Call() override { leave(); }
        void on_message(Payload bytes) override {
            if (auto answer = reflection_.answer(bytes.view())) {
                return call_.send(*std::move(answer), [this] { call_.read(); });
            }
            leave();
            const InferenceError error = malformed_request(call_);
            call_.finish(error.code, error.message);
        }
        void on_half_close() override {
            leave();
            end();
        }
        void on_cancel() override { leave(); }
        void end() { call_.finish(Code::ok, {}); }

    private:
        void leave() noexcept { std::erase(reflection_.calls_, this); }

        ServerCall& call_;
        Reflection& reflection_;
    };

    using Asked = messages::ServerReflectionRequest;
    using Told = decltype(messages::ServerReflectionResponse::message_response);

    /// The answer to one question, a failure is one too; nothing if the question is malformed.
    std::optional<std::string> answer(std::string_view question) {
        const auto asked = read_message<Asked>(question);
        if (!asked) return std::nullopt;
        if (!index_) index_.emplace(descriptor_set());
        messages::ServerReflectionResponse response{asked->host, {question}, {}};
        const auto& request = asked->message_request;
        switch (request.index()) {
            case Asked::kListServices: response.message_response = listed(); break;
            case Asked::kFileByFilename:
                response.message_response = file(index_->file(std::get<Asked::kFileByFilename>(request)));
                break;
            case Asked::kFileContainingSymbol:
                response.message_response = file(index_->file_of(std::get<Asked::kFileContainingSymbol>(request)));
                break;
            case Asked::kAllExtensionNumbersOfType:
                response.message_response = extensions(std::get<Asked::kAllExtensionNumbersOfType>(request));
                break;
            case Asked::kFileContainingExtension: response.message_response = not_found(); break;
            default:
                response.message_response =
                    failure(Code::invalid_argument, "the request asks nothing: set one of message_request");
        }
        return write_message(response);
    }

    Told listed() const {
        messages::ListServiceResponse list;
        for (const std::string& service : services_) list.service.push_back({service});
        return list;
    }
    static Told file(std::string_view serialized) {
        if (serialized.empty()) return not_found();
        return messages::FileDescriptorResponse{{{serialized}}};
    }
    Told extensions(std::string_view type) const {
        // proto3 has no extensions: a type that is known has none.
        if (!index_->is_message(type)) return not_found();
        return messages::ExtensionNumberResponse{type};
    }
    static Told not_found() { return failure(Code::not_found, "nothing of that name is served here"); }
    static Told failure(Code code, std::string_view message) {
        return messages::ErrorResponse{static_cast<std::int32_t>(code), message};
    }

    std::vector<std::string> services_;
    std::optional<DescriptorIndex> index_;  // from the first question on
    std::vector<Call*> calls_;
    bool closing_ = false;
};

StandardServices::StandardServices(EventLoop&, std::vector<std::string> services) {
    std::set<std::string, std::less<>> asked_for(services.begin(), services.end());
    asked_for.emplace();  // the server as a whole
    health_ = std::make_unique<Health>(std::move(asked_for));
    for (const std::string_view standard : {kHealth, kReflection, kReflectionAlpha}) services.emplace_back(standard);
    std::sort(services.begin(), services.end());
    reflection_ = std::make_unique<Reflection>(std::move(services));
}

StandardServices::~StandardServices() = default;

std::unique_ptr<CallHandler> StandardServices::route(ServerCall& call) {
    auto handler = health_->route(call);
    return handler ? std::move(handler) : reflection_->route(call);
}

void StandardServices::set_serving(bool serving) { health_->set_serving(serving); }

void StandardServices::close() {
    health_->close();
    reflection_->close();
}

}  // namespace anyserve
