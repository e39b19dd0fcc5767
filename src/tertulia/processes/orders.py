"""What a supervisor and its workers say to each other."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Assignment", "Loaded", "Made", "Refused", "Report", "Running", "Stop"]


class Assignment(Struct, frozen=True, kw_only=True):
    """What a worker is to run: agent number `place` of those that entry number `entry` of the target makes.

    `grace`: seconds that its handlers may take to finish when the supervisor is gone. `log_level`: from which level
    on it logs, unless the module sets up logging itself.
    """

    target: str
    entry: int
    place: int
    grace: float
    log_level: str


class Stop(Struct, frozen=True):
    """To a worker: take no more messages; handlers may run for `grace` more seconds. Said again, it counts anew."""

    grace: float


class Loaded(Struct, frozen=True, tag=True):
    """The target was imported, and has so many entries."""

    entries: int


class Made(Struct, frozen=True, tag=True):
    """The worker's entry makes agents of these names, each of which is to have a process."""

    agents: tuple[str, ...]


class Running(Struct, frozen=True, tag=True):
    """The agent is at work."""


class Refused(Struct, frozen=True, tag=True):
    """The target cannot be run, and there is no use in trying again. `misuse`: it is no target at all."""

    reason: str
    misuse: bool


Report = Loaded | Made | Running | Refused
