"""Keys of the HTTP service: stored as digests, checked in constant time, and counted over all processes."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime
from hashlib import sha256
from typing import Final, Self

from pydantic import SecretStr

from atlas.adapters.dao import DAO
from atlas.errors import DataRefused
from atlas.scopes import Scope

_KEY: Final = re.compile(r"pk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})", re.ASCII)
_NAME: Final = re.compile(r"[^\W_]([\w .@-]{0,98}\w)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessKey:
    """A key of the HTTP service without its secret."""

    id: str
    name: str
    scope: Scope
    requests_per_minute: int | None
    """None: as the settings say."""
    created_at: datetime
    last_used_on: date | None
    revoked_at: datetime | None
    digest: bytes

    def __repr__(self) -> str:
        return f"<AccessKey {self.id} {self.scope}>"

    def opens(self, secret: bytes) -> bool:
        """Whether this is the key's secret; takes the same time for all wrong ones."""
        return hmac.compare_digest(sha256(secret).digest(), self.digest)


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """A key as a client presents it: its id, and its secret part."""

    id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"<PresentedKey {self.id}>"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None if this can be no key."""
        found = _KEY.fullmatch(text)
        return None if found is None else cls(found[1], found[2].encode())


@dataclass(frozen=True, slots=True)
class Grant:
    """Requests that were granted, and how the minute stands."""

    granted: int
    left: int
    retry_after_s: float
    """In how many seconds one more will be granted; 0 if there is one left."""


class AccessDAO(DAO):
    """Adds, finds and revokes keys, and counts their requests."""

    async def add(self, name: str, scope: Scope, requests_per_minute: int | None = None) -> SecretStr:
        """Add a key and return it; it can't be shown again. DataRefused if a valid key has that name."""
        if not _NAME.fullmatch(name):
            raise DataRefused(
                f"{name!r} is no name for a key: use up to 100 letters, digits, spaces and . _ - @"
            )
        id_, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        digest = sha256(secret.encode()).digest()
        added = await self._executor.execute(
            "access.add", id_, name, digest, scope.value, requests_per_minute, self._clock.now()
        )
        if not added:
            raise DataRefused(
                f"a valid key is named {name!r} already: choose another name, or first revoke that one "
                f"(maia keys api revoke {id_of(name)})"
            )
        return SecretStr(f"pk_{id_}_{secret}")

    async def keys(self, *, revoked: bool = False) -> list[AccessKey]:
        """All valid keys, oldest first; revoked ones too if asked."""
        rows = await self._executor.fetch("access.all", revoked)
        return [AccessKey(**{**row, "scope": Scope(row["scope"])}) for row in rows]

    async def revoke(self, key: str) -> str | None:
        """Revoke a valid key, given by its id or name; returns its id, None if there is none."""
        id_: str | None = await self._executor.fetchval("access.revoke", key, self._clock.now())
        return id_

    async def touch(self, ids: Collection[str], day: date) -> None:
        """Note that keys were used on a UTC day."""
        await self._executor.execute("access.touch", [*ids], day)

    async def spend(self, caller: str, wanted: int, per_minute: int) -> Grant:
        """Let a caller make up to `wanted` of the requests that it may make within any minute."""
        row = await self._executor.fetchrow("access.spend", caller, wanted, per_minute)
        assert row is not None
        used, before, part = row["used"], row["used_before"], row["part"]
        left = max(0, int(per_minute - used - before * (1 - part)))
        return Grant(row["granted"], left, 0.0 if left else _wait_s(used, before, part, per_minute))


def _wait_s(used: int, before: int, part: float, per_minute: int) -> float:
    """In how many seconds a request will be free, `part` of a minute being over."""
    if used < per_minute and before:
        # The minute before counts less and less.
        return max(0.0, 60 * (1 - (per_minute - used - 1) / before - part)) or 1.0
    # When the next minute begins, this one counts less and less.
    return 60 * (1 - part) + 60 * max(0.0, 1 - (per_minute - 1) / max(used, 1))


def id_of(name: str) -> str:
    """A name as an argument of a shell."""
    from shlex import quote

    return quote(name)
