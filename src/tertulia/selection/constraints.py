"""What a requirement rules out, whatever the figures say."""

from __future__ import annotations

from msgspec import Struct

from tertulia.errors import InvalidInputError
from tertulia.selection.profile import Cell
from tertulia.selection.requirement import CommunicationRequirement

__all__ = ["ENGINES", "NoEngineFitsError", "RuledOut", "allowed_engines", "is_safe"]

ENGINES = ("memory", "file", "nats")
"""The engines by name, the one that takes the least to run first."""

LARGEST_VALUE = {"memory": 16 * 2**20, "file": 16 * 2**20, "nats": 1_000_000}
"""Bytes of one value. NATS servers take messages of 1 MiB unless they are told otherwise, headers included."""


class RuledOut(Struct, frozen=True):
    """An engine that cannot do what is required, and the field of the requirement that rules it out."""

    engine: str
    why: str


class NoEngineFitsError(InvalidInputError):
    """No engine can do what is required; `ruled_out` says why for each."""

    def __init__(self, ruled_out: tuple[RuledOut, ...]) -> None:
        reasons = ", ".join(f"{one.engine}: by {one.why}" for one in ruled_out)
        super().__init__(f"no engine can do all of this at once ({reasons})")
        self.ruled_out = ruled_out


def allowed_engines(requirement: CommunicationRequirement) -> tuple[tuple[str, ...], tuple[RuledOut, ...]]:
    """Return the engines that can do what is required, the simplest first, and the others. Raises NoEngineFitsError."""
    reasons = {engine: _rules_out(engine, requirement) for engine in ENGINES}
    ruled_out = tuple(RuledOut(engine, why) for engine, why in reasons.items() if why)
    allowed = tuple(engine for engine, why in reasons.items() if not why)
    if not allowed:
        raise NoEngineFitsError(ruled_out)
    return allowed, ruled_out


def _rules_out(engine: str, requirement: CommunicationRequirement) -> str:
    """Return the field of the requirement that the engine cannot meet, "" if there is none."""
    if requirement.payload > LARGEST_VALUE[engine]:
        return "payload"
    lasting = [name for name in ("power_safe", "durable", "fault_tolerant") if getattr(requirement, name)]
    if engine == "memory":
        spread = [name for name in ("machines", "processes") if getattr(requirement, name)]
        return (spread + lasting + [""])[0]
    if engine == "file":
        return "machines" if requirement.machines else ""
    # A NATS server writes to the disk at intervals, so a power cut of all machines may take the newest commits.
    return "power_safe" if requirement.power_safe and not requirement.machines else ""


def is_safe(cell: Cell, requirement: CommunicationRequirement) -> bool:
    """Tell whether what was measured is as consistent and as fault tolerant as required."""
    if requirement.strong_consistency and cell.lost_updates:
        return False
    faults = cell.faults
    return not (requirement.fault_tolerant and faults and (faults.lost or faults.repeated or faults.stuck))
