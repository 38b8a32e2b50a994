"""`pytest conformance` from a clone: the plugin is the suite's own."""

pytest_plugins = ["anyserve_conformance.plugin"]
