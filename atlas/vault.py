"""The vault: archives raw API answers as JSON objects named `metadata/{YYYY-MM-DD}/{video_id}.json`.

It also keeps other objects as they are, such as snapshots of the patterns. Objects that the store refuses
wait in PostgreSQL and are retried, unless the settings require the vault.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import re
import time
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager
from datetime import UTC, date, datetime
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import orjson

from atlas.clock import Clock
from atlas.config import Settings
from atlas.db import Database
from atlas.errors import InvalidObjectName, ObjectNotFound, VaultBroken, VaultError, VaultUnavailable
from atlas.stores import Changes, Store, store_of
from atlas.wording import counted

logger = logging.getLogger(__name__)

# `list` is also the name of a function here.
Names: TypeAlias = builtins.list[str]

_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
_NAME = re.compile(rf"(?=.{{1,512}}$){_SEGMENT}(/{_SEGMENT})*")
_PREFIX = re.compile(rf"(?=.{{0,512}}$)({_SEGMENT}/)*({_SEGMENT})?")
_METADATA = "metadata"
_OBJECTS_A_COMMIT = 100
_DELETIONS_A_COMMIT = 1000
_LEASE_S = 300
# When 100 objects are retried by halves, two bad ones cause at most this many refusals. Beyond that, assume
# that all of them are refused.
_MOST_REFUSALS = 14
_NONE_WAITING_S = 1.0


class ObjectBatch:
    """Objects to store together; of several with one name, the last."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.objects: dict[str, bytes] = {}

    def store_metadata(self, video_id: str, response: Any) -> str:
        """Add the API's answer about a video under today's UTC date; returns the object's name."""
        name = metadata_name(video_id, self._clock.now())
        self.objects[name] = _to_json(name, response)
        return name


class Vault:
    """Keeps objects in the configured store, or in PostgreSQL while the store refuses them."""

    def __init__(self, store: Store, db: Database, clock: Clock, settings: Settings) -> None:
        self._store, self._db, self._clock = store, db, clock
        self._required, self._retry_s = settings.vault.required, settings.vault.retry_s
        self._node_id = settings.node_id
        self._paused_until = self._none_waiting_until = 0.0
        self._unavailable: VaultUnavailable | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, db: Database, clock: Clock) -> AsyncIterator[Vault]:
        """Open the configured vault; the store itself is first contacted when it is used."""
        yield cls(store_of(settings, db), db, clock, settings)

    @asynccontextmanager
    async def batch(self) -> AsyncIterator[ObjectBatch]:
        """Collect objects and store them at the end in one commit; if the body raises, store none."""
        batch = ObjectBatch(self._clock)
        yield batch
        await self._store_or_queue(batch.objects)

    async def store_metadata(self, video_id: str, response: Any) -> str:
        """Store the API's answer about a video under today's UTC date; returns the object's name."""
        async with self.batch() as batch:
            return batch.store_metadata(video_id, response)

    async def store(self, name: str, body: bytes) -> str | None:
        """Store an object as it is, or queue it if the store refuses it and the vault isn't required.

        Returns None if it is stored, or else why it was refused and waits in the database.
        """
        check_name(name)
        return await self._store_or_queue({name: body})

    async def fetch(self, name: str) -> Any:
        """The decoded object; ObjectNotFound if it is neither waiting nor in the store."""
        return _from_json(name, await self.fetch_bytes(name))

    async def fetch_bytes(self, name: str) -> bytes:
        """The object as it is; ObjectNotFound if it is neither waiting nor in the store."""
        check_name(name)
        waiting = await self._db.fetchrow("vault.waiting", [name])
        if waiting is None:
            return await self._store.read(name)
        if waiting["body"] is None:
            raise ObjectNotFound(f"the vault has no {name!r}: it was deleted")
        return await asyncio.to_thread(zlib.decompress, waiting["body"])

    async def list(self, prefix: str = "") -> Names:
        """Sorted names of all objects that begin with a prefix; the prefix's whole folder is listed."""
        if not _PREFIX.fullmatch(prefix):
            raise InvalidObjectName(
                f"{prefix!r} cannot begin an object's name: write a prefix such as metadata/2026-11-02/"
            )
        folder = prefix.rpartition("/")[0]
        names = {name for name in await self._store.list(folder) if name.startswith(prefix)}
        for row in await self._db.fetch("vault.waiting_names", prefix):
            (names.discard if row["deleted"] else names.add)(row["name"])
        return sorted(names)

    async def days(self) -> builtins.list[date]:
        """The days with metadata, stored or waiting, sorted; retention goes through them."""
        folders = {*await self._store.folders(_METADATA)}
        folders |= {row["day"] for row in await self._db.fetch("vault.waiting_days")}
        return sorted(day for folder in folders if (day := day_of(folder)) is not None)

    async def answers(self, day: date) -> Names:
        """Sorted names of the raw answers of a day; whatever else lies in its folder is not ours."""
        folder = f"{_METADATA}/{day}/"
        return [name for name in await self.list(folder) if is_answer(name.removeprefix(folder))]

    async def delete_answers(self, day: date) -> AsyncGenerator[int, None]:
        """Delete the raw answers of a day, stored or waiting, in steps; yields how many each step deleted.

        Ended or killed anywhere, the next call goes on. Whatever else lies in the day's folder stays.
        """
        folder = f"{_METADATA}/{day}"
        rows = await self._db.fetch("vault.waiting_names", f"{folder}/")
        names = [row["name"] for row in rows if not row["deleted"]]
        names = [name for name in names if is_answer(name.removeprefix(f"{folder}/"))]
        for start in range(0, len(names), _DELETIONS_A_COMMIT):
            await self._supersede(dict.fromkeys(names[start : start + _DELETIONS_A_COMMIT]))
        waiting = {*names}
        with self._noting_pauses():
            async with aclosing(self._store.clear(folder, is_answer)) as steps:
                async for deleted in steps:
                    waiting.difference_update(deleted)
                    yield len(deleted)
        if waiting:
            yield len(waiting)

    async def modified(self, folder: str) -> Mapping[str, datetime]:
        """When each stored object below a folder was last written, by the store's own clock."""
        return await self._store.modified(folder)

    async def delete(self, name: str) -> None:
        """Delete an object, stored or waiting, if it exists."""
        await self.delete_many([name])

    async def delete_many(self, names: Iterable[str]) -> None:
        """Delete objects, 1,000 per commit, ignoring names without one; VaultError if the store refuses."""
        unique = builtins.list(dict.fromkeys(names))
        for name in unique:
            check_name(name)
        for start in range(0, len(unique), _DELETIONS_A_COMMIT):
            changes = dict.fromkeys(unique[start : start + _DELETIONS_A_COMMIT])
            await self._supersede(changes)
            await self._write(changes)

    async def waiting(self) -> int:
        """The number of objects that wait because the store refused them."""
        count: int = await self._db.fetchval("vault.count_waiting")
        return count

    async def retry_refused(self) -> int:
        """Store waiting objects that are due, 100 per commit, until the store refuses; returns how many.

        One bad object does not hold up the others in its commit. Several processes may do this at once, and
        any may be killed, because objects are leased and only forgotten once stored.
        """
        stored = 0
        while not self._is_paused():
            token = uuid4()
            rows = await self._db.fetch(
                "vault.claim_refused", self._node_id, token, _LEASE_S, _OBJECTS_A_COMMIT
            )
            if not rows:
                break
            objects = {row["name"]: row["body"] and zlib.decompress(row["body"]) for row in rows}
            now_stored = await self._retry(objects, token)
            stored += now_stored
            if not now_stored:
                break
        return stored

    async def ping(self) -> None:
        """Contact the store; VaultError if it does not answer."""
        await self._store.check()

    async def check(self) -> None:
        """Raise VaultBroken if the settings require the vault and it can't store now.

        Call it before spending units. In a folder or bucket it stores and deletes a small object; of a
        dataset it only checks that it exists.
        """
        if not self._required:
            return
        try:
            self._raise_if_paused()
            await self._store.probe(f"{_METADATA}/.probe-{uuid4().hex}")
        except VaultError as error:
            raise _broken(error) from error

    async def _retry(self, objects: Changes, token: UUID) -> int:
        """Store leased objects, halving a group that is refused; returns how many. The rest keep waiting."""
        stored = refusals = 0
        parts = [objects]
        while parts:
            part = parts.pop()
            try:
                await self._write(part)
            except VaultError as error:
                refusals += 1
                if len(part) == 1 or refusals > _MOST_REFUSALS or isinstance(error, VaultUnavailable):
                    await self._postpone(part, token, error)
                else:
                    parts += _halves(part)
            else:
                stored += await self._db.execute("vault.complete_refused", builtins.list(part), token)
        return stored

    async def _postpone(self, objects: Changes, token: UUID, error: VaultError) -> None:
        logger.warning("The vault still refuses %s: %s", counted(len(objects), "object"), error)
        names, wait_s = builtins.list(objects), self._wait_s(error)
        await self._db.execute("vault.postpone_refused", names, token, str(error), wait_s, self._retry_s)

    async def _store_or_queue(self, objects: Mapping[str, bytes]) -> str | None:
        """Store objects, or queue them in the database if the store refuses and the vault isn't required.

        Returns why they were refused.
        """
        if not objects:
            return None
        if await self._any_waiting():
            await self._supersede(objects)
        try:
            await self._write(objects)
        except VaultError as error:
            if self._required:
                raise _broken(error) from error
            # A snapshot may have megabytes.
            packed = await asyncio.to_thread(lambda: [zlib.compress(body) for body in objects.values()])
            await self._db.execute(
                "vault.refuse",
                builtins.list(objects),
                packed,
                str(error),
                self._clock.now(),
                self._wait_s(error),
            )
            self._none_waiting_until = 0.0
            logger.warning(
                "The vault refused %s in the database: %s",
                counted(len(objects), "object, which waits", "objects, which wait"),
                error,
            )
            return str(error)
        return None

    async def _any_waiting(self) -> bool:
        """Whether objects may be waiting; asks the database at most once a second.

        Objects that another process queues in that second are as new as ours, so ours need not replace them.
        """
        if time.monotonic() < self._none_waiting_until:
            return False
        if await self._db.fetchval("vault.any_waiting"):
            return True
        self._none_waiting_until = time.monotonic() + _NONE_WAITING_S
        return False

    async def _supersede(self, changes: Changes) -> None:
        """Replace waiting bodies of the same names, so that a later retry can't restore an older one."""
        waiting = {row["name"] for row in await self._db.fetch("vault.waiting", builtins.list(changes))}
        if waiting:
            newer = [
                (name, body and zlib.compress(body)) for name, body in changes.items() if name in waiting
            ]
            await self._db.execute(
                "vault.supersede", [name for name, _ in newer], [body for _, body in newer]
            )

    async def _write(self, changes: Changes) -> None:
        with self._noting_pauses():
            await self._store.write(changes)

    @contextmanager
    def _noting_pauses(self) -> Iterator[None]:
        """Change the store, unless it is unavailable and the time it asked us to wait isn't over."""
        self._raise_if_paused()
        try:
            yield
        except VaultUnavailable as error:
            self._unavailable, self._paused_until = error, time.monotonic() + self._wait_s(error)
            raise
        self._unavailable = None

    def _raise_if_paused(self) -> None:
        if self._unavailable is not None and self._is_paused():
            raise VaultUnavailable(str(self._unavailable), self._paused_until - time.monotonic())

    def _is_paused(self) -> bool:
        return time.monotonic() < self._paused_until

    def _wait_s(self, error: VaultError) -> float:
        retry_after_s = error.retry_after_s if isinstance(error, VaultUnavailable) else None
        return self._retry_s if retry_after_s is None else retry_after_s


def metadata_name(video_id: str, instant: datetime) -> str:
    """The name of a video's metadata object at an instant; InvalidObjectName if the id is malformed."""
    if not _VIDEO_ID.fullmatch(video_id):
        raise InvalidObjectName(f"{video_id!r} is not a video id: 1 to 64 letters, digits, _ or -")
    return f"{_METADATA}/{instant.astimezone(UTC).date()}/{video_id}.json"


def day_of(folder: str) -> date | None:
    """The day of a folder of answers; None if it is not named like one."""
    try:
        day = date.fromisoformat(folder)
    except ValueError:
        return None
    return day if str(day) == folder else None


def is_answer(file: str) -> bool:
    """Whether a file in the folder of a day is named like a raw answer."""
    return file.endswith(".json") and _VIDEO_ID.fullmatch(file.removesuffix(".json")) is not None


def is_name(name: str) -> bool:
    """Whether an object of the vault can have this name."""
    return _NAME.fullmatch(name) is not None


def _broken(error: VaultError) -> VaultBroken:
    return VaultBroken(f"PLEIADES_VAULT__REQUIRED is set, but the vault cannot store: {error}")


def _halves(objects: Changes) -> tuple[Changes, Changes]:
    items = builtins.list(objects.items())
    middle = len(items) // 2
    return dict(items[:middle]), dict(items[middle:])


def check_name(name: str) -> None:
    if not is_name(name):
        raise InvalidObjectName(
            f"{name!r} cannot be an object's name: write segments of letters, digits, _, - and dots, none "
            "beginning with a dot, such as metadata/2026-11-02/dQw4w9WgXcQ.json"
        )


def _to_json(name: str, value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError as error:
        raise VaultError(f"{name} cannot be stored: {error}") from error


def _from_json(name: str, body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except ValueError as error:
        raise VaultError(f"{name} in the vault is not JSON: {error}") from error


def _current() -> Vault:
    from atlas.composition import current

    return current().vault


async def store_metadata(video_id: str, response: Any) -> str:
    """`Vault.store_metadata` of the current Atlas."""
    return await _current().store_metadata(video_id, response)


def batch() -> AbstractAsyncContextManager[ObjectBatch]:
    """`Vault.batch` of the current Atlas."""
    return _current().batch()


async def fetch(name: str) -> Any:
    """`Vault.fetch` of the current Atlas."""
    return await _current().fetch(name)


async def list(prefix: str = "") -> Names:  # noqa: A001 - the name by which the outside knows it
    """`Vault.list` of the current Atlas."""
    return await _current().list(prefix)


async def delete(name: str) -> None:
    """`Vault.delete` of the current Atlas."""
    await _current().delete(name)


async def delete_many(names: Iterable[str]) -> None:
    """`Vault.delete_many` of the current Atlas."""
    await _current().delete_many(names)


async def retry_refused() -> int:
    """`Vault.retry_refused` of the current Atlas."""
    return await _current().retry_refused()
