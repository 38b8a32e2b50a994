"""What tests share: a worker that follows a script, clients of both ports, waiting, protobuf by hand.

Nothing here imports the agent's insides: it speaks to an agent through its ports
and through Unix sockets, so the same tests can face another implementation.
"""
