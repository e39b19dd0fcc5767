"""Who waits for whom, and which circle of waits cannot end by itself.

The graph has two kinds of places. A *wait* needs several things, each of which any of some *nodes* can give it: a lock
is given by its one holder, a permit by any of the holders, the attention of a busy agent by any of its handlers. A
node (a grant, the handling of a message) gives nothing while a wait holds it up.

What can move is found by reduction: let every wait end whose needs can be met by nodes that nothing holds up, and go
on until nothing changes. What is left is deadlocked, whether a need is met by one node or by any of several (Holt,
"Some Deadlock Properties of Computer Systems", Computing Surveys 4, 1972).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from msgspec import Struct


class Wait(Struct, frozen=True):
    """A wait. `age` grows from wait to wait. Each of `needs` is met by any of its nodes, and all must be met."""

    age: int
    needs: tuple[frozenset[str], ...]


class Step(Struct, frozen=True):
    """One step around a circle: this wait needs what this node would give."""

    wait: str
    node: str


def stuck_waits(waits: Mapping[str, Wait], held_up: Mapping[str, Collection[str]]) -> set[str]:
    """Return the waits that no order of events can end. `held_up`: by node, the waits that hold it up."""
    stuck = set(waits)
    while True:
        moving = {wait for wait in stuck if all(_is_met(need, stuck, held_up) for need in waits[wait].needs)}
        if not moving:
            return stuck
        stuck -= moving


def circle_to_break(
    start: str, waits: Mapping[str, Wait], held_up: Mapping[str, Collection[str]], stuck: Collection[str]
) -> tuple[Step, ...] | None:
    """Return a shortest circle of stuck waits that begins with this one, if it is this one that is to be ended.

    Of all stuck waits that are in circles with each other, the youngest is: so one is chosen, and the same by everyone.
    """
    if start not in stuck:
        return None
    after = {wait: list(_steps(wait, waits, held_up, stuck)) for wait in stuck}
    ahead: dict[str, set[str]] = {wait: set() for wait in stuck}
    behind: dict[str, set[str]] = {wait: set() for wait in stuck}
    for wait, steps in after.items():
        for _, other in steps:
            ahead[wait].add(other)
            behind[other].add(wait)
    around = _reachable(start, ahead) & _reachable(start, behind)
    if start not in around or any(waits[wait].age > waits[start].age for wait in around):
        return None
    return _shortest(start, after)


def _is_met(need: frozenset[str], stuck: Collection[str], held_up: Mapping[str, Collection[str]]) -> bool:
    return any(not any(wait in stuck for wait in held_up.get(node, ())) for node in need)


def _steps(
    wait: str, waits: Mapping[str, Wait], held_up: Mapping[str, Collection[str]], stuck: Collection[str]
) -> Iterator[tuple[Step, str]]:
    """Return the steps from a stuck wait to those that it waits for."""
    for need in waits[wait].needs:
        if not _is_met(need, stuck, held_up):
            for node in sorted(need):
                for other in held_up.get(node, ()):
                    if other in stuck:
                        yield Step(wait, node), other


def _reachable(start: str, edges: Mapping[str, Collection[str]]) -> set[str]:
    """Return what is reached from a wait by one step or more."""
    reached: set[str] = set()
    left = [start]
    while left:
        fresh = set(edges[left.pop()]) - reached
        reached |= fresh
        left.extend(fresh)
    return reached


def _shortest(start: str, after: Mapping[str, list[tuple[Step, str]]]) -> tuple[Step, ...]:
    """Return a shortest way from a wait back to itself, which must exist."""
    ways: dict[str, tuple[Step, ...]] = {start: ()}
    ahead = [start]
    for wait in ahead:
        for step, other in after[wait]:
            if other == start:
                return (*ways[wait], step)
            if other not in ways:
                ways[other] = (*ways[wait], step)
                ahead.append(other)
    raise AssertionError("there is a way back")
