"""What the tests of the NATS engine share: a fresh space on the server that all tests of this process share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.nats.server import fresh_space, remove_space, shared_server


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """The URL of a fresh space on one server, removed afterwards."""
    url = f"{shared_server().url}/{fresh_space()}"
    yield url
    await remove_space(url)
