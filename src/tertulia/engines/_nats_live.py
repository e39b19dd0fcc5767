"""Messages that reach processes directly: emitted ones, and letters to listeners.

A letter is handed to its listener's process, which answers that it has it. Where that process cannot be reached but is
registered as listening, the letter is stored, and fetched as soon as it is connected again. A letter that answers a
request may also lie in the request's own subject, in the very message that settled it: then settling and answering were
one write. Whoever waits for such an answer looks there from time to time, in case the answerer died between the two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from tertulia._background import Background, logger
from tertulia.engines._nats_boxes import Registry
from tertulia.engines._nats_format import (
    GONE,
    LIVE,
    Head,
    Letter,
    LetterState,
    decode_head,
    encode,
    letter_state,
    mail_state,
    read_letter,
)
from tertulia.engines._nats_mail import Mail
from tertulia.engines._nats_patience import Unanswered
from tertulia.engines._nats_store import Store
from tertulia.engines._nats_stream import Write
from tertulia.engines._nats_subscription import Subscription
from tertulia.engines.base import Claimed, Publish, Send
from tertulia.errors import SpaceClosedError, TertuliaError, UnknownAgentError

HANDING = 1.0  # seconds for a listener's process to say that it has a letter, before it is stored instead
KEEP_LETTER = 3_600  # seconds that a stored letter waits for a listener that is away
KEEP_LISTENER = 180  # seconds that a listener counts as there without a word
RENEW_LISTENER = 60.0  # seconds between its words
SEEN = 10_000  # letters remembered by a listener, so that one that comes twice is handed over once
ANSWERS = 10_000  # requests whose subjects are looked at for answers; what is beyond it relies on the direct way
FIRST_LOOK, LAST_LOOK = 1.0, 30.0  # seconds between looks for an answer: doubling from the first to the last
TICK = 0.5  # seconds between two rounds of such looks
LOOKS = 200  # subjects looked at in one request

Callback = Callable[[Claimed], None]


class Listener:
    """A mailbox whose messages go to a callback."""

    def __init__(self, mailbox: str, callback: Callback) -> None:
        self.mailbox = mailbox
        self.callback = callback
        self.subscriptions: list[Subscription] = []
        self.stopped = False
        self._seen: dict[str, None] = {}

    def take(self, letter: Letter) -> None:
        """Hand a letter over, unless it was before."""
        if self.stopped:
            return
        if not letter.transient:
            if letter.message_id in self._seen:
                return
            self._seen[letter.message_id] = None
            if len(self._seen) > SEEN:
                del self._seen[next(iter(self._seen))]
        claimed = Claimed(
            self.mailbox, letter.message_id, letter.body, letter.sequence, transient=letter.transient,
            author=letter.author,
        )  # fmt: skip
        try:
            self.callback(claimed)
        except Exception:  # noqa: BLE001 - the listener's own; whoever sent must not suffer
            logger.exception("a message for %s was not taken", self.mailbox)


class Live:
    """This handle's listeners, and its direct ways to those of others and to consumers."""

    def __init__(
        self, store: Store, registry: Registry, mail: Mail, background: Background, new_op: Callable[[], str]
    ) -> None:
        self._store = store
        self._wire = store.wire
        self._subjects = store.subjects
        self._registry = registry
        self._mail = mail
        self._background = background
        self._new_op = new_op
        self.listeners: dict[str, Listener] = {}
        self.setting_up: set[asyncio.Task[Any]] = set()
        self._answers: dict[str, tuple[float, float]] = {}
        self._ticking: asyncio.TimerHandle | None = None
        self._renewing: asyncio.TimerHandle | None = None
        self._consuming: dict[str, Subscription] = {}
        self._closed = False

    # --- listening ---

    def listen(self, mailbox: str, callback: Callback) -> Callable[[], None]:
        """Hand a mailbox's messages to a callback; return what ends it."""
        listener = self.listeners[mailbox] = Listener(mailbox, callback)
        started = self._set_up(self._start(listener))

        def stop() -> None:
            if not listener.stopped:
                listener.stopped = True
                if self.listeners.get(mailbox) is listener:
                    del self.listeners[mailbox]
                self._set_up(self._stop(listener, started))

        return stop

    def _set_up(self, work: Any) -> asyncio.Task[Any]:
        task = self._background.start(work, "tertulia nats listener")
        self.setting_up.add(task)
        task.add_done_callback(self.setting_up.discard)
        return task

    async def ready(self) -> None:
        """Wait until the server knows of this handle's listeners."""
        while self.setting_up:
            await asyncio.wait(self.setting_up)

    async def _start(self, listener: Listener) -> None:
        subjects, wire = self._subjects, self._wire

        async def on_handed(message: Any) -> None:
            letter = read_letter(message.data)
            letter.author = subjects.last(message.subject)
            listener.take(self._received(letter))
            await wire.answer(message, b"1")

        def on_stored(message: Any) -> None:
            self._on_stored(listener, subjects.unfed(message.subject), message.data)

        handed, stored = subjects.handed(listener.mailbox), subjects.fed(subjects.letters(listener.mailbox))
        listener.subscriptions.append(await self._store.subscribe(handed, on_handed))
        listener.subscriptions.append(await self._store.subscribe(stored, on_stored))
        await self._register(listener)
        if self._renewing is None:
            self._renewing = asyncio.get_running_loop().call_later(RENEW_LISTENER, self._renew)

    async def _stop(self, listener: Listener, started: asyncio.Task[Any]) -> None:
        await asyncio.wait([started])
        for subscription in listener.subscriptions:
            await subscription.stop()
        await self._say(listener, GONE, 1)

    async def _register(self, listener: Listener) -> None:
        await self._say(listener, LIVE, KEEP_LISTENER)

    async def _say(self, listener: Listener, kind: int, ttl: int) -> None:
        """Store word that a listener is there, or gone; where that cannot be, its time runs out."""
        data, headers = encode(Head(kind, self._new_op(), 0)), {"Nats-TTL": str(ttl)}
        try:
            await self._wire.call(self._subjects.listener(listener.mailbox), data, headers, timeout=HANDING)
        except (Unanswered, SpaceClosedError):
            logger.debug("the listener %s could not be announced", listener.mailbox, exc_info=True)

    def _renew(self) -> None:
        self._renewing = None
        if self.listeners and not self._closed:
            self._renewing = asyncio.get_running_loop().call_later(RENEW_LISTENER, self._renew)
            for listener in self.listeners.values():
                self._background.start(self._register(listener), "tertulia nats listener")

    def _on_stored(self, listener: Listener, subject: str, data: bytes) -> None:
        state = letter_state(listener.mailbox, data)
        if state.letter is not None:
            state.letter.author = self._subjects.author_of_letter(subject)
            listener.take(self._received(state.letter))
            self._background.start(self._remove_letter(subject), "tertulia nats letter")

    async def _remove_letter(self, subject: str) -> None:
        try:
            await self._wire.publish(subject, encode(LetterState(GONE, self._new_op(), 0)), {"Nats-TTL": "1"})
        except (Unanswered, SpaceClosedError):
            logger.debug("a letter that was handed over stays until its time is over", exc_info=True)

    def _received(self, letter: Letter) -> Letter:
        if letter.via:
            self._answers.pop(letter.via, None)
        return letter

    async def catch_up(self) -> None:
        """Fetch what was stored for this handle's listeners while it was away."""
        for listener in list(self.listeners.values()):
            await self._register(listener)
            for one in await self._store.after(0, self._subjects.letters(listener.mailbox)):
                self._on_stored(listener, one.subject, one.data)
        for subject in self._answers:
            self._answers[subject] = (0.0, FIRST_LOOK)

    # --- letters to others ---

    async def is_listened_to(self, mailbox: str) -> bool:
        """Tell whether somebody has registered as a mailbox's listener."""
        if mailbox in self.listeners:
            return True
        found = await self._store.get(self._subjects.listener(mailbox))
        return found is not None and decode_head(found.data).kind == LIVE

    async def deliver(self, letter: Letter) -> bool:
        """Get a letter to its listener, directly or by storing it; return False when nobody listens."""
        listener = self.listeners.get(letter.mailbox)
        if listener is not None:
            listener.take(self._received(letter))
            return True
        if await self._hand(letter):
            return True
        if not await self.is_listened_to(letter.mailbox):
            return False
        await self._store.write(self.letter_write(letter, self._new_op()))
        return True

    def deliver_soon(self, letters: Iterable[Letter]) -> None:
        """Get letters to their listeners in the background; they also lie in a subject that is looked at."""
        for letter in letters:
            self._background.start(self._deliver_logged(letter), "tertulia nats letter")

    async def _deliver_logged(self, letter: Letter) -> None:
        try:
            await self.deliver(letter)
        except TertuliaError:
            logger.warning("a reply to %s waits in the request's place", letter.mailbox, exc_info=True)

    def letter_write(self, letter: Letter, op: str) -> Write:
        """Return the write that stores a letter."""
        subject = self._subjects.letter(letter.mailbox, letter.author, letter.message_id)
        return Write(subject, encode(LetterState(LIVE, op, 0, letter)), op, 0, ttl=KEEP_LETTER)

    async def _hand(self, letter: Letter) -> bool:
        """Hand a letter to whoever takes it now; return whether somebody says to have it."""
        try:
            subject = self._subjects.handed(letter.mailbox, letter.author)
            answer = await self._wire.call(subject, encode(letter), timeout=HANDING)
        except Unanswered:
            return False
        return answer.data == b"1"

    # --- answers in the place of requests ---

    def expect_answer(self, subject: str) -> None:
        """Look at a request's subject from time to time, until it is settled."""
        if len(self._answers) < ANSWERS:
            self._answers[subject] = (asyncio.get_running_loop().time() + FIRST_LOOK, FIRST_LOOK)
            if self._ticking is None:
                self._ticking = asyncio.get_running_loop().call_later(TICK, self._tick)

    def _tick(self) -> None:
        self._ticking = None
        if not self._answers or self._closed:
            return
        self._ticking = asyncio.get_running_loop().call_later(TICK, self._tick)
        now = asyncio.get_running_loop().time()
        due = [subject for subject, (at, _) in self._answers.items() if at <= now][:LOOKS]
        for subject in due:
            pause = min(2 * self._answers[subject][1], LAST_LOOK)
            self._answers[subject] = (now + pause, pause)
        if due and self._wire.connected:
            self._background.start(self._look_for_answers(due), "tertulia nats answers")

    async def _look_for_answers(self, subjects: list[str]) -> None:
        try:
            found, _ = await self._store.many(subjects)
        except TertuliaError:
            logger.warning("answers could not be looked for", exc_info=True)
            return
        there = {one.subject: mail_state(one.subject, one.data) for one in found}
        for subject in subjects:
            state = there.get(subject)
            if state is not None and state.kind == LIVE:
                continue
            self._answers.pop(subject, None)
            for letter in () if state is None else state.letters:
                if (listener := self.listeners.get(letter.mailbox)) is not None:
                    letter.author = self._subjects.message_of(subject)[0]  # who settled the request
                    listener.take(letter)

    # --- emitted messages ---

    async def consume(self, mailbox: str) -> None:
        """Take emitted messages for a mailbox from now on."""
        if mailbox in self._consuming:
            return

        async def on_handed(message: Any) -> None:
            letter = read_letter(message.data)
            view = self._mail.known(mailbox)
            author = self._subjects.last(message.subject)
            claimed = Claimed(mailbox, letter.message_id, letter.body, transient=True, author=author)
            taken = view is not None and view.add_transient(claimed)
            await self._wire.answer(message, b"1" if taken else b"0")

        self._consuming[mailbox] = await self._store.subscribe(self._subjects.handed(mailbox), on_handed, queue="one")

    async def stop_consuming(self, mailbox: str) -> None:
        """Take no emitted messages for a mailbox any more."""
        subscription = self._consuming.pop(mailbox, None)
        if subscription is not None:
            await subscription.stop()

    async def emit(self, send: Send | Publish) -> int:
        """Hand a message to whoever consumes now; return how many mailboxes took it. Raises UnknownAgentError."""
        if isinstance(send, Publish):
            names = await self._registry.subscribers(send.topic, fresh=False)
            taken = await asyncio.gather(*[self._emit_to(name, send) for name in names])
            return sum(taken)
        if await self._emit_to(send.mailbox, send):
            return 1
        if not send.optional and await self._registry.find(send.mailbox) is None:
            raise UnknownAgentError(send.mailbox)
        return 0

    async def _emit_to(self, mailbox: str, send: Send | Publish) -> bool:
        letter = Letter(mailbox, send.message_id, send.body, transient=True, author=send.author)
        listener = self.listeners.get(mailbox)
        if listener is not None:
            listener.take(letter)
            return True
        view = self._mail.known(mailbox)
        if view is not None and view.claimants:
            claimed = Claimed(mailbox, send.message_id, send.body, transient=True, author=send.author)
            return view.add_transient(claimed)
        try:
            subject = self._subjects.handed(mailbox, send.author)
            answer = await self._wire.call(subject, encode(letter), timeout=HANDING)
        except Unanswered:
            return False
        return answer.data == b"1"

    async def aclose(self) -> None:
        """Listen no more, and tell the server so."""
        self._closed = True
        for timer in (self._ticking, self._renewing):
            if timer is not None:
                timer.cancel()
        await self.ready()
        for listener in self.listeners.values():
            listener.stopped = True
            await self._say(listener, GONE, 1)
        self.listeners.clear()
