"""`tertulia doctor`: examine a space."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tertulia.cli.calling import FAILED, Json, Url, call
from tertulia.cli.printing import print_json, print_table

if TYPE_CHECKING:
    from tertulia.space import Space

__all__ = ["doctor"]


def doctor(*, url: Url = None, json: Json = False) -> None:
    """Examine a space and its surroundings. Exits with 1 when there is a problem."""

    async def work(space: Space) -> int | None:
        findings = await space.doctor()
        if json:
            for finding in findings:
                print_json(finding)
        elif findings:
            print_table((finding.level, finding.subject, finding.detail) for finding in findings)
        return FAILED if any(finding.level == "problem" for finding in findings) else None

    call("doctor", url, work)
