"""Which runs Prefect's server takes for dead, on a real server with short limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest_asyncio
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.runtime import flow_run
from prefect.states import Running

from atlas.config import PrefectSettings
from atlas.testing import IsolatedSettings
from flows import provisioning
from flows.liveness import SIGNS_PER_LIMIT, signs_of_life
from tests import flow_runs

pytestmark = flow_runs.MARKS

LIMIT_S = 10.0
"""The shortest that Prefect admits."""


@pytest_asyncio.fixture
async def limited(prefect: str) -> AsyncIterator[str]:
    """The URL of a server that takes a run for dead after a short silence."""
    await provisioning.automate(LIMIT_S)
    yield prefect
    async with get_client() as client:
        for automation in await client.read_automations_by_name(provisioning.ZOMBIES):
            await client.delete_automation(automation.id)


async def post(url: str, body: Any) -> Any:
    async with httpx.AsyncClient() as client:
        answer = await client.post(url, json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None


async def deaths(api: str) -> set[UUID]:
    """Runs for which the automation has fired."""
    fired = {"event": {"name": ["prefect.automation.triggered"]}}
    found = await post(f"{api}/events/filter", {"filter": fired, "limit": 50})
    labels = [event["payload"]["triggering_labels"] for event in found["events"]]
    return {UUID(label["prefect.resource.id"].rpartition(".")[2]) for label in labels}


async def heartbeat(api: str, run_id: UUID) -> None:
    """What a run's process sends by itself, whenever it arrives."""
    await post(
        f"{api}/events",
        [
            {
                "id": str(uuid4()),
                "occurred": datetime.now(UTC).isoformat(),
                "event": "prefect.flow-run.heartbeat",
                "resource": {"prefect.resource.id": f"prefect.flow-run.{run_id}"},
            }
        ],
    )


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.1)


async def state_of(run_id: UUID) -> str:
    async with get_client() as client:
        state = (await client.read_flow_run(run_id)).state
    assert state is not None
    return state.type.value


@flow(name="brief")
async def brief() -> UUID:
    return UUID(flow_run.id)


@flow(name="lasting")
async def lasting() -> UUID:
    run_id = UUID(flow_run.id)
    # Under limits as short as this one the settings' own would be refused.
    prefect = PrefectSettings.model_construct(zombie_after_s=LIMIT_S)
    async with signs_of_life(IsolatedSettings.model_construct(prefect=prefect)):
        await asyncio.sleep(1.5 * LIMIT_S)
    return run_id


async def silent_run() -> FlowRun:
    """A run whose process died at once."""
    async with get_client() as client:
        return await client.create_flow_run(brief, state=Running())


async def test_only_a_silent_run_is_taken_for_dead(limited: str) -> None:
    completed = [await brief() for _ in range(3)]
    for run_id in completed:
        await heartbeat(limited, run_id)
    silent = await silent_run()
    lasted = await lasting()

    async def crashed() -> bool:
        return await state_of(silent.id) == "CRASHED"

    await until(crashed)
    # As long again after its last sign, and a look of the server's.
    await asyncio.sleep(LIMIT_S + 2)
    assert await deaths(limited) == {silent.id}
    assert [await state_of(run_id) for run_id in (*completed, lasted)] == ["COMPLETED"] * 4
    async with get_client() as client:
        states = [state.type.value for state in await client.read_flow_run_states(lasted)]
    assert states.count("RUNNING") > SIGNS_PER_LIMIT
