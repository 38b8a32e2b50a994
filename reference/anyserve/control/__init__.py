"""What is slower than a request and shared by both agents: worker processes and their supervision."""
