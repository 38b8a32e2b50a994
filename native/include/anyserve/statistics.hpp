// Counts of what was served, per model: the source of ModelStatistics. Pure: the time is a parameter.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "anyserve/registry.hpp"

namespace anyserve {

/// How often something happened and how long it took in all.
struct Count {
    std::uint64_t count = 0;
    std::uint64_t ns = 0;

    void add(std::uint64_t taken_ns) noexcept {
        ++count;
        ns += taken_ns;
    }
    /// Counts what a worker tells; a sum stays at the greatest there is (`serving.statistics.sums`).
    void add_told(std::uint64_t more, std::uint64_t taken_ns) noexcept;
};

/// The counts of one model name and version.
struct ModelCounts {
    Count success;                           ///< queue and compute together
    Count fail;                              ///< queue and compute together
    Count queue;                             ///< of all exchanges
    Count compute;                           ///< of those that succeeded
    Count calls;                             ///< what workers told of calls for several requests at once
    std::map<std::uint64_t, Count> batches;  ///< the same by the size of the batch
    std::uint64_t rejected = 0;
    std::uint64_t last_inference_ms = 0;  ///< since 1970
};

/// One exchange that has ended.
struct Exchanged {
    bool succeeded;
    std::uint64_t queue_ns;
    std::uint64_t compute_ns;
    std::uint64_t ended_ms;  ///< since 1970
};

/// Calls of a handler for so many requests each, of which a worker tells.
struct Batched {
    std::uint64_t size;
    std::uint64_t count;
    std::uint64_t compute_ns;  ///< of all of them
};

/// Sizes of batches that are kept of a model (`serving.statistics.sizes`).
inline constexpr std::size_t kMaxBatchSizes = 1024;

/// Counts per listed name and version of registrations.
class Statistics {
public:
    /// Args:
    ///   max_models: how many are kept, at least 1; beyond, the one first counted is forgotten.
    explicit Statistics(std::size_t max_models) noexcept : max_models_(max_models) {}

    /// The counts of a model; all zero if it has served nothing.
    [[nodiscard]] ModelCounts of(std::string_view model_name, std::string_view model_version) const;

    /// Counts one exchange.
    void exchanged(const Registration& registration, const Exchanged& exchange);

    /// Counts calls of which a worker tells.
    void batched(const Registration& registration, const Batched& calls);

    /// Counts one request that found its queue full.
    void rejected(const Registration& registration);

private:
    using Name = std::pair<std::string_view, std::string_view>;
    struct ByName {
        using is_transparent = void;
        template <class A, class B>
        bool operator()(const A& a, const B& b) const noexcept {
            return Name(a.first, a.second) < Name(b.first, b.second);
        }
    };
    using Models = std::map<std::pair<std::string, std::string>, ModelCounts, ByName>;

    ModelCounts& counts(const Registration& registration);

    std::size_t max_models_;
    Models models_;
    std::deque<Models::iterator> oldest_first_;
};

}  // namespace anyserve
