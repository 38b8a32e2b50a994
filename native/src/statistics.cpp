#include "anyserve/statistics.hpp"

#include <limits>

namespace anyserve {
namespace {

std::uint64_t sum(std::uint64_t a, std::uint64_t b) noexcept {
    constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
    return a > most - b ? most : a + b;
}

}  // namespace

void Count::add_told(std::uint64_t more, std::uint64_t taken_ns) noexcept {
    count = sum(count, more);
    ns = sum(ns, taken_ns);
}

ModelCounts Statistics::of(std::string_view model_name, std::string_view model_version) const {
    const auto found = models_.find(Name(model_name, model_version));
    return found != models_.end() ? found->second : ModelCounts();
}

void Statistics::exchanged(const Registration& registration, const Exchanged& exchange) {
    ModelCounts& model = counts(registration);
    model.queue.add(exchange.queue_ns);
    model.last_inference_ms = exchange.ended_ms;
    if (exchange.succeeded) model.compute.add(exchange.compute_ns);
    (exchange.succeeded ? model.success : model.fail).add(exchange.queue_ns + exchange.compute_ns);
}

void Statistics::batched(const Registration& registration, const Batched& calls) {
    ModelCounts& model = counts(registration);
    model.calls.add_told(calls.count, calls.compute_ns);
    if (model.batches.size() < kMaxBatchSizes || model.batches.contains(calls.size)) {
        model.batches[calls.size].add_told(calls.count, calls.compute_ns);
    }
}

void Statistics::rejected(const Registration& registration) { ++counts(registration).rejected; }

ModelCounts& Statistics::counts(const Registration& registration) {
    const Name name(registration.listed_name(), registration.listed_version());
    if (const auto found = models_.find(name); found != models_.end()) return found->second;
    if (models_.size() >= max_models_ && !oldest_first_.empty()) {
        models_.erase(oldest_first_.front());
        oldest_first_.pop_front();
    }
    oldest_first_.push_back(models_.try_emplace({std::string(name.first), std::string(name.second)}).first);
    return oldest_first_.back()->second;
}

}  // namespace anyserve
