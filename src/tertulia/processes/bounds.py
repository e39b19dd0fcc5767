"""How many processes are kept, how often they are started again and how long they may take to stop."""

__all__ = ["GRACE", "MAX_PROCESSES", "MAX_RESTARTS"]

GRACE = 20.0  # seconds; shorter than the 30 s after which Kubernetes kills what it has told to stop
MAX_RESTARTS = 10  # in a row: about 45 s, in which a server that is being restarted is back
MAX_PROCESSES = 256  # of one agent; several for each core of a large machine
