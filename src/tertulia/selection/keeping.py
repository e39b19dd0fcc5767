"""Keeps the user's profile: the latest figures of every point, put in place in one step or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from tertulia.compare.results import Environment
from tertulia.selection.profile import Cell, Profile, load_profile
from tertulia.selection.requirement import UseCase

__all__ = ["existing", "keep", "merged", "missing"]


def existing(path: Path) -> Profile | None:
    """Return the profile that is there, if one is. Raises ProfileError for what is there and cannot be used."""
    return load_profile(path) if path.exists() else None


def merged(old: Profile | None, new: Profile) -> Profile:
    """Return the new figures, with the old ones of points that are not among them, if they tell of the same.

    That is the same machine and the same version of everything; otherwise the old ones are of no use. The load is the
    higher one of the two.
    """
    if old is None or not _is_alike(old.machine, new.machine):
        return new
    cells = {_point(cell): cell for cell in (*old.cells, *new.cells)}
    if len(cells) > len(new.cells):  # something of the old is left, and was measured while the machine was as busy
        new = replace(new, machine=replace(new.machine, load=_busier(old.machine.load, new.machine.load)))
    return replace(new, cells=tuple(cells.values()))


def missing(profile: Profile) -> list[UseCase]:
    """Return the use cases of which a profile says nothing: with any, it would be no answer to whoever asks."""
    measured = {cell.use_case for cell in profile.cells}
    return [use_case for use_case in UseCase if use_case not in measured]


def keep(path: Path, profile: Profile) -> None:
    """Write a profile; another process sees the old one or the new one, never a part. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.", delete=False) as file:
        try:
            file.write(_lines(profile))
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)  # noqa: PTH101 - what is measured is no secret; the file was made private
            os.replace(file.name, path)  # noqa: PTH105 - the same
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _lines(profile: Profile) -> bytes:
    """Return JSON with a line for each cell, so that a change of one is seen as such."""
    head = msgspec.json.encode(replace(profile, cells=()))
    cells = b",\n".join(_rounded(profile.cells))
    before, _, after = head.partition(b'"cells":[]')
    return before + b'"cells":[\n' + cells + b"\n]" + after + b"\n"


def _rounded(cells: Iterable[Cell]) -> Iterable[bytes]:
    """Yield the cells with figures of four digits: no measurement has more that mean anything."""
    for cell in cells:
        fields = {name: _digits(value) for name, value in msgspec.structs.asdict(cell).items()}
        yield msgspec.json.encode(Cell(**fields))


def _digits(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, tuple):
        low, high = cast("tuple[float, float]", value)
        return _digits(low), _digits(high)
    return value


def _point(cell: Cell) -> tuple[object, ...]:
    return (cell.use_case, cell.paradigm, cell.engine, cell.agents_as, cell.agents, cell.payload)


def _busier(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else max(one, other)


def _is_alike(one: Environment, other: Environment) -> bool:
    return replace(one, load=None) == replace(other, load=None)
