"""Samples of hosts and counts of use in a real database: gapless reading, thinning, retention, command."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from rich.cells import cell_len

from atlas import config
from atlas.adapters import telemetry
from atlas.adapters.telemetry import (
    Forgotten,
    HostSample,
    ProcessLoad,
    SampleCursor,
    TelemetryDAO,
    Usage,
)
from atlas.clock import FixedClock, SystemClock
from atlas.composition import Atlas
from atlas.db import Database
from atlas.errors import ConfigError, DatabaseUnavailable, DataRefused
from atlas.testing import NOON, SettingsFactory
from atlas.usage import command
from maia.commands.up import _Stack
from maia.maintenance.monitor import keep_sampling, monitored_cycle

pytestmark = pytest.mark.integration

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


@pytest.fixture
def dao(database: Database, clock: FixedClock, settings_factory: SettingsFactory) -> TelemetryDAO:
    return TelemetryDAO(database, clock=clock, settings=settings_factory())


def sample(minutes: float = 0, node: str = "here", **figures: Any) -> HostSample:
    return HostSample(at=NOON + minutes * MINUTE, node=node, **figures)


def used(name: str, count: int = 1, errors: int = 0, seconds: float = 1.0, days: int = 0) -> Usage:
    return Usage(
        kind="call", name=name, count=count, errors=errors, seconds=seconds, last_at=NOON + days * DAY
    )


async def read_all(dao: TelemetryDAO, count: int, limit: int = 1000) -> list[HostSample]:
    """The first samples in the order of the cursor; others on the server may delay them."""
    found: list[HostSample] = []
    cursor = SampleCursor()
    while len(found) < count:
        page = await dao.since(cursor, limit)
        assert len(page.samples) <= limit
        found += page.samples
        cursor = page.cursor
    return found


class TestSamples:
    async def test_are_read_as_they_were_stored(self, dao: TelemetryDAO) -> None:
        whole = sample(
            cpus=2.0, cpu_percent=12.5, load_1=0.5, load_5=0.25, load_15=0.125, memory_limit_bytes=2**34,
            memory_used_bytes=2**33, memory_percent=50.0, swap_used_bytes=0, swap_percent=0.0,
            disk_free_bytes=2**40, disk_percent=75.0, received_bytes_per_s=1.5, sent_bytes_per_s=2.5,
            received_packets_per_s=3.0, sent_packets_per_s=4.0, disk_read_bytes_per_s=5.0,
            disk_written_bytes_per_s=6.0, temperature_c=55.5, battery_percent=80.0, on_battery=True,
            own_rss_bytes=2**27, processes=(ProcessLoad(name="a\tb ☃", cpu_percent=3.5, rss_bytes=7),),
        )  # fmt: skip
        assert await dao.store([whole, sample(1, "bare")]) == 2
        assert await dao.store([]) == 0
        assert await read_all(dao, 2) == [whole, sample(1, "bare")]

    async def test_what_is_not_finite_is_left_out_and_what_is_no_amount_refused(
        self, dao: TelemetryDAO, sql: Any
    ) -> None:
        await dao.store([sample(cpu_percent=float("nan"), load_1=float("inf"))])
        assert await read_all(dao, 1) == [sample()]
        with pytest.raises(DataRefused):
            await dao.store([sample(own_rss_bytes=-1)])
        with pytest.raises(asyncpg.CheckViolationError):
            await sql.execute("INSERT INTO system_metrics (at, node, load_1) VALUES (now(), 'x', 'NaN')")

    async def test_the_last_of_each_node_is_told(self, dao: TelemetryDAO) -> None:
        await dao.store([sample(n, node, load_1=float(n)) for n in range(5) for node in ("a", "b")])
        await dao.store([sample(-600, "long gone"), sample(9, "c")])
        since = NOON - MINUTE
        assert [(each.node, each.load_1) for each in await dao.latest(since)] == [
            ("c", None),
            ("a", 4.0),
            ("b", 4.0),
        ]
        assert [each.node for each in await dao.latest(since, node="b")] == ["b"]
        assert [each.node for each in await dao.latest(since, limit=1)] == ["c"]
        assert await dao.latest(since, node="nobody\0") == []


class TestSeries:
    async def test_is_thinned_to_the_means_of_equal_spans(self, dao: TelemetryDAO) -> None:
        await dao.store([sample(n, cpu_percent=float(n)) for n in range(60)])
        series = await dao.series(["here", "other"], NOON, NOON + 60 * MINUTE, 4)
        points = series["here"]
        assert [(p.place, p.samples, p.figures["cpu_percent"]) for p in points] == [
            (0, 15, 7.0),
            (1, 15, 22.0),
            (2, 15, 37.0),
            (3, 15, 52.0),
        ]
        assert points[1].at == NOON + 15 * MINUTE
        assert points[0].figures["load_1"] is None
        assert series["other"] == []

    @pytest.mark.parametrize("points", [1, 7, 24, 1000])
    async def test_has_no_more_points_than_asked_for_and_every_sample(
        self, dao: TelemetryDAO, points: int
    ) -> None:
        await dao.store([sample(n) for n in range(101)])
        found = (await dao.series(["here"], NOON, NOON + 100 * MINUTE, points))["here"]
        assert len(found) <= points
        assert sum(point.samples for point in found) == 101
        places = [point.place for point in found]
        assert places == sorted(set(places))
        assert set(places) <= set(range(points))

    async def test_needs_a_span_and_a_point(self, dao: TelemetryDAO) -> None:
        for until, points in ((NOON, 5), (NOON + MINUTE, 0)):
            with pytest.raises(ConfigError, match="at least one point"):
                await dao.series(["here"], NOON, until, points)


class TestCursor:
    async def test_an_earlier_transaction_that_is_open_is_not_skipped(
        self, dao: TelemetryDAO, database: Database
    ) -> None:
        async with dao.transaction() as slow:
            await slow.store([sample(0, "slow")])
            await dao.store([sample(1, "fast")])
            assert {each.node for each in await dao.latest(NOON - DAY)} == {"fast"}
            page = await dao.since(SampleCursor())
            assert page.samples == ()
        nodes = [each.node for each in await read_all(dao, 2)]
        assert nodes == ["slow", "fast"]

    async def test_concurrent_writers_lose_nothing_to_a_reader_of_small_pages(
        self, dao: TelemetryDAO, settings_factory: SettingsFactory
    ) -> None:
        written = 60

        async def write(number: int) -> None:
            async with dao.transaction() as transaction:
                await transaction.store([sample(number, f"n{number}")])
                await asyncio.sleep(0.001 * (number * 7 % 11))
                await transaction.store([sample(number + 0.5, f"n{number}")])

        # With connections of its own, or else it would wait for the writers.
        async with Database.open(settings_factory()) as other:
            reader = TelemetryDAO(other, clock=FixedClock(NOON), settings=settings_factory())
            reading = asyncio.create_task(read_all(reader, 2 * written, limit=7))
            await asyncio.gather(*(write(number) for number in range(written)))
            found = await reading
        expected = {(f"n{n}", NOON + (n + half) * MINUTE) for n in range(written) for half in (0, 0.5)}
        assert len(found) == len(expected)
        assert {(each.node, each.at) for each in found} == expected

    async def test_the_horizon_is_before_whatever_comes_later(self, dao: TelemetryDAO) -> None:
        await dao.store([sample(0)])
        await read_all(dao, 1)
        cursor = await dao.horizon()
        await dao.store([sample(1)])
        while not (page := await dao.since(cursor)).samples:
            pass
        assert page.samples == (sample(1),)

    async def test_what_was_restored_from_another_server_is_read_on(
        self, dao: TelemetryDAO, sql: Any
    ) -> None:
        await dao.store([sample(n) for n in range(4)])
        ahead = await sql.fetchval("SELECT (pg_current_xact_id()::text::bigint + 1000000)::text")
        await sql.execute(
            "UPDATE system_metrics SET xid = $1::text::xid8 WHERE id IN (SELECT id FROM system_metrics)",
            ahead,
        )
        [_, second] = await sql.fetch("SELECT id FROM system_metrics ORDER BY id LIMIT 2")
        cursor = SampleCursor(int(ahead), second["id"])
        await dao.store([sample(9)])
        found: list[HostSample] = []
        while len(found) < 3:
            page = await dao.since(cursor, 2)
            found += page.samples
            cursor = page.cursor
        assert found == [sample(2), sample(3), sample(9)]
        await dao.store([sample(10)])
        while not (page := await dao.since(cursor)).samples:
            pass
        assert page.samples == (sample(10),)

    async def test_a_transaction_that_reads_its_own_samples_takes_them_for_no_others(
        self, dao: TelemetryDAO, sql: Any
    ) -> None:
        async with dao.transaction() as transaction:
            await transaction.store([sample(0)])
            await transaction.since(SampleCursor())
        assert await sql.fetchval("SELECT count(*) FROM system_metrics WHERE xid = '1'") == 0

    async def test_a_page_is_read_by_the_index(self, dao: TelemetryDAO, sql: Any) -> None:
        await sql.execute(
            "INSERT INTO system_metrics (at, node) SELECT now(), 'n' FROM generate_series(1, 20000)"
        )
        await sql.execute("ANALYZE system_metrics")
        from atlas.db import sql_of

        await sql.execute("SET plan_cache_mode = force_generic_plan")
        await sql.execute(f"PREPARE page AS {sql_of('telemetry.since')}")
        plan = "\n".join(row[0] for row in await sql.fetch("EXPLAIN EXECUTE page('5', 7, 100)"))
        assert "Index Scan using system_metrics_pkey" in plan
        assert "Sort" not in plan


class TestRetention:
    async def test_what_is_too_old_goes_in_bounded_batches(
        self, database: Database, settings_factory: SettingsFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = settings_factory(monitoring={"max_retention_days": 3})
        dao = TelemetryDAO(database, clock=FixedClock(NOON), settings=settings)
        minutes = [-1440 * 5 + n for n in range(25)] + [-1440 * 2, 0]
        await dao.store([sample(n) for n in minutes])
        await dao.count_usage([used("a", days=days) for days in (-9, -8, -4, -3, 0)])
        monkeypatch.setattr(telemetry, "FORGOTTEN_AT_ONCE", 10)
        forgotten = [await dao.forget_old() for _ in range(4)]
        assert forgotten == [Forgotten(10, 3), Forgotten(10, 0), Forgotten(5, 0), Forgotten(0, 0)]
        assert [each.at for each in await read_all(dao, 2)] == [NOON - 2 * DAY, NOON]
        [left] = await dao.usage((NOON - 99 * DAY).date())
        assert left.count == 2

    async def test_a_clock_that_is_ahead_deletes_nothing(
        self, database: Database, settings_factory: SettingsFactory
    ) -> None:
        class Ahead(SystemClock):
            def now(self) -> Any:
                return super().now() + 400 * DAY

        dao = TelemetryDAO(database, clock=Ahead(), settings=settings_factory())
        now = SystemClock().now()
        await dao.store([HostSample(at=now - 30 * DAY, node="here")])
        await dao.count_usage(
            [Usage(kind="call", name="a", count=1, errors=0, seconds=0, last_at=now - 30 * DAY)]
        )
        assert await dao.forget_old() == Forgotten(0, 0)


ADD = """
import asyncio, sys
from datetime import UTC, datetime
from atlas.adapters.telemetry import TelemetryDAO, Usage
from atlas.composition import Atlas
from atlas.config import load

async def main():
    async with Atlas.open(load()) as atlas:
        dao = TelemetryDAO()
        names = sys.argv[1].split(",")
        for _ in range(50):
            at = datetime(2026, 11, 2, 12, tzinfo=UTC)
            await dao.count_usage([
                Usage(kind="call", name=name, count=2, errors=1, seconds=0.5, last_at=at) for name in names
            ])

asyncio.run(main())
"""


class TestUsage:
    async def test_counts_of_a_batch_are_added_up_by_day_and_name(self, dao: TelemetryDAO, sql: Any) -> None:
        await dao.count_usage([used("a"), used("b", 3, 2, 4.5), used("a", days=-1), used("a", 4, 1, 0.5)])
        await dao.count_usage([used("a", 10), used("x" * 300)])
        await dao.count_usage([])
        assert await dao.usage(NOON.date()) == [
            used("a", 15, 1, 2.5), used("b", 3, 2, 4.5), used("x" * 100),
        ]  # fmt: skip
        assert (await dao.usage((NOON - DAY).date()))[0].count == 16
        assert await sql.fetchval("SELECT count(*) FROM application_usage") == 4

    async def test_two_processes_lose_nothing_and_do_not_wait_for_each_other_in_a_circle(
        self, dao: TelemetryDAO, environment: dict[str, str]
    ) -> None:
        orders = ("a,b,c,d", "d,c,b,a")
        processes = [
            await asyncio.create_subprocess_exec(sys.executable, "-c", ADD, order, env=environment)
            for order in orders
        ]
        assert [await process.wait() for process in processes] == [0, 0]
        assert await dao.usage(NOON.date()) == [used(name, 200, 100, 50.0) for name in "abcd"]

    async def test_a_command_is_counted_once_when_its_atlas_closes(
        self, settings_factory: SettingsFactory, clock: FixedClock, dao: TelemetryDAO
    ) -> None:
        settings = settings_factory()
        with command("queue list"):
            async with Atlas.open(settings, clock=clock) as atlas:
                atlas.usage.add("call", "search.list", 0.25, failed=False)
                atlas.usage.add("call", "search.list", 0.5, failed=True)
            async with Atlas.open(settings, clock=clock):
                pass
        async with Atlas.open(settings, clock=clock):
            pass
        of_command, of_call = await dao.usage(NOON.date())
        assert (of_command.kind, of_command.name, of_command.count, of_command.errors) == (
            "command",
            "queue list",
            1,
            0,
        )
        assert of_command.seconds > 0
        assert of_call == used("search.list", 2, 1, 0.75)

    @pytest.mark.parametrize(
        ("error", "errors"),
        [
            (ConfigError("x"), 1),
            (ValueError("x"), 1),
            (SystemExit(75), 1),
            (SystemExit(143), 0),
            (SystemExit(0), 0),
            (KeyboardInterrupt(), 0),
        ],
    )
    async def test_what_ended_a_command_says_whether_it_failed(
        self,
        settings_factory: SettingsFactory,
        clock: FixedClock,
        dao: TelemetryDAO,
        error: BaseException,
        errors: int,
    ) -> None:
        with command("top"), suppress(BaseException):
            async with Atlas.open(settings_factory(), clock=clock):
                raise error
        [counted] = await dao.usage(NOON.date())
        assert (counted.name, counted.count, counted.errors) == ("top", 1, errors)

    async def test_nothing_is_counted_where_the_settings_say_so(
        self, settings_factory: SettingsFactory, clock: FixedClock, dao: TelemetryDAO
    ) -> None:
        with command("top"):
            async with Atlas.open(settings_factory(monitoring={"enabled": False}), clock=clock):
                pass
        assert await dao.usage(NOON.date()) == []

    async def test_a_database_that_cannot_count_fails_no_command(
        self, settings_factory: SettingsFactory, sql: Any, clock: FixedClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG", "atlas.usage")
        await sql.execute("DROP TABLE application_usage")
        with command("top"):
            async with Atlas.open(settings_factory(), clock=clock):
                pass
        assert [record.action for record in caplog.records] == ["usage_lost"]  # type: ignore[attr-defined]


class TestCycles:
    async def test_the_block_is_sampled_and_what_it_used_is_written(
        self, atlas: Atlas, dao: TelemetryDAO
    ) -> None:
        async with monitored_cycle(atlas):
            atlas.usage.add("call", "feed", 1.0, failed=False)
            await asyncio.sleep(0.1)
        [found] = await dao.latest(NOON - DAY)
        assert found.node == "test"
        assert found.cpu_percent is not None
        assert await dao.usage(NOON.date()) == [used("feed")]

    @pytest.mark.parametrize("off", ["enabled", "after_cycles"])
    async def test_the_settings_can_forbid_it(
        self, settings_factory: SettingsFactory, clock: FixedClock, dao: TelemetryDAO, off: str
    ) -> None:
        async with (
            Atlas.open(settings_factory(monitoring={off: False}), clock=clock) as atlas,
            monitored_cycle(atlas),
        ):
            pass
        assert await dao.latest(NOON - DAY) == []

    async def test_an_error_of_the_cycle_stays_what_it_is(self, atlas: Atlas, dao: TelemetryDAO) -> None:
        with pytest.raises(ValueError, match="its own"):
            async with monitored_cycle(atlas):
                raise ValueError("its own")
        assert len(await dao.latest(NOON - DAY)) == 1
        with pytest.raises(DatabaseUnavailable):
            async with monitored_cycle(atlas):
                raise DatabaseUnavailable("away")
        assert len(await read_all(dao, 1)) == 1

    async def test_a_sample_that_is_refused_is_only_told(
        self, atlas: Atlas, sql: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        await sql.execute("DROP TABLE system_metrics")
        async with monitored_cycle(atlas):
            pass
        assert [record.action for record in caplog.records] == ["sample_lost"]  # type: ignore[attr-defined]

    def test_agents_under_maia_up_leave_the_sampling_to_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PLEIADES_MONITORING__AFTER_CYCLES", "true")
        stack = _Stack(None, as_json=True)
        children = {child.name: child.environment for child in stack._children(stack._variables(), {})}
        for name, value in children["agents"].items():
            monkeypatch.setenv(name, value)
        assert not config.load().monitoring.after_cycles
        assert config.load().monitoring.enabled

    async def test_maia_up_samples_again_and_again(
        self, settings_factory: SettingsFactory, dao: TelemetryDAO
    ) -> None:
        async with Atlas.open(settings_factory(monitoring={"interval_s": 1})) as atlas:
            sampling = asyncio.create_task(keep_sampling(atlas))
            await read_all(dao, 2)
            sampling.cancel()
            await asyncio.wait([sampling])


@asynccontextmanager
async def filled(dao: TelemetryDAO) -> AsyncIterator[None]:
    """Two hosts over the last hour by the machine's clock, and what was used."""
    now = SystemClock().now()
    await dao.store(
        HostSample(
            at=now - n * MINUTE, node=node, cpus=4.0, cpu_percent=95.0 if node == "tower" else 5.0 + n,
            load_1=1.5, load_5=1.0, memory_limit_bytes=2**34, memory_used_bytes=2**33, memory_percent=50.0,
            disk_free_bytes=72_000_000_000, disk_percent=73.0, received_bytes_per_s=1e6,
            processes=(ProcessLoad(name="postgres", cpu_percent=80.0, rss_bytes=2**20),),
        )
        for n in range(60) for node in ("tower", "a-machine-whose-name-is-rather-long-indeed")
    )  # fmt: skip
    await dao.count_usage(
        [Usage(kind="call", name="videos.list", count=7, errors=1, seconds=3.5, last_at=now)]
    )
    yield


def maia(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "maia", "metrics", "show", *arguments],
        env=environment | {"NO_COLOR": "1"}, capture_output=True, text=True,
    )  # fmt: skip


def on_a_terminal(
    environment: dict[str, str], *arguments: str, stop_at: str | None = None
) -> tuple[int, str]:
    """The exit status, and what the command writes to a terminal of 80 columns; Ctrl-C once it wrote so."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as reader:
        process = subprocess.Popen(
            [sys.executable, "-m", "maia", "metrics", "show", *arguments], stdin=theirs, stdout=theirs,
            stderr=theirs, env=environment | {"COLUMNS": "80", "LINES": "50", "TERM": "xterm-256color"},
        )  # fmt: skip
        os.close(theirs)
        written = ""
        with suppress(OSError):
            while chunk := reader.read(65536):
                written += chunk.decode(errors="replace")
                if stop_at is not None and stop_at in written:
                    process.send_signal(signal.SIGINT)
                    stop_at = None
        return process.wait(), written


def visible(written: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written).replace("\r", "").splitlines()


class TestCommand:
    async def test_json_has_everything(self, dao: TelemetryDAO, environment: dict[str, str]) -> None:
        async with filled(dao):
            finished = await asyncio.to_thread(maia, environment, "--json", "--hours", "2")
            one = await asyncio.to_thread(maia, environment, "--json", "--node", "tower")
        shown = json.loads(finished.stdout)
        assert [host["node"] for host in shown["hosts"]] == [
            "a-machine-whose-name-is-rather-long-indeed",
            "tower",
        ]
        tower = shown["hosts"][1]
        assert tower["latest"]["processes"][0]["name"] == "postgres"
        assert tower["pressure"]["reasons"] == ["processors at 95 % (limit 90 %)"]
        assert sum(point["samples"] for point in tower["series"]) == 60
        assert len(tower["series"]) <= 24
        assert ("videos.list", 7) in {(line["name"], line["count"]) for line in shown["usage"]}
        again = json.loads(one.stdout)
        assert [host["node"] for host in again["hosts"]] == ["tower"]
        # The first of the two has been counted by then.
        assert ("metrics show", 1) in {(line["name"], line["count"]) for line in again["usage"]}

    async def test_fits_80_columns(self, dao: TelemetryDAO, environment: dict[str, str]) -> None:
        async with filled(dao):
            status, written = await asyncio.to_thread(on_a_terminal, environment, "--hours", "1")
        lines = visible(written)
        assert status == 0, written
        assert [line for line in lines if cell_len(line.rstrip()) > 80] == []
        text = "\n".join(lines)
        for word in ("tower", "95 %", "█", "videos.list", "tower: processors at 95 %"):
            assert word in text, text

    async def test_says_what_to_do_where_nothing_was_sampled(self, environment: dict[str, str]) -> None:
        finished = await asyncio.to_thread(maia, environment, "--hours", "3")
        assert (finished.returncode, finished.stderr) == (0, "")
        assert "No machine was sampled in the last 3 h." in finished.stdout

    async def test_the_live_view_ends_by_ctrl_c_and_gives_the_cursor_back(
        self, dao: TelemetryDAO, environment: dict[str, str]
    ) -> None:
        async with filled(dao):
            status, written = await asyncio.to_thread(
                on_a_terminal, environment, "--watch", "--every", "0.5", stop_at="videos.list"
            )
        assert status == 130
        assert "\x1b[?25l" in written
        assert written.rstrip("\r\n").endswith("\x1b[?25h")
        assert "Traceback" not in written
        assert [line for line in visible(written) if cell_len(line.rstrip()) > 80] == []

    async def test_without_a_terminal_each_look_follows_the_last(
        self, dao: TelemetryDAO, environment: dict[str, str]
    ) -> None:
        async with filled(dao):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "maia", "metrics", "show", "--watch", "--every", "0.5", "--json",
                env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stdout is not None
            assert process.stderr is not None
            looks = [json.loads(await process.stdout.readline()) for _ in range(2)]
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
            assert await process.stderr.read() == b""
        assert looks[0]["now"] < looks[1]["now"]
        assert looks[0]["hosts"][0]["node"] == looks[1]["hosts"][0]["node"]
