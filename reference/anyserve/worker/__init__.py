"""The Python worker runtime: runs an app's handlers in a process of their own."""
