"""Profile agent-management: registration, replicas, heartbeats, loss, events."""
