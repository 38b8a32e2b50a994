#include "anyserve/answered_call.hpp"

namespace anyserve {
namespace {

class Refused final : public CallHandler {
public:
    void on_message(Payload) override {}
    void on_half_close() override {}
    void on_cancel() override {}
};

}  // namespace

InferenceError malformed_request(const ServerCall& call) {
    return {Code::invalid_argument, "the request of " + call.facts().path + " is not the message that it should be"};
}

std::unique_ptr<CallHandler> refused(ServerCall& call, Code code, std::string_view message) {
    call.finish(code, message);
    return std::make_unique<Refused>();
}

}  // namespace anyserve
