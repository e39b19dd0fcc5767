"""What the selector answers."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from tertulia.records import DeliveryMode
from tertulia.selection.requirement import Paradigm, UseCase

__all__ = ["RULES_OF_THUMB", "Recommendation", "Rival"]

RULES_OF_THUMB = {
    UseCase.STATE_SHARING: Paradigm.MEMORY,
    UseCase.REQUEST_RESPONSE: Paradigm.MESSAGES,
    UseCase.EVENT_STREAMING: Paradigm.MESSAGES,
    UseCase.BROADCAST: Paradigm.MESSAGES,
    UseCase.CACHING: Paradigm.MEMORY,
    UseCase.COORDINATION: Paradigm.HYBRID,
}
"""What people say without measuring, as the course text on the two paradigms has it."""


class Rival(Struct, frozen=True, kw_only=True):
    """The best way that was not chosen; it costs `times` as much."""

    paradigm: Paradigm
    engine: str
    times: float


class Recommendation(Struct, frozen=True, kw_only=True):
    """What to use, and why.

    `delivery_mode` is None where no messages are sent. `settings` are arguments of `connect` and of registering agents.
    `confidence` is "high", "medium" or "low". `would_change`: what would lead to another choice, each as a sentence.
    `rule_of_thumb` is what people say without measuring; `agrees` whether the measurement does. `basis` says where
    and when the figures were measured.
    """

    use_case: UseCase
    paradigm: Paradigm
    engine: str
    delivery_mode: DeliveryMode | None
    settings: dict[str, str]
    reasons: tuple[str, ...]
    confidence: str
    runner_up: Rival | None
    would_change: tuple[str, ...]
    rule_of_thumb: Paradigm
    agrees: bool
    rule: str
    basis: str

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dict, ready for JSON."""
        return msgspec.to_builtins(self)
