#include "bindings.hpp"

NB_MODULE(_native, m) {
    m.doc() = "The native agent. Private: `anyserve.agent.native` is its face.";
    anyserve::init_agent(m);
    anyserve::init_policy(m);
}
