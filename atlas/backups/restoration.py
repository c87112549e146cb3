"""Restore a backup into an empty database, and verify one in a throw-away server.

Each part is checked before any of it is used, and all is one transaction, so that a damaged backup leaves the
database empty. Afterwards the rows and checksums of every table are compared with the manifest's.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from atlas import dsn, migrations, paths
from atlas.backups import copying, programs
from atlas.backups.manifest import Manifest, Table
from atlas.backups.programs import Program
from atlas.backups.shelf import Shelf, Verification
from atlas.backups.snapshot import Session, execute
from atlas.backups.stream import (
    Abandoned,
    Conduit,
    ProgramFailed,
    abandon,
    all_of,
    background_threads,
    decompress,
    decrypt,
    in_thread,
    new_pipe,
    owning,
)
from atlas.embedded import EmbeddedServer
from atlas.errors import AtlasError, BackupDamaged, BackupError, DatabaseError

if TYPE_CHECKING:
    from atlas.clock import Clock
    from atlas.config import DatabaseSettings, Settings

OnProgress = Callable[[str, int, int], None]
"""What is being done, and how much of how much is done."""

_THREADS: Final = 5
_PREFIX: Final = "pleiades-verify-"
_OURS: Final = re.compile(rf"{_PREFIX}[a-z0-9_]{{8}}")
_SERVER_BYTES: Final = 2**29
"""What a server needs beyond its tables: its own files, and its log of changes."""
_ROOM: Final = 1.2
_ABANDONED_AFTER_S: Final = 86_400
_COMPLETE: Final = "All of it is restored, with equal counts and checksums"
_FILLED: Final = (
    "What was restored is left in the database to be looked at, not to be used: drop the database (dropdb), "
    "or delete the folder of the new server, before another backup is restored there"
)


def read_identities(path: Path) -> list[Any]:
    """The secret keys in a file as age-keygen writes it; BackupError if there is none."""
    import pyrage

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise BackupError(f"the identity file {path} cannot be read: {reason}") from None
    try:
        found = [pyrage.x25519.Identity.from_str(line.strip()) for line in lines
                 if line.strip() and not line.startswith("#")]  # fmt: skip
    except pyrage.IdentityError:
        raise BackupError(f"{path} is no identity file: write a line AGE-SECRET-KEY-1…") from None
    if not found:
        raise BackupError(f"{path} has no secret key: write a line AGE-SECRET-KEY-1…")
    return found


def identities_of(manifest: Manifest, path: Path | None) -> list[Any]:
    """The secret keys to restore a backup with, none if it isn't encrypted; BackupError if it needs some."""
    if manifest.recipient_fingerprint is None:
        return []
    if path is None:
        raise BackupError(
            f"backup {manifest.name} is encrypted: give the file with the secret key "
            "(--identity FILE, or PLEIADES_MAINTAINER__BACKUPS__IDENTITY_FILE)"
        )
    return read_identities(path)


async def restore(
    shelf: Shelf,
    manifest: Manifest,
    url: str,
    settings: DatabaseSettings,
    *,
    identity: Path | None = None,
    folders: list[Path] | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> None:
    """Restore a backup into an empty database, and check that it holds what was backed up.

    BackupError if the database isn't empty, and BackupDamaged if the backup isn't what was written. If the
    database isn't as empty as before then, the error says what is left in it.
    """
    restoration = _Restoration(shelf, manifest, url, settings, on_progress)
    try:
        await restoration.run(identity, folders)
    except AtlasError as error:
        if restoration.left is None:
            raise
        raise type(error)(f"{error}. {restoration.left}") from error


class _Restoration:
    """One backup while it is being restored."""

    def __init__(
        self, shelf: Shelf, manifest: Manifest, url: str, settings: DatabaseSettings, on_progress: OnProgress
    ) -> None:
        self._shelf, self._manifest, self._url, self._settings = shelf, manifest, url, settings
        self._on_progress = on_progress
        self.left: str | None = None
        """What the database holds if the next step fails, and how to go on; None if it is as it was."""

    async def run(self, identity: Path | None, folders: list[Path] | None) -> None:
        identities = identities_of(self._manifest, identity)
        contents = self._manifest.contents
        _check_search_path(self._url, contents.schema)
        async with Session.open(self._url, self._settings, readonly=False) as session:
            await self._check_empty(session)
            major = (await session.facts()).major
            if contents.method == "copy":
                _check_migration(self._manifest)
                await session.create_schema(contents.schema)
                await session.use_schema(contents.schema)
                await self._stream(identities, lambda pipe, threads: self._load(session, pipe, threads))
                await self._compare(session)
        if contents.method == "pg_dump":
            await self._restore_dump(identities, major, folders)
        self.left = f"{_COMPLETE}, but PostgreSQL has no statistics of it: run ANALYZE there"
        await execute(self._url, self._settings, "backups.analyze")

    async def _restore_dump(self, identities: list[Any], major: int, folders: list[Path] | None) -> None:
        contents = self._manifest.contents
        usable = await programs.fitting(max(major, contents.tool_version), folders)
        if usable is None or usable.major < contents.tool_version:
            raise BackupError(
                f"the backup was made by pg_dump {contents.tool_version}, so restoring it needs pg_restore "
                f"{contents.tool_version} or later: install it (postgresql-client-{contents.tool_version})"
            )
        if not programs.can_restore(usable.major, major):
            raise BackupError(
                f"the backup was made by pg_dump {contents.tool_version} and can't be restored to PostgreSQL "
                f"{major}: restore it to version 17 or later, or to the embedded server"
            )
        async with self._schema(contents.schema):
            await self._stream(identities, lambda pipe, _: self._pg_restore(usable, pipe))
        self.left = _FILLED
        async with Session.open(self._url, self._settings, readonly=True) as session:
            await self._compare(session)
        async with Session.open(self._url, self._settings, readonly=False) as session:
            statement = await session.made("backups.use_schema", contents.schema)
            self.left = f"{_COMPLETE}, but sessions don't find it: run {statement}, as the database's owner"
            await session.use_schema(contents.schema)

    @asynccontextmanager
    async def _schema(self, schema: str) -> AsyncIterator[None]:
        """Create the schema, which pg_restore must find, and drop it again if nothing gets into it."""
        made: list[str] = []
        async with Session.open(self._url, self._settings, readonly=False) as session:
            if await session.create_schema(schema):
                made.append(await session.made("backups.drop_schema", schema))
        # On its own, as not everybody may do that: pg_restore then says what is missing.
        with suppress(DatabaseError):
            async with Session.open(self._url, self._settings, readonly=False) as session:
                if await session.create_trigrams(schema):
                    made.append(await session.made("backups.drop_trigrams"))
        try:
            yield
        except BaseException:
            await self._drop(schema, reversed(made))
            raise

    async def _drop(self, schema: str, statements: Iterable[str]) -> None:
        try:
            async with Session.open(self._url, self._settings, readonly=False) as session:
                for statement in statements:
                    await session.run(statement)
        except DatabaseError as error:
            self.left = (
                f"The schema {schema}, which was created for it, could not be dropped again ({error}): drop "
                "it yourself, or restore another backup, to which it does no harm"
            )

    async def _check_empty(self, session: Session) -> None:
        found = [row["name"] for row in await session.statements.fetch("backups.relations")]
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise BackupError(
                f"the database is not empty: it has {', '.join(found[:3])}{more}. A backup is only restored "
                "into an empty one: create one (createdb), or give an empty folder (--data-dir DIR)"
            )

    async def _stream(self, identities: list[Any], use: Callable[[int, Executor], Any]) -> None:
        """Read, check, decrypt and decompress the parts into a pipe, and let `use` read that."""
        received, packed = Conduit(), Conduit()
        if not identities:
            packed = received
        reading, writing = new_pipe()
        threads = background_threads(_THREADS)
        steps: list[Awaitable[Any]] = [
            self._shelf.read_parts(self._manifest, received, threads, self._note_bytes),
            owning(writing, in_thread(threads, decompress, packed, writing, self._check_trailer)),
            owning(reading, use(reading, threads)),
        ]
        if identities:
            steps.append(in_thread(threads, decrypt, received, packed, identities))
        try:
            await all_of(steps, on_failure=lambda: abandon(received, packed))
        except Abandoned:
            # No step has failed, but the last one ended early: it found nothing that it was to restore.
            raise BackupDamaged(
                f"backup {self._manifest.name} does not hold what its manifest names"
            ) from None
        finally:
            threads.shutdown()

    async def _load(self, session: Session, pipe: int, threads: Executor) -> None:
        contents = self._manifest.contents
        await copying.load(session, contents.schema, contents.migration, pipe, threads)

    async def _pg_restore(self, usable: programs.Programs, pipe: int) -> None:
        env = programs.environment(self._url)
        if env is None:
            raise BackupError(
                "the database's URL has several hosts, or a parameter that pg_restore has not: give the "
                "address of one server"
            )
        arguments = [
            "--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges", "--no-password",
            f"--schema={self._manifest.contents.schema}", f"--dbname={_conninfo(env)}",
        ]  # fmt: skip
        program = await Program.start(usable, "pg_restore", arguments, env, stdin=pipe)
        try:
            await program.finish()
        except ProgramFailed as error:
            if "startup parameter" not in str(error):
                raise
            raise ProgramFailed(
                f"{error}: a connection pooler in between refuses it: give the database's direct address"
            ) from error
        finally:
            await program.kill()

    def _check_trailer(self, trailer: bytes, dump_bytes: int) -> None:
        contents = self._manifest.contents
        if trailer != contents.as_json():
            raise BackupDamaged(
                f"the manifest of backup {self._manifest.name} is not the one that its parts belong to"
            )
        if dump_bytes != contents.dump_bytes:
            raise BackupDamaged(
                f"backup {self._manifest.name} holds {dump_bytes:,} bytes instead of {contents.dump_bytes:,}"
            )

    async def _compare(self, session: Session) -> None:
        found = await session.tables(
            self._manifest.contents.schema,
            lambda done, of: self._on_progress(f"checking table {done} of {of}", done, of),
        )
        if differences := _differences(self._manifest.contents.tables, found):
            raise BackupDamaged(
                f"what was restored of backup {self._manifest.name} differs from what was backed up: "
                f"{'; '.join(differences[:3])}"
            )

    def _note_bytes(self, done: int) -> None:
        self._on_progress("restoring", done, self._manifest.size_bytes)


def _check_search_path(url: str, schema: str) -> None:
    """BackupError if sessions of this URL would not find what is restored."""
    given = dsn.parse(url).settings.get("search_path")
    if given is not None and schema not in [name.strip(' "') for name in given.split(",")]:
        raise BackupError(
            f"the backup's tables are of the schema {schema}, but the URL has search_path={given}, so that "
            "nobody would find them: leave that out of the URL"
        )


def _check_migration(manifest: Manifest) -> None:
    last = migrations.known()[-1].number
    if manifest.contents.migration > last:
        raise BackupError(
            f"backup {manifest.name} has the schema of migration {manifest.contents.migration}, but this "
            f"version knows none after {last}: install {manifest.contents.pleiades_version}, which made it"
        )


def _conninfo(env: dict[str, str]) -> str:
    """The database's name, which pg_restore does not take from the environment."""
    name = env.get("PGDATABASE", env.get("PGUSER", ""))
    quoted = name.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{quoted}'"


def _differences(expected: tuple[Table, ...], found: tuple[Table, ...]) -> list[str]:
    """What differs, in words, the tables by name."""
    wanted = {table.name: table for table in expected}
    there = {table.name: table for table in found}
    texts = []
    for name in sorted(wanted.keys() | there.keys()):
        before, after = wanted.get(name), there.get(name)
        if before is None or after is None:
            texts.append(f"table {name} {'is missing' if after is None else 'was not backed up'}")
        elif before.rows != after.rows:
            texts.append(f"table {name} has {after.rows:,} rows instead of {before.rows:,}")
        elif before.checksum != after.checksum:
            texts.append(f"table {name} has the same number of rows, but other values")
    return texts


async def verify(
    shelf: Shelf,
    manifest: Manifest,
    settings: Settings,
    clock: Clock,
    *,
    identity: Path | None = None,
    folders: list[Path] | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> Verification:
    """Restore a backup into a throw-away server and compare every table; notes what came of it on the shelf.

    BackupError if that could not be tried, for want of space, programs or the secret key.
    """
    identities_of(manifest, identity)
    problem = None
    async with throw_away_server(manifest.contents.database_bytes, settings) as url:
        try:
            restoration = _Restoration(shelf, manifest, url, settings.database, on_progress)
            await restoration.run(identity, folders)
        except BackupDamaged as error:
            problem = str(error)
    verification = Verification(at=clock.now(), problem=problem)
    await shelf.note(manifest.name, verification)
    return verification


@asynccontextmanager
async def throw_away_server(database_bytes: int, settings: Settings) -> AsyncIterator[str]:
    """The URL of an empty database of so many bytes, on a server that is gone at the end."""
    await asyncio.to_thread(_sweep)
    base = _roomy(_needed(database_bytes), settings)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
    # The server runs as another user if root starts it; its own folder within this is private.
    await asyncio.to_thread(folder.chmod, 0o755)
    try:
        async with EmbeddedServer.open(folder, settings.database, durable=False) as server:
            yield server.dsn
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def check_room(manifest: Manifest, folder: Path) -> None:
    """BackupError unless a server in this folder has room for what the backup holds."""
    needed = _needed(manifest.contents.database_bytes)
    free = shutil.disk_usage(paths.nearest(folder)).free
    if free < needed:
        raise BackupError(
            f"restoring this backup takes {needed / 1e9:.1f} GB of disk, but only {free / 1e9:.1f} GB are "
            f"free in {folder}: free some space, or give a folder on another disk"
        )


def _needed(database_bytes: int) -> int:
    return round(database_bytes * _ROOM) + _SERVER_BYTES


def _roomy(needed: int, settings: Settings) -> Path:
    """A folder for temporary files with so much space; BackupError if none has it."""
    candidates = [Path(tempfile.gettempdir()), *(each for each in (settings.data_folder,) if each.is_dir())]
    for folder in candidates:
        if shutil.disk_usage(folder).free >= needed:
            return folder
    free = max(shutil.disk_usage(folder).free for folder in candidates)
    raise BackupError(
        f"verifying this backup takes {needed / 1e9:.1f} GB of disk, but only {free / 1e9:.1f} GB are free: "
        "free some space, or let TMPDIR name a folder on another disk"
    )


def _sweep() -> None:
    """Remove what verifications that were killed left behind; their servers have stopped themselves."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            status = folder.lstat()
            if not (_OURS.fullmatch(folder.name) and stat.S_ISDIR(status.st_mode)):
                continue
            before = time.time() - _ABANDONED_AFTER_S
            if status.st_uid == os.geteuid() and _last_change(folder) < before:
                shutil.rmtree(folder, ignore_errors=True)


def _last_change(folder: Path) -> float:
    """When anything in a folder was last written, which its own time does not tell."""
    found = [os.lstat(parent).st_mtime for parent, *_ in os.walk(folder)]
    logs = [path.lstat().st_mtime for path in folder.glob("postgres/*.log")]
    return max(found + logs)
