#include "anyserve/no_match.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <utility>

#include "anyserve/workers.hpp"

namespace anyserve {
namespace {

constexpr std::size_t kCompared = 64;  // bytes of a name: one word of bits

/// The length of the longest common subsequence by its bit-parallel recurrence: each text is read once.
class CommonSubsequence {
public:
    explicit CommonSubsequence(std::string_view text) noexcept : size_(text.size()) {
        for (std::size_t i = 0; i < text.size(); ++i)
            where_[static_cast<unsigned char>(text[i])] |= std::uint64_t{1} << i;
    }
    [[nodiscard]] std::size_t length_with(std::string_view other) const noexcept {
        std::uint64_t free = ~std::uint64_t{0};
        for (const char c : other) {
            const std::uint64_t met = free & where_[static_cast<unsigned char>(c)];
            free = (free + met) | (free - met);
        }
        const std::uint64_t used = size_ < kCompared ? (std::uint64_t{1} << size_) - 1 : ~std::uint64_t{0};
        return static_cast<std::size_t>(std::popcount(~free & used));
    }

private:
    std::array<std::uint64_t, 256> where_{};
    std::size_t size_;
};

}  // namespace

std::string_view similar_name(std::string_view asked, std::span<const std::string> known) noexcept {
    asked = asked.substr(0, kCompared);
    const CommonSubsequence common(asked);
    std::string_view best;
    double best_likeness = 0.6;  // of 1: twice what is common, by the length of both
    for (const std::string& name : known) {
        const std::string_view other = std::string_view(name).substr(0, kCompared);
        const auto both = static_cast<double>(asked.size() + other.size());
        const double likeness = both > 0 ? 2 * static_cast<double>(common.length_with(other)) / both : 0;
        if (likeness < best_likeness || (likeness == best_likeness && !best.empty())) continue;
        best = name;
        best_likeness = likeness;
    }
    return best;
}

InferenceError NoMatch::explain(const Target& target) {
    if (workers_.expected_to_serve(target)) {
        return {Code::unavailable, target.text() + ": the worker that serves it has gone and is expected back"};
    }
    if (target.unary_only) {
        const Target every = target.streaming_too();
        if (!registry_.resolve(every)->tiers.empty() || workers_.expected_to_serve(every)) {
            return {Code::unimplemented, target.text() + " streams its replies: use ModelStreamInfer"};
        }
    }
    return {Code::not_found, not_found(target)};
}

std::string NoMatch::not_found(const Target& target) {
    forget_if_changed();
    if (asked_ == target) return answer_;
    std::string answer = "no worker serves " + target.text() + (target.query ? "" : hint(target));
    if (target.model_name.size() + target.model_version.size() <= kMaxRemembered) {
        asked_ = target;
        answer_ = answer;
    }
    return answer;
}

std::string NoMatch::hint(const Target& target) {
    if (!registry_.named_any_version(target.model_name).empty()) {
        std::string listed;
        for (const std::string& version : registry_.versions(target.model_name)) {
            if (!listed.empty()) listed += ", ";
            listed += version;
        }
        return " (versions there are: " + (listed.empty() ? "none" : listed) + ")";
    }
    if (!names_) {
        names_ = registry_.model_names();
        names_->resize(std::min(names_->size(), kMaxCompared));
    }
    const std::string_view similar = similar_name(target.model_name, *names_);
    return similar.empty() ? "" : " (did you mean \"" + std::string(similar) + "\"?)";
}

void NoMatch::forget_if_changed() {
    RoutePtr now = registry_.resolve(Target());
    if (now == std::exchange(as_of_, now)) return;
    names_.reset();
    asked_.reset();
}

}  // namespace anyserve
