"""`maia system cleanup`: it shows by default, deletes with --apply, and says what it did."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from maia.commands.system_cleanup import cleanup

pytestmark = pytest.mark.integration

OLD_ALARMS = """
INSERT INTO series_alarms
SELECT 'a', now() - interval '1 day' * (100 + d), 'anomaly', 1, 1, '' FROM generate_series(1, 3) AS d
"""
COUNT = "SELECT count(*) FROM series_alarms"


@pytest.fixture
def maia(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    for name in ("DATABASE_URL", "PLEIADES_DATA_DIR", "NODE_ID", "TMPDIR"):
        if name in environment:
            monkeypatch.setenv(name, environment[name])
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return CliRunner()


def call(maia: CliRunner, *arguments: str) -> Result:
    app = typer.Typer(rich_markup_mode="markdown", add_completion=False)
    app.command()(cleanup)
    return maia.invoke(app, [*arguments])


async def in_thread(maia: CliRunner, *arguments: str) -> Result:
    return await asyncio.to_thread(call, maia, *arguments)


async def test_it_shows_and_then_deletes(maia: CliRunner, sql: Any) -> None:
    await sql.execute(OLD_ALARMS)
    shown = await in_thread(maia, "--only", "alarms of series")
    assert shown.exit_code == 0, shown.output
    assert "alarms of series" in shown.output
    assert "Nothing was changed: maia system cleanup --apply does it." in shown.output
    assert await sql.fetchval(COUNT) == 3
    done = await in_thread(maia, "--only", "alarms of series", "--apply")
    assert done.exit_code == 0, done.output
    assert "deleted 3 of 3" in done.output
    assert await sql.fetchval(COUNT) == 0
    again = await in_thread(maia, "--only", "alarms of series", "--apply")
    assert "There is nothing to do for alarms of series" in again.output


async def test_a_look_changes_nothing_even_if_the_maintainer_may(
    maia: CliRunner, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLEIADES_MAINTAINER__APPLY", "all")
    await sql.execute(OLD_ALARMS)
    shown = await in_thread(maia, "--only", "alarms of series")
    assert "Nothing was changed" in shown.output
    assert await sql.fetchval(COUNT) == 3


async def test_all_of_it_as_json(maia: CliRunner, sql: Any) -> None:
    await sql.execute(OLD_ALARMS)
    shown = await in_thread(maia, "--json")
    told = json.loads(shown.stdout)
    by_target = {action["target"]: action for action in told["actions"]}
    assert by_target["alarms of series"]["details"]["rows"] == 3
    assert by_target["alarms of series"]["state"] == "planned"
    assert by_target["video_stats_log"]["kind"] == "partitions"
    assert await sql.fetchval(COUNT) == 3


async def test_a_name_that_does_not_exist_is_explained(maia: CliRunner) -> None:
    refused = await in_thread(maia, "--only", "evnts")
    assert refused.exit_code == 2
    assert "evnts" in refused.output
    assert "quota ledger" in " ".join(refused.output.replace("│", "").split())


async def test_nothing_old_is_an_answer_too(maia: CliRunner) -> None:
    shown = await in_thread(maia, "--only", "events")
    assert shown.exit_code == 0
    assert "younger than its retention" in shown.output


def test_the_help_teaches_with_examples(maia: CliRunner) -> None:
    shown = call(maia, "--help")
    assert "maia system cleanup --apply --only emergency" in " ".join(shown.output.replace("│", " ").split())
