"""Who may call: keys with scopes, sessions of browsers, and loopback while no key is configured.

Keys are kept for a moment in each process, and forgotten as soon as one is revoked anywhere.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from atlas.adapters.access import AccessDAO, AccessKey, Grant, PresentedKey
from atlas.errors import AtlasError
from atlas.scopes import Scope
from atlas.wording import counted
from maia.api.problems import Problem

if TYPE_CHECKING:
    from atlas.composition import Atlas

logger = logging.getLogger(__name__)

CHANNEL: Final = "access_keys"
SESSION_COOKIE: Final = "pleiades_session"
SESSION_S: Final = 12 * 3600
_KEPT_S: Final = 30.0
_LEASES_A_MINUTE: Final = 600
_RECONNECT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever calls, and what they may do; `id` is None without a key."""

    id: str | None
    name: str
    scope: Scope
    requests_per_minute: int

    def require(self, wanted: Scope) -> None:
        """Problem 403 if the caller may not do that."""
        if not self.scope.permits(wanted):
            raise Problem(
                403,
                f"this needs the scope {wanted}, and you have {self.scope}: use another key; whoever "
                f"operates this adds one with maia keys api add NAME --scope {wanted}",
            )


@dataclass(slots=True)
class _Lease:
    """Requests that this process may let a caller make without asking the database."""

    left: int = 0
    minute: int = 0


@dataclass(slots=True)
class _Known:
    keys: Mapping[str, AccessKey] = field(default_factory=dict)
    until_s: float = 0.0


class Access:
    """Recognises callers, and counts their requests over all processes of this database."""

    def __init__(self, atlas: Atlas) -> None:
        self._dao = AccessDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._db, self._clock = atlas.db, atlas.clock
        self._usual_rate = atlas.settings.api.requests_per_minute
        self._known = _Known()
        self._reading: asyncio.Task[Mapping[str, AccessKey]] | None = None
        self._changed = asyncio.Event()
        self._leases: dict[str, _Lease] = {}
        self._noted: set[str] = set()

    async def keys(self) -> Mapping[str, AccessKey]:
        """The valid keys by id, at most half a minute old."""
        if time.monotonic() < self._known.until_s:
            return self._known.keys
        # All that wait are told together if they can't be read, not one after the other.
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(_note_failure)
        return await asyncio.shield(self._reading)

    async def _read(self) -> Mapping[str, AccessKey]:
        changed, found = self._changed, await self._dao.keys()
        keys = {key.id: key for key in found}
        # If they were changed meanwhile, perhaps before they were read, they are read again.
        until_s = time.monotonic() + _KEPT_S if changed is self._changed else 0.0
        self._known = _Known(keys, until_s)
        return keys

    async def until_revoked(self, caller_id: str | None) -> None:
        """Wait until a caller's key is revoked; without a key, until one is needed."""
        while True:
            changed = self._changed
            try:
                keys = await self.keys()
                if keys if caller_id is None else caller_id not in keys:
                    return
            except AtlasError as error:
                logger.debug("whether a key is still valid is not known for now: %s", error)
                await asyncio.sleep(_RECONNECT_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(_KEPT_S):
                    await changed.wait()

    def _forget(self) -> None:
        self._known.until_s = 0.0
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def caller(self, presented: str | None, session: str | None, *, is_local: bool) -> Caller:
        """Whoever presents this key or session; Problem 401 if nobody may who does."""
        keys = await self.keys()
        if presented is not None:
            return await self._by_key(keys, presented)
        if session is not None and (key := self._by_session(keys, session)) is not None:
            return await self._as_caller(key)
        if not keys and is_local:
            return Caller(None, "loopback", Scope.WRITE, self._usual_rate)
        raise Problem(
            401,
            "send your key in the header X-API-Key; whoever operates this adds one with "
            "maia keys api add NAME",
            headers={"WWW-Authenticate": 'ApiKey realm="pleiades"'},
        )

    async def _by_key(self, keys: Mapping[str, AccessKey], text: str) -> Caller:
        presented = PresentedKey.parse(text)
        key = keys.get(presented.id) if presented is not None else None
        # As much work for an unknown id as for a wrong secret.
        digest = key.digest if key is not None else bytes(32)
        secret = presented.secret if presented is not None else b""
        if not hmac.compare_digest(sha256(secret).digest(), digest) or key is None:
            raise Problem(
                401,
                "this key is not valid here: it was revoked or mistyped; maia keys api list shows valid ones",
                headers={"WWW-Authenticate": 'ApiKey realm="pleiades", error="invalid_key"'},
            )
        return await self._as_caller(key)

    async def _as_caller(self, key: AccessKey) -> Caller:
        await self._note_use(key)
        return Caller(key.id, key.name, key.scope, key.requests_per_minute or self._usual_rate)

    async def _note_use(self, key: AccessKey) -> None:
        today = self._clock.now().date()
        if key.last_used_on == today or key.id in self._noted:
            return
        self._noted.add(key.id)
        try:
            await self._dao.touch([key.id], today)
        except AtlasError as error:
            # It only says since when a key is idle.
            logger.warning("the use of a key could not be noted: %s", error)

    async def spend(self, caller: Caller, client: str) -> Grant:
        """Count a request. Problem 429 if the caller has made as many as it may within this minute."""
        name = caller.id or f"loopback {client}"
        minute = int(time.time() // 60)
        lease = self._leases.setdefault(name, _Lease())
        if lease.left and lease.minute == minute:
            lease.left -= 1
            return Grant(1, lease.left, 0.0)
        # Few round trips for those that may call often, and none too many granted to anybody.
        wanted = max(1, caller.requests_per_minute // _LEASES_A_MINUTE)
        grant = await self._dao.spend(name, wanted, caller.requests_per_minute)
        if not grant.granted:
            raise Problem(
                429,
                f"you may make {counted(caller.requests_per_minute, 'request')} a minute: wait, or ask for "
                "a higher rate (maia keys api add NAME --rate N)",
                headers={"Retry-After": f"{max(1, round(grant.retry_after_s + 0.5))}"},
            )
        lease.left, lease.minute = grant.granted - 1, minute
        return grant

    # Sessions of browsers

    def session_of(self, key: AccessKey) -> str:
        """The value of a cookie that stands for a key until it expires, or the key is revoked."""
        expires = int(time.time()) + SESSION_S
        return f"{key.id}.{expires}.{_signature(key, expires)}"

    def _by_session(self, keys: Mapping[str, AccessKey], session: str) -> AccessKey | None:
        id_, _, rest = session.partition(".")
        expires, _, signature = rest.partition(".")
        key = keys.get(id_)
        if key is None or not (expires.isascii() and expires.isdigit() and len(expires) < 12):
            return None
        is_right = hmac.compare_digest(_signature(key, int(expires)).encode(), signature.encode())
        return key if is_right and int(expires) > time.time() else None

    async def keep_fresh(self) -> None:
        """Forget keys as soon as one is added or revoked by another process."""
        await self._db.keep_listening(
            CHANNEL, lambda _: self._forget(), "changes of keys are not heard for now"
        )


def _note_failure(reading: asyncio.Task[Mapping[str, AccessKey]]) -> None:
    if not reading.cancelled() and (error := reading.exception()) is not None:
        logger.debug("the keys could not be read: %s", error)


def _signature(key: AccessKey, expires: int) -> str:
    """Made with the key's digest: revoking the key ends its sessions, and no further secret exists."""
    return hmac.new(key.digest, f"session {key.id} {expires}".encode(), sha256).hexdigest()
