"""A conformance suite for KServe v2 gRPC servers, anyserve agents and anyserve workers. It imports nothing of anyserve."""

__version__ = "0.1.0"
