"""How sure to be of a hypothesis, given what supports and contradicts it.

Certainty factors, as MYCIN combined them (Shortliffe and Buchanan, *A model of inexact reasoning in medicine*, 1975, in
the form that van Melle gave them for EMYCIN): two pieces of evidence that agree strengthen each other without ever
reaching certainty, and evidence for and against weaken each other. The order in which they come does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["LINK_WEIGHT", "combine", "score"]

LINK_WEIGHT = (
    0.5  # of a link from a hypothesis that is certain: what others say counts, but less than one's own reasons
)
ALMOST = 1 - 1e-9  # nothing is certain: beyond, evidence against could not be weighed any more


def combine(first: float, second: float) -> float:
    """Combine two certainties from -1 (certainly not) to 1 (certainly)."""
    first, second = _bounded(first), _bounded(second)
    if first >= 0 and second >= 0:
        return first + second - first * second
    if first < 0 and second < 0:
        return first + second + first * second
    return (first + second) / (1 - min(abs(first), abs(second)))


def score(confidence: float, supports: Iterable[float], contradictions: Iterable[float]) -> float:
    """Return how sure to be, from -1 to 1, of a hypothesis with its own confidence (0 to 1).

    `supports` and `contradictions` are the confidences of the hypotheses that are linked to it. Evidence for is
    combined first, then evidence against, then both, so that the result depends on no order.
    """
    evidence_for = _bounded(confidence)
    for one in sorted(supports):
        evidence_for = combine(evidence_for, one * LINK_WEIGHT)
    against = 0.0
    for one in sorted(contradictions):
        against = combine(against, -one * LINK_WEIGHT)
    return combine(evidence_for, against)


def _bounded(certainty: float) -> float:
    return max(-ALMOST, min(ALMOST, certainty))
