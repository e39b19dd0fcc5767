"""How much the long tests try, decided in one place.

TERTULIA_PROFILE is "short" (the default: what `make test` has time for) or "campaign" (`make faults`). TERTULIA_SCALE
shrinks a campaign: 0.1 tries a tenth of it, and never less than the short profile does.
"""

from __future__ import annotations

import os


def campaign() -> bool:
    """Tell whether this is the long run. The short one is the same in every run, where chance is ours to seed."""
    profile = os.environ.get("TERTULIA_PROFILE", "short")
    if profile not in ("short", "campaign"):
        message = f"TERTULIA_PROFILE is short or campaign, not {profile!r}"
        raise ValueError(message)
    return profile == "campaign"


def times(short: int, long: int) -> int:
    """Return how often to try: one number for the short run, one for the campaign."""
    if not campaign():
        return short
    return max(short, round(long * float(os.environ.get("TERTULIA_SCALE", "1"))))
