"""Spaces in one process that share nothing but the file, as those of two processes do."""

from typing import Any

import tertulia
from tertulia.engines import file


async def apart(url: str, **options: Any) -> tertulia.Space:
    """Open a space as another process would: with connections and a doorbell of its own."""
    shared = dict(file._SHARED)  # noqa: SLF001 - what another process would not see
    file._SHARED.clear()  # noqa: SLF001
    space = await tertulia.connect(url, **options)
    file._SHARED.update(shared)  # noqa: SLF001
    return space
