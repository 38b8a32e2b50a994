#include "anyserve/registry.hpp"

#include <algorithm>
#include <functional>
#include <tuple>
#include <utility>

#include "anyserve/capability_text.hpp"
#include "anyserve/decimal.hpp"

namespace anyserve {
namespace {

void combine(std::size_t& hash, std::string_view text) noexcept {
    hash = hash * 0x9E3779B97F4A7C15U + std::hash<std::string_view>()(text);
}

std::string item_key(std::string_view key, std::string_view value) {
    std::string text;
    text.reserve(key.size() + 1 + value.size());
    return text.append(key).append(1, '=').append(value);
}

/// The most exact keys first, then the greatest priority, then the fewest keys (`route.rank.*`).
using Rank = std::tuple<std::int64_t, std::int64_t, std::size_t>;

Rank rank_of(const Registration& registration, std::size_t exact) noexcept {
    return {-static_cast<std::int64_t>(exact), -std::int64_t{registration.priority}, registration.capability.size()};
}

template <class Map>
void erase_from(Map& map, std::string_view key, const auto& what) {
    const auto found = map.find(key);
    if (found == map.end()) return;
    what(found->second);
    if (found->second.empty()) map.erase(found);
}

/// The entries under those versions, in order.
template <class Entries>
auto merged(const std::vector<const Entries*>& sets) {
    std::vector<typename Entries::value_type> entries;
    for (const Entries* set : sets) entries.insert(entries.end(), set->begin(), set->end());
    if (sets.size() > 1) std::sort(entries.begin(), entries.end(), typename Entries::key_compare());
    return entries;
}

/// The entries that the version rule chooses (`route.version.*`); all of `versions` if it has no version to go by.
template <class Versions>
auto of_version(const Versions& versions, std::string_view wanted) {
    using Chosen = std::vector<const typename Versions::mapped_type*>;
    if (const auto found = versions.find(wanted); found != versions.end()) return Chosen{&found->second};
    if (!wanted.empty()) return Chosen{};
    Chosen newest;
    Chosen all;
    std::optional<Decimal> greatest;
    bool numbers = true;
    for (const auto& [version, entries] : versions) {
        all.push_back(&entries);
        const auto number = Decimal::parse(version);
        numbers = numbers && number;
        if (!numbers) continue;
        if (!greatest || *number > *greatest) newest.clear();
        if (!greatest || *number >= *greatest) {
            greatest = number;
            newest.push_back(&entries);
        }
    }
    return numbers ? newest : all;
}

auto registrations_of(const auto& entries) {
    std::vector<RegistrationPtr> registrations;
    registrations.reserve(entries.size());
    for (const auto* entry : entries) registrations.push_back(entry->registration);
    return registrations;
}

}  // namespace

bool same_key(const Registration& a, const Registration& b) noexcept {
    return a.worker_id == b.worker_id && a.model_name == b.model_name && a.model_version == b.model_version &&
           a.capability == b.capability;
}

std::string Target::text() const {
    if (query) return "capability " + query->text();
    return "model " + in_quotes(model_name) + (model_version.empty() ? "" : " version " + in_quotes(model_version));
}

std::vector<RegistrationPtr> Registry::all() const { return registrations_of(in_order_); }

std::variant<RegistrationPtr, RegistryFull> Registry::add(RegistrationPtr registration) {
    if (const auto existing = entries_.find(*registration); existing != entries_.end()) {
        forget_routes();
        return std::exchange((*existing)->registration, std::move(registration));  // same key: the indexes still hold
    }
    if (!has_worker(registration->worker_id) && by_worker_.size() >= max_workers_) {
        return RegistryFull{std::to_string(max_workers_) + " workers are registered already (--max-workers)"};
    }
    if (entries_.size() >= max_registrations_) {
        return RegistryFull{std::to_string(max_registrations_) + " registrations exist already (--max-registrations)"};
    }
    const auto added = entries_.insert(std::make_unique<Entry>(Entry{next_order_++, std::move(registration)})).first;
    index(added->get());
    forget_routes();
    return RegistrationPtr();
}

std::vector<RegistrationPtr> Registry::remove(std::string_view worker_id, std::string_view model_name,
                                              std::string_view model_version) {
    std::vector<RegistrationPtr> registrations = of_worker(worker_id);
    std::erase_if(registrations, [&](const RegistrationPtr& each) {
        return each->model_name != model_name || each->model_version != model_version;
    });
    return remove_all(registrations);
}

std::vector<RegistrationPtr> Registry::remove_worker(std::string_view worker_id) {
    return remove_all(of_worker(worker_id));
}

std::vector<RegistrationPtr> Registry::remove_all(const std::vector<RegistrationPtr>& registrations) {
    for (const RegistrationPtr& registration : registrations) {
        const auto found = entries_.find(*registration);
        unindex(found->get());
        entries_.erase(found);
    }
    if (!registrations.empty()) forget_routes();
    return registrations;
}

std::vector<RegistrationPtr> Registry::of_worker(std::string_view worker_id) const {
    const auto found = by_worker_.find(worker_id);
    return found != by_worker_.end() ? registrations_of(found->second) : std::vector<RegistrationPtr>();
}

bool Registry::has_worker(std::string_view worker_id) const noexcept {
    return by_worker_.find(worker_id) != by_worker_.end();
}

void Registry::index(const Entry* entry) {
    const Registration& registration = *entry->registration;
    const Capability& capability = registration.capability;
    in_order_.insert(in_order_.end(), entry);
    by_worker_[registration.worker_id].insert(entry);
    if (!registration.model_name.empty()) {
        by_name_[registration.model_name][registration.model_version].insert(entry);
    }
    if (const auto model = capability.get("model"); !model.empty()) {
        by_capability_model_[std::string(model)][std::string(capability.get("version"))].insert(entry);
    }
    for (const auto& [key, value] : capability.items()) by_item_[item_key(key, value)].insert(entry);
}

void Registry::unindex(const Entry* entry) {
    const Registration& registration = *entry->registration;
    const Capability& capability = registration.capability;
    const auto from_entries = [entry](Entries& entries) { entries.erase(entry); };
    in_order_.erase(entry);
    erase_from(by_worker_, registration.worker_id, from_entries);
    erase_from(by_name_, registration.model_name,
               [&](Versions& versions) { erase_from(versions, registration.model_version, from_entries); });
    erase_from(by_capability_model_, capability.get("model"),
               [&](Versions& versions) { erase_from(versions, capability.get("version"), from_entries); });
    for (const auto& [key, value] : capability.items()) erase_from(by_item_, item_key(key, value), from_entries);
}

void Registry::forget_routes() noexcept {
    routes_.clear();
    routed_ = 0;
}

RoutePtr Registry::resolve(const Target& target) {
    if (const auto kept = routes_.find(target); kept != routes_.end()) return kept->second;
    const auto route = std::make_shared<const Route>(rank(target));
    if (!keeps(target)) return route;
    std::size_t count = 0;
    for (const Tier& tier : route->tiers) count += tier.size();
    if (routes_.size() >= kMaxRoutes || routed_ + count > kMaxRouted) forget_routes();
    routes_.emplace(target, route);
    routed_ += count;
    return route;
}

bool Registry::keeps(const Target& target) const noexcept {
    return target.model_name.size() + target.model_version.size() <= kMaxKeptText;
}

Route Registry::rank(const Target& target) const {
    std::map<Rank, Tier> ranked;
    const auto take = [&](const RegistrationPtr& registration, std::size_t exact) {
        if (target.unary_only && registration->stream) return;  // `route.unary.only`
        ranked[rank_of(*registration, exact)].push_back(registration);
    };
    if (target.query) {
        for (const Entry* entry : candidates(*target.query)) {
            const auto exact = target.query->exact_matches(entry->registration->capability);
            if (exact) take(entry->registration, *exact);
        }
    } else {
        for (const RegistrationPtr& each : named(target.model_name, target.model_version)) take(each, 0);
    }
    Route route;
    for (auto& [rank, tier] : ranked) route.tiers.push_back(std::move(tier));
    return route;
}

std::vector<const Registry::Entry*> Registry::candidates(const Query& query) const {
    std::optional<std::vector<const Entries*>> fewest;
    std::size_t fewest_count = 0;
    for (const Query::Item& item : query.items()) {
        if (!item.pattern.only_literals()) continue;
        auto sets = exactly(item);
        std::size_t count = 0;
        for (const Entries* set : sets) count += set->size();
        if (!fewest || count < fewest_count) {
            fewest = std::move(sets);
            fewest_count = count;
        }
    }
    return fewest ? merged(*fewest) : std::vector<const Entry*>(in_order_.begin(), in_order_.end());
}

std::vector<const Registry::Entries*> Registry::exactly(const Query::Item& item) const {
    std::vector<const Entries*> sets;
    for (const std::string& literal : item.pattern.literals()) {
        const auto found = by_item_.find(item_key(item.key, literal));
        if (found != by_item_.end()) sets.push_back(&found->second);
    }
    return sets;
}

std::vector<RegistrationPtr> Registry::named(std::string_view model_name, std::string_view model_version) const {
    for (const auto* names : {&by_name_, &by_capability_model_}) {
        const auto versions = names->find(model_name);
        if (versions == names->end()) continue;
        const auto chosen = of_version(versions->second, model_version);
        if (!chosen.empty()) return registrations_of(merged(chosen));
    }
    return {};
}

const Registry::Versions* Registry::any_version(std::string_view model_name) const noexcept {
    for (const auto* names : {&by_name_, &by_capability_model_}) {
        if (const auto versions = names->find(model_name); versions != names->end()) return &versions->second;
    }
    return nullptr;
}

std::vector<RegistrationPtr> Registry::named_any_version(std::string_view model_name) const {
    std::vector<const Entries*> sets;
    if (const Versions* versions = any_version(model_name)) {
        for (const auto& [version, entries] : *versions) sets.push_back(&entries);
    }
    return registrations_of(merged(sets));
}

std::vector<std::string> Registry::versions(std::string_view model_name) const {
    std::set<std::string, std::less<>> listed;
    for (const RegistrationPtr& registration : named_any_version(model_name)) {
        listed.emplace(registration->listed_version());
    }
    listed.erase("");
    std::vector<std::string> versions(listed.begin(), listed.end());
    std::stable_sort(versions.begin(), versions.end(), [](const std::string& a, const std::string& b) {
        const auto number_a = Decimal::parse(a);
        const auto number_b = Decimal::parse(b);
        if (!number_a || !number_b) return number_a.has_value() > number_b.has_value();
        return *number_a < *number_b;
    });
    return versions;
}

std::vector<std::string> Registry::model_names() const {
    std::set<std::string, std::less<>> names;
    for (const Entry* entry : in_order_) names.emplace(entry->registration->listed_name());
    names.erase("");
    return {names.begin(), names.end()};
}

std::size_t Registry::ByKey::operator()(const Registration& registration) const noexcept {
    std::size_t hash = 0;
    combine(hash, registration.worker_id);
    combine(hash, registration.model_name);
    combine(hash, registration.model_version);
    combine(hash, registration.capability.encoded());
    return hash;
}

std::size_t Registry::ByKey::operator()(const std::unique_ptr<Entry>& entry) const noexcept {
    return (*this)(*entry->registration);
}

bool Registry::ByKey::operator()(const std::unique_ptr<Entry>& a, const std::unique_ptr<Entry>& b) const noexcept {
    return same_key(*a->registration, *b->registration);
}

bool Registry::ByKey::operator()(const std::unique_ptr<Entry>& a, const Registration& b) const noexcept {
    return same_key(*a->registration, b);
}

bool Registry::ByKey::operator()(const Registration& a, const std::unique_ptr<Entry>& b) const noexcept {
    return same_key(a, *b->registration);
}

std::size_t Registry::TargetHash::operator()(const Target& target) const noexcept {
    std::size_t hash = target.unary_only ? 1 : 0;
    combine(hash, target.model_name);
    combine(hash, target.model_version);
    if (target.query) combine(hash, target.query->identity());
    return hash;
}

}  // namespace anyserve
