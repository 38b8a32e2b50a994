"""Profile agent-streaming: ModelStreamInfer and streaming workers."""
