"""Profile agent-serving: forwarding, errors, routing, deadlines, cancellation, queues, drain."""
