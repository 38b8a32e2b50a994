"""A conformance suite for KServe v2 gRPC servers, anyserve agents and anyserve workers; it imports none of them."""

__version__ = "0.1.0"
