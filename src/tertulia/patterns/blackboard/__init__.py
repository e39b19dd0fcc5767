"""A blackboard: a place where agents post hypotheses, and where knowledge sources are run when they can contribute."""
