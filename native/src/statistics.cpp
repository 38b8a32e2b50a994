#include "anyserve/statistics.hpp"

namespace anyserve {

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
