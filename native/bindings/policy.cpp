// The pure parts for Python, so that one property test drives both implementations and a model.
//
// Names and signatures are the reference's where they can be. Whatever Python does with them raises at worst: what the
// core takes as a precondition is checked here.
#include "bindings.hpp"

namespace anyserve {

void init_policy(nanobind::module_& m) {
    auto policy = m.def_submodule("policy", "The agent's pure parts, for tests. Private.");
    init_capability(policy);
    init_registry(policy);
    init_queues(policy);
    init_framing(policy);
    init_scan(policy);
}

}  // namespace anyserve
