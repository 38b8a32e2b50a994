#include "anyserve/queues.hpp"

#include <algorithm>
#include <functional>
#include <set>

namespace anyserve {
namespace admission {

/// Places that share a limit.
struct Pool {
    /// A lane in which somebody waits, and which of its pools this one is there.
    struct Waiter {
        Lane* lane;
        std::size_t index;
    };

    Load* load;
    std::uint32_t limit;
    std::uint32_t used = 0;
    std::vector<Waiter> waiters;
};

/// How busy one worker is.
struct Load {
    std::size_t in_flight = 0;
    std::uint64_t last_chosen = 0;
    bool gone = false;
    std::unordered_map<std::string, std::unique_ptr<Pool>> pools;  // by model; one for all that state no limit: ""
};

struct Queue {
    std::vector<ModelKey> models;
    std::size_t depth = 0;
    std::size_t lanes = 0;
};

/// A tier as seen from here. It stays for a while when nobody waits: most requests find theirs.
struct Lane {
    /// One of the different pools of a lane, and where the lane stands among its waiters while somebody waits.
    struct Use {
        Pool* pool;
        std::size_t position;
    };

    Tier tier;
    std::vector<Pool*> places;  // of each registration of the tier
    std::vector<Use> uses;
    TicketList tickets;
    Queue* queue = nullptr;  // once somebody has waited
};

}  // namespace admission

using admission::Lane;
using admission::Load;
using admission::Pool;
using admission::Queue;

namespace {

void append_sized(std::string& out, std::string_view text) {
    out.append(std::to_string(text.size())).append(1, ':').append(text);
}

std::string name_of(const ModelKey& key) {
    std::string name;
    for (const std::string* part : {&key.model_name, &key.model_version, &key.capability}) append_sized(name, *part);
    return name;
}

/// The lane has got its first ticket: places that become free concern it.
void attach(Lane& lane) {
    for (std::size_t i = 0; i < lane.uses.size(); ++i) {
        auto& [pool, position] = lane.uses[i];
        position = pool->waiters.size();
        pool->waiters.push_back({&lane, i});
    }
}

/// The lane has lost its last ticket.
void detach(Lane& lane) noexcept {
    for (const auto& [pool, position] : lane.uses) {
        const Pool::Waiter moved = pool->waiters.back();
        pool->waiters[position] = moved;
        moved.lane->uses[moved.index].position = position;
        pool->waiters.pop_back();
    }
}

}  // namespace

void TicketList::push_back(Ticket& ticket) noexcept {
    ticket.before_ = last_;
    ticket.behind_ = nullptr;
    (last_ ? last_->behind_ : first_) = &ticket;
    last_ = &ticket;
}

void TicketList::remove(Ticket& ticket) noexcept {
    (ticket.before_ ? ticket.before_->behind_ : first_) = ticket.behind_;
    (ticket.behind_ ? ticket.behind_->before_ : last_) = ticket.before_;
    ticket.before_ = ticket.behind_ = nullptr;
}

Admission::Admission(std::size_t queue_size, std::uint32_t default_max_concurrency)
    : queue_size_(queue_size), default_max_concurrency_(default_max_concurrency) {}

Admission::~Admission() = default;

std::variant<Slot, Waits, QueueFull, NothingLeft> Admission::submit(Ticket& ticket) {
    Lane* lane = lane_of(ticket);
    if (lane == nullptr) return NothingLeft{};
    if (auto slot = take(*lane)) return *std::move(slot);
    if (queue_of(*lane).depth >= queue_size_) {
        return QueueFull{lane->tier.front(),
                         std::to_string(queue_size_) + " requests are waiting already (--queue-size)"};
    }
    ticket.arrival_ = ++arrivals_;
    enqueue(ticket, *lane);
    return Waits{};
}

void Admission::withdraw(Ticket& ticket) {
    if (ticket.lane_ != nullptr) {
        dequeue(ticket);
    } else if (ticket.due_) {
        due_.remove(ticket);
        ticket.due_ = false;
        if (auto slot = std::exchange(ticket.slot_, std::nullopt)) release(*std::move(slot));
    }
}

void Admission::release(Slot slot) {  // NOLINT(performance-unnecessary-value-param): it is given back
    Pool& pool = *slot.pool_;
    give_back(slot);
    serve(pool);
    tell();
}

void Admission::forget_worker(std::string_view worker_id) {
    if (const auto load = loads_.find(worker_id); load != loads_.end()) load->second->gone = true;
}

void Admission::reconsider() {
    std::vector<Ticket*> tickets;
    tickets.reserve(waiting_);
    for (const auto& lane : lanes_) {
        for (Ticket* each = lane->tickets.first(); each != nullptr; each = TicketList::behind(*each)) {
            tickets.push_back(each);
        }
    }
    std::sort(tickets.begin(), tickets.end(),
              [](const Ticket* a, const Ticket* b) { return a->arrival_ < b->arrival_; });
    drop_lanes();
    drop_unused_loads();
    for (Ticket* ticket : tickets) {
        Lane* lane = lane_of(*ticket);
        if (lane == nullptr) {
            set_due(*ticket, std::nullopt);
        } else if (auto slot = lane->tickets.first() == nullptr ? take(*lane) : std::nullopt) {
            set_due(*ticket, std::move(slot));
        } else {
            enqueue(*ticket, *lane);  // it was accepted once, so it is not refused now (`queue.bound.moved`)
        }
    }
    tell();
}

std::vector<std::pair<std::vector<ModelKey>, std::size_t>> Admission::depths() const {
    std::vector<std::pair<std::vector<ModelKey>, std::size_t>> depths;
    for (const auto& [name, queue] : queues_) {
        if (queue->depth > 0) depths.emplace_back(queue->models, queue->depth);
    }
    return depths;
}

std::size_t Admission::in_flight(std::string_view worker_id) const noexcept {
    const auto load = loads_.find(worker_id);
    return load != loads_.end() ? load->second->in_flight : 0;
}

/// The lane of the best tier of which something is left; null if nothing is.
Lane* Admission::lane_of(Ticket& ticket) {
    const RoutePtr route = ticket.resolve();
    for (const Tier& tier : route->tiers) {
        if (ticket.excluded_.empty()) return &lane_of(tier);
        Tier left;
        std::copy_if(tier.begin(), tier.end(), std::back_inserter(left), [&](const RegistrationPtr& each) {
            return std::none_of(ticket.excluded_.begin(), ticket.excluded_.end(),
                                [&](const RegistrationPtr& excluded) { return same_key(*excluded, *each); });
        });
        if (!left.empty()) return &lane_of(left);
    }
    return nullptr;
}

Lane& Admission::lane_of(std::span<const RegistrationPtr> tier) {
    if (const auto found = lanes_.find(tier); found != lanes_.end()) return **found;
    if (idle_lanes_ >= kMaxIdleLanes || idle_places_ >= kMaxIdlePlaces) drop_idle_lanes();
    auto lane = std::make_unique<Lane>();
    lane->tier.assign(tier.begin(), tier.end());
    for (const RegistrationPtr& registration : tier) lane->places.push_back(&pool_of(*registration));
    std::vector<Pool*> pools = lane->places;
    std::sort(pools.begin(), pools.end(), std::less<>());
    pools.erase(std::unique(pools.begin(), pools.end()), pools.end());
    for (Pool* pool : pools) lane->uses.push_back({pool, 0});
    ++idle_lanes_;
    idle_places_ += tier.size();
    return **lanes_.insert(std::move(lane)).first;
}

Pool& Admission::pool_of(const Registration& registration) {
    auto& load = loads_[registration.worker_id];
    if (!load) load = std::make_unique<Load>();
    load->gone = false;
    const bool own = registration.max_concurrency > 0;
    auto& pool = load->pools[own ? name_of(registration.model_key()) : std::string()];
    if (!pool) pool = std::make_unique<Pool>(Pool{.load = load.get(), .limit = 0, .waiters = {}});
    pool->limit = own ? registration.max_concurrency : default_max_concurrency_;
    return *pool;
}

Queue& Admission::queue_of(Lane& lane) {
    if (lane.queue != nullptr) return *lane.queue;
    std::set<ModelKey> models;
    for (const RegistrationPtr& registration : lane.tier) models.insert(registration->model_key());
    std::string name;
    for (const ModelKey& model : models) name += name_of(model);
    auto& queue = queues_[std::move(name)];
    if (!queue) queue = std::make_unique<Queue>(Queue{.models = {models.begin(), models.end()}});
    ++queue->lanes;
    lane.queue = queue.get();
    return *queue;
}

void Admission::drop_idle_lanes() {
    std::erase_if(lanes_, [](const std::unique_ptr<Lane>& lane) {
        if (lane->tickets.first() != nullptr) return false;
        if (lane->queue != nullptr) --lane->queue->lanes;
        return true;
    });
    std::erase_if(queues_, [](const auto& queue) { return queue.second->lanes == 0; });
    idle_lanes_ = idle_places_ = 0;
}

/// Drops all lanes and queues; whoever waited in one is in none.
void Admission::drop_lanes() {
    for (const auto& lane : lanes_) {
        if (lane->tickets.first() != nullptr) detach(*lane);
        while (Ticket* ticket = lane->tickets.first()) {
            lane->tickets.remove(*ticket);
            ticket->lane_ = nullptr;
        }
    }
    lanes_.clear();
    queues_.clear();
    waiting_ = idle_lanes_ = idle_places_ = 0;
}

/// Only while there are no lanes, which refer to them. Slots refer to those that are used.
void Admission::drop_unused_loads() {
    std::erase_if(loads_, [](const auto& each) {
        Load& load = *each.second;
        std::erase_if(load.pools, [](const auto& pool) { return pool.second->used == 0; });
        return load.gone && load.in_flight == 0;
    });
}

/// The free place on the worker with the fewest exchanges in flight; among equals the one chosen longest ago
/// (`route.load.*`).
std::optional<Slot> Admission::take(Lane& lane) {
    std::optional<std::size_t> best;
    for (std::size_t i = 0; i < lane.places.size(); ++i) {
        const Pool& pool = *lane.places[i];
        if (pool.used >= pool.limit) continue;
        const Load* least = best ? lane.places[*best]->load : nullptr;
        if (least == nullptr ||
            std::pair(pool.load->in_flight, pool.load->last_chosen) < std::pair(least->in_flight, least->last_chosen)) {
            best = i;
        }
    }
    if (!best) return std::nullopt;
    Pool& pool = *lane.places[*best];
    pool.load->last_chosen = ++choices_;
    ++pool.load->in_flight;
    ++pool.used;
    return Slot(lane.tier[*best], pool);
}

void Admission::give_back(const Slot& slot) noexcept {
    Load& load = *slot.pool_->load;
    --slot.pool_->used;
    --load.in_flight;
    if (load.gone && load.in_flight == 0) load.last_chosen = 0;  // nothing is left of it but this memory
}

void Admission::enqueue(Ticket& ticket, Lane& lane) {
    if (lane.tickets.first() == nullptr) {
        attach(lane);
        --idle_lanes_;
        idle_places_ -= lane.tier.size();
    }
    lane.tickets.push_back(ticket);
    ticket.lane_ = &lane;
    ++queue_of(lane).depth;
    ++waiting_;
}

void Admission::dequeue(Ticket& ticket) noexcept {
    Lane& lane = *std::exchange(ticket.lane_, nullptr);
    lane.tickets.remove(ticket);
    --lane.queue->depth;
    --waiting_;
    if (lane.tickets.first() == nullptr) {
        detach(lane);
        ++idle_lanes_;
        idle_places_ += lane.tier.size();
    }
}

/// Hands what is free in a pool to the first of those who can use it.
void Admission::serve(Pool& pool) {
    while (pool.used < pool.limit && !pool.waiters.empty()) {
        const auto earlier = [](const Pool::Waiter& a, const Pool::Waiter& b) {
            return a.lane->tickets.first()->arrival_ < b.lane->tickets.first()->arrival_;
        };
        Lane& lane = *std::min_element(pool.waiters.begin(), pool.waiters.end(), earlier)->lane;
        Ticket& ticket = *lane.tickets.first();
        auto slot = take(lane);
        dequeue(ticket);
        set_due(ticket, std::move(slot));
    }
}

void Admission::set_due(Ticket& ticket, std::optional<Slot> slot) noexcept {
    ticket.slot_ = std::move(slot);
    ticket.due_ = true;
    due_.push_back(ticket);
}

/// Tells all that are due. What they do meanwhile may make others due: these are told by the same, outermost call.
void Admission::tell() {
    if (telling_) return;
    telling_ = true;
    while (Ticket* ticket = due_.first()) {
        due_.remove(*ticket);
        ticket->due_ = false;
        ticket->granted(std::exchange(ticket->slot_, std::nullopt));  // it may be gone behind this
    }
    telling_ = false;
}

std::size_t Admission::ByPlaces::operator()(std::span<const RegistrationPtr> tier) const noexcept {
    std::size_t hash = 0;
    for (const RegistrationPtr& each : tier) {
        hash = hash * 0x9E3779B97F4A7C15U + (reinterpret_cast<std::uintptr_t>(each.get()) >> 4);
    }
    return hash ^ (hash >> 32);
}

std::size_t Admission::ByPlaces::operator()(const std::unique_ptr<Lane>& lane) const noexcept {
    return (*this)(std::span<const RegistrationPtr>(lane->tier));
}

bool Admission::ByPlaces::operator()(const std::unique_ptr<Lane>& a, const std::unique_ptr<Lane>& b) const noexcept {
    return a->tier == b->tier;
}

bool Admission::ByPlaces::operator()(std::span<const RegistrationPtr> a,
                                     const std::unique_ptr<Lane>& b) const noexcept {
    return std::equal(a.begin(), a.end(), b->tier.begin(), b->tier.end());
}

bool Admission::ByPlaces::operator()(const std::unique_ptr<Lane>& a,
                                     std::span<const RegistrationPtr> b) const noexcept {
    return (*this)(b, a);
}

}  // namespace anyserve
