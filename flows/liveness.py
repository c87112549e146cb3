"""Signs of life, by which Prefect's server distinguishes a working run from one whose process is gone.

A long run sets its state to Running again and again. We don't use Prefect's heartbeats: the first is sent
when a run starts, through a separate queue, and often arrives after a short run has completed. An automation
that waits for the next heartbeat would then mark that run as crashed. State changes arrive in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run
from prefect.states import Running

from atlas.config import Settings

logger = logging.getLogger(__name__)

SIGNS_PER_LIMIT = 3
"""How many signs of life a run gives in the time after which a silent run counts as crashed."""

_SIGN_TIMEOUT_S = 10.0


@asynccontextmanager
async def signs_of_life(settings: Settings) -> AsyncIterator[None]:
    """Give signs of life until the block ends; none is sent after that, so none follows the final state."""
    ending = asyncio.Event()
    every_s = settings.prefect.zombie_after_s / SIGNS_PER_LIMIT
    giving = asyncio.create_task(_give_signs(UUID(flow_run.id), every_s, ending))
    try:
        yield
    finally:
        ending.set()
        await giving


async def _give_signs(run_id: UUID, every_s: float, ending: asyncio.Event) -> None:
    while not await _set_within(ending, every_s):
        try:
            async with asyncio.timeout(_SIGN_TIMEOUT_S), get_client() as client:
                await client.set_flow_run_state(run_id, Running(message="Still working."))
        except (PrefectException, httpx.HTTPError, TimeoutError) as error:
            logger.warning(
                "could not tell Prefect that the run is alive: %s", error, extra={"action": "no_sign"}
            )


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
