// A worker in C++: the capability `normalize`, which app.py serves in Python too, and `primes`, which streams.
#include <algorithm>
#include <anyserve/worker.hpp>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <span>
#include <string_view>
#include <vector>

namespace {

using anyserve::Code;
using anyserve::InferenceError;
using anyserve::Reply;
using anyserve::Request;
using anyserve::Stream;

/// Each row of `vectors` (FP32 [n, size]) with the length 1.
void normalize(const Request& request, Reply& reply) {
    const anyserve::Tensor& vectors = request.tensor("vectors");
    if (vectors.shape().size() != 2) throw InferenceError(Code::invalid_argument, "vectors takes two dimensions");
    const std::span<const float> in = vectors.values<float>();  // where they were received
    const auto size = static_cast<std::size_t>(vectors.shape()[1]);
    const std::span<float> out = reply.add<float>("vectors", {vectors.shape()[0], vectors.shape()[1]});
    for (std::size_t row = 0; row < in.size(); row += size) {  // written where they are sent from
        double squares = 0;
        for (const float x : in.subspan(row, size)) squares += double{x} * x;
        const double length = squares > 0 ? std::sqrt(squares) : 1;
        std::ranges::transform(in.subspan(row, size), out.begin() + static_cast<std::ptrdiff_t>(row),
                               [&](float x) { return static_cast<float>(x / length); });
    }
    reply.add_texts("served_by", {1}, std::array<std::string_view, 1>{"C++"});
}

bool is_prime(std::int64_t number) {
    for (std::int64_t divisor = 2; divisor * divisor <= number; ++divisor) {
        if (number % divisor == 0) return false;
    }
    return number > 1;
}

/// The primes below the parameter `below`, ten at a time as they are found.
void primes(const Request& request, Stream& stream) {
    const std::int64_t below = request.parameter("below", 100);
    std::vector<std::int64_t> found;
    const auto send = [&] {
        Reply reply;
        std::ranges::copy(found, reply.add<std::int64_t>("primes", {static_cast<std::int64_t>(found.size())}).begin());
        stream.send(std::move(reply));  // waits while the client is behind, and throws when it has gone
        found.clear();
    };
    for (std::int64_t number = 2; number < below; ++number) {
        if (is_prime(number)) found.push_back(number);
        if (found.size() == 10) send();
    }
    if (!found.empty()) send();
}

}  // namespace

int main() {
    try {
        anyserve::Worker worker(anyserve::WorkerOptions::from_environment());
        anyserve::CapabilityOptions options;
        options.inputs = {{"vectors", "FP32", {-1, -1}}};
        options.outputs = {{"vectors", "FP32", {-1, -1}}, {"served_by", "BYTES", {1}}};
        worker.serve({{"type", "normalize"}}, normalize, options);
        worker.serve_stream({{"type", "primes"}}, primes);
        return worker.run();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
