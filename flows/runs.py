"""Names a run in Prefect's UI after what it did, and puts a summary in its final state."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run
from prefect.states import Completed

from maia.agents import AgentRecord
from maia.cycle.outcome import Outcome

logger = logging.getLogger(__name__)


async def complete(agent: AgentRecord, statistics: Mapping[str, Any]) -> State[Any]:
    """Name the run, such as "tracker · 187 samples"; return its final state, with the statistics."""
    implementation = agent.load()
    outcome = Outcome(statistics["outcome"])
    did = implementation.headline(statistics)
    await _rename(f"{agent.name} · {did if outcome is Outcome.DONE else outcome.value.replace('_', ' ')}")
    return Completed(message=implementation.summary(statistics), data=statistics)


def is_scheduled() -> bool:
    """Whether the run comes from a deployment's schedule: Prefect tags such runs."""
    return "auto-scheduled" in flow_run.tags


async def _rename(name: str) -> None:
    run_id = flow_run.id
    if run_id is None:
        return
    try:
        async with get_client() as client:
            await client.update_flow_run(UUID(run_id), name=name)
    except (PrefectException, httpx.HTTPError) as error:
        logger.warning("could not rename the run: %s", error, extra={"action": "not_renamed"})
