"""Exceptions as data."""

from __future__ import annotations

from tertulia.messaging.outbox import encodable

MAX_DETAIL = 4_096  # characters of an exception's text that others get, as many as a requester gets


def text_of(error: BaseException) -> str:
    """Return an exception's text, whatever it takes, as UTF-8 can hold it."""
    try:
        text = str(error)
    except Exception as worse:  # noqa: BLE001 - the text is for people; those who wait must not hang on it
        text = f"its text cannot be shown ({type(worse).__name__})"
    return encodable(text[:MAX_DETAIL])
