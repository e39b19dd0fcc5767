"""Knowledge sources: what can contribute to a blackboard, when, and for how much."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from math import isfinite
from typing import Any

from msgspec import Struct

from tertulia._codec import convert
from tertulia._names import check_name
from tertulia.errors import InvalidHypothesisError
from tertulia.hypotheses import Hypothesis
from tertulia.patterns.blackboard._drafting import Draft
from tertulia.patterns.blackboard.board import Blackboard
from tertulia.records import Message

__all__ = ["Finding", "KnowledgeSource", "Situation", "remote"]


class Situation(Struct, frozen=True):
    """What a knowledge source is run for: the hypothesis that triggered it, and a draft for what it contributes.

    All that is drafted is committed together with the end of the activation, once. Reading is on `board`; what is
    relied on to be still so in that commit is read with `draft.hypothesis`.
    """

    board: Blackboard
    hypothesis: Hypothesis
    draft: Draft


Action = Callable[[Situation], Awaitable[object] | object]
Condition = Callable[[Blackboard, Hypothesis], Awaitable[bool] | bool]


class KnowledgeSource(Struct, frozen=True, kw_only=True):
    """Something that can contribute when it sees what it knows about.

    A hypothesis in one of `sections` (in any, if there are none), posted or changed, for which `trigger` is true,
    queues an activation. When its turn comes and `precondition` is true, `action` is called; where it is false the
    activation is dropped, and a later change may queue another. `benefit` and `cost` are what it usually brings and
    takes, in any one unit. Errors of an action are logged, written down on the board, and tried again.
    """

    name: str
    action: Action
    sections: tuple[str, ...] = ()
    trigger: Callable[[Hypothesis], bool] | None = None
    precondition: Condition | None = None
    benefit: float = 1.0
    cost: float = 1.0

    def __post_init__(self) -> None:
        check_name(self.name)
        for field in ("benefit", "cost"):
            if not isfinite(getattr(self, field)) or getattr(self, field) < 0:
                raise InvalidHypothesisError(field, f"must be a number from 0, not {getattr(self, field)!r}")

    def is_triggered(self, hypothesis: Hypothesis) -> bool:
        """Tell whether a hypothesis, as it is now, queues an activation."""
        if not hypothesis.is_live or (self.sections and hypothesis.section not in self.sections):
            return False
        return self.trigger is None or bool(self.trigger(hypothesis))

    async def may_run(self, board: Blackboard, hypothesis: Hypothesis) -> bool:
        """Tell whether its precondition holds."""
        if self.precondition is None:
            return True
        holds = self.precondition(board, hypothesis)
        return bool(await holds if inspect.isawaitable(holds) else holds)

    async def run(self, situation: Situation) -> None:
        """Let it contribute."""
        outcome = self.action(situation)
        if inspect.isawaitable(outcome):
            await outcome


class Finding(Struct, frozen=True, kw_only=True):
    """A hypothesis that a remote agent answers with, to be posted."""

    section: str
    hypothesis: Any
    confidence: float = 0.5
    supports: tuple[str, ...] = ()
    contradicts: tuple[str, ...] = ()
    reason: str = ""


def remote(agent_id: str, *, timeout: float = 30.0) -> Action:
    """Return an action that asks an agent, and posts what it answers with: a list of findings, or None.

    The agent gets a message of type "contribute" with the `board`, the `source` and the `hypothesis`. It need not know
    the board, and may run in any process; when it dies, another process of it, or a later try, answers.
    """

    async def ask(situation: Situation) -> None:
        content = {
            "type": "contribute",
            "board": situation.board.name,
            "source": situation.draft.agent,
            "hypothesis": situation.hypothesis.to_dict(),
        }
        question = Message(sender=situation.draft.agent, receiver=agent_id, content=content)
        answer = await situation.board.space.broker.request_response(question, timeout=timeout)
        findings: Sequence[Finding] = convert(answer.content, list[Finding] | None) or ()
        for finding in findings:
            await situation.draft.post_hypothesis(
                finding.section,
                finding.hypothesis,
                confidence=finding.confidence,
                supports=finding.supports,
                contradicts=finding.contradicts,
                reason=finding.reason,
            )

    return ask
