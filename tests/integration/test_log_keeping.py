"""What processes log is kept in the database: of all of them, without secrets, and not without bound."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from atlas.adapters import log_lines
from atlas.adapters.log_lines import LogLine, LogLinesDAO
from atlas.composition import Atlas
from atlas.errors import DatabaseUnavailable
from atlas.testing import NOON, SettingsFactory
from maia import agents, log_keeping
from maia.commands.running import run_agent
from maia.cycle import sessions
from maia.log_keeping import kept_log
from maia.views.log import log

pytestmark = pytest.mark.integration

ours, theirs = logging.getLogger("maia.hunter.cycle"), logging.getLogger("somebody.else")


@pytest_asyncio.fixture
async def dao(atlas: Atlas) -> AsyncIterator[LogLinesDAO]:
    yield LogLinesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


async def test_ours_and_warnings_of_others_are_kept_with_their_run_and_without_secrets(
    atlas: Atlas, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with kept_log(atlas):
        with sessions.about("hunter", "run-1"):
            ours.info("found %d videos by https://u:hunter2@db.example and AIza%s", 3, "x" * 35)
        theirs.info("chatter")
        try:
            raise ValueError("pk_0123456789ab_" + "s" * 43)
        except ValueError:
            theirs.exception("it failed")
        # Another such block within the process keeps nothing twice.
        async with kept_log(atlas):
            ours.debug("details")
    ours.info("after the end")
    # Whoever listened before hears no more than before.
    assert caplog.messages == ["it failed"]
    failed, found = await log(atlas, "info", 10)
    assert (found.agent, found.run, found.level, found.at) == ("hunter", "run-1", "info", NOON)
    assert found.text == "found 3 videos by https://[hidden]@db.example and [hidden]"
    assert (found.node, found.logger) == (atlas.settings.node_id, "maia.hunter.cycle")
    assert (failed.level, failed.text.splitlines()[0]) == ("error", "it failed")
    assert failed.text.splitlines()[-1] == "ValueError: [hidden]"
    assert await log(atlas, "error", 10) == (failed,)


def test_a_run_without_prefect_keeps_its_log(settings_factory: SettingsFactory) -> None:
    settings = settings_factory()
    run_agent(agents.agent_named("learner"), settings, None, 1, direct=True)

    async def kept() -> Collection[str | None]:
        async with Atlas.open(settings) as opened:
            return {line.agent for line in await log(opened, "info", 10)}

    assert asyncio.run(kept()) == {"learner"}


async def test_old_lines_make_room(dao: LogLinesDAO, sql: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_lines, "MOST_LINES", 10)
    for n in range(4):
        lines = [
            LogLine(at=NOON + timedelta(seconds=n), level=20, logger="maia", text=f"{n}.{k}\0" * 900)
            for k in range(5)
        ]
        await dao.append(lines)
    assert [line.text[:3] for line in await dao.latest(100)] == [
        f"{n}.{k}" for n in (3, 2) for k in (4, 3, 2, 1, 0)
    ]
    assert await sql.fetchval("SELECT max(length(text)) FROM log_lines") == 2000


async def test_what_can_not_be_stored_waits_and_holds_nobody_up(
    atlas: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, fails = LogLinesDAO.append, [True]

    async def unreliable(dao: LogLinesDAO, lines: Any) -> None:
        if fails:
            fails.pop()
            raise DatabaseUnavailable("it is away")
        await append(dao, lines)

    monkeypatch.setattr(LogLinesDAO, "append", unreliable)
    monkeypatch.setattr(log_keeping, "MOST_WAITING", 3)
    keeper = log_keeping._Keeper(atlas)
    for n in range(5):
        keeper.handle(ours.makeRecord(ours.name, logging.INFO, "", 0, "line %d", (n,), None))
    await keeper._store()
    assert await log(atlas, "info", 10) == ()
    keeper.handle(ours.makeRecord(ours.name, logging.INFO, "", 0, "line 5", (), None))
    await keeper._store()
    assert [line.text for line in await log(atlas, "info", 10)] == ["line 5", "line 4", "line 3"]
