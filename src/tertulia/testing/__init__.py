"""For tests: a clock that is turned by hand, an engine with faults, and the conformance kit for engines.

Nothing here imports a test runner. `tertulia.testing.conformance` is the kit; `linearizability`, `mailboxes` and
`watches` are the checkers of recorded histories.
"""

from tertulia.testing.clock import ManualClock
from tertulia.testing.faults import Fault, FaultyEngine

__all__ = ["Fault", "FaultyEngine", "ManualClock"]
