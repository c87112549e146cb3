"""The vault: raw answers kept as JSON objects, named `metadata/{YYYY-MM-DD}/{video_id}.json`.

What the store refuses waits in PostgreSQL and is tried again, unless the settings require the vault.
"""

from __future__ import annotations

import builtins
import logging
import re
import time
import zlib
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, date, datetime
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import orjson

from atlas.clock import Clock
from atlas.config import Settings
from atlas.db import Database
from atlas.errors import InvalidObjectName, ObjectNotFound, VaultError, VaultUnavailable
from atlas.stores import Changes, Store, store_of

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
# So many of a hundred's parts are refused where two objects are to blame; with more, all of them may be.
_MOST_REFUSALS = 14
_NONE_WAITS_S = 1.0


class Batch:
    """Objects that are stored together, the last of each name."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.objects: dict[str, bytes] = {}

    def store_metadata(self, video_id: str, response: Any) -> str:
        """Add the API's answer about a video, under today's (UTC) date; returns the object's name."""
        name = metadata_name(video_id, self._clock.now())
        self.objects[name] = _to_json(name, response)
        return name


class Vault:
    """Keeps objects in the store that the settings name, and in PostgreSQL while it refuses them."""

    def __init__(self, store: Store, db: Database, clock: Clock, settings: Settings) -> None:
        self._store, self._db, self._clock = store, db, clock
        self._required, self._retry_s = settings.vault.required, settings.vault.retry_s
        self._node_id = settings.node_id
        self._rests_until = self._none_waits_until = 0.0
        self._unavailable: VaultUnavailable | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, db: Database, clock: Clock) -> AsyncIterator[Vault]:
        """The vault of the settings; the store itself is first touched when it is used."""
        yield cls(store_of(settings, db), db, clock, settings)

    @asynccontextmanager
    async def batch(self) -> AsyncIterator[Batch]:
        """Collect objects and store them at the end, in one commit; none if the body raises."""
        batch = Batch(self._clock)
        yield batch
        await self._keep(batch.objects)

    async def store_metadata(self, video_id: str, response: Any) -> str:
        """Store the API's answer about a video, under today's (UTC) date; returns the object's name."""
        async with self.batch() as batch:
            return batch.store_metadata(video_id, response)

    async def fetch(self, name: str) -> Any:
        """The object of that name, decoded; ObjectNotFound if there is none, here or waiting."""
        check_name(name)
        waiting = await self._db.fetchrow("vault.waiting", [name])
        if waiting is None:
            return _from_json(name, await self._store.read(name))
        if waiting["body"] is None:
            raise ObjectNotFound(f"the vault holds no {name!r}: it was deleted")
        return _from_json(name, zlib.decompress(waiting["body"]))

    async def list(self, prefix: str = "") -> Names:
        """Sorted names of all objects that begin with a prefix; the folder it names is read in full."""
        if not _PREFIX.fullmatch(prefix):
            raise InvalidObjectName(
                f"{prefix!r} is no prefix of an object's name, such as metadata/2026-11-02/"
            )
        folder = prefix.rpartition("/")[0]
        names = {name for name in await self._store.list(folder) if name.startswith(prefix)}
        for row in await self._db.fetch("vault.waiting_names", prefix):
            (names.discard if row["deleted"] else names.add)(row["name"])
        return sorted(names)

    async def days(self) -> builtins.list[date]:
        """The days of which the store holds metadata, sorted: what retention walks through."""
        return sorted(
            date.fromisoformat(folder)
            for folder in await self._store.folders(_METADATA)
            if re.fullmatch(r"\d{4}-\d{2}-\d{2}", folder)
        )

    async def delete(self, name: str) -> None:
        """Delete an object, wherever it is; there may be none."""
        await self.delete_many([name])

    async def delete_many(self, names: Iterable[str]) -> None:
        """Delete objects, a thousand in a commit; names of none are passed over. VaultError if refused."""
        doomed = builtins.list(dict.fromkeys(names))
        for name in doomed:
            check_name(name)
        for start in range(0, len(doomed), _DELETIONS_A_COMMIT):
            changes = dict.fromkeys(doomed[start : start + _DELETIONS_A_COMMIT])
            await self._supersede(changes)
            await self._write(changes)

    async def waiting(self) -> int:
        """How many objects wait because the store refused them."""
        count: int = await self._db.fetchval("vault.count_waiting")
        return count

    async def retry_refused(self) -> int:
        """Store the waiting objects that are due, a hundred in a commit, until refused; returns how many.

        An object that is refused for its own sake holds up none of those that share its commit. Safe in
        many processes at once, and when killed: objects are leased, and forgotten only once stored.
        """
        stored = 0
        while not self._rests():
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
        """Touch the store; VaultError if it does not answer."""
        await self._store.check()

    async def _retry(self, objects: Changes, token: UUID) -> int:
        """Store leased objects, by halves where they are refused together; how many. The rest waits on."""
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
        logger.warning("the vault still refuses %d objects: %s", len(objects), error)
        names, wait_s = builtins.list(objects), self._wait_s(error)
        await self._db.execute("vault.postpone_refused", names, token, str(error), wait_s, self._retry_s)

    async def _keep(self, objects: Mapping[str, bytes]) -> None:
        """Store objects, or let them wait in the database if they are refused and may be."""
        if not objects:
            return
        if await self._any_may_wait():
            await self._supersede(objects)
        try:
            await self._write(objects)
        except VaultError as error:
            if self._required:
                raise
            packed = [zlib.compress(body) for body in objects.values()]
            await self._db.execute(
                "vault.refuse",
                builtins.list(objects),
                packed,
                str(error),
                self._clock.now(),
                self._wait_s(error),
            )
            self._none_waits_until = 0.0
            logger.warning(
                "the vault refused %d objects, which wait in the database: %s", len(objects), error
            )

    async def _any_may_wait(self) -> bool:
        """Whether objects wait, asked once a second: what others are refused meanwhile is as new as ours."""
        if time.monotonic() < self._none_waits_until:
            return False
        if await self._db.fetchval("vault.any_waiting"):
            return True
        self._none_waits_until = time.monotonic() + _NONE_WAITS_S
        return False

    async def _supersede(self, changes: Changes) -> None:
        """Replace older bodies of the same names that wait, so that a later retry cannot bring them back."""
        waiting = {row["name"] for row in await self._db.fetch("vault.waiting", builtins.list(changes))}
        if waiting:
            newer = [
                (name, body and zlib.compress(body)) for name, body in changes.items() if name in waiting
            ]
            await self._db.execute(
                "vault.supersede", [name for name, _ in newer], [body for _, body in newer]
            )

    async def _write(self, changes: Changes) -> None:
        """Write to the store, but leave it in peace for as long as it said it takes nothing."""
        if self._unavailable is not None and self._rests():
            raise VaultUnavailable(str(self._unavailable), self._rests_until - time.monotonic())
        try:
            await self._store.write(changes)
        except VaultUnavailable as error:
            self._unavailable, self._rests_until = error, time.monotonic() + self._wait_s(error)
            raise
        self._unavailable = None

    def _rests(self) -> bool:
        return time.monotonic() < self._rests_until

    def _wait_s(self, error: VaultError) -> float:
        told = error.retry_after_s if isinstance(error, VaultUnavailable) else None
        return self._retry_s if told is None else told


def metadata_name(video_id: str, instant: datetime) -> str:
    """The name of a video's metadata as of an instant; InvalidObjectName if the id is none."""
    if not _VIDEO_ID.fullmatch(video_id):
        raise InvalidObjectName(f"{video_id!r} is no video id: 1 to 64 letters, digits, _ or -")
    return f"{_METADATA}/{instant.astimezone(UTC).date()}/{video_id}.json"


def _halves(objects: Changes) -> tuple[Changes, Changes]:
    items = builtins.list(objects.items())
    middle = len(items) // 2
    return dict(items[:middle]), dict(items[middle:])


def check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidObjectName(
            f"{name!r} is no object's name, such as metadata/2026-11-02/dQw4w9WgXcQ.json: segments of "
            "letters, digits, _, - and dots, none beginning with a dot"
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


def batch() -> AbstractAsyncContextManager[Batch]:
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
