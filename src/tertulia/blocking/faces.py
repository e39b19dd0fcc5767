"""The blocking forms of the library's classes, under the names of what they stand for.

Each method has the parameters, the promises and the errors of the method that it is made of; only `await`, `async
with` and `async for` go.
"""

from __future__ import annotations

from typing import Any, TypeVar, overload

from tertulia import memory, regions, transaction, watching
from tertulia.blocking.proxy import (
    Entered,
    Iterated,
    Proxy,
    blocks,
    gives,
    iterates,
    runs,
    stands_for,
    takes,
)
from tertulia.messaging import broker, delivery, mailbox
from tertulia.records import MemoryChange, Message

T = TypeVar("T")


@stands_for(watching.MemoryWatch)
class MemoryWatch(Entered[watching.MemoryWatch], Iterated[watching.MemoryWatch, MemoryChange]):
    """A watch: `with memory.watch("x:*") as changes: for change in changes`. It ends when the space closes."""

    _ends_with_space = True


@stands_for(regions.RegionWatch)
class RegionWatch(Entered[regions.RegionWatch], Iterated[regions.RegionWatch, MemoryChange]):
    """A watch over a region, which ends with AccessDeniedError as soon as the agent may not read any more."""

    _ends_with_space = True


@stands_for(memory.SharedMemory)
class SharedMemory(Proxy[memory.SharedMemory]):
    """The memory of a space, as `space.memory`; see tertulia.SharedMemory.

    A function given to `modify` runs in the calling thread. Callbacks given to `subscribe` run in a worker thread, in
    order, one at a time for each subscription; `unsubscribe` does not wait for one that runs. All of them may block
    and may use the space.
    """

    write = blocks(memory.SharedMemory.write)
    create = blocks(memory.SharedMemory.create)
    update = blocks(memory.SharedMemory.update)
    compare_and_swap = blocks(memory.SharedMemory.compare_and_swap)
    modify = blocks(memory.SharedMemory.modify)
    delete = blocks(memory.SharedMemory.delete)
    read_with_metadata = blocks(memory.SharedMemory.read_with_metadata)
    list_keys = blocks(memory.SharedMemory.list_keys)
    entries = iterates(memory.SharedMemory.entries)
    watch = gives(memory.SharedMemory.watch, MemoryWatch)
    subscribe = blocks(memory.SharedMemory.subscribe)
    unsubscribe = blocks(memory.SharedMemory.unsubscribe)
    snapshot = blocks(memory.SharedMemory.snapshot)
    restore = blocks(memory.SharedMemory.restore)
    get_stats = blocks(memory.SharedMemory.get_stats)
    access_log = runs(memory.SharedMemory.access_log)

    @overload
    def read(self, key: str, *, reader: str, type: type[T]) -> T | None: ...
    @overload
    def read(self, key: str, *, reader: str, default: Any = None, type: Any = None) -> Any: ...
    def read(self, key: str, *, reader: str, default: Any = None, type: Any = None) -> Any:
        """Return a copy of the value, or `default` when the key is absent.

        With `type` the value is checked and rebuilt as that type. Raises DecodeError when it is none.
        """
        return self.portal_call("read", key, reader=reader, default=default, type=type)


@stands_for(regions.MemoryRegion)
class MemoryRegion(Proxy[regions.MemoryRegion]):
    """The keys of one region, for the agents that were granted access; see tertulia.MemoryRegion."""

    def __init__(self, name: str, memory: SharedMemory) -> None:
        session, target = memory.portal_parts()
        self.portal_bind(session, session.call(lambda _: regions.MemoryRegion(name, target)))

    @property
    def name(self) -> str:
        """The region's name."""
        return self._target.name

    grant_access = blocks(regions.MemoryRegion.grant_access)
    revoke_access = blocks(regions.MemoryRegion.revoke_access)
    permissions = blocks(regions.MemoryRegion.permissions)
    write = blocks(regions.MemoryRegion.write)
    read = blocks(regions.MemoryRegion.read)
    read_with_metadata = blocks(regions.MemoryRegion.read_with_metadata)
    update = blocks(regions.MemoryRegion.update)
    compare_and_swap = blocks(regions.MemoryRegion.compare_and_swap)
    delete = blocks(regions.MemoryRegion.delete)
    list_keys = blocks(regions.MemoryRegion.list_keys)
    watch = gives(regions.MemoryRegion.watch, RegionWatch)


@stands_for(transaction.Transaction)
class Transaction(Entered[transaction.Transaction]):
    """Writes and messages that are gathered, then committed together: `with space.transaction() as tx`.

    Leaving the block commits; leaving it by an exception, an interruption too, commits nothing.
    """

    read = blocks(transaction.Transaction.read)
    write = runs(transaction.Transaction.write)
    create = runs(transaction.Transaction.create)
    update = runs(transaction.Transaction.update)
    delete = runs(transaction.Transaction.delete)
    require = runs(transaction.Transaction.require)
    send = runs(transaction.Transaction.send)
    publish = runs(transaction.Transaction.publish)
    commit = blocks(transaction.Transaction.commit)
    cancel = runs(transaction.Transaction.cancel)
    entry = runs(transaction.Transaction.entry)

    @property
    def revision(self) -> int | None:
        """The space's revision after the commit, or None before it."""
        return self._target.revision


@stands_for(delivery.Delivery)
class Delivery(Entered[delivery.Delivery]):
    """A message in a consumer's hands, under a lease; see tertulia.Delivery.

    As a context manager it acknowledges when the block is left, and on an exception does what a handler's does.
    """

    acknowledge = blocks(delivery.Delivery.acknowledge)
    release = blocks(delivery.Delivery.release)
    reject = blocks(delivery.Delivery.reject)
    extend = blocks(delivery.Delivery.extend)
    fail = blocks(delivery.Delivery.fail)
    fail_request = blocks(delivery.Delivery.fail_request)

    def transaction(self) -> DeliveryTransaction:
        """Return a transaction that acknowledges this message with its commit: all of it once, or nothing."""
        return self.portal_call("transaction")

    @property
    def message(self) -> Message:
        """The message to handle."""
        return self._target.message

    @property
    def attempt(self) -> int:
        """1 for the first time this message is delivered."""
        return self._target.attempt

    @property
    def failures(self) -> int:
        """How many earlier attempts failed."""
        return self._target.failures

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this message, for effects outside the space."""
        return self._target.idempotency_key

    @property
    def ended(self) -> bool:
        """Whether the delivery was acknowledged, released, rejected or committed here."""
        return self._target.ended


@stands_for(delivery.DeliveryTransaction)
class DeliveryTransaction(Transaction):
    """A transaction that settles a delivery with its commit; see tertulia.DeliveryTransaction."""

    _target: delivery.DeliveryTransaction  # pyright: ignore[reportIncompatibleVariableOverride]

    reply = runs(delivery.DeliveryTransaction.reply)

    @property
    def delivery(self) -> Delivery:
        """The delivery that ends with the commit."""
        return Delivery.portal_of(self._session, self._target.delivery)

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this message, for effects outside the space."""
        return self._target.idempotency_key

    @property
    def replied(self) -> bool:
        """Whether the request was answered in this transaction."""
        return self._target.replied


@stands_for(mailbox.MessageQueue)
class MessageQueue(Proxy[mailbox.MessageQueue]):
    """One agent's mailbox, as `broker.queue(agent_id)`; see tertulia.MessageQueue."""

    enqueue = blocks(mailbox.MessageQueue.enqueue)
    dequeue = takes(mailbox.MessageQueue.dequeue, Delivery)
    acknowledge = blocks(mailbox.MessageQueue.acknowledge)
    peek = blocks(mailbox.MessageQueue.peek)
    size = blocks(mailbox.MessageQueue.size)
    get_pending_count = blocks(mailbox.MessageQueue.get_pending_count)

    @property
    def agent_id(self) -> str:
        """Whose mailbox it is."""
        return self._target.agent_id


@stands_for(broker.MessageBroker)
class MessageBroker(Proxy[broker.MessageBroker]):
    """The messages of a space, as `space.broker`; see tertulia.MessageBroker."""

    register_agent = blocks(broker.MessageBroker.register_agent)
    unregister_agent = blocks(broker.MessageBroker.unregister_agent)
    agents = blocks(broker.MessageBroker.agents)
    queue = gives(broker.MessageBroker.queue, MessageQueue)
    send = blocks(broker.MessageBroker.send)
    send_to = blocks(broker.MessageBroker.send_to)
    publish = blocks(broker.MessageBroker.publish)
    send_by_pointer = blocks(broker.MessageBroker.send_by_pointer)
    publish_by_pointer = blocks(broker.MessageBroker.publish_by_pointer)
    subscribe = blocks(broker.MessageBroker.subscribe)
    unsubscribe = blocks(broker.MessageBroker.unsubscribe)
    receive = takes(broker.MessageBroker.receive, Delivery)
    acknowledge = blocks(broker.MessageBroker.acknowledge)
    request_response = blocks(broker.MessageBroker.request_response)
    request_stream = iterates(broker.MessageBroker.request_stream)
    peek = blocks(broker.MessageBroker.peek)
    dead_letters = blocks(broker.MessageBroker.dead_letters)
    redeliver = blocks(broker.MessageBroker.redeliver)
    purge = blocks(broker.MessageBroker.purge)
    get_stats = blocks(broker.MessageBroker.get_stats)
    mailbox_stats = blocks(broker.MessageBroker.mailbox_stats)
    message_log = runs(broker.MessageBroker.message_log)
