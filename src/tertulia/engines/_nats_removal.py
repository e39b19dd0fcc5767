"""Removing a space from a server, with everything in it."""

from __future__ import annotations

from tertulia._clock import SYSTEM_CLOCK
from tertulia.engines._nats_patience import Unanswered
from tertulia.engines._nats_subjects import Subjects
from tertulia.engines._nats_url import settings_of
from tertulia.engines._nats_wire import Wire
from tertulia.errors import EngineUnavailableError

__all__ = ["remove_space"]


async def remove_space(url: str) -> None:
    """Remove a space; one that is not there is as good as removed. Whoever still uses it finds nothing any more.

    Raises EngineUnavailableError when the server does not answer, AccessDeniedError when it lets us not in.
    """
    settings = settings_of(url, {})
    subjects = Subjects(settings.space)
    wire = Wire(settings, SYSTEM_CLOCK)
    await wire.open()
    try:
        for stream in (subjects.stream, subjects.history_stream):
            await wire.call(f"$JS.API.STREAM.DELETE.{stream}", b"", timeout=settings.timeout)
    except Unanswered as error:
        raise EngineUnavailableError(f"the space was not removed: {error.why}") from error
    finally:
        await wire.aclose()
