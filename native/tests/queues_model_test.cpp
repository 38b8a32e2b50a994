// Admission beside an obvious model, under random events: the same places, in the same order, the same depths.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "anyserve/queues.hpp"
#include "registry_vectors.hpp"

namespace anyserve {
namespace {

constexpr std::uint32_t kDefaultConcurrency = 2;
constexpr std::size_t kQueueSize = 3;

using Told = std::vector<std::pair<int, RegistrationPtr>>;  // request, where it goes; null: nothing is left

struct Asked {
    int id;
    Target target;
    std::vector<RegistrationPtr> excluded;
};

/// The rules word for word: one list of who waits, looked at from its beginning after every event.
class Model {
public:
    explicit Model(Registry& registry) : registry_(&registry) {}

    /// What is told at once: a registration, "waits", "full", "nothing".
    std::pair<std::string, RegistrationPtr> submit(const Asked& asked) {
        const Tier tier = tier_of(asked);
        if (tier.empty()) return {"nothing", nullptr};
        if (const auto taken = take(tier)) return {"slot", taken};
        if (depths()[queue_of(tier)] >= kQueueSize) return {"full", nullptr};
        waiting_.push_back({asked, tier});
        return {"waits", nullptr};
    }

    bool withdraw(int id) {
        return std::erase_if(waiting_, [id](const Waiting& each) { return each.asked.id == id; }) > 0;
    }

    Told release(const RegistrationPtr& registration) {
        Load& load = loads_[registration->worker_id];
        --load.used[pool_of(*registration)];
        if (--load.in_flight == 0 && load.gone) loads_.erase(registration->worker_id);
        Told told;
        serve(told);
        return told;
    }

    void forget(const std::string& worker) {
        const auto load = loads_.find(worker);
        if (load == loads_.end()) return;
        load->second.gone = true;
        if (load->second.in_flight == 0) loads_.erase(load);
    }

    Told reconsider() {
        Told told;
        for (Waiting& each : waiting_) {
            each.tier = tier_of(each.asked);
            if (each.tier.empty()) told.emplace_back(each.asked.id, nullptr);
        }
        std::erase_if(waiting_, [](const Waiting& each) { return each.tier.empty(); });
        serve(told);
        return told;
    }

    std::map<std::vector<ModelKey>, std::size_t> depths() const {
        std::map<std::vector<ModelKey>, std::size_t> depths;
        for (const Waiting& each : waiting_) ++depths[queue_of(each.tier)];
        return depths;
    }

    std::size_t in_flight(const std::string& worker) const {
        return loads_.contains(worker) ? loads_.at(worker).in_flight : 0;
    }
    std::size_t waiting() const { return waiting_.size(); }
    const Asked& waiting(std::size_t i) const { return waiting_[i].asked; }

private:
    struct Waiting {
        Asked asked;
        Tier tier;
    };
    struct Load {
        std::size_t in_flight = 0;
        std::uint64_t last_chosen = 0;
        bool gone = false;
        std::map<std::optional<ModelKey>, std::uint32_t> used;
    };

    static std::optional<ModelKey> pool_of(const Registration& registration) {
        if (registration.max_concurrency == 0) return std::nullopt;
        return registration.model_key();
    }

    static std::vector<ModelKey> queue_of(const Tier& tier) {
        std::set<ModelKey> models;
        for (const auto& each : tier) models.insert(each->model_key());
        return {models.begin(), models.end()};
    }

    Tier tier_of(const Asked& asked) {
        for (Tier tier : registry_->resolve(asked.target)->tiers) {
            std::erase_if(tier, [&](const auto& each) {
                return std::any_of(asked.excluded.begin(), asked.excluded.end(),
                                   [&](const auto& e) { return same_key(*e, *each); });
            });
            if (!tier.empty()) return tier;
        }
        return {};
    }

    RegistrationPtr take(const Tier& tier) {
        RegistrationPtr best;
        for (const auto& each : tier) {
            Load& load = loads_[each->worker_id];
            load.gone = false;
            const auto limit = each->max_concurrency ? each->max_concurrency : kDefaultConcurrency;
            if (load.used[pool_of(*each)] >= limit) continue;
            if (!best || rank(*each) < rank(*best)) best = each;
        }
        if (best) {
            Load& load = loads_[best->worker_id];
            load.last_chosen = ++choices_;
            ++load.in_flight;
            ++load.used[pool_of(*best)];
        }
        return best;
    }

    std::pair<std::size_t, std::uint64_t> rank(const Registration& registration) {
        const Load& load = loads_[registration.worker_id];
        return {load.in_flight, load.last_chosen};
    }

    void serve(Told& told) {
        for (auto each = waiting_.begin(); each != waiting_.end();) {
            const auto taken = take(each->tier);
            if (taken) told.emplace_back(each->asked.id, taken);
            each = taken ? waiting_.erase(each) : each + 1;  // what one takes helps nobody before it
        }
    }

    Registry* registry_;
    std::vector<Waiting> waiting_;  // by arrival
    std::map<std::string, Load> loads_;
    std::uint64_t choices_ = 0;
};

struct Request final : Ticket {
    Request(Asked what, Registry& in, Told& log) : asked(std::move(what)), registry(&in), told(&log) {
        for (const auto& each : asked.excluded) exclude(each);
    }

    RoutePtr resolve() override { return registry->resolve(asked.target); }
    void granted(std::optional<Slot> given) noexcept override {
        told->emplace_back(asked.id, given ? given->registration() : nullptr);
        slot = std::move(given);
    }

    Asked asked;
    Registry* registry;
    Told* told;
    std::optional<Slot> slot;
};

/// Both, side by side.
class Pair {
public:
    explicit Pair(unsigned seed) : random_(seed) {}

    void step() {
        told_.clear();
        switch (below(10)) {
            case 0: return add();
            case 1: return remove();
            case 2: return withdraw();
            case 3: return fail();
            case 4:
            case 5:
            case 6: return release();
            default: return submit({next_id_++, target(), {}});
        }
    }

    void compare(Told wanted) {
        // Who is told that nothing is left is told in any order with the others.
        for (Told* each : {&told_, &wanted}) {
            std::stable_partition(each->begin(), each->end(), [](const auto& one) { return one.second == nullptr; });
        }
        ASSERT_EQ(told_, wanted);
        told_.clear();
        for (const auto& [id, where] : wanted) {
            if (!where) requests_.erase(id);
        }
        ASSERT_EQ(admission_.waiting(), model_.waiting());
        std::map<std::vector<ModelKey>, std::size_t> depths;
        for (const auto& [models, depth] : admission_.depths()) depths[models] = depth;
        ASSERT_EQ(depths, model_.depths());
        for (const char* worker : {"v", "w", "x"}) ASSERT_EQ(admission_.in_flight(worker), model_.in_flight(worker));
    }

    void end() {
        while (!::testing::Test::HasFatalFailure() && model_.waiting() > 0) withdraw();
        while (!::testing::Test::HasFatalFailure() && !requests_.empty()) release();
        for (auto& [id, request] : requests_) admission_.withdraw(*request);
    }

private:
    std::size_t below(std::size_t bound) { return random_() % bound; }

    Target target() {
        Target target{std::string(1, "mn"[below(2)]), "", {}, below(2) == 0};
        if (below(3) == 0) {
            const char* types[] = {"a|b", "a", "*", "b|c", "b"};
            target.query = std::get<Query>(Query::parse(std::vector<Query::Pair>{{"type", types[below(5)]}}));
        }
        return target;
    }

    void add() {
        auto made = std::make_shared<Registration>();
        made->worker_id = std::string(1, "vwx"[below(3)]);
        made->model_name = std::string(1, "mn"[below(2)]);
        made->capability = vectors::capability({{"type", std::string(1, "abc"[below(3)])}});
        made->max_concurrency = static_cast<std::uint32_t>(below(3));
        made->priority = static_cast<std::int32_t>(below(2));
        made->stream = below(3) == 0;
        (void)registry_.add(made);
        changed(made->worker_id);
    }

    void remove() {
        const std::string worker(1, "vwx"[below(3)]);
        if (below(2)) {
            registry_.remove_worker(worker);
        } else {
            registry_.remove(worker, std::string(1, "mn"[below(2)]), "");
        }
        changed(worker);
    }

    void changed(const std::string& worker) {
        if (!registry_.has_worker(worker)) {
            admission_.forget_worker(worker);
            model_.forget(worker);
        }
        admission_.reconsider();
        compare(model_.reconsider());
    }

    void submit(const Asked& asked) {
        auto request = std::make_unique<Request>(asked, registry_, told_);
        auto result = admission_.submit(*request);
        const auto [wanted, where] = model_.submit(asked);
        const char* names[] = {"slot", "waits", "full", "nothing"};
        ASSERT_EQ(names[result.index()], wanted);
        if (auto* slot = std::get_if<Slot>(&result)) {
            ASSERT_EQ(slot->registration(), where);
            request->slot = std::move(*slot);
        }
        if (result.index() < 2) requests_[asked.id] = std::move(request);
        compare({});
    }

    void withdraw() {
        if (model_.waiting() == 0) return;
        const int id = model_.waiting(below(model_.waiting())).id;
        admission_.withdraw(*requests_.at(id));
        ASSERT_TRUE(model_.withdraw(id));
        requests_.erase(id);
        compare({});
    }

    std::unique_ptr<Request> running() {
        std::vector<int> ids;
        for (const auto& [id, request] : requests_) {
            if (request->slot) ids.push_back(id);
        }
        if (ids.empty()) return nullptr;
        return std::move(requests_.extract(ids[below(ids.size())]).mapped());
    }

    void release() {
        auto request = running();
        if (!request) return;
        const RegistrationPtr where = request->slot->registration();
        admission_.release(*std::exchange(request->slot, std::nullopt));
        compare(model_.release(where));
    }

    void fail() {
        auto request = running();
        if (!request) return;
        Asked asked = request->asked;
        asked.excluded.push_back(request->slot->registration());
        admission_.release(*std::exchange(request->slot, std::nullopt));
        compare(model_.release(asked.excluded.back()));
        submit(asked);
    }

    std::mt19937 random_;
    Registry registry_{100, 1000};
    Admission admission_{kQueueSize, kDefaultConcurrency};
    Model model_{registry_};
    std::map<int, std::unique_ptr<Request>> requests_;
    Told told_;
    int next_id_ = 0;
};

TEST(Admission, DoesWhatTheObviousModelDoes) {
    for (unsigned seed = 0; seed < 60; ++seed) {
        SCOPED_TRACE(seed);
        Pair pair(seed);
        for (int i = 0; i < 1500 && !::testing::Test::HasFatalFailure(); ++i) pair.step();
        pair.end();
        if (::testing::Test::HasFatalFailure()) return;
    }
}

}  // namespace
}  // namespace anyserve
