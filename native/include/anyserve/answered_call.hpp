// Calls of the control plane that are answered at once: one request, one function, one answer.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include "anyserve/code.hpp"
#include "anyserve/grpc_protocol.hpp"
#include "anyserve/message_fields.hpp"

namespace anyserve {

/// What a call is answered whose request is not the message that it should be; its status is grpc.aio's.
[[nodiscard]] InferenceError malformed_request(const ServerCall& call);

/// The handler of a call that is refused without a look at its request, which has been told already.
[[nodiscard]] std::unique_ptr<CallHandler> refused(ServerCall& call, Code code, std::string_view message);

/// A call whose request is a `Request`. `Answer` makes of it a serialized response, or an error.
template <ProtobufMessage Request, class Answer>
class AnsweredCall final : public UnaryHandler {
    static_assert(std::is_invocable_r_v<std::variant<std::string, InferenceError>, Answer&, const Request&>);

public:
    AnsweredCall(ServerCall& call, Answer answer) : UnaryHandler(call), answer_(std::move(answer)) {}

private:
    void on_request(Payload bytes) override {
        const std::optional<Request> request = read_message<Request>(bytes.view());
        if (!request) return refuse(malformed_request(call()));
        std::variant<std::string, InferenceError> answer = answer_(*request);
        if (auto* error = std::get_if<InferenceError>(&answer)) return refuse(*error);
        reply(std::get<std::string>(std::move(answer)));
    }
    void refuse(const InferenceError& error) { call().finish(error.code, error.message); }

    Answer answer_;
};

template <ProtobufMessage Request, class Answer>
[[nodiscard]] std::unique_ptr<CallHandler> answered(ServerCall& call, Answer answer) {
    return std::make_unique<AnsweredCall<Request, Answer>>(call, std::move(answer));
}

}  // namespace anyserve
