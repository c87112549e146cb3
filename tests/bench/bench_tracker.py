"""The tracker against the floor that gets the same samples bare, and against the script that people write.

All take turns, each in a process of its own, against one emulator and one durable server, and each on a copy
of the same database: 20,000 videos found together and tracked for nine days, checkpointed. The floor asks for
as many ids a call by as many calls at once, and COPYs into a table without a key in as many transactions. The
script asks call after call by Google's client with its own transport, and INSERTs and UPDATEs row by row, or
by executemany, with psycopg, a transaction a call, in tables of its own without any reference.

The emulator answers at once, which no network does, or after 100 ms, about as YouTube. Without HTTP the
answers are there already: then the tracker still claims, measures, compares, merges and tells, which the
script does not. Storing alone is what both do then: samples, and the state of their videos.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.figures import Figure
from tests.bench.servers import settings_of
from tests.bench.stage import UNITS, Run, Stage, staged, temporary_folder
from tests.bench.tracking import PAGE, live_through

SIDES = "tests.bench.tracking"
CATALOGUE_VIDEOS, VIDEOS, DAYS = 30_000, 20_000, 9
BEGIN = datetime(2026, 11, 14, 9, tzinfo=UTC)
NOW = BEGIN + timedelta(days=DAYS + 1)
ROUNDS = 3
SCRIPT_VIDEOS_AFAR = 2_000
AFAR = "latency-100ms:1"
FEW_CYCLES, MANY_CYCLES = 5, 50
KEY = "lab-key"
NEAR, FAR = "end to end, answered at once", "end to end, answered after 100 ms"
CYCLING, WRITING = "without HTTP", "storing alone"
SCRIPTS = {"script by row": False, "script by executemany": True}
GOALS: Mapping[str, Mapping[str, float | None]] = {
    NEAR: {"floor": 0.5, "script by row": 10, "script by executemany": None},
    FAR: {"floor": 0.5, "script by row": 10, "script by executemany": None},
    CYCLING: {"script by row": None, "script by executemany": None},
    WRITING: {"script by row": 5, "script by executemany": None},
}
# Channels are sampled once in all those days.
_TRACKER = {"channel_interval_h": "10000", "breakout_alert": "info"}
_LOG_BYTES = "SELECT sum(pg_total_relation_size(relid))::bigint FROM pg_partition_tree('video_stats_log')"


@dataclass(frozen=True, slots=True)
class Turn:
    """A run, and the WAL that it wrote."""

    run: Run
    wal_bytes: int

    @property
    def samples(self) -> int:
        return int(self.run.measured["samples"])

    @property
    def samples_per_s(self) -> float:
        return self.samples / self.run.seconds

    @property
    def samples_per_cpu_s(self) -> float:
        return self.samples / self.run.cpu_s

    @property
    def split(self) -> str:
        return self.run.split(self.samples / PAGE)


Turns = dict[tuple[str, str], Turn]
"""By path and side."""


@dataclass(frozen=True, slots=True)
class Lab:
    """The stage, and the database that every run gets a copy of."""

    stage: Stage
    template: str
    vault: Path
    ids: list[str]

    async def turn(self, side: str, *, fault: str = "", **job: Any) -> Turn:
        """Let one side work on a copy of its own."""
        url = await self.stage.bed.new_database(self.template)
        settings = {"DATABASE_URL": url, "PLEIADES_VAULT__PATH": str(self.vault)}
        settings |= {f"PLEIADES_TRACKER__{name.upper()}": value for name, value in _TRACKER.items()}
        told = {"database_url": url, "base_url": self.stage.emulator_url, "key": KEY, **job}
        await self.stage.strike_with(fault)
        async with self.stage.bed.connection(url) as sql:
            await sql.execute("CHECKPOINT")
            before = await sql.fetchval("SELECT pg_current_wal_lsn()")
            run = await self.stage.run(SIDES, side, settings, told)
            wal_bytes = await sql.fetchval("SELECT pg_current_wal_lsn() - $1", before)
        await self.stage.bed.drop_database(url)
        return Turn(run, int(wal_bytes))


@asynccontextmanager
async def laboratory() -> AsyncIterator[Lab]:
    """Videos with a past, all that the emulator says of them, and what is due of them."""
    async with staged(CATALOGUE_VIDEOS, NOW) as stage:
        with temporary_folder() as vault:
            url = await stage.bed.new_database()
            settings = settings_of(
                url,
                data_dir=vault,
                youtube_api_key_pool_json=f'[{{"key": "{KEY}", "project": "lab"}}]',
                quota={"pacing": False, "projects": {"lab": {"stats": UNITS, "general": UNITS}}},
                tracker=_TRACKER,
            )
            await live_through(settings, stage.catalogue, BEGIN, VIDEOS, DAYS)
            async with stage.bed.connection(url) as sql:
                await sql.execute("VACUUM ANALYZE")
                rows = await sql.fetch(
                    "SELECT video_id FROM video_clock WHERE status = 'live' AND next_due_at <= $1", NOW
                )
            yield Lab(stage, url, vault, [row["video_id"] for row in rows])


async def figures() -> AsyncIterator[Figure]:
    async with laboratory() as lab:
        # The emulator reads a video's curve when it is first asked for it.
        await lab.turn("floor", ids=lab.ids)
        rounds = [await _round(lab) for _ in range(ROUNDS)]
        memory = await lab.turn("track", batch_size=len(lab.ids) // MANY_CYCLES)
        async with lab.stage.bed.connection(lab.template) as sql:
            log_bytes = await sql.fetchval(_LOG_BYTES)
            logged = await sql.fetchval("SELECT count(*) FROM video_stats_log")
    for path, goals in GOALS.items():
        for peer, goal in goals.items():
            yield _speed(path, rounds, peer, goal)
    for figure in _memory(memory):
        yield figure
    yield Figure("disk a sample", log_bytes / logged, "bytes", note=f"with indexes; {logged:,} in the log")
    ours, bare = (
        median(turns[NEAR, side].wal_bytes / turns[NEAR, side].samples for turns in rounds)
        for side in ("tracker", "floor")
    )
    note = "whatever a cycle writes, all pages being new since the checkpoint"
    yield Figure("WAL a sample", ours, "bytes", bare, "COPY, bare", note=note)


async def _round(lab: Lab) -> Turns:
    turns: Turns = {}
    for path, most in ((NEAR, VIDEOS), (FAR, SCRIPT_VIDEOS_AFAR)):
        how = {"fault": AFAR if path is FAR else ""}
        turns[path, "tracker"] = await lab.turn("track", **how)
        turns[path, "floor"] = await lab.turn("floor", ids=lab.ids, **how)
        for script, by_executemany in SCRIPTS.items():
            turns[path, script] = await lab.turn("script", by_executemany=by_executemany, most=most, **how)
    done = {"catalogue": str(lab.stage.catalogue)}
    turns[CYCLING, "tracker"] = await lab.turn("store", **done)
    turns[WRITING, "tracker"] = await lab.turn("write", **done)
    for script, by_executemany in SCRIPTS.items():
        turn = await lab.turn("script", by_executemany=by_executemany, most=VIDEOS, **done)
        turns[CYCLING, script] = turns[WRITING, script] = turn
    return turns


def _speed(path: str, rounds: Sequence[Turns], peer: str, goal: float | None) -> Figure:
    """The median round, by ratio, with where its CPU time went."""
    pairs = [(turns[path, "tracker"], turns[path, peer]) for turns in rounds]
    pairs.sort(key=lambda pair: pair[0].samples_per_s / pair[1].samples_per_s)
    ours, theirs = pairs[len(pairs) // 2]
    ratios = ", ".join(f"{one.samples_per_s / other.samples_per_s:.2f}" for one, other in pairs)
    cpu = median(one.samples_per_cpu_s / other.samples_per_cpu_s for one, other in pairs)
    return Figure(
        f"tracker {path}",
        ours.samples_per_s,
        "samples/s",
        theirs.samples_per_s,
        peer,
        goal,
        note=f"rounds {ratios}; by CPU time {cpu:.2f}; "
        f"ms of CPU a call of {PAGE}, user+system: ours {ours.split}; peer's {theirs.split}",
    )


def _memory(turn: Turn) -> list[Figure]:
    peaks = {int(cycle): mib for cycle, mib in turn.run.measured["peak_mib"].items()}
    few, many = peaks[FEW_CYCLES], peaks[max(peaks)]
    return [
        Figure("tracker's peak memory", many, "MiB", note=f"after {max(peaks)} cycles"),
        Figure("growth of peak memory", many, "MiB", few, f"after {FEW_CYCLES} cycles", 1.1, at_most=True),
    ]
