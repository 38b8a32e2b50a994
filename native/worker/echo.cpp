#include "echo.hpp"

#include <cstdint>
#include <deque>
#include <protozero/pbf_reader.hpp>
#include <string_view>
#include <utility>
#include <variant>

#include "anyserve/code.hpp"
#include "anyserve/scan.hpp"
#include "anyserve/wire.hpp"

namespace anyserve {
namespace {

constexpr std::string_view kStreamName = "tokens";             // a model, and the parameter that says how many
constexpr std::string_view kStreamCapability = "type=tokens";  // as the agent writes `{type: tokens}`
constexpr std::string_view kToken("\x06\0\0\0 token", 10);     // one element of a BYTES tensor

// Field numbers; 1 to 5 are alike in requests and responses.
enum Field : std::uint32_t { kModelName = 1, kModelVersion = 2, kId = 3, kTensors = 5 };
constexpr std::uint32_t kRawInputs = 7;
constexpr std::uint32_t kRawOutputs = 6;
constexpr std::uint32_t kInferResponse = 2;  // of ModelStreamInferResponse

/// One reply that is a failure (`frame.error.code`).
class Refusal final : public Replies {
public:
    Refusal(Code code, std::string_view message) {
        append_parameter(payload_, wire::kErrorCode, static_cast<std::int64_t>(code));
        append_parameter(payload_, wire::kErrorMessage, message);
    }
    bool next(std::vector<std::string_view>& parts) override {
        parts.push_back(payload_);
        return false;
    }

private:
    std::string payload_;
};

/// One response made of the request's own bytes: tensors and raw contents are sent from where they were read to.
class UnaryEcho final : public Replies {
public:
    explicit UnaryEcho(std::string request) : request_(std::move(request)) {}

    bool next(std::vector<std::string_view>& parts) override {
        protozero::pbf_reader reader(request_);
        for (auto before = reader.data(); reader.next(); before = reader.data()) {
            switch (reader.tag()) {
                case kModelName:
                case kModelVersion:
                case kId:
                case kTensors:
                    reader.skip();
                    parts.emplace_back(before.data(), before.size() - reader.data().size());
                    break;
                case kRawInputs: {
                    const protozero::data_view contents = reader.get_view();
                    append_field_header(heads_.emplace_back(), kRawOutputs, contents.size());
                    parts.emplace_back(heads_.back());
                    parts.emplace_back(contents.data(), contents.size());
                    break;
                }
                default: reader.skip();
            }
        }
        return false;
    }

private:
    std::string request_;
    std::deque<std::string> heads_;  // of the raw contents; a deque does not move them
};

/// The same small response again and again, then the end.
class TokenStream final : public Replies {
public:
    TokenStream(const MessageHead& head, std::uint64_t count) : left_(count) {
        std::string output;
        append_bytes_field(output, 1, "token");
        append_bytes_field(output, 2, "BYTES");
        append_bytes_field(output, 3, "\x01");
        std::string response;
        append_bytes_field(response, kModelName, head.model_name);
        append_bytes_field(response, kId, head.id);
        append_bytes_field(response, kTensors, output);
        append_bytes_field(response, kRawOutputs, kToken);
        append_bytes_field(payload_, kInferResponse, response);
    }

    bool next(std::vector<std::string_view>& parts) override {
        if (left_ == 0) return false;
        --left_;
        parts.push_back(payload_);
        return true;
    }

private:
    std::string payload_;
    std::uint64_t left_;
};

bool wants_stream(const MessageHead& head) {  // `frame.request.handler`
    const Parameter* chosen = head.parameter(wire::kCapability);
    const auto* capability = chosen != nullptr ? std::get_if<std::string_view>(chosen) : nullptr;
    return capability != nullptr ? *capability == kStreamCapability : head.model_name == kStreamName;
}

std::uint64_t token_count(const MessageHead& head) {
    const Parameter* given = head.parameter(kStreamName);
    const auto* count = given != nullptr ? std::get_if<std::int64_t>(given) : nullptr;
    return count != nullptr && *count >= 0 ? static_cast<std::uint64_t>(*count) : 1;
}

}  // namespace

std::unique_ptr<Replies> echo(std::string request) {
    MessageHead head;
    if (const Malformed malformed = scan_message(request, kRequestFields, head)) {
        return std::make_unique<Refusal>(Code::invalid_argument, malformed.message);
    }
    if (wants_stream(head)) return std::make_unique<TokenStream>(head, token_count(head));
    return std::make_unique<UnaryEcho>(std::move(request));
}

}  // namespace anyserve
