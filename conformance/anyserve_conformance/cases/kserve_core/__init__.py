"""Profile kserve-core: what the Open Inference Protocol and gRPC ask of any server."""
