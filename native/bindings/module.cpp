#include "bindings.hpp"

NB_MODULE(_native, m) {
    m.doc() =
        "The native agent and the native worker loop. Private: `anyserve.agent.native` and "
        "`anyserve.worker.native_server` are their\n"
        "faces.";
    anyserve::init_agent(m);
    anyserve::init_worker(m);
    anyserve::init_policy(m);
}
