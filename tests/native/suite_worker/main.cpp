// The models of the conformance suite's profile `worker`: echo, fail, wait,
// count. See conformance/README.md.
#include <algorithm>
#include <anyserve/worker.hpp>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>

namespace {

using anyserve::Code;
using anyserve::InferenceError;
using anyserve::Reply;
using anyserve::Request;
using anyserve::Stream;

std::atomic<std::int64_t> running{0};   // `wait` handlers
std::atomic<std::int64_t> produced{0};  // replies of `count` handlers

void echo(const Request& request, Reply& reply) {
    for (const anyserve::Tensor& tensor : request.tensors()) reply.add(tensor);
}

void fail(const Request& request, Reply&) {
    const std::int64_t code = request.parameter("code", 3);
    if (code < 1 || code > 16) throw InferenceError(Code::invalid_argument, "code is not between 1 and 16");
    throw InferenceError(static_cast<Code>(code), std::string(request.parameter("message", "as asked")));
}

void wait(const Request& request, Reply& reply) {
    reply.set_parameter("running", ++running);
    std::mutex mutex;
    std::condition_variable_any cancelled;
    std::unique_lock lock(mutex);
    const std::chrono::milliseconds time(request.parameter("ms", 0));
    cancelled.wait_for(lock, request.cancellation(), time, [] { return false; });
    --running;
    reply.set_parameter("produced", produced.load());
}

void count(const Request& request, Stream& stream) {
    const std::int64_t replies = request.parameter("n", 3);
    const std::int64_t fail_at = request.parameter("fail_at", -1);
    const std::int64_t size = request.parameter("size", -1);
    for (std::int64_t i = 0; i < replies; ++i) {
        if (i == fail_at) throw InferenceError(Code::internal, "as asked");
        Reply reply;
        reply.set_parameter("i", i);
        if (size >= 0) std::ranges::fill(reply.add<std::uint8_t>("data", {size}), std::uint8_t{0});
        stream.send(std::move(reply));
        ++produced;
    }
}

}  // namespace

int main() {
    anyserve::Worker worker(anyserve::WorkerOptions::from_environment());
    worker.serve({{"type", "echo"}}, echo);
    worker.serve({{"type", "fail"}}, fail);
    worker.serve({{"type", "wait"}}, wait);
    worker.serve_stream({{"type", "count"}}, count);
    return worker.run();
}
