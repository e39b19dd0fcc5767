"""Every error that Tertulia raises on purpose.

    TertuliaError
    ├── InvalidInputError (ValueError)      refused before anything was stored
    │   ├── InvalidKeyError                 a key outside the grammar
    │   ├── InvalidNameError                an agent, region or space name outside the grammar
    │   ├── InvalidTopicError               a topic or topic pattern outside the grammar
    │   ├── InvalidURLError                 a space URL that no engine answers to
    │   ├── InvalidTermError                a term that a ballot cannot have
    │   ├── InvalidHypothesisError          a hypothesis that cannot be on a blackboard
    │   ├── UnknownHintError                a hint that the router does not know
    │   ├── InvalidHintError                a hint's value that means nothing, or contradicts another hint
    │   ├── UnknownChoiceError              a vote for what is not on the ballot
    │   ├── InvalidTargetError              no module:attribute that can be run
    │   ├── EncodeError                     a value that cannot be stored
    │   └── ValueTooLargeError              a value above the engine's limit
    ├── DecodeError (ValueError)            stored bytes that are not what the reader asked for
    ├── ConflictError                       you lost a race; nothing was changed
    │   ├── VersionConflictError            the key moved on
    │   ├── KeyExistsError                  the key is already there
    │   ├── KeyNotFoundError (LookupError)  the key is not there (any more)
    │   ├── AlreadySettledError             another attempt of this message committed first
    │   └── LeaseLostError                  the lease ran out and somebody else may hold it
    │       └── LockLostError               the same of a lock, a permit or a leadership
    ├── AccessDeniedError (PermissionError) you may not
    │   ├── NotAMemberError                 the agent is not in the workspace
    │   └── NotAnElectorError               the agent is not in the ballot's electorate
    ├── BlackboardError
    │   ├── UnknownHypothesisError (LookupError)
    │   ├── RetractedError                  the hypothesis was retracted, so nothing builds on it
    │   └── SupersededError                 the hypothesis is at another version by now
    ├── WorkspaceError
    │   ├── UnknownWorkspaceError (LookupError) nobody has made it, or it was removed
    │   └── WorkspaceArchivedError          it can be read, but not changed any more
    │       └── WorkspaceAbandonedError     because the agent that it was made for is gone
    ├── VotingError
    │   ├── UnknownBallotError (LookupError)
    │   ├── BallotExistsError               there is a ballot of that id already
    │   ├── BallotClosedError               it takes no votes any more
    │   ├── AlreadyVotedError               and votes cannot be changed
    │   └── TooManyBallotsError             as many are open in one place as can be
    ├── MessagingError
    │   ├── UnknownAgentError (LookupError) no such mailbox
    │   ├── MailboxFullError                the mailbox's owner chose not to take more
    │   ├── RequestTimeoutError (TimeoutError)
    │   ├── RemoteError                     the other side's handler failed
    │   ├── LoopError                       the message has been handed on too often
    │   ├── StreamBrokenError               a partial reply is missing
    │   └── ContentGoneError (LookupError)  what a message points at is not there any more
    ├── CollaborationError                  somebody contributed nothing
    ├── ComputeFailedError                  whoever computed a cached value could not
    ├── ComputeTimeoutError (TimeoutError)  a cached value was not there in time
    ├── LockError
    │   ├── LockTimeoutError (TimeoutError) it was not free in time
    │   ├── AlreadyHeldError                the one who asks holds it already
    │   ├── NotHolderError                  who wants to release it does not hold it
    │   ├── LineFullError                   too many wait for it already
    │   └── DeadlockError                   it waited for what waits for it
    ├── WatchLaggedError                    the watcher fell behind; changes between are gone
    ├── EngineError                         it broke
    │   ├── EngineUnavailableError          the engine cannot be reached
    │   ├── OutcomeUnknownError             a commit may or may not have happened
    │   ├── CorruptRecordError              a stored record is damaged
    │   ├── IncompatibleFormatError         written by a newer version, or not ours
    │   └── UnsupportedError                the engine does not have the ability asked for
    ├── MissingExtraError (ImportError)     an optional package is not installed
    └── SpaceClosedError                    you closed it

What a handler raises to decide its message's fate are not errors and stand apart:

    HandlerVerdict
    ├── RetryLater                          try again after a delay; does not count as a failure
    └── Reject                              straight to the dead letters
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from tertulia.records import WaitsFor

_LOGIN = re.compile("//[^/]*@")  # in a URL


class TertuliaError(Exception):
    """Base class of everything that Tertulia raises on purpose."""


# --- Bad input: refused before anything was stored ---------------------------------------------


class InvalidInputError(TertuliaError, ValueError):
    """An argument is outside what the call accepts. Nothing was stored or sent."""


class InvalidKeyError(InvalidInputError):
    """A key outside the grammar: UTF-8, 1 to 512 bytes, no control characters."""

    def __init__(self, key: object, reason: str) -> None:
        super().__init__(f"invalid key {_short(key)}: {reason}")
        self.key = key
        self.reason = reason


class InvalidNameError(InvalidInputError):
    """An agent, region, workspace or space name outside the grammar."""

    def __init__(self, name: object, reason: str) -> None:
        super().__init__(f"invalid name {_short(name)}: {reason}")
        self.name = name
        self.reason = reason


class InvalidTopicError(InvalidInputError):
    """A topic, or a topic pattern, outside the grammar."""

    def __init__(self, topic: object, reason: str) -> None:
        super().__init__(f"invalid topic {_short(topic)}: {reason}")
        self.topic = topic
        self.reason = reason


class InvalidURLError(InvalidInputError):
    """A space URL that no engine answers to; `url` has it without the credentials that it may hold."""

    def __init__(self, url: object, reason: str) -> None:
        url = _LOGIN.sub("//…@", url) if isinstance(url, str) else url
        super().__init__(f"invalid space URL {_short(url)}: {reason}")
        self.url = url
        self.reason = reason


class InvalidTermError(InvalidInputError):
    """A term that a ballot cannot have; `term` is its name. Nothing was opened."""

    def __init__(self, term: str, value: object, reason: str) -> None:
        super().__init__(f"invalid {term} {_short(value)}: {reason}")
        self.term = term
        self.value = value
        self.reason = reason


class InvalidHypothesisError(InvalidInputError):
    """A hypothesis that cannot be on a blackboard; `field` says what of it. Nothing was posted."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"invalid {field}: {reason}")
        self.field = field
        self.reason = reason


class UnknownChoiceError(InvalidInputError):
    """A vote for what is not on the ballot, or in another form than its rule asks for. Nothing was counted."""

    def __init__(self, ballot_id: str, choice: object, reason: str) -> None:
        super().__init__(f"ballot {ballot_id!r} does not take the vote {_short(choice)}: {reason}")
        self.ballot_id = ballot_id
        self.choice = choice
        self.reason = reason


class UnknownHintError(InvalidInputError):
    """A hint that the router does not know; `known` are those that it does."""

    def __init__(self, hint: object, known: tuple[str, ...]) -> None:
        super().__init__(f"unknown hint {_short(hint)}; there are {', '.join(known)}")
        self.hint = hint
        self.known = known


class InvalidHintError(InvalidInputError):
    """A hint's value that means nothing, or contradicts another hint or the receiver."""

    def __init__(self, hint: str, value: object, reason: str) -> None:
        super().__init__(f"hint {hint!r} cannot be {_short(value)}: {reason}")
        self.hint = hint
        self.value = value
        self.reason = reason


class InvalidTargetError(InvalidInputError):
    """What is to be run is no `module:attribute`, or there is no agent at that place."""

    def __init__(self, target: object, reason: str) -> None:
        super().__init__(f"cannot run {_short(target)}: {reason}")
        self.target = target
        self.reason = reason


class EncodeError(InvalidInputError):
    """A value that cannot be stored: its type, its depth, or an integer beyond 64 bits."""


class ValueTooLargeError(InvalidInputError):
    """An encoded value above the engine's limit."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"the encoded value takes {size:,} bytes; this engine accepts {limit:,} at most")
        self.size = size
        self.limit = limit


class DecodeError(TertuliaError, ValueError):
    """Stored bytes are not what the reader asked for; the message says where (`$.path`)."""


# --- Lost races: nothing was changed ------------------------------------------------------------


class ConflictError(TertuliaError):
    """A commit's check failed, so the whole commit changed nothing."""


class VersionConflictError(ConflictError):
    """The key is at another version or revision than the caller expected.

    `actual_version` and `actual_revision` are None when the key is absent.
    """

    def __init__(
        self,
        key: str,
        *,
        expected: str,
        actual_version: int | None,
        actual_revision: int | None,
    ) -> None:
        actual = (
            "it is absent"
            if actual_version is None
            else f"it is at version {actual_version}, revision {actual_revision}"
        )
        super().__init__(f"key {_short(key)} was expected at {expected}, but {actual}")
        self.key = key
        self.expected = expected
        self.actual_version = actual_version
        self.actual_revision = actual_revision


class KeyExistsError(ConflictError):
    """The key to create is already there."""

    def __init__(self, key: str) -> None:
        super().__init__(f"key {_short(key)} already exists")
        self.key = key


class KeyNotFoundError(ConflictError, LookupError):
    """The key to change is not there: never written, deleted, or expired."""

    def __init__(self, key: str) -> None:
        super().__init__(f"key {_short(key)} does not exist")
        self.key = key


class AlreadySettledError(ConflictError):
    """Another attempt of this message has already been settled; nothing of this one was applied."""

    def __init__(self, agent_id: str, message_id: str) -> None:
        super().__init__(f"message {message_id!r} of {agent_id!r} is already settled")
        self.agent_id = agent_id
        self.message_id = message_id


class LeaseLostError(ConflictError):
    """The lease has run out or was taken over; what it protected may have another holder."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the lease on {name!r} is lost")
        self.name = name


class LockLostError(LeaseLostError):
    """A lock, permit or leadership is not held any more: nothing that relied on it was changed.

    `kind` is "lock", "semaphore" or "election"; `why` says how it was lost.
    """

    def __init__(self, kind: str, names: Iterable[str], agent_id: str, why: str) -> None:
        super().__init__(", ".join(names))
        self.args = (f"{agent_id!r} does not hold {_what(kind, names)} any more: {why}",)
        self.kind = kind
        self.names = tuple(names)
        self.agent_id = agent_id
        self.why = why


# --- You may not ---------------------------------------------------------------------------------


class AccessDeniedError(TertuliaError, PermissionError):
    """The agent has no permission for this operation."""

    def __init__(self, agent_id: str, operation: str, target: str, why: str) -> None:
        super().__init__(f"agent {agent_id!r} may not {operation} {target!r}: {why}")
        self.agent_id = agent_id
        self.operation = operation
        self.target = target
        self.why = why


class NotAMemberError(AccessDeniedError):
    """The agent is not in the workspace: it never joined, has left, or its presence ran out."""


class NotAnElectorError(AccessDeniedError):
    """The agent is not in the electorate that was pinned when the ballot was opened."""

    def __init__(self, agent_id: str, ballot_id: str) -> None:
        super().__init__(agent_id, "vote in", ballot_id, "it is not in the electorate")
        self.ballot_id = ballot_id


# --- Voting --------------------------------------------------------------------------------------


class VotingError(TertuliaError):
    """A ballot that does not take this call; nothing was changed."""

    def __init__(self, ballot_id: str, why: str) -> None:
        super().__init__(f"ballot {ballot_id!r} {why}")
        self.ballot_id = ballot_id


class UnknownBallotError(VotingError, LookupError):
    """There is no ballot of that id."""

    def __init__(self, ballot_id: str) -> None:
        super().__init__(ballot_id, "does not exist")


class BallotExistsError(VotingError):
    """There is a ballot of that id already, open or closed."""

    def __init__(self, ballot_id: str) -> None:
        super().__init__(ballot_id, "exists already")


class BallotClosedError(VotingError):
    """The ballot is closed and takes no votes any more; `outcome` says how it ended."""

    def __init__(self, ballot_id: str, outcome: str) -> None:
        super().__init__(ballot_id, f"is closed: {outcome}")
        self.outcome = outcome


class AlreadyVotedError(VotingError):
    """The voter has voted, and the terms do not let votes be changed."""

    def __init__(self, ballot_id: str, voter: str) -> None:
        super().__init__(ballot_id, f"has the vote of {voter!r}, which cannot be changed")
        self.voter = voter


class TooManyBallotsError(VotingError):
    """As many ballots are open in one place as can be."""

    def __init__(self, ballot_id: str, limit: int) -> None:
        super().__init__(ballot_id, f"cannot be opened: {limit:,} are open already")
        self.limit = limit


# --- Workspaces ----------------------------------------------------------------------------------


class BlackboardError(TertuliaError):
    """A contribution that a blackboard does not take; nothing was changed. `hypothesis_id` says about what."""

    def __init__(self, hypothesis_id: str, problem: str) -> None:
        super().__init__(f"hypothesis {_short(hypothesis_id)} {problem}")
        self.hypothesis_id = hypothesis_id


class UnknownHypothesisError(BlackboardError, LookupError):
    """There is no hypothesis of that id on the blackboard."""

    def __init__(self, hypothesis_id: str) -> None:
        super().__init__(hypothesis_id, "is not on the blackboard")


class RetractedError(BlackboardError):
    """The hypothesis was retracted, so nothing can be built on it."""

    def __init__(self, hypothesis_id: str) -> None:
        super().__init__(hypothesis_id, "was retracted")


class SupersededError(BlackboardError):
    """The hypothesis is at another version than the one that was meant."""

    def __init__(self, hypothesis_id: str, expected: int, actual: int) -> None:
        super().__init__(hypothesis_id, f"is at version {actual}, not {expected} any more")
        self.expected = expected
        self.actual = actual


class WorkspaceError(TertuliaError):
    """The workspace is not open."""

    def __init__(self, workspace_id: str, why: str) -> None:
        super().__init__(f"workspace {workspace_id!r} {why}")
        self.workspace_id = workspace_id


class UnknownWorkspaceError(WorkspaceError, LookupError):
    """Nobody has joined a workspace of that name, or it was removed."""

    def __init__(self, workspace_id: str) -> None:
        super().__init__(workspace_id, "does not exist")


class WorkspaceArchivedError(WorkspaceError):
    """The workspace was archived: it can be read, but not joined or changed any more."""

    def __init__(self, workspace_id: str, why: str = "was archived") -> None:
        super().__init__(workspace_id, why)


class WorkspaceAbandonedError(WorkspaceArchivedError):
    """The agent that owned the workspace is gone without having closed it, so nobody waits for what is done in it.

    It can be read and removed by all who were ever members, but not joined or changed any more.
    """

    def __init__(self, workspace_id: str, owner: str) -> None:
        super().__init__(workspace_id, f"was abandoned: its owner {owner!r} is gone")
        self.owner = owner


# --- Messages ------------------------------------------------------------------------------------


class MessagingError(TertuliaError):
    """A message could not be delivered or answered."""


class UnknownAgentError(MessagingError, LookupError):
    """No agent of that name is registered."""

    def __init__(self, agent_id: str) -> None:
        super().__init__(f"no agent {agent_id!r} is registered in this space")
        self.agent_id = agent_id


class MailboxFullError(MessagingError):
    """The mailbox is full and its owner chose to reject, or nobody made room in time.

    `waits` tells a sender that the owner chose to let senders wait.
    """

    def __init__(self, agent_id: str, size: int, *, waits: bool = False) -> None:
        super().__init__(f"the mailbox of {agent_id!r} is full ({size:,} messages)")
        self.agent_id = agent_id
        self.size = size
        self.waits = waits


class RequestTimeoutError(MessagingError, TimeoutError):
    """No reply came before the deadline. The request may still be handled."""

    def __init__(self, receiver: str, message_id: str, timeout: float) -> None:
        super().__init__(f"{receiver!r} did not reply to {message_id!r} within {timeout:g} s")
        self.receiver = receiver
        self.message_id = message_id
        self.timeout = timeout


class RemoteError(MessagingError):
    """The receiver's handler failed; `kind` is its exception's type, `detail` its text."""

    def __init__(self, agent_id: str, kind: str, detail: str) -> None:
        super().__init__(f"{agent_id!r} failed with {kind}: {detail}")
        self.agent_id = agent_id
        self.kind = kind
        self.detail = detail


class LoopError(MessagingError):
    """A message was handed on more often than the limit, so it went to the dead letters."""

    def __init__(self, receiver: str, path: tuple[str, ...]) -> None:
        tail = " > ".join(path[-6:])
        super().__init__(f"message to {receiver!r} stopped after {len(path)} hops (… > {tail})")
        self.receiver = receiver
        self.path = path


class StreamBrokenError(MessagingError):
    """A part of a streamed reply is missing."""

    def __init__(self, agent_id: str, expected: int, got: int) -> None:
        super().__init__(f"the stream from {agent_id!r} jumped from part {expected} to {got}")
        self.agent_id = agent_id
        self.expected = expected
        self.got = got


class ContentGoneError(MessagingError, LookupError):
    """The content that a message points at is not there any more, or is not what was sent."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"content gone: {key} ({reason})")
        self.key = key
        self.reason = reason


# --- Collaborating -------------------------------------------------------------------------------


class CollaborationError(TertuliaError):
    """Somebody contributed nothing to a collaboration; `collaboration` says who, and why."""

    def __init__(self, workspace_id: str, missing: str, collaboration: Any) -> None:
        super().__init__(f"nothing came in {workspace_id!r} from {missing}")
        self.workspace_id = workspace_id
        self.collaboration = collaboration


# --- Caching -------------------------------------------------------------------------------------


class ComputeFailedError(TertuliaError):
    """The function that computes a cached key failed, here or in another process.

    `computed_by` is the agent whose function it was, `kind` its exception's type, `detail` the text. Everybody who
    waited for it gets the same; where the function ran, `__cause__` is the exception itself.
    """

    def __init__(self, key: str, computed_by: str, kind: str, detail: str) -> None:
        super().__init__(f"computing {_short(key)} failed for {computed_by!r} with {kind}: {detail}")
        self.key = key
        self.computed_by = computed_by
        self.kind = kind
        self.detail = detail


class ComputeTimeoutError(TertuliaError, TimeoutError):
    """A cached value was neither there nor computed in time. Whoever computes it may go on for others."""

    def __init__(self, key: str, timeout: float) -> None:
        super().__init__(f"{_short(key)} was not computed within {timeout:g} s")
        self.key = key
        self.timeout = timeout


# --- Locks, semaphores, elections ----------------------------------------------------------------


class LockError(TertuliaError):
    """A lock, a permit or a leadership could not be had, or given back. `kind` is what was asked for."""

    def __init__(self, text: str, kind: str, names: Iterable[str], agent_id: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.names = tuple(names)
        self.agent_id = agent_id


class LockTimeoutError(LockError, TimeoutError):
    """It was not free in time; nothing is held, and the place in the line is given up.

    `holders`: the agents that held any of it at the end.
    """

    def __init__(
        self, kind: str, names: Iterable[str], agent_id: str, timeout: float, holders: tuple[str, ...]
    ) -> None:
        by = f"; held by {', '.join(map(repr, holders))}" if holders else ""
        super().__init__(
            f"{agent_id!r} did not get {_what(kind, names)} within {timeout:g} s{by}", kind, names, agent_id
        )
        self.timeout = timeout
        self.holders = holders


class AlreadyHeldError(LockError):
    """Whoever asks holds it already, and would wait for itself. Locks, semaphores and elections are not re-entrant."""

    def __init__(self, kind: str, names: Iterable[str], agent_id: str) -> None:
        text = f"{agent_id!r} asks for {_what(kind, names)} where that is held already: it would wait for itself"
        super().__init__(text, kind, names, agent_id)


class NotHolderError(LockError):
    """The agent does not hold what it wants to release. Nothing was changed. `holders`: the agents that do."""

    def __init__(self, kind: str, names: Iterable[str], agent_id: str, holders: tuple[str, ...]) -> None:
        who = f"{', '.join(map(repr, holders))} does" if holders else "nobody does"
        super().__init__(f"{agent_id!r} does not hold {_what(kind, names)} here; {who}", kind, names, agent_id)
        self.holders = holders


class LineFullError(LockError):
    """As many wait for it already as may. Nothing was changed."""

    def __init__(self, kind: str, names: Iterable[str], agent_id: str, limit: int) -> None:
        super().__init__(f"{limit:,} wait for {_what(kind, names)} already", kind, names, agent_id)
        self.limit = limit


class DeadlockError(LockError):
    """The wait could not end: it waited for somebody who waits for it. It was ended, so that the others can go on.

    `cycle` has each wait of the circle: the first is the one that was ended; each waits for the agent of the next,
    the last for that of the first.
    """

    def __init__(self, kind: str, names: Iterable[str], cycle: tuple[WaitsFor, ...]) -> None:
        super().__init__("deadlock: " + "; ".join(map(str, cycle)), kind, names, cycle[0].agent_id)
        self.cycle = cycle


# --- Watching ------------------------------------------------------------------------------------


class WatchLaggedError(TertuliaError):
    """Changes after `last_revision` are no longer kept, so this watch cannot go on without a gap.

    Read the current state (`entries`) and watch again from there.
    """

    def __init__(self, pattern: str, last_revision: int | None) -> None:
        super().__init__(
            f"the watch on {_short(pattern)} fell behind after revision {last_revision}; changes after it are gone"
        )
        self.pattern = pattern
        self.last_revision = last_revision


# --- The engine broke ----------------------------------------------------------------------------


class EngineError(TertuliaError):
    """The engine failed; every foreign exception of an engine's libraries is wrapped in one."""


class EngineUnavailableError(EngineError):
    """The engine cannot be reached, or did not answer in time. The call did not happen."""


class OutcomeUnknownError(EngineError):
    """Whether the commit happened could not be learned: read back before trying again."""


class CorruptRecordError(EngineError):
    """A stored record does not match its checksum."""

    def __init__(self, key: str, detail: str) -> None:
        super().__init__(f"the record of {key!r} is damaged: {detail}")  # whole: it may be a path, or all that finds it
        self.key = key
        self.detail = detail


class IncompatibleFormatError(EngineError):
    """What is stored was written by a newer version, or is not Tertulia's."""


class UnsupportedError(EngineError):
    """This engine does not have the ability asked for."""


class MissingExtraError(TertuliaError, ImportError):
    """An optional package is not installed; the message has the command that installs it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional package: pip install 'tertulia[{extra}]'")
        self.extra = extra


class SpaceClosedError(TertuliaError):
    """The space was closed by its own user."""

    def __init__(self) -> None:
        super().__init__("the space is closed")


# --- What a handler may decide -------------------------------------------------------------------


class HandlerVerdict(Exception):  # noqa: N818 - not an error: a handler's decision, raised
    """Base of what a handler raises to decide its message's fate."""


class RetryLater(HandlerVerdict):
    """Give the message back and try again after `delay` seconds, without counting a failure."""

    def __init__(self, delay: float = 1.0, reason: str = "") -> None:
        super().__init__(reason or f"retry in {delay:g} s")
        self.delay = delay


class Reject(HandlerVerdict):
    """Send the message straight to the dead letters, with this reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _what(kind: str, names: Iterable[str]) -> str:
    """Return how a text calls what is held."""
    listed = list(names)
    plural = "s" if len(listed) > 1 else ""
    return f"{kind}{plural} {', '.join(map(_short, listed))}"


def _short(value: Any) -> str:
    """Return a printable form of at most 80 characters, for messages."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}…{text[-16:]}"  # noqa: PLR2004 - as said
