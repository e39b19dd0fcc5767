"""Compare shared memory with messages by running the same work both ways."""
