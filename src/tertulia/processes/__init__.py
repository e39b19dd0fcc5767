"""Agents as processes of their own: what `tertulia run` does, and what the comparison runs its agents with.

`supervisor` keeps processes running, each of which does what `worker` says: it loads an agent (`target`) and runs it
until it is told to stop. `child` and `parent` are the two ends of the line between a process and the one it starts;
`orders` are what the supervisor and its workers say to each other over it.
"""
