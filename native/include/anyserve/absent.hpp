// What would be served if every worker that the instance keeps running were there. Pure: no I/O, no clock.
//
// A worker that has crashed is started anew, one that was dropped may come back: until then its requests have nowhere
// to go, but a client does well to try again. Rules: spec `lifecycle.crash.unavailable`.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>

#include "anyserve/registry.hpp"

namespace anyserve {

/// The registrations of workers that have gone unasked, until they or others in their place are back.
class Absent {
public:
    /// Args:
    ///   max_workers: of how many workers.
    ///   max_registrations: how many of all of them; what is beyond is not remembered.
    Absent(std::size_t max_workers, std::size_t max_registrations) noexcept
        : registry_(max_workers, max_registrations) {}

    /// The instance keeps a worker running at a place, and now it is this one; nothing: it does so no longer.
    void keep(std::string_view place, std::optional<std::string_view> worker_id);

    /// A worker has gone, with what it had registered; nothing happens unless it is kept.
    void gone(std::string_view worker_id, std::span<const RegistrationPtr> registrations);

    /// A worker has registered all that it serves: what was there before it at its place is forgotten.
    void there(std::string_view worker_id);

    /// Whether one of the absent workers would serve it.
    [[nodiscard]] bool serves(const Target& target);

private:
    std::unordered_map<std::string, std::string> places_;  // by the worker that is there, or was there last
    Registry registry_;                                    // its "workers" are places
};

}  // namespace anyserve
