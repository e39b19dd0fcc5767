"""Where use cases are measured."""

from __future__ import annotations

from msgspec import Struct

from tertulia.selection.requirement import UseCase

__all__ = ["Point"]


class Point(Struct, frozen=True, kw_only=True):
    """Where to measure: all ways of a use case, on one engine, at one team size and payload."""

    use_case: UseCase
    engine: str
    agents_as: str
    agents: int
    payload: int
