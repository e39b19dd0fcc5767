"""Advice from measurements: which paradigm, engine and settings fit a requirement, and why."""
