"""The learner's flow against a real Prefect server and a real database."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.client.orchestration import get_client

from atlas.config import Settings
from atlas.errors import ConfigError
from atlas.testing import SettingsFactory
from flows.agents import flow_of, run_here
from maia.agents import agent_named
from tests import flow_runs
from tests.flow_runs import last_run, task_runs

pytestmark = flow_runs.MARKS

AGENT = agent_named("learner")


@pytest.fixture
def settings(settings_factory: SettingsFactory) -> Settings:
    return settings_factory()


async def test_a_run_with_options_shows_its_steps(settings: Settings, sql: Any) -> None:
    statistics = await run_here(AGENT, settings, options=["force"])

    assert statistics["outcome"] == "done"
    async with get_client() as client:
        flow_run = await last_run(client)
        assert flow_run.parameters["options"] == ["force"]
        tasks = await task_runs(client, flow_run, 9)
    assert {"learn", "judge", "forecast"} <= {task.name.split(" ")[0].split("-")[0] for task in tasks}
    assert await sql.fetchval("SELECT count(*) FROM events WHERE kind = 'learner.cycle'") == 1


async def test_an_unknown_option_is_refused_before_anything_runs(settings: Settings, sql: Any) -> None:
    with pytest.raises(ConfigError, match="no option 'fast'"):
        await run_here(AGENT, settings, options=["fast"])
    assert await sql.fetchval("SELECT count(*) FROM events") == 0


def test_only_agents_with_options_take_them() -> None:
    assert "options" in flow_of(AGENT).parameters.properties
    assert "options" not in flow_of(agent_named("hunter")).parameters.properties
