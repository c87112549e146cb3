"""The agent of docs/add-an-agent.md: command, flow and status know it by its record."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client

from atlas.config import Settings
from atlas.testing import SettingsFactory
from flows.agents import flow_of, run_here
from maia import agents
from maia.agents import AgentRecord
from maia.cycle.agent import run_directly
from tests import flow_runs

PAGE = Path(__file__).resolve().parents[2] / "docs" / "add-an-agent.md"
pytestmark = [
    *flow_runs.MARKS,
    pytest.mark.skipif(not PAGE.exists(), reason="docs/ is not part of what is installed"),
]

COMMAND = """
import sys
sys.path.insert(0, {folder!r})
from maia import agents
from maia.agents import AgentRecord
agents.AGENTS += ({record},)
from maia.cli import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the page's module as `census.cycle`."""
    module = blocks()[0]
    made = tmp_path_factory.mktemp("agents")
    (made / "census").mkdir()
    (made / "census" / "__init__.py").write_text('"""The census."""\n')
    (made / "census" / "cycle.py").write_text(module)
    return made


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def record_text() -> str:
    return blocks()[1].replace("maia.census.cycle", "census.cycle").strip()


@pytest.fixture
def census(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AgentRecord:
    monkeypatch.syspath_prepend(folder)
    record: AgentRecord = eval(record_text(), {"AgentRecord": AgentRecord})
    monkeypatch.setattr(agents, "AGENTS", (*agents.AGENTS, record))
    return record


@pytest.fixture
def settings(settings_factory: SettingsFactory) -> Settings:
    """Settings without any key."""
    return settings_factory()


def maia(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    code = COMMAND.format(folder=str(folder), record=record_text())
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


async def store_a_video(sql: Any) -> None:
    channel = "UC0123456789012345678901"
    await sql.execute(
        "INSERT INTO channels (id, title, discovered_at, refreshed_at) VALUES ($1, 'A', now(), now())",
        channel,
    )
    await sql.execute(
        "INSERT INTO videos (id, channel_id, title, discovered_at, refreshed_at) "
        "VALUES ('aaaaaaaaaaa', $1, 'One', now(), now())",
        channel,
    )


async def test_it_runs_directly_without_ring_or_client(
    census: AgentRecord, settings: Settings, sql: Any
) -> None:
    idle = await run_directly(census.load(), settings)
    await store_a_video(sql)
    done = await run_directly(census.load(), settings)
    assert (idle["outcome"], idle["detail"]) == ("idle", "no video is stored yet")
    assert (done["outcome"], done["videos"], done["units"]) == ("done", 1, {})
    kinds = await sql.fetch("SELECT kind, agent FROM events")
    assert {tuple(row) for row in kinds} == {("census.cycle", "census")}


async def test_its_flow_shows_its_step_as_a_task(
    prefect: str, census: AgentRecord, settings: Settings, sql: Any
) -> None:
    await store_a_video(sql)
    statistics = await run_here(census, settings)
    assert statistics["videos"] == 1
    async with get_client() as client:
        run = await flow_runs.last_run(client)
        flow = await client.read_flow(run.flow_id)
    assert (flow.name, run.state_name) == ("census", "Completed")
    assert (flow_of(census).description or "").splitlines()[0] == census.about


async def test_its_command_and_status_come_by_themselves(
    folder: Path, environment: dict[str, str], sql: Any
) -> None:
    await store_a_video(sql)
    help_ = maia(folder, environment, "--help")
    assert "Count the videos that are stored." in help_.stdout
    told = maia(folder, environment, "census", "--direct", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["videos"] == 1
    status = maia(folder, environment, "status", "--json")
    assert status.returncode == 0, status.stderr
    [cycle] = json.loads(status.stdout)["cycles"]["census"]
    assert (cycle["outcome"], cycle["videos"]) == ("done", 1)
