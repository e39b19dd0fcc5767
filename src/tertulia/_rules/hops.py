"""The causal path of a message: when it is too long."""

MAX_HOPS = 32  # real pipelines are shorter; agents that answer each other's answers get here in a blink
