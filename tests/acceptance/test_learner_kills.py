"""Learners killed, doubled, stopped or cut off from their database: nothing is learnt twice or left out."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import random
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
import pytest

from atlas.testing import ThrowAwayServer
from tests.bench.bench_learner import made_events
from tests.fork_server import FORKS, Finished, Running

pytestmark = pytest.mark.acceptance

EVENTS = 12_000
MANY = 36_000
"""Not all learnt before several kills, however late it is noticed how far a learner is."""
PAGE, LARGER_PAGE = 250, 500
KILLS = 6
COLUMNS = ("at", "kind", "agent", "node", "session", "payload")
LEARNT = {
    "patterns": """
        SELECT id, type, signature, statement, conditions, action, data, version FROM patterns ORDER BY id
    """,
    "evidence": """
        SELECT pattern_id, site_of(node), day, pos, neg, sum_reward, last_seen, version FROM pattern_evidence
        ORDER BY pattern_id, node, day
    """,
    "models": "SELECT name, version, state, observations FROM models ORDER BY name",
    "cursors": """
        SELECT source, position::bigint FROM learner_cursors
        WHERE source IN ('events', 'figures') ORDER BY source
    """,
}  # fmt: skip


class Backlog:
    """A database with many events that wait, and learners that meet it."""

    def __init__(self, environment: dict[str, str], url: str, events: int) -> None:
        self.url, self.events = url, events
        # Samples of this machine would be learnt from, too, and differ from run to run.
        self.environment = environment | {"DATABASE_URL": url, "PLEIADES_MONITORING__ENABLED": "false"}

    async def start(self, *options: str, page: int = PAGE) -> Running:
        words = ("learner", "--direct", "--json", "--batch-size", str(page), *options)
        return await FORKS.start(*words, environment=self.environment)

    async def learn(self, page: int = PAGE) -> Finished:
        return await finished(await self.start(page=page))

    @asynccontextmanager
    async def sql(self) -> AsyncIterator[Any]:
        connection = await asyncpg.connect(self.url)
        try:
            yield connection
        finally:
            await connection.close()

    async def fill(self) -> None:
        """Events of a fortnight until now."""
        span = timedelta(days=14)
        events = made_events(datetime.now(UTC) - span, span / self.events, self.events)
        rows = [(*rest, b"\x01" + orjson.dumps(payload)) for *rest, payload in events]
        async with self.sql() as sql:
            await sql.set_type_codec(
                "jsonb", schema="pg_catalog", format="binary", encoder=bytes, decoder=bytes
            )
            await sql.copy_records_to_table("events", records=rows, columns=COLUMNS)

    async def learnt(self) -> dict[str, list[tuple[Any, ...]]]:
        """Everything that was learnt, however often learners began."""
        async with self.sql() as sql:
            found = {name: [tuple(row) for row in await sql.fetch(query)] for name, query in LEARNT.items()}
        # Behind these are those of the learners themselves.
        found["cursors"] = [(source, min(position, self.events)) for source, position in found["cursors"]]
        return found

    async def position(self) -> int:
        """How far the events are learnt."""
        async with self.sql() as sql:
            found = await sql.fetchval("SELECT position FROM learner_cursors WHERE source = 'events'")
        return int(found or 0)

    async def moved_beyond(self, position: int, process: Running) -> int:
        """Wait until more is learnt, or the process has ended."""
        while (now := await self.position()) <= position and process.returncode is None:
            await asyncio.sleep(0.01)
        return now


async def finished(process: Running) -> Finished:
    stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return Finished(process.returncode, stdout.decode(), stderr.decode())


BacklogFactory = Callable[..., Backlog]


@pytest.fixture
def database_of(environment: dict[str, str], own_postgres: ThrowAwayServer) -> BacklogFactory:
    """Makes databases of Pleiades on a server of this test's own."""

    def make(events: int = EVENTS) -> Backlog:
        name = own_postgres.create_database(own_postgres.migrated_template())
        return Backlog(environment, own_postgres.dsn_of(name), events)

    return make


def copied(backlog: Backlog, server: ThrowAwayServer) -> Backlog:
    """The same in a database of its own, site and key included."""
    name = re.search(r"/([\w-]+)\?", backlog.url)
    assert name is not None
    return Backlog(backlog.environment, server.dsn_of(server.create_database(name[1])), backlog.events)


@pytest.mark.timeout(400)
async def test_kills_at_any_point_learn_what_an_uninterrupted_run_learns(
    database_of: BacklogFactory, own_postgres: ThrowAwayServer
) -> None:
    killed = database_of(MANY)
    await killed.fill()
    calm = copied(killed, own_postgres)

    chosen, position = random.Random(5), 0
    for _ in range(KILLS):
        learner = await killed.start(page=LARGER_PAGE)
        position = await killed.moved_beyond(position, learner)
        await asyncio.sleep(chosen.random() * 0.2)
        if learner.returncode is None:
            learner.kill()
        await learner.communicate()
        assert learner.returncode == -signal.SIGKILL, "the backlog is too short for so many kills"
        position = await killed.position()
    assert 0 < position < MANY
    assert (await killed.learn(LARGER_PAGE)).status == 0
    last = await calm.learn(LARGER_PAGE)
    assert (last.status, last.json["observations"] > MANY * 0.9) == (0, True), last.stderr

    expected, found = await calm.learnt(), await killed.learnt()
    assert len(expected["patterns"]) > 10
    assert len(expected["evidence"]) > 50
    for name, rows in expected.items():
        assert found[name] == rows, name


@pytest.mark.timeout(200)
async def test_of_two_learners_one_works_and_the_other_is_idle(database_of: BacklogFactory) -> None:
    backlog = database_of()
    await backlog.fill()
    first = await backlog.start(page=100)
    await backlog.moved_beyond(0, first)
    second = await backlog.learn()
    one = await finished(first)
    assert (one.status, second.status) == (0, 0), (one.stderr, second.stderr)
    assert (second.json["outcome"], second.json["observations"]) == ("idle", 0)
    assert second.json["detail"] == "another learner is at work"
    assert one.json["outcome"] == "done"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
async def test_a_restart_of_the_database_in_mid_page_costs_at_most_the_page(
    database_of: BacklogFactory, own_postgres: ThrowAwayServer, how: signal.Signals
) -> None:
    backlog = database_of()
    await backlog.fill()
    calm = copied(backlog, own_postgres)
    learner = await backlog.start()
    await backlog.moved_beyond(0, learner)
    await asyncio.to_thread(own_postgres.restart, how)
    ended = await finished(learner)
    assert ended.status == 69, ended.stderr
    assert "Traceback" not in ended.stderr
    assert (await backlog.learn()).status == 0
    assert (await calm.learn()).status == 0
    assert await backlog.learnt() == await calm.learnt()


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("how", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_told_to_stop_it_keeps_what_it_has_stored_and_says_how_far_it_got(
    database_of: BacklogFactory, how: signal.Signals, status: int
) -> None:
    backlog = database_of()
    await backlog.fill()
    learner = await backlog.start()
    await backlog.moved_beyond(0, learner)
    began_s = time.monotonic()
    learner.send_signal(how)
    ended = await finished(learner)
    assert ended.status == status, ended.stderr
    assert time.monotonic() - began_s < 10, "it was ended by force"
    async with backlog.sql() as sql:
        payload = await sql.fetchval("SELECT payload FROM events WHERE kind = 'learner.cycle'")
        models = await sql.fetch("SELECT observations FROM models WHERE name = 'detector.failure_modes'")
    told = json.loads(payload)
    assert told["outcome"] == "interrupted"
    assert 0 < told["observations"] == models[0]["observations"] < EVENTS
    again = await backlog.learn()
    assert again.status == 0
    assert again.json["observations"] + told["observations"] > EVENTS * 0.9


@pytest.mark.timeout(200)
async def test_a_terminal_of_80_columns_shows_how_far_it_is(database_of: BacklogFactory) -> None:
    backlog = database_of(6_000)
    await backlog.fill()
    main, child = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "maia", "learner", "--direct", "--batch-size", "300",
        env=backlog.environment | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=child,
    )  # fmt: skip
    os.close(child)
    shown = await asyncio.to_thread(_all_of, main)
    stdout, _ = await process.communicate()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    frames = [line for line in re.split(r"[\r\n]+", text) if "cycle 1: events" in line]
    percents = [int(found[1]) for line in frames if (found := re.search(r"(\d+)%", line))]
    assert process.returncode == 0
    assert b"new patterns" in stdout
    assert max(map(len, frames)) <= 80
    assert percents == sorted(percents)
    assert any(5 < percent < 95 for percent in percents), percents


def _all_of(terminal: int) -> str:
    """What is written to a terminal until its other side is closed."""
    written = b""
    try:
        while chunk := os.read(terminal, 65_536):
            written += chunk
    except OSError:
        # Linux says EIO at the end.
        pass
    os.close(terminal)
    return written.decode(errors="replace")
