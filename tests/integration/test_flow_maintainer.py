"""The maintainer's flow against a real Prefect server and a real database."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.client.orchestration import get_client

from atlas.config import Settings
from atlas.errors import ConfigError
from atlas.testing import SettingsFactory
from flows.agents import run_here
from maia.agents import agent_named
from tests import flow_runs
from tests.flow_runs import last_run, task_runs

pytestmark = flow_runs.MARKS

AGENT = agent_named("maintainer")


@pytest.fixture
def settings(settings_factory: SettingsFactory) -> Settings:
    return settings_factory()


async def test_each_duty_that_is_asked_for_is_a_task_of_the_run(settings: Settings, sql: Any) -> None:
    options = ["only=health,suggestions"]
    statistics = await run_here(AGENT, settings, options=options)

    assert (statistics["outcome"], statistics["duties"]) == ("done", {"health": 1, "suggestions": 1})
    async with get_client() as client:
        flow_run = await last_run(client)
        assert flow_run.parameters["options"] == options
        tasks = await task_runs(client, flow_run, 2)
    assert {task.name.split("-")[0].strip() for task in tasks} == {"maintain health", "maintain suggestions"}
    assert await sql.fetchval("SELECT count(*) FROM duty_runs WHERE state = 'done'") == 2


async def test_a_duty_that_does_not_exist_is_refused_before_anything_runs(
    settings: Settings, sql: Any
) -> None:
    with pytest.raises(ConfigError, match="no duty 'cleaning'"):
        await run_here(AGENT, settings, options=["only=cleaning"])
    assert await sql.fetchval("SELECT count(*) FROM duty_runs") == 0
