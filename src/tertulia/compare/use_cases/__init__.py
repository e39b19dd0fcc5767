"""The six use cases, each built through shared memory, through messages, and as hybrid where that makes sense."""
