"""Exports of a real PostgreSQL: every row once, whole or not at all, in pages."""

from __future__ import annotations

import asyncio
import csv
import gc
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from atlas import exports
from atlas.clock import FixedClock
from atlas.csvform import CsvForm
from atlas.db import Database
from atlas.errors import ConfigError, DatabaseError, VaultError
from atlas.exports import COLUMNS, Exported, Format, Selection, Table, export, locate
from atlas.hub import HubStore
from atlas.local import LocalFile, StandardOutput
from atlas.stores import FileStore, S3Store
from atlas.testing import NOON, SettingsFactory
from tests.growth import HOUR, store_samples, store_video

pytestmark = pytest.mark.integration

parquet = pytest.importorskip("pyarrow.parquet", reason="the extra pleiades[parquet] is not installed")

TRICKY = 'A "quoted" title,\nwith a comma, a new line and "" quotes; 서울 \\ \t é'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "out"


class Exporter:
    """Exports into a folder and reads what came."""

    def __init__(self, db: Database, clock: FixedClock, folder: Path) -> None:
        self.db, self.clock, self.folder = db, clock, folder
        self.shares: list[float | None] = []
        self.rows: list[int] = []

    async def write(self, format_: Format = Format.CSV, **selection: Any) -> Exported:
        def progress(share: float | None, rows: int) -> None:
            self.shares.append(share)
            self.rows.append(rows)

        chosen = Selection(**selection)
        name = f"{chosen.table}.{format_}"
        return await export(
            self.db, self.clock, FileStore(self.folder), name, chosen, format_, on_progress=progress
        )

    async def csv(self, **selection: Any) -> list[dict[str, str]]:
        await self.write(Format.CSV, **selection)
        table = selection.get("table", Table.SAMPLES)
        return list(
            csv.DictReader(io.StringIO((self.folder / f"{table}.csv").read_text("utf-8"), newline=""))
        )

    async def parquet(self, **selection: Any) -> list[dict[str, Any]]:
        await self.write(Format.PARQUET, **selection)
        table = selection.get("table", Table.SAMPLES)
        rows: list[dict[str, Any]] = parquet.read_table(self.folder / f"{table}.parquet").to_pylist()
        return rows


@pytest.fixture
def exporter(database: Database, clock: FixedClock, folder: Path) -> Exporter:
    return Exporter(database, clock, folder)


async def fill(sql: Any, videos: int = 5, days: int = 3) -> None:
    for number in range(videos):
        await store_video(sql, f"v{number}")
        counts = [
            (NOON - days * 24 * HOUR + hour * HOUR + number * timedelta(milliseconds=7),
             None if (hour + number) % 10 == 0 else hour * 100 + number)
            for hour in range(days * 24)
        ]  # fmt: skip
        await store_samples(sql, f"v{number}", counts)


SAMPLES = (
    "SELECT video_id, sampled_at, views, likes, comments, velocity, methodology, "
    "coalesce(source::text, 'api') FROM video_stats_log"
)


class TestSamples:
    async def test_every_row_is_there_once_and_in_order(self, exporter: Exporter, sql: Any) -> None:
        await fill(sql)
        stored = [tuple(row) for row in await sql.fetch(f"{SAMPLES} ORDER BY sampled_at, video_id")]
        assert [tuple(row.values()) for row in await exporter.parquet()] == stored
        written = await exporter.write(Format.CSV)
        assert written == Exported(len(stored), (exporter.folder / "samples.csv").stat().st_size)

    async def test_csv_tells_the_same_and_hidden_is_empty(self, exporter: Exporter, sql: Any) -> None:
        await fill(sql, videos=2, days=1)
        rows = await exporter.csv()
        assert list(rows[0]) == list(COLUMNS[Table.SAMPLES])
        for row, stored in zip(
            rows, await sql.fetch(f"{SAMPLES} ORDER BY sampled_at, video_id"), strict=True
        ):
            assert row["video_id"] == stored["video_id"]
            assert datetime.fromisoformat(row["sampled_at"]) == stored["sampled_at"]
            assert row["views"] == ("" if stored["views"] is None else str(stored["views"]))
            velocity = row["velocity_by_pleiades"]
            assert (float(velocity) if velocity else None) == stored["velocity"]

    async def test_a_span_is_half_open_so_days_add_up(self, exporter: Exporter, sql: Any) -> None:
        await fill(sql)
        midnight = NOON.replace(hour=0)
        days = [midnight - number * timedelta(days=1) for number in range(4)]
        counts = [
            (await exporter.write(since=day, until=day + timedelta(days=1))).rows
            for day in [*days, *days[:1]]
        ]
        assert sum(counts[:4]) == (await exporter.write()).rows == 5 * 72
        assert counts[0] == counts[4]
        at = NOON - 24 * HOUR
        assert (await exporter.write(since=at, until=at)).rows == 0
        assert (await exporter.write(since=at, until=at + timedelta(microseconds=1))).rows == 1

    async def test_the_future_is_left_out(self, exporter: Exporter, sql: Any) -> None:
        await store_video(sql, "a")
        await store_samples(sql, "a", [(NOON - HOUR, 1), (NOON + HOUR, 2)])
        assert [row["views"] for row in await exporter.csv()] == ["1"]

    @pytest.mark.parametrize("format_", Format)
    async def test_of_nothing_the_columns_remain(self, exporter: Exporter, sql: Any, format_: Format) -> None:
        assert (await exporter.write(format_)).rows == 0
        await sql.execute("SELECT ensure_sample_days(ARRAY['2026-11-01']::date[])")
        assert (await exporter.write(format_)).rows == 0
        path = exporter.folder / f"samples.{format_}"
        names = (
            parquet.read_schema(path).names
            if format_ is Format.PARQUET
            else path.read_text().strip().split(",")
        )
        assert names == list(COLUMNS[Table.SAMPLES])

    async def test_pages_follow_the_density(
        self, exporter: Exporter, sql: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Some pages are empty, one instant has more rows than a page should; nothing is lost between."""
        monkeypatch.setattr(exports, "_ROWS_A_PAGE", 40)
        monkeypatch.setattr(exports, "_PART_BYTES", 1000)
        await sql.execute("SELECT ensure_sample_days(ARRAY['2026-10-20', '2026-11-01']::date[])")
        await sql.execute(
            "INSERT INTO video_stats_log "
            "(video_id, sampled_at, views, likes, comments, velocity, methodology) "
            "SELECT 'v' || n, day + (n % 7) * interval '3 hours', n, 1, 1, 1, 2 "
            "FROM generate_series(1, 900) AS n, "
            "unnest(ARRAY['2026-10-20Z', '2026-11-01Z']::timestamptz[]) AS day"
        )
        rows = await exporter.parquet()
        stored = await sql.fetch(f"{SAMPLES} ORDER BY sampled_at, video_id")
        assert [(row["video_id"], row["sampled_at"]) for row in rows] == [tuple(row)[:2] for row in stored]
        assert parquet.ParquetFile(exporter.folder / "samples.parquet").num_row_groups > 1
        shares = [share for share in exporter.shares if share is not None]
        assert shares == sorted(shares)
        assert shares[-1] == 1
        assert exporter.rows[-1] == 1800

    async def test_no_snapshot_outlives_a_page(
        self, exporter: Exporter, sql: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is stored meanwhile, ahead of where the export is, is in it: so there was a later snapshot."""
        await fill(sql, videos=1, days=2)
        monkeypatch.setattr(exports, "_WIDEST", HOUR)
        steps = 0

        class Watching(FixedClock):
            pass

        async def meanwhile() -> None:
            while steps < 3:
                await asyncio.sleep(0)
            await store_video(sql, "late")
            await store_samples(sql, "late", [(NOON - HOUR / 2, 5)])

        def progress(share: float | None, rows: int) -> None:
            nonlocal steps
            steps += 1

        storing = asyncio.create_task(meanwhile())
        name, selection = "samples.csv", Selection()
        store = FileStore(exporter.folder)
        slow = _Slow(exporter.db, lambda: storing.done() or steps < 3)
        await export(slow, exporter.clock, store, name, selection, Format.CSV, progress)  # type: ignore[arg-type]
        await storing
        assert "late" in (exporter.folder / name).read_text()

    async def test_says_who_computed_what(self, exporter: Exporter, sql: Any) -> None:
        await fill(sql, videos=1, days=1)
        await exporter.write(Format.PARQUET, since=NOON - 24 * HOUR)
        file = parquet.ParquetFile(exporter.folder / "samples.parquet")
        assert b"computed by Pleiades, not by YouTube" in file.metadata.metadata[b"pleiades.attribution"]
        assert file.metadata.metadata[b"pleiades.since"].startswith(b"2026-11-01")
        assert file.metadata.row_group(0).column(2).compression == "ZSTD"
        assert str(file.schema_arrow.field("sampled_at").type) == "timestamp[us, tz=UTC]"


class _Slow:
    """A database whose pages wait for a condition, so that something can happen between two of them."""

    def __init__(self, db: Database, may_go: Any) -> None:
        self._db, self._may_go = db, may_go

    async def copy_out(self, *args: Any, **options: Any) -> int:
        while not self._may_go():
            await asyncio.sleep(0.01)
        return await self._db.copy_out(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


class TestVideosAndChannels:
    async def test_texts_come_through_unharmed(self, exporter: Exporter, sql: Any) -> None:
        tags = ['a "tag"', "comma, tag", "line\nbreak", "\\N", ""]
        await store_video(sql, "a", title=TRICKY, description=TRICKY * 3, tags=tags, clock_velocity=1.5)
        await store_video(sql, "b", title="", description=None, tags=[], published_at=None)
        for read, texts in ((exporter.parquet, False), (exporter.csv, True)):
            first, second = await read(table=Table.VIDEOS)  # type: ignore[operator]
            assert (first["title"], first["description"]) == (TRICKY, TRICKY * 3)
            assert (json.loads(first["tags"]) if texts else first["tags"]) == tags
            assert (first["zone"], second["title"]) == ("hot", "")
            assert second["description"] == ("" if texts else None)
        assert (await exporter.parquet(table=Table.VIDEOS))[0]["velocity_by_pleiades"] == 1.5

    async def test_every_one_is_there_once(
        self, exporter: Exporter, sql: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(exports, "_VIDEO_ROWS_A_PAGE", 7)
        monkeypatch.setattr(exports, "_ROWS_A_PAGE", 3)
        monkeypatch.setattr(exports, "_PART_BYTES", 500)
        for number in range(50):
            await store_video(sql, f"v{number:02}", channel=f"UC-{number % 10}", title=TRICKY)
        videos = await exporter.parquet(table=Table.VIDEOS)
        assert [row["id"] for row in videos] == [f"v{number:02}" for number in range(50)]
        channels = await exporter.parquet(table=Table.CHANNELS)
        assert [row["id"] for row in channels] == [f"UC-{number}" for number in range(10)]
        assert {row["title"] for row in videos} == {TRICKY}

    async def test_a_span_is_that_of_the_discovery(self, exporter: Exporter, sql: Any) -> None:
        for number in range(4):
            at = NOON + number * HOUR
            await store_video(sql, f"v{number}", channel=f"UC-{number}", discovered_at=at)
            await sql.execute("UPDATE channels SET discovered_at = $1 WHERE id = $2", at, f"UC-{number}")
        span = {"since": NOON + HOUR, "until": NOON + 3 * HOUR}
        videos = await exporter.parquet(table=Table.VIDEOS, **span)
        channels = await exporter.parquet(table=Table.CHANNELS, **span)
        assert [row["id"] for row in videos] == ["v1", "v2"]
        assert [row["id"] for row in channels] == ["UC-1", "UC-2"]

    async def test_columns_are_what_the_statements_return(self, exporter: Exporter, sql: Any) -> None:
        await store_video(sql, "a")
        await sql.execute("UPDATE channel_clock SET subscribers = 7")
        for table in (Table.VIDEOS, Table.CHANNELS):
            [row] = await exporter.csv(table=table)
            assert list(row) == list(COLUMNS[table])
            assert None not in row

    async def test_videos_have_their_forecasts(self, exporter: Exporter, sql: Any) -> None:
        await store_video(sql, "a")
        await store_video(sql, "b")
        await sql.execute(
            "INSERT INTO video_forecasts VALUES ('a', $1, 100, 110, 120.5, 130, 0.25, NULL, 200, NULL, NULL)",
            NOON,
        )
        first, second = await exporter.parquet(table=Table.VIDEOS)
        told = {name: first[name] for name in first if name.startswith(("forecast_", "views_in_", "top_"))}
        assert told == {
            "forecast_at": NOON, "forecast_from_views": 100, "views_in_24h_by_pleiades": 120.5,
            "views_in_24h_low_by_pleiades": 110, "views_in_24h_high_by_pleiades": 130,
            "top_chance_24h_by_pleiades": 0.25, "views_in_7d_by_pleiades": 200,
            "views_in_7d_low_by_pleiades": None, "views_in_7d_high_by_pleiades": None,
            "top_chance_7d_by_pleiades": None,
        }  # fmt: skip
        assert all(second[name] is None for name in told)

    async def test_videos_and_their_samples_are_filtered(self, exporter: Exporter, sql: Any) -> None:
        for id_, duration_s, broadcast in (("a", 180, "none"), ("b", 181, None), ("c", 0, "upcoming")):
            await store_video(sql, id_, duration_s=duration_s, live_broadcast_content=broadcast)
            await store_samples(sql, id_, [(NOON - 2 * HOUR, 1), (NOON - HOUR, 2)])
        for condition, kept in (
            ({"length": "short"}, "a"), ({"length": "long"}, "b"), ({"broadcast": "upcoming"}, "c"),
            ({"broadcast": "none"}, "ab"), ({"broadcast": "none", "length": "long"}, "b"), ({}, "abc"),
        ):  # fmt: skip
            videos = await exporter.csv(table=Table.VIDEOS, **condition)
            samples = await exporter.csv(**condition)
            assert "".join(row["id"] for row in videos) == kept
            assert sorted({row["video_id"] for row in samples}) == list(kept)
            assert len(samples) == 2 * len(kept)

    @pytest.mark.parametrize("format_", Format)
    async def test_the_history_of_channels(self, exporter: Exporter, sql: Any, format_: Format) -> None:
        await store_video(sql, "a", channel="UC-1")
        for hours in range(72):
            await sql.execute(
                "INSERT INTO channel_stats_log VALUES ('UC-1', $1, $2, 3, 4)",
                NOON - hours * HOUR,
                None if hours == 5 else hours,
            )
        read = exporter.csv if format_ is Format.CSV else exporter.parquet
        span = {"since": NOON - 24 * HOUR, "until": NOON - 2 * HOUR}
        rows = await read(table=Table.CHANNEL_SAMPLES, **span)
        assert list(rows[0]) == list(COLUMNS[Table.CHANNEL_SAMPLES])
        assert [row["subscribers"] or None for row in rows] == [
            None if hours == 5 else str(hours) if format_ is Format.CSV else hours
            for hours in range(24, 2, -1)
        ]
        assert (await exporter.write(format_, table=Table.CHANNEL_SAMPLES)).rows == 71


class TestFailures:
    @pytest.mark.parametrize("format_", Format)
    async def test_a_failing_database_leaves_the_old_file(
        self, exporter: Exporter, sql: Any, monkeypatch: pytest.MonkeyPatch, format_: Format
    ) -> None:
        await fill(sql, videos=2)
        await exporter.write(format_)
        path = exporter.folder / f"samples.{format_}"
        before = path.read_bytes()
        monkeypatch.setattr(exports, "_WIDEST", HOUR)
        pages = 0

        class Failing(_Slow):
            async def copy_out(self, *args: Any, **options: Any) -> int:
                nonlocal pages
                pages += 1
                if pages == 3:
                    await sql.execute("ALTER TABLE video_stats_log RENAME COLUMN velocity TO pace")
                return await super().copy_out(*args, **options)

        failing, store = Failing(exporter.db, lambda: True), FileStore(exporter.folder)
        with pytest.raises(DatabaseError, match="velocity"):
            await export(failing, exporter.clock, store, path.name, Selection(), format_)  # type: ignore[arg-type]
        gc.collect()
        assert path.read_bytes() == before
        assert list(exporter.folder.iterdir()) == [path]

    async def test_a_cancelled_export_leaves_nothing(self, exporter: Exporter, sql: Any) -> None:
        await fill(sql, videos=2)
        slow = _Slow(exporter.db, lambda: False)
        task = asyncio.create_task(
            export(slow, exporter.clock, FileStore(exporter.folder), "a.csv", Selection(), Format.CSV)  # type: ignore[arg-type]
        )
        while not (exporter.folder / ".incoming").exists():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert list(exporter.folder.iterdir()) == []

    @pytest.mark.parametrize("format_", Format)
    def test_a_full_disk_is_told_and_tears_nothing(
        self, tmp_path: Path, format_: Format, database_url: str
    ) -> None:
        """The limit on a file's size fails a write half-way, as a full disk does."""
        exporting = textwrap.dedent("""
            import asyncio, resource, sys
            from pathlib import Path
            import asyncpg
            from atlas.clock import SystemClock
            from atlas.db import Database
            from atlas.errors import VaultError
            from atlas.exports import Format, Selection, export
            from atlas.stores import FileStore
            from atlas.testing import IsolatedSettings

            async def main() -> None:
                url, folder, format_ = sys.argv[1:]
                async with Database.open(IsolatedSettings(database_url=url)) as db:
                    sql = await asyncpg.connect(url)
                    await sql.execute("SELECT ensure_sample_days(ARRAY['2026-11-01']::date[])")
                    await sql.execute(
                        "INSERT INTO video_stats_log "
            "(video_id, sampled_at, views, likes, comments, velocity, methodology) "
                        "SELECT md5(n::text), '2026-11-01Z', n, n, n, random(), 2 "
                        "FROM generate_series(1, 20000) AS n"
                    )
                    await sql.close()
                    store = FileStore(Path(folder), folder)
                    await export(db, SystemClock(), store, "a", Selection(), Format(format_))
                    before = (Path(folder) / "a").read_bytes()
                    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
                    try:
                        await export(db, SystemClock(), store, "a", Selection(), Format(format_))
                    except VaultError as error:
                        print(error)
                    assert (Path(folder) / "a").read_bytes() == before
                    print([path.name for path in Path(folder).iterdir()])

            asyncio.run(main())
        """)
        arguments = [sys.executable, "-c", exporting, database_url, str(tmp_path), format_]
        told = subprocess.run(arguments, capture_output=True, text=True)
        lines = told.stdout.splitlines()
        assert len(lines) == 2, told.stderr
        assert lines[0].startswith(f"cannot write in {tmp_path}: File too large")
        assert lines[1] == "['a']"

    @pytest.mark.parametrize("format_", Format)
    async def test_kill_9_leaves_the_old_file_or_the_new(
        self, exporter: Exporter, sql: Any, database_url: str, format_: Format
    ) -> None:
        await fill(sql, videos=3)
        await exporter.write(format_, until=NOON - 24 * HOUR)
        path = exporter.folder / f"samples.{format_}"
        old = path.read_bytes()
        exporting = textwrap.dedent("""
            import asyncio, itertools, sys
            from pathlib import Path
            from atlas.clock import FixedClock
            from atlas.db import Database
            from atlas.exports import Format, Selection, export
            from atlas.stores import FileStore
            from atlas.testing import NOON, IsolatedSettings

            async def main() -> None:
                url, folder, format_ = sys.argv[1:]
                async with Database.open(IsolatedSettings(database_url=url)) as db:
                    print("ready", flush=True)
                    sys.stdin.readline()
                    store = FileStore(Path(folder))
                    on = lambda share, rows: print("page", flush=True)
                    name = f"samples.{format_}"
                    await export(db, FixedClock(NOON), store, name, Selection(), Format(format_), on)
                    print("done", flush=True)

            asyncio.run(main())
        """)
        new: bytes | None = None
        for pages in (0, 1, 3, 10_000):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", exporting, database_url, str(exporter.folder), format_,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
            process.stdin.write(b"\n")
            for _ in range(pages):
                if await process.stdout.readline() in (b"done\n", b""):
                    break
            if process.returncode is None:
                os.kill(process.pid, signal.SIGKILL)
            await process.communicate()
            found = path.read_bytes()
            if found != old:
                new = new or found
                assert found == new
        assert new is not None
        count = len(parquet.read_table(path)) if format_ is Format.PARQUET else new.count(b"\n") - 1
        assert count == 3 * 72

    def test_parquet_needs_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exports, "find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r"pip install (-e '.*\[parquet\]|'pyarrow)"):
            exports._encoder_of(Format.PARQUET, CsvForm.GUARDED)


class TestRecordsEnd:
    @given(
        st.lists(st.lists(st.text(st.sampled_from('a,"\n'), max_size=6), min_size=2, max_size=3)),
        st.integers(0, 30),
    )
    def test_only_between_records(self, records: list[list[str]], cut: int) -> None:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
        ends = {0}
        for record in records:
            writer.writerow(record)
            ends.add(text.tell())
        gathered = bytearray(text.getvalue().encode()[: max(0, text.tell() - cut)])
        end = exports._end_of_records(gathered)
        assert end in ends
        assert end == max(known for known in ends if known <= len(gathered))


class TestWhere:
    async def test_a_path_is_a_file(
        self, database: Database, settings_factory: SettingsFactory, tmp_path: Path
    ) -> None:
        settings = settings_factory()
        for to in (str(tmp_path / "a.csv"), f"file://{tmp_path}/a.csv"):
            target, name = locate(to, settings, database)
            assert isinstance(target, LocalFile)
            assert (target.path, name) == (tmp_path / "a.csv", to)
        assert isinstance(locate("-", settings, database)[0], StandardOutput)
        for folder in (str(tmp_path), f"{tmp_path}/none/"):
            with pytest.raises(ConfigError, match="is a folder"):
                locate(folder, settings, database)

    async def test_the_vault_is_that_of_the_settings(
        self, database: Database, settings_factory: SettingsFactory, tmp_path: Path
    ) -> None:
        settings = settings_factory(vault={"path": tmp_path / "vault"})
        store, name = locate("vault:exports/a.csv", settings, database)
        assert isinstance(store, FileStore)
        assert (store.root, name) == (tmp_path / "vault", "exports/a.csv")
        for to in ("vault:", "vault:../a.csv", "vault:/etc/passwd", "vault:.incoming/a"):
            with pytest.raises((ConfigError, VaultError)):
                locate(to, settings, database)

    async def test_buckets_and_datasets(self, database: Database, settings_factory: SettingsFactory) -> None:
        settings = settings_factory(hf_token=SecretStr("hf_notARealToken"))
        bucket, name = locate("s3://lake/samples/a.parquet", settings, database)
        assert isinstance(bucket, S3Store)
        assert (bucket.root, name) == ("lake/samples", "a.parquet")
        dataset, name = locate("hf://datasets/owner/name/samples/a.parquet", settings, database)
        assert isinstance(dataset, HubStore)
        assert (dataset.dataset, name) == ("owner/name", "samples/a.parquet")
        with pytest.raises(ConfigError, match="HF_TOKEN"):
            locate("hf://datasets/owner/name/a.csv", settings_factory(), database)

    @pytest.mark.parametrize(
        "to",
        ["ftp://host/a.csv", "https://host/a.csv", "s3://", "s3://bucket", "s3://bucket/", "hf://models/a/b/c.csv",
         "hf://datasets/owner/name", "hf://datasets/owner", "file://"],
    )  # fmt: skip
    async def test_what_names_no_place(
        self, database: Database, settings_factory: SettingsFactory, to: str
    ) -> None:
        with pytest.raises(ConfigError):
            locate(to, settings_factory(hf_token=SecretStr("hf_notARealToken")), database)
