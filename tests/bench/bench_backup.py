"""Backups of 1 GB: megabytes of the dump a second, against pg_dump into /dev/null, and piped into zstd.

Each contestant is a process of its own and reads the same database with the same low priority, which is that
of a backup. Ours also sums up every table, and writes parts durably. Rounds alternate, and the best counts.
"""

from __future__ import annotations

import asyncio
import json
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atlas.backups.creation import create
from atlas.backups.programs import environment
from atlas.backups.restoration import restore
from atlas.backups.shelf import Shelf
from atlas.backups.stream import NICE
from atlas.clock import SystemClock
from atlas.cluster import packaged_programs
from atlas.composition import Atlas
from tests.bench.figures import Figure
from tests.bench.servers import Bed, bed, migrated, settings_of
from tests.bench.stage import temporary_folder

ROUNDS = 5
VIDEOS, HOURS, DAYS = 16_000, 470, 20
EVENTS, DESCRIBED = 400_000, 60_000
GOAL = 0.9

_WORDS = (
    "['cats','vlog','tutorial','music','how','to','cook','review','news','live','2026','best','of','the']"
)


@dataclass
class Contestant:
    """What dumps, by the name that its process is started with, and what its rounds brought."""

    name: str
    seconds: list[float] = field(default_factory=list)
    peaks_mb: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    stored: int = 0

    async def round(self, url: str, folder: Path) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.bench.bench_backup", self.name, url, str(folder / self.name),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"{self.name} ended with status {process.returncode}")
        told = json.loads(output)
        self.seconds.append(told["seconds"])
        self.peaks_mb.append(told["peak_mb"])
        self.cpu_s.append(told["cpu_s"])
        self.stored = told["stored"]


async def figures() -> AsyncIterator[Figure]:
    bare, piped, plain, encrypted = (Contestant(name) for name in ("bare", "zstd", "plain", "encrypted"))
    contestants = [bare, *([piped] if shutil.which("zstd") else []), plain, encrypted]
    async with bed() as server:
        url = await server.new_database()
        async with migrated(url), server.connection(url) as sql:
            await _fill(sql)
            database_bytes = await sql.fetchval("SELECT pg_database_size(current_database())")
        with temporary_folder() as folder:
            for number in range(ROUNDS):
                for contestant in contestants if number % 2 else contestants[::-1]:
                    await contestant.round(url, folder)
            restored = await _restored(server, url, folder / "plain")
    mb = bare.stored / 1e6
    speed = {contestant.name: mb / min(contestant.seconds) for contestant in contestants}
    note = (
        f"{database_bytes / 1e6:,.0f} MB on the server, {mb:,.0f} as dump, {plain.stored / 1e6:,.0f} stored"
    )
    yield Figure("backup", speed["plain"], "MB/s", speed["bare"], "bare pg_dump", GOAL, note=note)
    yield Figure("backup, encrypted", speed["encrypted"], "MB/s", speed["bare"], "bare pg_dump", GOAL)
    if piped in contestants:
        yield Figure("backup", speed["plain"], "MB/s", speed["zstd"], "pg_dump | zstd -1")
    yield Figure(
        "CPU of a backup, without the server", min(plain.cpu_s), "s", min(bare.cpu_s), "bare pg_dump"
    )
    yield Figure("peak memory of a backup", max(plain.peaks_mb), "MB", goal=200, at_most=True)
    yield Figure("peak memory of an encrypted backup", max(encrypted.peaks_mb), "MB", goal=200, at_most=True)
    yield Figure("restored, and every table compared", mb / restored, "MB/s")


async def _fill(sql: Any) -> None:
    """Hourly samples of as many videos over weeks, their texts, and the log of events: about a gigabyte."""
    days = f"SELECT '2026-11-01'::date + n FROM generate_series(0, {DAYS}) AS n"
    await sql.execute(f"SELECT ensure_sample_days(ARRAY({days}))")
    await sql.execute(
        "INSERT INTO video_stats_log (video_id, sampled_at, views, likes, comments, velocity, methodology) "
        "SELECT substr(md5(v::text), 1, 11), "
        "'2026-11-01Z'::timestamptz + h * interval '1 hour' + v * interval '90 ms', "
        "(exp(8 * (v % 997) / 997.0) * (h + random()))::bigint, (v % 997) * h, v % 50 + h, "
        "random() * 1000, 2 "
        f"FROM generate_series(0, {HOURS} - 1) AS h, generate_series(1, {VIDEOS}) AS v"
    )
    word = f"(ARRAY{_WORDS})[1 + (random() * 13)::int]"
    text = f"(SELECT string_agg({word}, ' ') FROM generate_series(1, %s + 0 * n))"
    await sql.execute(
        "INSERT INTO channels (id, title, discovered_at, refreshed_at) "
        "SELECT 'UC-' || n, 'Channel ' || n, now(), now() FROM generate_series(0, 999) AS n"
    )
    await sql.execute(
        "INSERT INTO videos (id, channel_id, title, description, discovered_at, refreshed_at, tags) "
        f"SELECT substr(md5(n::text), 1, 11), 'UC-' || n % 1000, {text % 8}, {text % 90}, now(), now(), "
        f"string_to_array({text % 12}, ' ') FROM generate_series(1, {DESCRIBED}) AS n"
    )
    await sql.execute(
        "INSERT INTO events (at, kind, agent, node, payload) "
        "SELECT now() + n * interval '1 s', 'hunter.cycle', 'hunter', 'node-' || n % 5, "
        "jsonb_build_object('seconds', random() * 60, 'found', n % 50, 'topic', md5(n::text)) "
        f"FROM generate_series(1, {EVENTS}) AS n"
    )
    await sql.execute("VACUUM ANALYZE")
    await sql.execute("CHECKPOINT")


async def _restored(server: Bed, url: str, folder: Path) -> float:
    """Seconds that restoring the last backup takes, with the comparison of all tables."""
    settings = _settings(url, folder, None)
    shelf, target = Shelf.of(settings), await server.new_database()
    began = time.perf_counter()
    await restore(shelf, await shelf.find("latest", SystemClock().now()), target, settings.database)
    return time.perf_counter() - began


# In a contestant's process


def _settings(url: str, folder: Path, recipient: str | None) -> Any:
    return settings_of(url, maintainer={"backups": {"path": folder, "recipient": recipient}})


def _ours(url: str, folder: Path, recipient: str | None) -> tuple[float, int]:
    shutil.rmtree(folder, ignore_errors=True)
    settings = _settings(url, folder, recipient)

    async def make() -> tuple[float, int]:
        async with Atlas.open(settings) as atlas:
            began = time.perf_counter()
            manifest = await create(atlas, Shelf.of(settings, atlas.db))
            return time.perf_counter() - began, manifest.size_bytes

    return asyncio.run(make())


def _theirs(url: str, folder: Path, *, compressed: bool) -> tuple[float, int]:
    folder.mkdir(exist_ok=True)
    env = environment(url)
    assert env is not None
    dump = f"nice -n {NICE} {shlex.quote(str(packaged_programs() / 'pg_dump'))} --format=custom --compress=0"
    target = folder / "dump.zst"
    began = time.perf_counter()
    if compressed:
        script = (
            f"{dump} | zstd -q -1 -T0 -f -o {shlex.quote(str(target))} && sync {shlex.quote(str(target))}"
        )
    else:
        script = f"{dump} > /dev/null"
    subprocess.run(["sh", "-c", script], env=env, check=True)
    seconds = time.perf_counter() - began
    if compressed:
        return seconds, target.stat().st_size
    counted = subprocess.run(["sh", "-c", f"{dump} | wc -c"], env=env, check=True, capture_output=True)
    return seconds, int(counted.stdout)


def main() -> None:
    contestant, url, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if contestant in ("plain", "encrypted"):
        import pyrage

        recipient = str(pyrage.x25519.Identity.generate().to_public())
        seconds, stored = _ours(url, folder, recipient if contestant == "encrypted" else None)
    else:
        seconds, stored = _theirs(url, folder, compressed=contestant == "zstd")
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu_s = sum(each.ru_utime + each.ru_stime for each in (own, children))
    told = {"seconds": seconds, "stored": stored, "peak_mb": own.ru_maxrss / 1024, "cpu_s": cpu_s}
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
