"""Profile worker: a worker program under a scripted agent."""
