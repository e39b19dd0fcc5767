"""This handle's views of mailboxes: kept up to date by the feed and by looking, and waited at."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from tertulia._background import Background, logger
from tertulia._clock import Alarm, Clock, TimerHandle
from tertulia.engines._nats_boxes import Registry
from tertulia.engines._nats_format import LIVE, MailState, mail_state
from tertulia.engines._nats_mailbox import Item, View, wake_one
from tertulia.engines._nats_store import Store
from tertulia.engines._nats_stream import Found
from tertulia.engines._nats_subjects import Subjects
from tertulia.engines._nats_subscription import Subscription
from tertulia.engines._nats_time import SharedTime
from tertulia.errors import SpaceClosedError, TertuliaError

BACKSTOP = 5.0  # seconds of real time after which a claim that waits looks itself: how late lost news can be
OPENINGS = 3  # times that a view is read when the connection is lost meanwhile; then a claim makes do with what it saw
IDLE = 60.0  # seconds after which a view that nobody uses is given up


def records_of(subjects: Subjects, found: Iterable[Found]) -> list[tuple[str, int, MailState]]:
    """Return what was found of one mailbox: what each is of, its sequence and its state."""
    named = [(subjects.message_of(one.subject)[1], one) for one in found]
    return [(message_id, one.seq, mail_state(message_id, one.data)) for message_id, one in named]


class Views:
    """The views of one handle, and who waits for what happens in them."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        clock: Clock,
        time: SharedTime,
        background: Background,
    ) -> None:
        self._store = store
        self._subjects = store.subjects
        self._registry = registry
        self._clock = clock
        self.time = time
        self._background = background
        self._views: dict[str, View] = {}
        self._feeds: dict[str, list[Subscription]] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._alarm = Alarm(clock, self._on_due)
        self._backstop: asyncio.TimerHandle | None = None
        self.closed = False
        self.on_revived: Callable[[View], None] = lambda _: None
        registry.on_change = self._on_box

    # --- knowing ---

    def view(self, mailbox: str) -> View:
        """Return what this handle knows of a mailbox."""
        view = self._views.get(mailbox)
        if view is None:
            view = self._views[mailbox] = View(mailbox, whole_feed=self._store.single)
        view.used = asyncio.get_running_loop().time()
        return view

    def known(self, mailbox: str) -> View | None:
        """Return a view that is there already."""
        return self._views.get(mailbox)

    def all_views(self) -> list[View]:
        """Return all views that there are."""
        return list(self._views.values())

    async def live(self, mailbox: str) -> View:
        """Return a view that the feed keeps up to date, from now on."""
        view = self.view(mailbox)
        if view.live:
            return view
        async with self._opening.setdefault(mailbox, asyncio.Lock()):
            for _ in range(OPENINGS):
                if view.live:
                    break
                await self._go_live(view)
        return view

    async def _go_live(self, view: View) -> None:
        subscriptions = self._feeds.setdefault(view.mailbox, [])
        if not subscriptions:
            fed = self._subjects.fed(self._subjects.messages(view.mailbox))
            subscriptions.append(await self._store.subscribe(fed, lambda message: self._on_fed(view, message)))
        epoch = self._store.wire.epoch
        last = await self._store.last_sequence()  # once a leader answers, it also knows of the subscription
        view.forget_all(last)
        box = self._registry.known(view.mailbox)
        view.floor = 0 if box is None else box.created
        view.opening = True
        try:
            await self.look(view)
            view.live = view.opening and epoch == self._store.wire.epoch
        finally:
            view.opening = False

    def _on_fed(self, view: View, message: Any) -> None:
        seq = int(message.headers["Nats-Sequence"])
        self._store.reached = max(self._store.reached, seq)
        _, message_id = self._subjects.message_of(self._subjects.unfed(message.subject))
        view.learn(message_id, seq, mail_state(message_id, message.data))
        if view.claimants:
            self._wait_for_due(view)

    async def look(self, view: View) -> None:
        """Bring a view up to date with the server."""
        found = await self._store.after(view.last, self._subjects.messages(view.mailbox))
        for message_id, seq, mail in records_of(self._subjects, found):
            view.learn(message_id, seq, mail)
            if mail.kind == LIVE and view.is_gone(message_id, seq):
                view.revive(message_id, seq, mail)
            view.last = max(view.last, seq)
        if view.revived:
            self.on_revived(view)
        view.looked = asyncio.get_running_loop().time()
        view.sent = 0

    def expire(self) -> None:
        """Something may have been missed: views are read anew, and whoever waits with them looks at once."""
        for view in self._views.values():
            view.live = view.opening = False
            view.looked = 0.0
            view.wake_everybody()

    def _on_box(self, mailbox: str) -> None:
        """A mailbox was made, changed or closed: whoever waits there looks again."""
        view = self._views.get(mailbox)
        if view is not None:
            view.wake_everybody()

    async def drop_idle(self) -> list[str]:
        """Give up views that have not been used for a while; return which."""
        now = asyncio.get_running_loop().time()
        dropped: list[str] = []
        for mailbox, view in list(self._views.items()):
            if view.idle and view.used < now - IDLE:
                del self._views[mailbox]
                dropped.append(mailbox)
                self._opening.pop(mailbox, None)
                for subscription in self._feeds.pop(mailbox, ()):
                    await subscription.stop()
        return dropped

    def item(self, mailbox: str, key: str) -> Item | None:
        """Return a message that is known to be there."""
        view = self._views.get(mailbox)
        return None if view is None else view.items.get(key)

    # --- waiting ---

    async def _wait_in(self, view: View, queue: deque[asyncio.Future[bool]], deadline: float | None) -> bool:
        """Wait in a queue to be woken; return False at the deadline.

        Raises SpaceClosedError when this handle closes. Whoever is woken and does not look must wake the next.
        """
        if self.closed:
            raise SpaceClosedError
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        queue.append(waiter)
        timer = None if deadline is None else self._time_out_at(deadline, waiter)
        self._wait_for_due(view)
        self._start_backstop()
        try:
            woken = await waiter
        finally:
            if timer is not None:
                timer.cancel()
            if waiter in queue:
                queue.remove(waiter)
        if self.closed:
            wake_one(queue)
            raise SpaceClosedError
        return woken

    def _time_out_at(self, deadline: float, waiter: asyncio.Future[bool]) -> TimerHandle:
        left = max(0.0, deadline - self._clock.monotonic())
        return self._clock.call_later(left, lambda: waiter.done() or waiter.set_result(False))

    def _wait_for_due(self, view: View) -> None:
        """See to it that the end of the next lease or delay is not missed."""
        due = view.next_due()
        if due is not None:
            self._alarm.ring_at(self.time.in_process(due))

    def _on_due(self) -> None:
        """Wake who waits for a mailbox in which something can be claimed."""
        now = self.time.now()
        for view in self._views.values():
            if view.claimants:
                if (due := view.next_due()) is not None and due <= now:
                    wake_one(view.claimants)
                else:
                    self._wait_for_due(view)

    def _start_backstop(self) -> None:
        if self._backstop is None and not self.closed:
            self._backstop = asyncio.get_running_loop().call_later(BACKSTOP, self._on_backstop)

    def _on_backstop(self) -> None:
        self._backstop = None
        waiting = [view for view in self._views.values() if view.claimants or view.senders]
        if waiting:
            self._start_backstop()
            self._background.start(self._look_all(waiting), "tertulia nats backstop")

    async def _look_all(self, views: list[View]) -> None:
        try:
            for view in views:
                await self.look(view)
                if view.has_claimable(self.time.now(), ordered=False):
                    wake_one(view.claimants)
        except TertuliaError:
            logger.warning("mailboxes could not be looked at", exc_info=True)

    def close(self) -> None:
        """Let everybody who waits know the end."""
        self.closed = True
        self._alarm.cancel()
        if self._backstop is not None:
            self._backstop.cancel()
        for view in self._views.values():
            view.wake_everybody()
