// Who gets a worker's next free place: limits, choice within a tier, and the bounded queues. Pure policy.
//
// No sockets, no clock, no threads: a `Ticket` that has to wait is told when its turn has come, by whoever frees a
// place or changes the registry. Deadlines are the caller's, who withdraws the ticket. Rules: spec `queue.*`,
// `route.load.*` and `route.rank.before-load`.
//
//     queue   who wait for the same models; has the bound (`queue.bound.full`)
//     lane    those of a queue that may use the same places: one takes no streams, another has tried a worker in vain
//     pool    places that share a limit: a registration that states its `max_concurrency` has one of its own, all
//             others of a worker share one (`frame.connections.limit`)
//
// All in a lane may use the same places, so what its first cannot use the rest cannot either. And whoever waits found
// all his places taken, so a place that becomes free concerns only the lanes of its pool: the first among their first
// gets it (`queue.order.arrival`), and a new request overtakes nobody (`queue.order.no-overtaking`).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <variant>
#include <vector>

#include "anyserve/registry.hpp"

namespace anyserve {

class Admission;

namespace admission {
struct Lane;
struct Load;
struct Pool;
struct Queue;
}  // namespace admission

/// The right to run one exchange of `registration()`; given back with `Admission::release`, once.
class [[nodiscard]] Slot {
public:
    const RegistrationPtr& registration() const noexcept { return registration_; }

private:
    friend class Admission;
    Slot(RegistrationPtr registration, admission::Pool& pool) noexcept
        : registration_(std::move(registration)), pool_(&pool) {}

    RegistrationPtr registration_;
    admission::Pool* pool_;
};

/// One request that wants a slot. The caller owns it, and withdraws it before it dies.
class Ticket {
public:
    Ticket() = default;
    Ticket(const Ticket&) = delete;
    Ticket& operator=(const Ticket&) = delete;

    /// The route of its target as it is now. Must not call the `Admission`.
    [[nodiscard]] virtual RoutePtr resolve() = 0;

    /// Called once when a ticket that has waited gets its slot, or nothing when no registration is left that it could
    /// wait for. May call the `Admission`, and end the life of this ticket and of others that are withdrawn.
    virtual void granted(std::optional<Slot> slot) noexcept = 0;

    /// Leaves out a registration, and what replaces it, from now on: this request has tried it in vain.
    void exclude(RegistrationPtr registration) { excluded_.push_back(std::move(registration)); }

protected:
    ~Ticket() = default;

private:
    friend class Admission;
    friend class TicketList;

    std::vector<RegistrationPtr> excluded_;
    std::uint64_t arrival_ = 0;
    admission::Lane* lane_ = nullptr;  // while it waits
    bool due_ = false;                 // while its turn has come and it has not been told
    std::optional<Slot> slot_;         // while it is due
    Ticket* before_ = nullptr;         // in its lane, or among those that are due
    Ticket* behind_ = nullptr;
};

/// Tickets in order of arrival, linked through themselves: each can leave at once.
class TicketList {
public:
    Ticket* first() const noexcept { return first_; }
    static Ticket* behind(const Ticket& ticket) noexcept { return ticket.behind_; }
    void push_back(Ticket& ticket) noexcept;
    void remove(Ticket& ticket) noexcept;

private:
    Ticket* first_ = nullptr;
    Ticket* last_ = nullptr;
};

/// The ticket waits; it will be told.
struct Waits {};

/// The queue that the request would wait in has no room. `best` is one of its best matches.
struct QueueFull {
    RegistrationPtr best;
    std::string message;
};

/// No registration is left that the request could go to or wait for.
struct NothingLeft {};

/// Grants slots to tickets and keeps the rest waiting, first come first served.
///
/// A request waits in the queue of its best match: better-ranked but busy is waited for, not skipped. After each change
/// of the registry `reconsider` must be called, after `forget_worker` if a worker has no registration left.
///
/// Tickets are told (`Ticket::granted`) from within `release`, `withdraw` and `reconsider`, when all else is done, one
/// after the other in order of arrival.
class Admission {
public:
    /// What is remembered of targets for which nobody waits; when one is reached all are dropped.
    static constexpr std::size_t kMaxIdleLanes = 1024;
    static constexpr std::size_t kMaxIdlePlaces = 1 << 18;

    /// Args:
    ///   queue_size: how many tickets may wait in one queue.
    ///   default_max_concurrency: exchanges at once over all registrations of a worker that state no number.
    Admission(std::size_t queue_size, std::uint32_t default_max_concurrency);
    ~Admission();
    Admission(const Admission&) = delete;
    Admission& operator=(const Admission&) = delete;

    /// Asks for a slot: returned at once if one is free, else the ticket waits.
    [[nodiscard]] std::variant<Slot, Waits, QueueFull, NothingLeft> submit(Ticket& ticket);

    /// Takes a ticket out of its queue; it will not be told any more. Does nothing to one that does not wait.
    void withdraw(Ticket& ticket);

    /// Gives a slot back, and hands its place to the first ticket that can use it.
    void release(Slot slot);

    /// A worker has no registration left; what it still runs counts should it come back.
    void forget_worker(std::string_view worker_id);

    /// After a change of the registry: gives every waiting ticket its new tier and queue, in order of arrival.
    void reconsider();

    /// How many tickets wait, over all queues.
    std::size_t waiting() const noexcept { return waiting_; }

    /// How many tickets wait, per queue that has any.
    [[nodiscard]] std::vector<std::pair<std::vector<ModelKey>, std::size_t>> depths() const;

    /// How many exchanges a worker runs.
    [[nodiscard]] std::size_t in_flight(std::string_view worker_id) const noexcept;

private:
    struct ByPlaces {
        using is_transparent = void;
        std::size_t operator()(std::span<const RegistrationPtr> tier) const noexcept;
        std::size_t operator()(const std::unique_ptr<admission::Lane>& lane) const noexcept;
        bool operator()(const std::unique_ptr<admission::Lane>& a,
                        const std::unique_ptr<admission::Lane>& b) const noexcept;
        bool operator()(std::span<const RegistrationPtr> a, const std::unique_ptr<admission::Lane>& b) const noexcept;
        bool operator()(const std::unique_ptr<admission::Lane>& a, std::span<const RegistrationPtr> b) const noexcept;
    };
    struct TextHash {
        using is_transparent = void;
        std::size_t operator()(std::string_view text) const noexcept { return std::hash<std::string_view>()(text); }
    };
    template <class Value>
    using ByText = std::unordered_map<std::string, std::unique_ptr<Value>, TextHash, std::equal_to<>>;

    [[nodiscard]] admission::Lane* lane_of(Ticket& ticket);
    [[nodiscard]] admission::Lane& lane_of(std::span<const RegistrationPtr> tier);
    [[nodiscard]] admission::Pool& pool_of(const Registration& registration);
    [[nodiscard]] admission::Queue& queue_of(admission::Lane& lane);
    void drop_idle_lanes();
    void drop_lanes();
    void drop_unused_loads();

    [[nodiscard]] std::optional<Slot> take(admission::Lane& lane);
    void give_back(const Slot& slot) noexcept;
    void enqueue(Ticket& ticket, admission::Lane& lane);
    void dequeue(Ticket& ticket) noexcept;
    void serve(admission::Pool& pool);
    void set_due(Ticket& ticket, std::optional<Slot> slot) noexcept;
    void tell();

    std::size_t queue_size_;
    std::uint32_t default_max_concurrency_;
    ByText<admission::Load> loads_;    // by worker id
    ByText<admission::Queue> queues_;  // by the models among which its requests may go
    std::unordered_set<std::unique_ptr<admission::Lane>, ByPlaces, ByPlaces> lanes_;
    std::size_t idle_lanes_ = 0;
    std::size_t idle_places_ = 0;
    std::size_t waiting_ = 0;
    std::uint64_t arrivals_ = 0;
    std::uint64_t choices_ = 0;
    TicketList due_;
    bool telling_ = false;
};

}  // namespace anyserve
