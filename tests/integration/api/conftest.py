"""What the tests of the HTTP service share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from atlas.composition import Atlas
from tests.served import Served, served


@pytest_asyncio.fixture
async def service(atlas: Atlas) -> AsyncIterator[Served]:
    """The service, over this test's database."""
    async with served(atlas) as service:
        yield service
