"""For tests: a clock that is turned by hand, and the conformance kit for engines.

Nothing here imports a test runner; `tertulia.testing.conformance` is the kit.
"""

from tertulia.testing.clock import ManualClock

__all__ = ["ManualClock"]
