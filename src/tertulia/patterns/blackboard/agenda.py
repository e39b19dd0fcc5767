"""The agenda: activations that wait on the board, so that any controller can take them up, and anybody can look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from tertulia._codec import convert
from tertulia._names import literal
from tertulia._rules.agenda import Activation
from tertulia.errors import ConflictError
from tertulia.hypotheses import BoardAction, Hypothesis
from tertulia.patterns.blackboard._records import log
from tertulia.patterns.blackboard.board import Blackboard
from tertulia.patterns.blackboard.sources import KnowledgeSource

__all__ = ["Agenda", "activation_of"]

CONTROL = "control"  # the agent in whose name control acts


class Agenda:
    """The activations of one board."""

    def __init__(self, board: Blackboard) -> None:
        self._board = board
        self._keys = board.keys
        self._memory = board.space.memory

    async def queue(self, activation: Activation) -> bool:
        """Queue an activation, unless it is queued or was dealt with before; return whether it is new."""
        try:
            async with self._board.space.transaction() as transaction:
                if await transaction.read(self._keys.ran + activation.id, reader=CONTROL) is not None:
                    return False
                transaction.create(self._keys.agenda + activation.id, activation, owner=CONTROL)
        except ConflictError:
            return False
        return True

    async def waiting(self) -> list[Activation]:
        """Return the activations that are queued, those that run now included."""
        entries = self._memory.entries(literal(self._keys.agenda) + "*")
        return [convert(entry.value, Activation) async for entry in entries]

    async def running(self) -> set[str]:
        """Return the ids of the activations that some controller holds."""
        keys = await self._memory.list_keys(literal(self._keys.running) + "*")
        return {key.removeprefix(self._keys.running) for key in keys}

    async def drop(self, activation: Activation, why: str) -> int:
        """Take an activation off the agenda for good, and write down why; return the revision of that, if it was."""
        try:
            async with self._board.space.transaction() as transaction:
                if await transaction.read(self._keys.agenda + activation.id, reader=CONTROL) is None:
                    return 0
                transaction.delete(self._keys.agenda + activation.id, requester=CONTROL)
                transaction.write(self._keys.ran + activation.id, "dropped", owner=CONTROL)
                self._log(transaction, BoardAction.DROPPED, activation, why=why)
        except ConflictError:
            return 0  # somebody else has dealt with it
        return transaction.entry(self._keys.ran + activation.id).revision

    async def failed(self, activation: Activation, error: str, *, attempts: int) -> int:
        """Write down that a source failed; after so many attempts its activation is dropped. Return the revision."""
        again = activation.attempt < attempts
        try:
            async with self._board.space.transaction() as transaction:
                if await transaction.read(self._keys.agenda + activation.id, reader=CONTROL) is None:
                    return 0
                self._log(transaction, BoardAction.FAILED, activation, error=error, attempt=activation.attempt)
                if again:
                    more = replace(activation, attempt=activation.attempt + 1)
                    transaction.write(self._keys.agenda + activation.id, more, owner=CONTROL)
                else:
                    transaction.delete(self._keys.agenda + activation.id, requester=CONTROL)
                    transaction.write(self._keys.ran + activation.id, "failed", owner=CONTROL)
        except ConflictError:
            return 0  # somebody else has dealt with it
        return transaction.entry((self._keys.agenda if again else self._keys.ran) + activation.id).revision

    async def chosen(self, activation: Activation, rating: float, over: Iterable[tuple[Activation, float]]) -> None:
        """Write down what was chosen, and over what."""
        async with self._board.space.transaction() as transaction:
            others = [{"source": one.source, "hypothesis": one.hypothesis, "rating": other} for one, other in over]
            self._log(transaction, BoardAction.CHOSEN, activation, rating=rating, over=others)

    def _log(self, transaction: Any, kind: BoardAction, activation: Activation, **details: Any) -> None:
        log(
            transaction,
            self._keys,
            kind,
            CONTROL,
            activation.hypothesis,
            source=activation.source,
            version=activation.version,
            **details,
        )

    # --- focus ---

    async def focus(self) -> dict[str, float]:
        """Return the weights of sections; one that is not named has 1."""
        return await self._memory.read(self._keys.focus, reader=CONTROL, default={})

    async def set_focus(self, weights: Mapping[str, float], *, agent: str, reason: str = "") -> None:
        """Attend more (above 1) or less to sections, for all controllers, and write it down."""
        async with self._board.space.transaction() as transaction:
            transaction.write(self._keys.focus, dict(weights), owner=agent)
            log(transaction, self._keys, BoardAction.FOCUSED, agent, None, weights=dict(weights), reason=reason)


def activation_of(source: KnowledgeSource, hypothesis: Hypothesis) -> Activation:
    """Return the activation of a source by a hypothesis as it is now."""
    return Activation(
        source=source.name,
        hypothesis=hypothesis.id,
        version=hypothesis.version,
        section=hypothesis.section,
        confidence=hypothesis.confidence,
        order=hypothesis.order,
    )
