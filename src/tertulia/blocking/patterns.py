"""The blocking forms of the patterns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tertulia.blocking.proxy import Entered, Iterated, Proxy, blocks, gives, runs, stands_for
from tertulia.blocking.space import Space
from tertulia.patterns import presence, router, voting, workspace
from tertulia.records import MemoryChange


@stands_for(workspace.WorkspaceWatch)
class WorkspaceWatch(Entered[workspace.WorkspaceWatch], Iterated[workspace.WorkspaceWatch, MemoryChange]):
    """A watch over shared data, which ends with NotAMemberError once its reader is no participant any more."""

    _ends_with_space = True


@stands_for(workspace.CollaborativeWorkspace)
class CollaborativeWorkspace(Proxy[workspace.CollaborativeWorkspace]):
    """A place where agents work on something together; see tertulia.CollaborativeWorkspace.

    Who joins through it is there until it leaves or `space` is closed: the portal renews its presence.
    """

    def __init__(
        self,
        workspace_id: str,
        space: Space,
        *,
        presence_lease: float = presence.DEFAULT_PRESENCE,
        owner: str | None = None,
    ) -> None:
        session, target = space.portal_parts()
        make = workspace.CollaborativeWorkspace
        made = session.call(lambda _: make(workspace_id, target, presence_lease=presence_lease, owner=owner))
        self.portal_bind(session, made)

    @property
    def workspace_id(self) -> str:
        """The workspace's name."""
        return self._target.workspace_id

    @property
    def topic(self) -> str:
        """Where what was decided is published."""
        return self._target.topic

    join = blocks(workspace.CollaborativeWorkspace.join)
    leave = blocks(workspace.CollaborativeWorkspace.leave)
    participants = blocks(workspace.CollaborativeWorkspace.participants)
    set_shared_data = blocks(workspace.CollaborativeWorkspace.set_shared_data)
    get_shared_data = blocks(workspace.CollaborativeWorkspace.get_shared_data)
    get_shared_entry = blocks(workspace.CollaborativeWorkspace.get_shared_entry)
    list_shared_data = blocks(workspace.CollaborativeWorkspace.list_shared_data)
    delete_shared_data = blocks(workspace.CollaborativeWorkspace.delete_shared_data)
    watch = gives(workspace.CollaborativeWorkspace.watch, WorkspaceWatch)
    broadcast = blocks(workspace.CollaborativeWorkspace.broadcast)
    propose_change = blocks(workspace.CollaborativeWorkspace.propose_change)
    open_ballot = blocks(workspace.CollaborativeWorkspace.open_ballot)
    vote = blocks(workspace.CollaborativeWorkspace.vote)
    request_votes = blocks(workspace.CollaborativeWorkspace.request_votes)
    proposal = blocks(workspace.CollaborativeWorkspace.proposal)
    proposals = blocks(workspace.CollaborativeWorkspace.proposals)
    history = blocks(workspace.CollaborativeWorkspace.history)
    result = blocks(workspace.CollaborativeWorkspace.result)
    wait = blocks(workspace.CollaborativeWorkspace.wait)
    archive = blocks(workspace.CollaborativeWorkspace.archive)
    remove = blocks(workspace.CollaborativeWorkspace.remove)


@stands_for(voting.Ballots)
class Ballots(Proxy[voting.Ballots]):
    """The ballots at one place of a space; see tertulia.Ballots."""

    def __init__(
        self,
        space: Space,
        prefix: str,
        *,
        data: str = "",
        topic: str | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        session, target = space.portal_parts()
        make = voting.Ballots
        self.portal_bind(session, session.call(lambda _: make(target, prefix, data=data, topic=topic, about=about)))

    open = blocks(voting.Ballots.open)
    vote = blocks(voting.Ballots.vote)
    get = blocks(voting.Ballots.get)
    result = blocks(voting.Ballots.result)
    wait = blocks(voting.Ballots.wait)
    proposals = blocks(voting.Ballots.proposals)
    history = blocks(voting.Ballots.history)
    close_due = blocks(voting.Ballots.close_due)


@stands_for(router.IntelligentRouter)
class IntelligentRouter(Proxy[router.IntelligentRouter]):
    """Routes contents between agents by the cheapest channel; see tertulia.IntelligentRouter."""

    def __init__(self, space: Space, *, price_per_byte: float = router.PRICE_PER_BYTE) -> None:
        session, target = space.portal_parts()
        make = router.IntelligentRouter
        self.portal_bind(session, session.call(lambda _: make(target, price_per_byte=price_per_byte)))

    route = blocks(router.IntelligentRouter.route)
    decide = blocks(router.IntelligentRouter.decide)
    available = blocks(router.IntelligentRouter.available)
    read = blocks(router.IntelligentRouter.read)
    explain = runs(router.IntelligentRouter.explain)
    report = blocks(router.IntelligentRouter.report)
    save = blocks(router.IntelligentRouter.save)
