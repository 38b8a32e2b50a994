#include "anyserve/absent.hpp"

#include <memory>
#include <utility>
#include <variant>

namespace anyserve {

void Absent::keep(std::string_view place, std::optional<std::string_view> worker_id) {
    std::erase_if(places_, [place](const auto& kept) { return kept.second == place; });
    if (worker_id) {
        places_.insert_or_assign(std::string(*worker_id), std::string(place));
    } else {
        registry_.remove_worker(place);
    }
}

void Absent::gone(std::string_view worker_id, std::span<const RegistrationPtr> registrations) {
    const auto kept = places_.find(std::string(worker_id));
    if (kept == places_.end()) return;
    for (const RegistrationPtr& registration : registrations) {
        auto at_place = std::make_shared<Registration>(*registration);
        at_place->worker_id = kept->second;
        if (std::holds_alternative<RegistryFull>(registry_.add(std::move(at_place)))) return;
    }
}

void Absent::there(std::string_view worker_id) {
    const auto kept = places_.find(std::string(worker_id));
    if (kept != places_.end()) registry_.remove_worker(kept->second);
}

bool Absent::serves(const Target& target) { return registry_.size() > 0 && !registry_.resolve(target)->tiers.empty(); }

}  // namespace anyserve
