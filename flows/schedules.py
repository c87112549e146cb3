"""Keeps schedules paused that an operator has paused, when their deployments are written again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.responses import DeploymentResponse

_PAGE = 200


@asynccontextmanager
async def pauses_kept() -> AsyncIterator[None]:
    """Restore paused schedules and deployments at the end of a block that writes deployments again."""
    async with get_client() as client:
        before = await _deployments(client)
        yield
        for now in (await _deployments(client)).values():
            if then := before.get(now.id):
                await _pause_as(client, then, now)


async def _deployments(client: PrefectClient) -> dict[UUID, DeploymentResponse]:
    found: dict[UUID, DeploymentResponse] = {}
    while page := await client.read_deployments(limit=_PAGE, offset=len(found)):
        found |= {deployment.id: deployment for deployment in page}
    return found


async def _pause_as(client: PrefectClient, then: DeploymentResponse, now: DeploymentResponse) -> None:
    if then.paused and not now.paused:
        await client.pause_deployment(now.id)
    if then.schedules and not any(schedule.active for schedule in then.schedules):
        for schedule in now.schedules:
            if schedule.active:
                await client.update_deployment_schedule(now.id, schedule.id, active=False)
