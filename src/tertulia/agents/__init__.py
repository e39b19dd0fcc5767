"""Agents: an identity in a space, with the calls of memory, of messages, or of both."""
