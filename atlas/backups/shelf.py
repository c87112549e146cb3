"""Where backups are kept: below backups/ in the vault, or in a folder of its own.

Unlike the vault, it never lets what the store refuses wait in the database, which is what is backed up.
"""

from __future__ import annotations

import builtins
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Self

import orjson

from atlas.backups import manifest as manifests
from atlas.backups.manifest import Manifest, Part
from atlas.backups.stream import Conduit, Slicer, in_thread
from atlas.errors import BackupDamaged, BackupError, ObjectNotFound, VaultError, VaultUnavailable
from atlas.stores import FileStore, Store, store_of

if TYPE_CHECKING:
    from atlas.config import Settings
    from atlas.db import Database

LATEST = "latest"
_MODE: Final = 0o600
"""Of the files of backups, which hold everything: for the user who made them alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What came of the last verification: a problem, or None if everything was equal."""

    at: datetime
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelved:
    """A backup as it is listed; without a manifest, `problem` says why that can't be used."""

    name: str
    begun_at: datetime
    manifest: Manifest | None
    from_future: bool = False
    problem: str | None = None
    verification: Verification | None = None

    @property
    def is_good(self) -> bool:
        """Whether nothing is known to be wrong with it."""
        return self.manifest is not None and not (self.verification and self.verification.problem)


class Shelf:
    """Backups by name, each a folder of parts with a manifest."""

    def __init__(self, store: Store, folder: str, place: str) -> None:
        """`folder` is the one within the store, "" for its root; `place` tells people where that is."""
        self._store, self._folder, self.place = store, folder, place

    @classmethod
    def of(cls, settings: Settings, db: Database | None = None) -> Self:
        """The shelf of the settings. Without a database it can read, and write to all but a dataset."""
        path = settings.maintainer.backups.path
        if path is not None:
            return cls(FileStore(path, "the folder of backups", mode=_MODE), "", str(path))
        store = store_of(settings, db or _closed(settings), mode=_MODE)
        return cls(store, "backups", "backups/ in the vault")

    async def names(self) -> tuple[builtins.list[str], builtins.list[str]]:
        """Names of the backups, and of those that are incomplete because they have no manifest, by time."""
        found = await self._files()
        complete = [name for name, files in found.items() if manifests.FILE_NAME in files]
        return sorted(complete), sorted(found.keys() - set(complete))

    async def list(self, now: datetime) -> builtins.list[Shelved]:
        """Every backup, the newest first and those from the future last; incomplete ones are none."""
        found = await self._files()
        return [
            await self._shelved(name, now, manifests.VERIFICATION_NAME in found[name])
            for name in manifests.newest_first(found, now)
            if manifests.FILE_NAME in found[name]
        ]

    async def find(self, name: str, now: datetime) -> Manifest:
        """The manifest of a backup, or of the latest one; BackupError if there is none of that name.

        One from the future is the latest only if there is no other.
        """
        complete, incomplete = await self.names()
        if name == LATEST and complete:
            name = manifests.newest_first(complete, now)[0]
        if name in incomplete:
            raise BackupDamaged(f"backup {name} is incomplete: it has no manifest, and cannot be restored")
        if name not in complete:
            known = "maia backup list shows them" if complete else "maia backup create makes one"
            what = "backup yet" if name == LATEST else f"backup {name!r}"
            raise BackupError(f"there is no {what} in {self.place}: {known}")
        return await self.manifest(name)

    async def manifest(self, name: str) -> Manifest:
        """The manifest of a backup; BackupDamaged if it isn't what was written."""
        return Manifest.loads(await self._store.read(self._path(name, manifests.FILE_NAME)), name)

    async def write_parts(
        self, name: str, slicer: Slicer, threads: Executor, *, encrypted: bool
    ) -> tuple[Part, ...]:
        """Write a stream in parts, each in constant memory."""
        parts: builtins.list[Part] = []
        while await in_thread(threads, slicer.has_more):
            part = manifests.part_name(len(parts) + 1, encrypted=encrypted)
            async with self._store.writing(self._path(name, part)) as file:
                size, digest = await in_thread(threads, slicer.write_part, file)
            parts.append(Part(name=part, size_bytes=size, sha256=digest))
        return tuple(parts)

    async def read_parts(
        self,
        manifest: Manifest,
        received: Conduit,
        threads: Executor,
        on_part: Callable[[int], None],
    ) -> None:
        """Pass on each part once it is found as it was written; BackupDamaged names the first that isn't."""
        whole, done = sha256(), 0
        for part in manifest.parts:
            body = await self._part(manifest.name, part)
            digest = await in_thread(threads, _sha256, body)
            if digest != part.sha256:
                raise BackupDamaged(
                    f"{part.name} of backup {manifest.name} was changed: its digest does not match"
                )
            await in_thread(threads, whole.update, body)
            if part == manifest.parts[-1] and whole.hexdigest() != manifest.sha256:
                raise BackupDamaged(f"the parts of backup {manifest.name} are not in their order")
            await in_thread(threads, received.put, body)
            done += part.size_bytes
            on_part(done)
        received.end()

    async def commit(self, manifest: Manifest) -> None:
        """Write the manifest, which makes the parts a backup."""
        await self._store.write({self._path(manifest.name, manifests.FILE_NAME): manifest.dumps()})

    async def note(self, name: str, verification: Verification) -> None:
        """Note what came of a verification."""
        body = orjson.dumps({"at": verification.at, "problem": verification.problem})
        await self._store.write({self._path(name, manifests.VERIFICATION_NAME): body})

    async def delete(self, name: str) -> None:
        """Delete a backup or what there is of one: first the manifest, so that it is none from then on."""
        files = (await self._files()).get(name, set())
        first = [self._path(name, each) for each in files & {manifests.FILE_NAME}]
        rest = [self._path(name, each) for each in sorted(files - {manifests.FILE_NAME})]
        for objects in (first, rest):
            if objects:
                await self._store.write(dict.fromkeys(objects))

    async def _files(self) -> dict[str, set[str]]:
        """The files of each backup; anything else in the folder is left alone."""
        found: dict[str, set[str]] = defaultdict(set)
        for path in await self._store.list(self._folder):
            name, slash, file = path.removeprefix(f"{self._folder}/" if self._folder else "").partition("/")
            if slash and manifests.is_name(name) and manifests.is_file_name(file):
                found[name].add(file)
        return dict(found)

    async def _shelved(self, name: str, now: datetime, has_verification: bool) -> Shelved:
        begun_at = manifests.begun_at(name)
        shelved = Shelved(
            name=name, begun_at=begun_at, manifest=None, from_future=manifests.is_from_future(begun_at, now)
        )
        try:
            manifest = await self.manifest(name)
        except VaultUnavailable:
            raise
        except (BackupError, VaultError) as error:
            # One that can't be read must not keep the others from being listed, or new ones from being made.
            return replace(shelved, problem=str(error))
        verification = await self._verification(name) if has_verification else None
        return replace(shelved, manifest=manifest, verification=verification)

    async def _verification(self, name: str) -> Verification | None:
        try:
            value: Any = orjson.loads(await self._store.read(self._path(name, manifests.VERIFICATION_NAME)))
            return Verification(at=datetime.fromisoformat(value["at"]), problem=value["problem"])
        except VaultUnavailable:
            raise
        except (VaultError, ValueError, KeyError, TypeError):
            # A backup without a legible note counts as never verified.
            return None

    async def _part(self, name: str, part: Part) -> bytes:
        try:
            body = await self._store.read(self._path(name, part.name))
        except ObjectNotFound:
            raise BackupDamaged(f"{part.name} of backup {name} is missing: it cannot be restored") from None
        if len(body) != part.size_bytes:
            raise BackupDamaged(
                f"{part.name} of backup {name} was cut off or changed: it has {len(body):,} bytes instead of "
                f"{part.size_bytes:,}"
            )
        return body

    def _path(self, name: str, file: str) -> str:
        return f"{self._folder}/{name}/{file}" if self._folder else f"{name}/{file}"


def _sha256(body: bytes) -> str:
    return sha256(body).hexdigest()


def _closed(settings: Settings) -> Database:
    """A database that is never opened: stores that only read do not ask it."""
    from atlas.db import Database

    url = settings.database_url
    return Database(settings.database, "postgresql:///" if url is None else url.get_secret_value(), None)
