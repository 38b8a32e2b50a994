// The subjects of `anyserve._native`, one function each.
#pragma once

#include <nanobind/nanobind.h>

namespace anyserve {

void init_agent(nanobind::module_& m);
void init_worker(nanobind::module_& m);

/// `anyserve._native.policy`: what follows, in a module of its own.
void init_policy(nanobind::module_& m);
void init_capability(nanobind::module_& m);
void init_registry(nanobind::module_& m);
void init_queues(nanobind::module_& m);
void init_framing(nanobind::module_& m);
void init_scan(nanobind::module_& m);

}  // namespace anyserve
