"""What tests share: scripted workers and agents, clients of both ports, processes, waiting, protobuf by hand.

Nothing here imports the agent's insides: it speaks to an agent through its ports
and through Unix sockets, so the same tests can face another implementation.
"""
