// Which worker offers which capability, and which registrations a request means. Pure: no I/O, no clock, no threads.
//
// `Registry` holds the registrations; `resolve` answers a `Target` with ranked tiers. How busy a worker is, and whether
// it can be reached, is not known here. Rules: spec `route.*` and `manage.register.*`.
#pragma once

#include <atomic>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <variant>
#include <vector>

#include "anyserve/capability.hpp"
#include "anyserve/query.hpp"
#include "anyserve/shared_memory.hpp"

namespace anyserve {

/// A declared input or output; -1 in `shape` means any size.
struct TensorMetadata {
    std::string name;
    std::string datatype;
    std::vector<std::int64_t> shape;
};

/// What replicas on different workers have in common; names a queue.
struct ModelKey {
    std::string model_name;
    std::string model_version;
    std::string capability;  ///< encoded

    [[nodiscard]] friend auto operator<=>(const ModelKey&, const ModelKey&) = default;
};

/// A number that threads note for one another: of what last was, where it does not matter whose it is.
class NotedSize {
public:
    NotedSize() noexcept = default;
    NotedSize(const NotedSize& other) noexcept : size_(other.get()) {}
    NotedSize& operator=(const NotedSize& other) noexcept {
        set(other.get());
        return *this;
    }
    ~NotedSize() = default;
    [[nodiscard]] std::size_t get() const noexcept { return size_.load(std::memory_order_relaxed); }
    void set(std::size_t size) noexcept { size_.store(size, std::memory_order_relaxed); }

private:
    std::atomic<std::size_t> size_{0};
};

/// One capability offered by one worker (RegisterModelRequest), checked by whoever made it.
struct Registration {
    std::string worker_id;
    std::string socket_path;
    std::string model_name;
    std::string model_version;
    Capability capability;
    std::uint32_t max_concurrency = 0;  ///< exchanges at once; 0: it states none
    bool annotate = true;  ///< it came with a capability map, so its requests carry `anyserve_*` parameters
    bool stream = false;
    std::int32_t priority = 0;
    std::vector<TensorMetadata> inputs;
    std::vector<TensorMetadata> outputs;
    std::string platform;
    std::shared_ptr<const SharedMemoryTaker> shared_memory;  ///< it takes payloads by shared memory; null: it does not
    mutable NotedSize last_reply;                            ///< in bytes

    /// The name by which clients find it: its model name, or else the capability's `model`.
    [[nodiscard]] std::string_view listed_name() const noexcept {
        return model_name.empty() ? capability.get("model") : std::string_view(model_name);
    }
    /// The version by which clients find it: its model version, or else the capability's `version`.
    [[nodiscard]] std::string_view listed_version() const noexcept {
        return model_version.empty() ? capability.get("version") : std::string_view(model_version);
    }
    [[nodiscard]] ModelKey model_key() const { return {model_name, model_version, capability.encoded()}; }
};

/// Immutable and shared: routes, slots and events keep one for as long as they need it.
using RegistrationPtr = std::shared_ptr<const Registration>;

/// Whether one replaces the other: same worker, name, version and capability (`manage.register.replace`).
[[nodiscard]] bool same_key(const Registration& a, const Registration& b) noexcept;

/// What a request asks for: a capability query, or else a model name and version.
struct Target {
    std::string model_name;
    std::string model_version;
    std::optional<Query> query;
    bool unary_only = false;  ///< streaming registrations are left out: the caller takes exactly one reply

    /// The same target without `unary_only`.
    [[nodiscard]] Target streaming_too() const { return {model_name, model_version, query, false}; }
    /// For people: `model 'm' version '1'`, `capability {type: chat}`.
    [[nodiscard]] std::string text() const;

    [[nodiscard]] friend bool operator==(const Target&, const Target&) = default;
};

/// Registrations that rank equally, in the order in which they came.
using Tier = std::vector<RegistrationPtr>;

/// The registrations that a target means, best tier first; no tier is empty.
struct Route {
    std::vector<Tier> tiers;
};

/// Immutable and shared: it stays as it is when the registry changes.
using RoutePtr = std::shared_ptr<const Route>;

/// A limit on workers or registrations is reached; the message names it.
struct RegistryFull {
    std::string message;
};

/// All registrations of one agent.
///
/// A lookup by name and a query with an exact key look at what they find, however many registrations there are; a
/// query of patterns alone looks at all. Answers are kept until something changes.
class Registry {
public:
    /// Routes that are kept, and registrations in all of them: clients choose targets, so both are bounded. When one
    /// is reached all are dropped, and the busy ones come back.
    static constexpr std::size_t kMaxRoutes = 1024;
    static constexpr std::size_t kMaxRouted = 1 << 18;
    /// Longer names and versions, in bytes, are not kept: they find nothing (256 characters, `manage.register.text`).
    static constexpr std::size_t kMaxKeptText = 2048;

    Registry(std::size_t max_workers, std::size_t max_registrations) noexcept
        : max_workers_(max_workers), max_registrations_(max_registrations) {}

    std::size_t size() const noexcept { return entries_.size(); }

    /// All of them, in the order in which they came; one that was replaced keeps its place.
    [[nodiscard]] std::vector<RegistrationPtr> all() const;

    /// Adds a registration, or replaces the one with the same key and returns that. After `RegistryFull` nothing has
    /// changed.
    [[nodiscard]] std::variant<RegistrationPtr, RegistryFull> add(RegistrationPtr registration);

    /// Removes what one worker registered under a name and version, whatever the capability; returns it.
    std::vector<RegistrationPtr> remove(std::string_view worker_id, std::string_view model_name,
                                        std::string_view model_version);

    /// Removes everything a worker registered; returns it.
    std::vector<RegistrationPtr> remove_worker(std::string_view worker_id);

    /// What a worker has registered; empty for an unknown one.
    [[nodiscard]] std::vector<RegistrationPtr> of_worker(std::string_view worker_id) const;
    [[nodiscard]] bool has_worker(std::string_view worker_id) const noexcept;

    /// The registrations that a request for `target` may go to, ranked; never null, without tiers if there are none.
    [[nodiscard]] RoutePtr resolve(const Target& target);

    /// The registrations that a model name and version mean (`route.name.*`, `route.version.*`).
    [[nodiscard]] std::vector<RegistrationPtr> named(std::string_view model_name,
                                                     std::string_view model_version = {}) const;

    /// The registrations of every version of a model name.
    [[nodiscard]] std::vector<RegistrationPtr> named_any_version(std::string_view model_name) const;

    /// All versions registered under a model name, numbers first, in rising order.
    [[nodiscard]] std::vector<std::string> versions(std::string_view model_name) const;

    /// The listed names of all registrations, sorted.
    [[nodiscard]] std::vector<std::string> model_names() const;

private:
    struct Entry {
        std::uint64_t order;
        RegistrationPtr registration;
    };
    struct ByOrder {
        bool operator()(const Entry* a, const Entry* b) const noexcept { return a->order < b->order; }
    };
    /// Entries in the order in which they came.
    using Entries = std::set<const Entry*, ByOrder>;

    struct ByKey {
        using is_transparent = void;
        std::size_t operator()(const Registration& registration) const noexcept;
        std::size_t operator()(const std::unique_ptr<Entry>& entry) const noexcept;
        bool operator()(const std::unique_ptr<Entry>& a, const std::unique_ptr<Entry>& b) const noexcept;
        bool operator()(const std::unique_ptr<Entry>& a, const Registration& b) const noexcept;
        bool operator()(const Registration& a, const std::unique_ptr<Entry>& b) const noexcept;
    };
    struct TextHash {
        using is_transparent = void;
        std::size_t operator()(std::string_view text) const noexcept { return std::hash<std::string_view>()(text); }
    };
    struct TargetHash {
        std::size_t operator()(const Target& target) const noexcept;
    };
    template <class Value>
    using ByText = std::unordered_map<std::string, Value, TextHash, std::equal_to<>>;
    /// What is registered under one name, by its version, which may be empty.
    using Versions = std::map<std::string, Entries, std::less<>>;

    void index(const Entry* entry);
    void unindex(const Entry* entry);
    std::vector<RegistrationPtr> remove_all(const std::vector<RegistrationPtr>& registrations);
    void forget_routes() noexcept;
    [[nodiscard]] bool keeps(const Target& target) const noexcept;

    [[nodiscard]] Route rank(const Target& target) const;
    [[nodiscard]] std::vector<const Entry*> candidates(const Query& query) const;
    [[nodiscard]] std::vector<const Entries*> exactly(const Query::Item& item) const;
    [[nodiscard]] const Versions* any_version(std::string_view model_name) const noexcept;

    std::size_t max_workers_;
    std::size_t max_registrations_;
    std::uint64_t next_order_ = 0;
    std::unordered_set<std::unique_ptr<Entry>, ByKey, ByKey> entries_;
    Entries in_order_;
    ByText<Entries> by_worker_;
    ByText<Versions> by_name_;              // by model name, then model version
    ByText<Versions> by_capability_model_;  // by the capability's `model`, then its `version`
    ByText<Entries> by_item_;               // by `key=value` of the capability; no key has a `=`
    std::unordered_map<Target, RoutePtr, TargetHash> routes_;
    std::size_t routed_ = 0;  // registrations in all kept routes
};

}  // namespace anyserve
