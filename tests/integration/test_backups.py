"""Backups of a real database: what comes back, and everything that is refused."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pyrage
import pytest
import pytest_asyncio

from atlas import migrations
from atlas.adapters.maia import MaiaDAO
from atlas.adapters.telemetry import HostSample, TelemetryDAO
from atlas.backups import creation
from atlas.backups import manifest as manifests
from atlas.backups.creation import create, outlook
from atlas.backups.manifest import Manifest
from atlas.backups.programs import Program
from atlas.backups.restoration import restore
from atlas.backups.shelf import Shelf
from atlas.backups.snapshot import Session
from atlas.backups.stream import Conduit, ProgramFailed
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.errors import BackupDamaged, BackupError, BackupRunning, DatabaseError, VaultError
from atlas.testing import NOON, SettingsFactory, ThrowAwayServer

pytestmark = pytest.mark.integration

IDENTITY, OTHER = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
DAY = timedelta(days=1)
ODD = 'tab\t, newline\n, back\\slash, "quotes", \\N, ünïcode 😀'

FILL = """
SELECT ensure_sample_days(ARRAY['2026-10-31', '2026-11-01', '2026-11-02']::date[]);
INSERT INTO channels (id, title, discovered_at, refreshed_at)
    SELECT 'UC-' || n, 'Channel ' || n, '2026-11-01Z', '2026-11-01Z' FROM generate_series(1, 40) AS n;
INSERT INTO videos (id, channel_id, title, description, discovered_at, refreshed_at, tags)
    SELECT 'video-' || n, 'UC-' || 1 + n % 40, 'Title ' || n, repeat(md5(n::text), n % 9), '2026-11-01Z',
        '2026-11-01Z', ARRAY['a', n::text]
    FROM generate_series(1, 400) AS n;
INSERT INTO video_stats_log (video_id, methodology, sampled_at, views, likes, comments, velocity)
    SELECT 'video-' || n, 2, '2026-10-31Z'::timestamptz + h * interval '1 hour' + n * interval '1 ms',
        n * h, nullif(n % 5, 0), h, n / 3.0
    FROM generate_series(1, 400) AS n, generate_series(0, 59) AS h;
"""


@pytest.fixture
def atlas_settings(settings_factory: SettingsFactory, tmp_path: Path) -> Settings:
    return settings_factory(maintainer={"backups": {"path": tmp_path / "backups", "part_mb": 1}})


def with_backups(atlas: Atlas, **changes: Any) -> Atlas:
    """The same Atlas with other settings of backups."""
    maintainer = atlas.settings.maintainer
    backups = maintainer.backups.model_copy(update=changes)
    settings = atlas.settings.model_copy(
        update={"maintainer": maintainer.model_copy(update={"backups": backups})}
    )
    return replace(atlas, settings=settings)


@pytest.fixture
def shelf(atlas_settings: Settings) -> Shelf:
    return Shelf.of(atlas_settings)


@pytest_asyncio.fixture
async def filled(atlas: Atlas, sql: Any) -> Atlas:
    """An Atlas whose database has rows of many types in many tables."""
    await sql.execute(FILL)
    await MaiaDAO().add_to_search_queue(["one", "two", ODD.replace("\n", " ").replace("\t", " ")])
    await atlas.events.append_many([("test.odd", {"text": ODD, "n": n, "x": n / 7}) for n in range(50)])
    await TelemetryDAO().store([HostSample(at=NOON + n * DAY / 24, node="here") for n in range(9)])
    return atlas


def folder_of(atlas: Atlas, name: str) -> Path:
    path = atlas.settings.maintainer.backups.path
    assert path is not None
    return path / name


async def restored(atlas: Atlas, shelf: Shelf, manifest: Manifest, url: str, **options: Any) -> None:
    await restore(shelf, manifest, url, atlas.settings.database, **options)


async def tables_of(url: str) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        )
        return [row["relname"] for row in rows]
    finally:
        await connection.close()


async def schemas_of(url: str) -> tuple[list[str], str | None]:
    """The schemas of a database, and the one that new sessions use."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
        )
        return [row["nspname"] for row in rows], await connection.fetchval("SELECT current_schema()")
    finally:
        await connection.close()


async def copy_of(url: str, query: str) -> bytes:
    """A query's rows, as COPY writes them."""
    found: list[bytes] = []

    async def keep(data: bytes) -> None:
        found.append(data)

    connection = await asyncpg.connect(url)
    try:
        await connection.copy_from_query(query, output=keep)
    finally:
        await connection.close()
    return b"".join(found)


COMPARED = (
    "SELECT * FROM video_stats_log ORDER BY video_id, sampled_at",
    "SELECT * FROM videos ORDER BY id",
    "SELECT * FROM events ORDER BY id",
    "SELECT * FROM search_queue ORDER BY id",
    "SELECT * FROM migration ORDER BY number",
    "SELECT * FROM system_metrics ORDER BY id",
)


class TestRoundTrip:
    @pytest.mark.parametrize("method", ["pg_dump", "copy"])
    async def test_everything_comes_back(
        self, filled: Atlas, shelf: Shelf, empty_database_url: str, method: str
    ) -> None:
        manifest = await create(filled, shelf, folders=[] if method == "copy" else None)
        contents = manifest.contents
        assert contents.method == method
        assert {table.name: table.rows for table in contents.tables}["video_stats_log"] == 24_000
        assert contents.migration == migrations.known()[-1].number
        assert [each.name for each in await shelf.list(NOON)] == [manifest.name]
        await restored(filled, shelf, manifest, empty_database_url)
        for query in COMPARED:
            assert await copy_of(empty_database_url, query) == await copy_of(filled.db.url_of(), query), query
        settings = filled.settings.model_copy(update={"database_url": secret(empty_database_url)})
        # It is a database that Pleiades works with: nothing to migrate, sequences go on, days can be added.
        async with Atlas.open(settings, clock=filled.clock) as there:
            last = await filled.events.cursor()
            assert await there.db.pending_migrations() == []
            assert await there.events.append("test.after", {}) > last
            page = await TelemetryDAO(there.db, clock=there.clock, settings=settings).since(
                await TelemetryDAO(filled.db, clock=filled.clock, settings=settings).horizon()
            )
            assert page.samples == ()

    async def test_an_encrypted_one_needs_its_identity(
        self, filled: Atlas, shelf: Shelf, empty_database_url: str, tmp_path: Path
    ) -> None:
        encrypting = with_backups(filled, recipient=str(IDENTITY.to_public()))
        manifest = await create(encrypting, shelf)
        folder = folder_of(filled, manifest.name)
        part = (folder / manifest.parts[0].name).read_bytes()
        assert part.startswith(b"age-encryption.org/v1")
        assert manifest.recipient_fingerprint == manifests.fingerprint(str(IDENTITY.to_public()))
        assert str(IDENTITY.to_public()).encode() not in (folder / manifests.FILE_NAME).read_bytes()
        right, wrong, empty = (tmp_path / name for name in ("right", "wrong", "empty"))
        right.write_text(f"# created by age-keygen\n{IDENTITY}\n")
        wrong.write_text(str(OTHER))
        empty.write_text("# nothing\n")
        for identity, reason in (
            (None, "is encrypted: give the file"), (wrong, "not the one that the backup is encrypted for"),
            (empty, "has no secret key"), (tmp_path / "none", "cannot be read"),
        ):  # fmt: skip
            with pytest.raises(BackupError, match=reason):
                await restored(filled, shelf, manifest, empty_database_url, identity=identity)
            assert await tables_of(empty_database_url) == []
        await restored(filled, shelf, manifest, empty_database_url, identity=right)
        assert "videos" in await tables_of(empty_database_url)

    async def test_it_is_of_one_instant_while_others_write(
        self, filled: Atlas, shelf: Shelf, empty_database_url: str
    ) -> None:
        stop = asyncio.Event()

        async def write() -> None:
            while not stop.is_set():
                await filled.events.append("test.busy", {"text": ODD})

        writing = asyncio.create_task(write())
        try:
            manifest = await create(filled, shelf)
        finally:
            stop.set()
            await writing
        # Its own checks compare every table's rows and checksum with those of the dump's snapshot.
        await restored(filled, shelf, manifest, empty_database_url)

    async def test_learners_read_on_after_it_was_restored_elsewhere(
        self, filled: Atlas, shelf: Shelf, own_postgres: ThrowAwayServer
    ) -> None:
        dao = TelemetryDAO()
        cursor = (await dao.since(await dao.horizon())).cursor
        manifest = await create(filled, shelf)
        url = own_postgres.dsn_of(own_postgres.create_database())
        await restored(filled, shelf, manifest, url)
        settings = filled.settings.model_copy(update={"database_url": secret(url)})
        async with Atlas.open(settings, clock=filled.clock) as there:
            elsewhere = TelemetryDAO(there.db, clock=there.clock, settings=settings)
            await elsewhere.store([HostSample(at=NOON + 9 * DAY, node="there")])
            while not (page := await elsewhere.since(replace(cursor, id=9))).samples:
                await asyncio.sleep(0.01)
            assert [sample.node for sample in page.samples] == ["there"]


def secret(url: str) -> Any:
    from pydantic import SecretStr

    return SecretStr(url)


Damage = Callable[[Path, Manifest], None]


def _flip(path: Path, place: int = -9) -> None:
    body = bytearray(path.read_bytes())
    body[place] ^= 4
    path.write_bytes(body)


def _swap(folder: Path, manifest: Manifest) -> None:
    first, second, *_ = (folder / part.name for part in manifest.parts)
    body = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(body)


def _forge(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the contents in the manifest, and make its digest right again."""
    path = folder / manifests.FILE_NAME
    value = orjson.loads(path.read_bytes())
    del value["digest"]
    change(value["contents"])
    value["digest"] = manifests._digest(value)
    path.write_bytes(orjson.dumps(value))


def _declare(folder: Path, manifest: Manifest) -> None:
    """Swap two parts, and declare them so in a manifest that is right by itself."""
    _swap(folder, manifest)
    first, second, *rest = manifest.parts
    swapped = (replace(second, name=first.name), replace(first, name=second.name), *rest)
    (folder / manifests.FILE_NAME).write_bytes(replace(manifest, parts=swapped).dumps())


DAMAGES: Mapping[str, tuple[Damage, str]] = {
    "first part": (lambda folder, m: _flip(folder / m.parts[0].name), "part-00001.zst of .* was changed"),
    "last part": (lambda folder, m: _flip(folder / m.parts[-1].name), "part-0000[2-9].zst of .* was changed"),
    "truncated": (
        lambda folder, m: (folder / m.parts[1].name).write_bytes(b"x" * 100) and None,
        "part-00002.zst of .* was cut off",
    ),
    "missing": (lambda folder, m: (folder / m.parts[1].name).unlink(), "part-00002.zst of .* is missing"),
    "swapped": (_swap, "part-00001.zst of .* was c"),
    "declared swap": (_declare, "are not in their order|compressed stream was changed"),
    "manifest": (lambda folder, _: _flip(folder / manifests.FILE_NAME, 40), "manifest of .* (changed|torn)"),
    "forged manifest": (
        lambda folder, _: _forge(folder, lambda contents: contents["tables"][0].update(rows=-1)),
        "is not the one that its parts belong to",
    ),
    "forged schema": (
        lambda folder, _: _forge(folder, lambda contents: contents.update(schema="other")),
        "does not hold what its manifest names|is not the one that its parts belong to",
    ),
}


class TestDamage:
    @pytest_asyncio.fixture
    async def made(self, filled: Atlas, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Manifest:
        # Parts of some kilobytes, as the database is small.
        monkeypatch.setattr(creation, "BYTES_PER_MB", 50_000)
        manifest = await create(filled, shelf)
        assert len(manifest.parts) > 2
        return manifest

    async def test_each_is_refused_by_name_and_the_target_stays_empty(
        self, filled: Atlas, shelf: Shelf, made: Manifest, empty_database_url: str
    ) -> None:
        folder = folder_of(filled, made.name)
        intact = folder.with_name("intact")
        shutil.copytree(folder, intact)
        for name, (damage, reason) in DAMAGES.items():
            shutil.rmtree(folder)
            shutil.copytree(intact, folder)
            damage(folder, made)
            with pytest.raises(BackupDamaged, match=reason):
                await restored(filled, shelf, await shelf.find(made.name, NOON), empty_database_url)
            assert await tables_of(empty_database_url) == [], name
            assert await schemas_of(empty_database_url) == (["public"], "public"), name
        shutil.rmtree(folder)
        shutil.copytree(intact, folder)
        await restored(filled, shelf, await shelf.find(made.name, NOON), empty_database_url)

    async def test_a_damaged_manifest_is_listed_as_such(
        self, filled: Atlas, shelf: Shelf, made: Manifest
    ) -> None:
        _flip(folder_of(filled, made.name) / manifests.FILE_NAME, 40)
        [listed] = await shelf.list(NOON)
        assert not listed.is_good
        assert listed.problem is not None
        assert made.name in listed.problem

    async def test_without_a_manifest_it_is_no_backup(
        self, filled: Atlas, shelf: Shelf, made: Manifest
    ) -> None:
        (folder_of(filled, made.name) / manifests.FILE_NAME).unlink()
        assert await shelf.list(NOON) == []
        assert await shelf.names() == ([], [made.name])
        with pytest.raises(BackupDamaged, match="is incomplete"):
            await shelf.find(made.name, NOON)


class TestTargets:
    async def test_a_database_with_tables_is_never_touched(self, filled: Atlas, shelf: Shelf) -> None:
        manifest = await create(filled, shelf)
        before = await copy_of(filled.db.url_of(), COMPARED[0])
        with pytest.raises(BackupError, match="the database is not empty: it has"):
            await restored(filled, shelf, manifest, filled.db.url_of())
        assert await copy_of(filled.db.url_of(), COMPARED[0]) == before

    async def test_a_search_path_that_would_hide_what_is_restored_is_refused(
        self, filled: Atlas, shelf: Shelf, empty_database_url: str
    ) -> None:
        manifest = await create(filled, shelf)
        with pytest.raises(BackupError, match="of the schema public, but the URL has search_path=elsewhere"):
            await restored(filled, shelf, manifest, f"{empty_database_url}&schema=elsewhere")
        assert await tables_of(empty_database_url) == []
        await restored(filled, shelf, manifest, f"{empty_database_url}&schema=public")

    async def test_what_differs_after_restoring_is_told(
        self, filled: Atlas, shelf: Shelf, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        manifest = await create(filled, shelf)
        execute = Session.tables

        async def lossy(self: Session, schema: str, on_table: Any) -> Any:
            tables = await execute(self, schema, on_table)
            return tuple(
                replace(t, rows=t.rows - 1) if t.name == "events" else t for t in tables if t.name != "site"
            )

        monkeypatch.setattr(Session, "tables", lossy)
        with pytest.raises(
            BackupDamaged, match=r"events has 49 rows instead of 50; table site is missing"
        ) as told:
            await restored(filled, shelf, manifest, empty_database_url)
        assert "is left in the database" in str(told.value)
        assert "dropdb" in str(told.value)

    @pytest.mark.parametrize("method", ["pg_dump", "copy"])
    async def test_another_schema_comes_back_and_sessions_find_it(
        self, filled: Atlas, shelf: Shelf, sql: Any, empty_database_url: str, method: str
    ) -> None:
        await _move_to_schema(sql, "other")
        manifest = await create(filled, shelf, folders=[] if method == "copy" else None)
        assert (manifest.contents.schema, manifest.contents.method) == ("other", method)
        await restored(filled, shelf, manifest, empty_database_url)
        assert await schemas_of(empty_database_url) == (["public", "other"], "other")

    async def test_a_schema_that_cannot_be_dropped_again_is_told(
        self,
        filled: Atlas,
        shelf: Shelf,
        sql: Any,
        empty_database_url: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        await _move_to_schema(sql, "other")
        manifest = await create(filled, shelf)

        async def start(*_: Any, **__: Any) -> Program:
            # Somebody else uses it meanwhile.
            connection = await asyncpg.connect(empty_database_url)
            await connection.execute("CREATE TABLE other.theirs ()")
            await connection.close()
            raise ProgramFailed("pg_restore failed: killed")

        monkeypatch.setattr(Program, "start", start)
        with pytest.raises(
            ProgramFailed, match=r"killed\. The schema other, which was created for it, could not be dropped"
        ):
            await restored(filled, shelf, manifest, empty_database_url)
        assert await schemas_of(empty_database_url) == (["public", "other"], "public")

    async def test_latest_and_unknown_names(self, filled: Atlas, shelf: Shelf, clock: FixedClock) -> None:
        with pytest.raises(BackupError, match=r"no backup yet .* maia backup create"):
            await shelf.find("latest", NOON)
        await create(filled, shelf)
        clock.advance(DAY)
        newest = await create(filled, shelf)
        assert await shelf.find("latest", clock.now()) == newest
        with pytest.raises(BackupError, match="maia backup list shows them"):
            await shelf.find("yesterday", NOON)


async def _move_to_schema(sql: Any, schema: str) -> None:
    """Let everything be in a schema of another name, which new sessions find."""
    await sql.execute(f"ALTER SCHEMA public RENAME TO {schema}")
    await sql.execute(
        "DO $$ BEGIN EXECUTE format("
        f"'ALTER DATABASE %I SET search_path TO {schema}', current_database()); END $$"
    )


class TestFailures:
    async def test_two_at_once_are_one(self, filled: Atlas, shelf: Shelf) -> None:
        results = await asyncio.gather(create(filled, shelf), create(filled, shelf), return_exceptions=True)
        assert sorted(type(each).__name__ for each in results) == ["BackupRunning", "Manifest"]
        assert any(isinstance(each, BackupRunning) for each in results)
        assert len(await shelf.list(NOON)) == 1

    async def test_a_full_disk_is_told_and_leaves_nothing(
        self, filled: Atlas, tmp_path: Path, mount_small: Any
    ) -> None:
        small = mount_small(tmp_path / "small", "100k")
        full = with_backups(filled, path=small)
        shelf = Shelf.of(full.settings)
        with pytest.raises(VaultError, match="No space left"):
            await create(full, shelf)
        assert await shelf.names() == ([], [])
        assert [path for path in small.rglob("*") if path.is_file()] == []

    async def test_a_failing_pg_dump_says_why(
        self, filled: Atlas, shelf: Shelf, sql: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(creation, "LOCK_WAIT_S", 0.2)
        async with sql.transaction():
            await sql.execute("LOCK TABLE videos IN ACCESS EXCLUSIVE MODE")
            with pytest.raises((ProgramFailed, DatabaseError), match="lock timeout"):
                await create(filled, shelf)
        assert await shelf.names() == ([], [])
        await _no_snapshot_is_left(sql)

    async def test_it_gives_way_to_a_migration(
        self, filled: Atlas, shelf: Shelf, sql: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(creation, "POLL_S", 0.05)

        def never_reading(_: int, packed: Conduit, *__: Any, **___: Any) -> int:
            # pg_dump keeps its locks while nobody reads what it writes.
            while True:
                time.sleep(0.01)
                packed.raise_if_abandoned()

        monkeypatch.setattr(creation, "compress", never_reading)
        await sql.execute(
            "CREATE TABLE big AS SELECT repeat(md5(n::text), 50) FROM generate_series(1, 4000) AS n"
        )
        backing_up = asyncio.create_task(create(filled, shelf))
        while not await sql.fetchval(
            "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE application_name = 'pleiades_backup' AND relation = 'big'::regclass)"
        ):
            await asyncio.sleep(0.01)
        await sql.execute("ALTER TABLE big ADD COLUMN n int")
        with pytest.raises(BackupError, match="gave way"):
            await backing_up

    async def test_cancelling_ends_everything(self, filled: Atlas, shelf: Shelf, sql: Any) -> None:
        begun = asyncio.Event()
        backing_up = asyncio.create_task(create(filled, shelf, on_progress=lambda *_: begun.set()))
        await begun.wait()
        backing_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await backing_up
        assert await shelf.list(NOON) == []
        await _no_snapshot_is_left(sql)


async def _no_snapshot_is_left(sql: Any) -> None:
    """Wait until no other session of this database has a snapshot."""
    async with asyncio.timeout(10):
        while await sql.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() "
            "AND (backend_xmin IS NOT NULL OR application_name = 'pleiades_backup')"
        ):
            await asyncio.sleep(0.02)


class TestVault:
    async def test_backups_lie_in_the_vault_beside_everything_else(
        self, filled: Atlas, empty_database_url: str
    ) -> None:
        in_vault = with_backups(filled, path=None)
        shelf = Shelf.of(in_vault.settings, filled.db)
        manifest = await create(in_vault, shelf)
        assert f"backups/{manifest.name}/manifest.json" in await filled.vault.list("backups/")
        assert await filled.vault.waiting() == 0
        # What reads backups has no database, because that may be what is lost.
        await restored(filled, Shelf.of(in_vault.settings), manifest, empty_database_url)
        await shelf.delete(manifest.name)
        assert await filled.vault.list("backups/") == []

    async def test_other_files_in_the_folder_are_left_alone(self, filled: Atlas, shelf: Shelf) -> None:
        other = folder_of(filled, "2026-notes") / "manifest.json"
        other.parent.mkdir(parents=True)
        other.write_text("mine")
        assert await shelf.names() == ([], [])
        await shelf.delete("2026-notes")
        assert other.read_text() == "mine"


async def test_the_outlook_says_how(filled: Atlas) -> None:
    seen = await outlook(filled)
    assert (seen.method, seen.facts.schema, seen.facts.has_timescaledb) == ("pg_dump", "public", False)
    assert (await outlook(filled, folders=[])).method == "copy"
    assert seen.facts.database_bytes > 1_000_000


async def test_checksums_do_not_depend_on_the_order_of_rows_or_a_vacuum(filled: Atlas, sql: Any) -> None:
    async def checksums() -> Any:
        async with Session.open(filled.db.url_of(), filled.settings.database, readonly=True) as session:
            return await session.tables("public", lambda *_: None)

    before = await checksums()
    await sql.execute("CLUSTER videos USING videos_pkey")
    await sql.execute("VACUUM FULL events")
    assert await checksums() == before
    await sql.execute("UPDATE videos SET title = title || ' ' WHERE id = 'video-7'")
    changed = {new.name for old, new in zip(before, await checksums(), strict=True) if old != new}
    assert changed == {"videos"}


async def test_every_table_of_the_schema_is_checked(filled: Atlas, sql: Any) -> None:
    async with Session.open(filled.db.url_of(), filled.settings.database, readonly=True) as session:
        found = {table.name for table in await session.tables("public", lambda *_: None)}
    rows = await sql.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') "
        "AND NOT relispartition"
    )
    assert found == {row["relname"] for row in rows}
