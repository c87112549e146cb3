"""Every hostile value in every place: of bodies, parameters, pages and the assistants' tools."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from atlas.composition import Atlas
from tests import hostile
from tests.dashboard import store_shown
from tests.served import Served, served

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest_asyncio.fixture
async def service(atlas: Atlas, sql: Any) -> AsyncIterator[Served]:
    await store_shown(sql)
    async with served(atlas) as service:
        yield service


async def test_no_value_in_any_place_is_too_much(service: Served) -> None:
    assert await hostile.ask_with_values(service, hostile.VALUES) > 500


async def test_no_body_is_too_much(service: Served) -> None:
    await hostile.ask_with_bodies(service, hostile.BODIES)


async def test_no_parameter_is_too_much(service: Served) -> None:
    assert await hostile.ask_with_parameters(service, hostile.PARAMETERS) > 500
    await hostile.ask_pages(service, hostile.PARAMETERS)


async def test_no_argument_is_too_much_for_a_tool(service: Served) -> None:
    await hostile.ask_tools(service, hostile.VALUES)
