#include "echo.hpp"

#include <cstdint>
#include <cstdio>
#include <protozero/pbf_reader.hpp>
#include <string_view>
#include <utility>
#include <variant>

#include "anyserve/code.hpp"
#include "anyserve/scan.hpp"
#include "anyserve/wire.hpp"
#include "failures.hpp"

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

/// One response made of the request's own bytes: tensors and raw contents are sent from where they were read to.
ReplyFrame echoed(const WorkerExchangePtr& exchange) {
    const std::string_view request = exchange->request()->bytes();
    ReplyFrame frame;
    protozero::pbf_reader reader(request.data(), request.size());
    for (auto before = reader.data(); reader.next(); before = reader.data()) {
        switch (reader.tag()) {
            case kModelName:
            case kModelVersion:
            case kId:
            case kTensors:
                reader.skip();
                frame.own().append(before.data(), before.size() - reader.data().size());
                break;
            case kRawInputs: {
                const protozero::data_view contents = reader.get_view();
                append_field_header(frame.own(), kRawOutputs, contents.size());
                frame.append_view({contents.data(), contents.size()});
                break;
            }
            default: reader.skip();
        }
    }
    frame.keep(exchange->request());
    return frame;
}

/// One token as a ModelStreamInferResponse.
std::string token_reply(const MessageHead& head) {
    std::string output;
    append_bytes_field(output, 1, "token");
    append_bytes_field(output, 2, "BYTES");
    append_bytes_field(output, 3, "\x01");
    std::string response;
    append_bytes_field(response, kModelName, head.model_name);
    append_bytes_field(response, kId, head.id);
    append_bytes_field(response, kTensors, output);
    append_bytes_field(response, kRawOutputs, kToken);
    std::string payload;
    append_bytes_field(payload, kInferResponse, response);
    return payload;
}

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

/// The same small response again and again, then the end.
struct Echo::Stream {
    std::string payload;
    std::uint64_t left;
};

void Echo::on_request(WorkerExchangePtr exchange) {
    MessageHead head;
    if (const Malformed malformed = scan_message(exchange->request()->bytes(), kRequestFields, head)) {
        exchange->send(failure_frame({Code::invalid_argument, malformed.message}), true);
        exchange->release();
    } else if (wants_stream(head)) {
        streams_[exchange.get()] = std::make_shared<Stream>(Stream{token_reply(head), token_count(head)});
        send_next(exchange);
    } else {
        exchange->send(echoed(exchange), true);
        exchange->release();
    }
}

void Echo::send_next(const WorkerExchangePtr& exchange) {
    const auto found = streams_.find(exchange.get());
    if (found == streams_.end()) return;  // cancelled since it was deferred
    const auto stream = found->second;
    const bool last = stream->left == 0;
    if (last) streams_.erase(found);
    const auto sent = exchange->send(last ? ReplyFrame() : ReplyFrame(stream->payload), last);
    if (last) return exchange->release();
    --stream->left;
    if (sent == WorkerExchange::Sent::yes) loop_.defer([this, exchange] { send_next(exchange); });
}

void Echo::on_refused(const std::string& reason) { std::fprintf(stderr, "closing a connection: %s\n", reason.c_str()); }

}  // namespace anyserve
