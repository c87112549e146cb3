"""Make a backup: dump, compress, encrypt and write it in one pass, from one snapshot.

pg_dump writes into a pipe, and threads do the rest, while our own connection counts and sums up the rows that
the same snapshot shows. What is killed leaves parts without a manifest, which are no backup, and neither
pg_dump nor a snapshot: the kernel ends the one, and with it PostgreSQL the other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, TypeVar

from atlas.backups import copying, programs
from atlas.backups.manifest import (
    CHECKSUM,
    Contents,
    Manifest,
    Method,
    Part,
    Table,
    fingerprint,
    new_name,
)
from atlas.backups.programs import LOCK_WAIT_S, Program, Programs
from atlas.backups.shelf import Shelf
from atlas.backups.snapshot import APPLICATION_NAME, Facts, Session
from atlas.backups.stream import (
    Abandoned,
    Conduit,
    Slicer,
    abandon,
    all_of,
    background_threads,
    compress,
    encrypt,
    in_thread,
    new_pipe,
    owning,
)
from atlas.errors import BackupError, BackupRunning, VaultError

if TYPE_CHECKING:
    from pathlib import Path

    from atlas.composition import Atlas

LOCK: Final = "backup"
"""The lock that one process of a database holds while it makes or deletes backups."""

BYTES_PER_MB: Final = 10**6
POLL_S: Final = 5.0
"""How long others may wait for a lock of ours before the backup gives way."""
_THREADS: Final = 4

_T = TypeVar("_T")

OnProgress = Callable[[str, int, int], None]
"""What is being done, and how many bytes of about how many are dumped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a backup would be: of what, how and with which programs."""

    facts: Facts
    programs: Programs | None

    @property
    def method(self) -> Method:
        return "copy" if self.programs is None else "pg_dump"


async def outlook(atlas: Atlas, *, folders: list[Path] | None = None) -> Outlook:
    """How the database can be backed up now; `folders` replaces where programs are looked for."""
    async with _session(atlas) as session:
        return await _outlook(atlas, session, folders)


async def create(
    atlas: Atlas,
    shelf: Shelf,
    *,
    on_progress: OnProgress = lambda *_: None,
    folders: list[Path] | None = None,
) -> Manifest:
    """Make a backup and return its manifest; BackupRunning if another process is making one.

    If it fails, what was written of it is deleted.
    """
    async with atlas.db.only_one(LOCK) as is_ours:
        if not is_ours:
            raise BackupRunning
        name = new_name(atlas.clock.now())
        try:
            manifest = await _Creation(atlas, shelf, name, on_progress).run(folders)
        except BaseException:
            with suppress(VaultError):
                await shelf.delete(name)
            raise
        return manifest


@asynccontextmanager
async def _session(atlas: Atlas) -> AsyncIterator[Session]:
    url, settings = atlas.db.url_of(), atlas.settings.database
    async with Session.open(url, settings, readonly=True, lock_timeout_s=LOCK_WAIT_S) as session:
        yield session


async def _outlook(atlas: Atlas, session: Session, folders: list[Path] | None) -> Outlook:
    facts = await session.facts()
    usable = None
    # Behind a pooler a session keeps no settings; and a hypertable's dump only TimescaleDB can restore.
    if not (session.pooled or facts.has_timescaledb or programs.environment(atlas.db.url_of()) is None):
        found = await programs.fitting(facts.major, folders)
        # What comes from a server must be able to go back to it.
        usable = found if found and programs.can_restore(found.major, facts.major) else None
    return Outlook(facts=facts, programs=usable)


class _Creation:
    """One backup while it is being made."""

    def __init__(self, atlas: Atlas, shelf: Shelf, name: str, on_progress: OnProgress) -> None:
        self._atlas, self._shelf, self._name, self._on_progress = atlas, shelf, name, on_progress
        self._settings = atlas.settings.maintainer.backups
        self._at = atlas.clock.now()
        self._began_s = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._total = self._dumped = 0
        self._checked = ""

    async def run(self, folders: list[Path] | None) -> Manifest:
        async with _session(self._atlas) as session:
            outlook = await _outlook(self._atlas, session, folders)
            self._total = outlook.facts.database_bytes
            contents, parts, digest = await self._write(session, outlook, await session.last_migration())
        recipient = self._settings.recipient
        manifest = Manifest(
            contents=contents,
            parts=parts,
            sha256=digest,
            level=self._settings.level,
            recipient_fingerprint=None if recipient is None else fingerprint(recipient),
            seconds=round(time.monotonic() - self._began_s, 3),
            node=self._atlas.settings.node_id,
        )
        await self._shelf.commit(manifest)
        return manifest

    async def _write(
        self, session: Session, outlook: Outlook, migration: int
    ) -> tuple[Contents, tuple[Part, ...], str]:
        """Run all steps at once; the first error of one stops all others."""
        trailer: Future[Callable[[int], bytes]] = Future()
        sealed: list[Contents] = []
        recipient = self._settings.recipient
        packed, written = Conduit(), Conduit()
        slicer = Slicer(packed if recipient is None else written, self._settings.part_mb * BYTES_PER_MB)
        reading, writing = new_pipe()
        threads = background_threads(_THREADS)

        async def dumping() -> None:
            tables = await self._dump(session, outlook, writing, threads)

            def seal(dump_bytes: int) -> bytes:
                sealed.append(self._contents(outlook, tables, migration, dump_bytes))
                return sealed[0].as_json()

            trailer.set_result(seal)

        def compressing() -> int:
            return compress(reading, packed, trailer, level=self._settings.level, on_bytes=self._note_bytes)

        def end_without_trailer(_: object) -> None:
            if not trailer.done():
                trailer.set_exception(Abandoned())

        dump = owning(writing, dumping())
        dump.add_done_callback(end_without_trailer)
        steps: list[Awaitable[Any]] = [
            dump,
            owning(reading, in_thread(threads, compressing)),
            self._shelf.write_parts(self._name, slicer, threads, encrypted=recipient is not None),
        ]
        if recipient is not None:
            steps.append(in_thread(threads, encrypt, packed, written, recipient))
        try:
            _, _, parts, *_ = await all_of(steps, on_failure=lambda: abandon(packed, written))
        finally:
            threads.shutdown()
        return sealed[0], parts, slicer.hexdigest()

    async def _dump(
        self, session: Session, outlook: Outlook, pipe: int, threads: Executor
    ) -> tuple[Table, ...]:
        """Write the dump into a pipe, and count and sum up what it holds."""
        watch = asyncio.create_task(self._give_way())
        dumping = self._copy if outlook.programs is None else self._pg_dump
        try:
            return await _until(dumping(session, outlook, pipe, threads), watch)
        finally:
            watch.cancel()

    async def _copy(
        self, session: Session, outlook: Outlook, pipe: int, threads: Executor
    ) -> tuple[Table, ...]:
        await copying.dump(session, outlook.facts.schema, pipe, threads)
        return await session.tables(outlook.facts.schema, self._note_table)

    async def _pg_dump(self, session: Session, outlook: Outlook, pipe: int, _: Executor) -> tuple[Table, ...]:
        program = await self._start(session, outlook, pipe)
        try:
            checking = session.tables(outlook.facts.schema, self._note_table)
            _, tables = await all_of([program.finish(), checking])
        finally:
            await program.kill()
        return tuple(tables)

    async def _start(self, session: Session, outlook: Outlook, pipe: int) -> Program:
        assert outlook.programs is not None
        env = programs.environment(self._atlas.db.url_of())
        assert env is not None
        snapshot = await session.statements.fetchval("backups.export_snapshot")
        arguments = [
            "--format=custom", "--compress=0", "--no-password", f"--snapshot={snapshot}",
            f"--lock-wait-timeout={LOCK_WAIT_S * 1000:.0f}", f"--schema={_pattern(outlook.facts.schema)}",
        ]  # fmt: skip
        return await Program.start(outlook.programs, "pg_dump", arguments, env, stdout=pipe)

    async def _give_way(self) -> None:
        """Raise once a migration, for example, has waited for a lock of ours for some time."""
        held_up = 0
        while held_up < 2:
            await asyncio.sleep(POLL_S)
            waiting = await self._atlas.db.fetchval("backups.held_up", APPLICATION_NAME)
            held_up = held_up + 1 if waiting else 0
        raise BackupError(
            "the backup gave way, because another session waited for a table that it reads: try again once "
            "that is done (a migration, or a clean-up)"
        )

    def _contents(
        self, outlook: Outlook, tables: tuple[Table, ...], migration: int, dump_bytes: int
    ) -> Contents:
        facts = outlook.facts
        return Contents(
            name=self._name,
            created_at=self._at,
            pleiades_version=version("pleiades-agents"),
            method=outlook.method,
            tool_version=facts.major if outlook.programs is None else outlook.programs.major,
            server_version=facts.server_version,
            schema=facts.schema,
            migration=migration,
            database_bytes=facts.database_bytes,
            dump_bytes=dump_bytes,
            checksum=CHECKSUM,
            tables=tables,
        )

    def _note_bytes(self, total: int) -> None:
        self._loop.call_soon_threadsafe(self._report, total)

    def _report(self, total: int) -> None:
        self._dumped = max(total, self._dumped)
        self._on_progress(f"dumping{self._checked}", self._dumped, max(self._dumped, self._total))

    def _note_table(self, done: int, of: int) -> None:
        self._checked = f", {done} of {of} tables checked"
        self._report(0)


def _pattern(schema: str) -> str:
    """A schema's name as pg_dump's patterns have it, literally."""
    return '"' + schema.replace('"', '""') + '"'


async def _until(work: Coroutine[Any, Any, _T], watch: asyncio.Task[None]) -> _T:
    """Do work and return its result, unless the watch fails before, which is raised then."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task, watch], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            watch.result()
        return await task
    finally:
        task.cancel()
        await asyncio.wait([task])
