"""A profile: what communication costs on a machine, as `tertulia compare` measured it.

The user's own is `.tertulia/profile.json` in the current folder, written by the latest comparison there. Where there
is none, the one that comes with the package is used, and named with its date and machine.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import msgspec
from msgspec import Struct

from tertulia.compare.results import Environment
from tertulia.selection.requirement import Paradigm, UseCase

__all__ = ["OWN_PROFILE", "SCHEMA", "Cell", "Faults", "Profile", "ProfileError", "load_profile", "own_profile"]

SCHEMA = "tertulia.profile/1"
OWN_PROFILE = Path(".tertulia") / "profile.json"
MAX_PROFILE_BYTES = 16 * 2**20  # a full one has some hundred cells of a few hundred bytes


class Faults(Struct, frozen=True, kw_only=True):
    """What came of the work of a team of which one was killed half-way and replaced.

    `lost`: units of work that were accepted and never done; `repeated`: done more than once; `stuck`: agents that
    still waited when the time was over.
    """

    units: int
    lost: int
    repeated: int
    stuck: int


class Cell(Struct, frozen=True, kw_only=True):
    """One use case, built in one way, on one engine, with so many agents and bytes.

    `agents_as` is "tasks" or "processes". Latencies are in seconds, of one unit of work as its user sees it;
    `p95` and `p99` are None where there were too few samples. `throughput` is in units a second, over the team.
    `bytes_moved` and `bytes_read` are those of one unit: given to the engine, and handed to agents. `cpu` is in seconds
    of all processes for one unit. `staleness` is for how many seconds a copy was usually out of date: 0.0 where
    everybody looks at the one place. `lost_updates` counts over all `runs`. `p50_spread`: the quartiles of the single
    runs' medians. `made_at`: when it was measured.
    """

    use_case: UseCase
    paradigm: Paradigm
    engine: str
    agents_as: str
    agents: int
    payload: int
    units: int
    p50: float
    p95: float | None = None
    p99: float | None = None
    throughput: float
    bytes_moved: float = 0.0
    bytes_read: float = 0.0
    cpu: float = 0.0
    staleness: float = 0.0
    lost_updates: int = 0
    faults: Faults | None = None
    runs: int = 1
    p50_spread: tuple[float, float] | None = None
    made_at: str = ""


class Profile(Struct, frozen=True, kw_only=True):
    """All that was measured in one go; `own` unless it came with the package."""

    schema: str = SCHEMA
    made_at: str
    machine: Environment
    cells: tuple[Cell, ...]
    own: bool = True


class ProfileError(ValueError):
    """A profile cannot be used; `path` is where it is, `problem` what is wrong."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class _Schema(Struct):
    schema: str = ""


def own_profile(folder: Path | None = None) -> Profile:
    """Return the profile of the latest comparison made in a folder, else the one that comes with the package.

    Raises ProfileError for a profile that is there and cannot be used.
    """
    path = (folder or Path()) / OWN_PROFILE
    if path.is_file():
        return load_profile(path)
    shipped = files("tertulia.selection") / "profile.json"
    return msgspec.structs.replace(_decode(Path("the package's profile"), shipped.read_bytes()), own=False)


def load_profile(path: Path) -> Profile:
    """Return the profile in a file. Raises ProfileError."""
    try:
        if path.stat().st_size > MAX_PROFILE_BYTES:
            raise ProfileError(path, f"larger than {MAX_PROFILE_BYTES // 2**20} MiB")
        return _decode(path, path.read_bytes())
    except OSError as error:
        raise ProfileError(path, f"cannot be read ({error.strerror})") from error


def _decode(path: Path, text: bytes) -> Profile:
    try:
        schema = msgspec.json.decode(text, type=_Schema).schema
        if schema != SCHEMA:
            other = f"is of version {schema or 'unknown'!r}, not {SCHEMA!r}"
            raise ProfileError(path, f"{other}; move it away, and compare again")
        profile = msgspec.json.decode(text, type=Profile)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProfileError(path, f"is no profile ({error})") from error
    if not profile.cells:
        raise ProfileError(path, "holds no measurement")
    return profile
