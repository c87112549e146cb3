"""Redis as a bus between sites: one bounded stream that all follow, and short-lived boxes for letters.

Redis may lose any of it: it is restarted without its data, runs out of memory, or drops what is old. Nothing
is kept there that isn't in a database too, and whoever follows must notice a gap and repair it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from atlas.errors import BusUnavailable, ConfigError

if TYPE_CHECKING:
    from pydantic import SecretStr
    from redis.asyncio import Redis

BEGINNING: Final = "0-0"
MOST_MESSAGES: Final = 1_000
"""About so many messages stay in the stream; its authors bound how long each may be."""
MOST_LETTERS: Final = 100
"""So many letters, the newest, wait in a box."""
KEPT_S: Final = 7 * 86_400
"""So long after the last message everything of a cluster is gone from Redis."""

_CONNECT_TIMEOUT_S: Final = 5.0
_ANSWER_TIMEOUT_S: Final = 10.0
"""How long Redis may take beyond what it was asked to wait."""
_LONGEST_WAIT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A message in the stream; `position` is the place after it."""

    position: str
    message: bytes


def order(position: str) -> tuple[int, int]:
    """By this, positions are in the order of the stream."""
    instant, _, number = position.partition("-")
    return int(instant), int(number or 0)


class Bus:
    """A connection to Redis for one cluster. Its methods raise BusUnavailable, and may be called again."""

    def __init__(self, redis: Redis, cluster: str, secret: str = "") -> None:
        self._redis, self._secret = redis, secret
        self._prefix = f"pleiades:{cluster}"
        self._stream = f"{self._prefix}:changes"

    @classmethod
    @asynccontextmanager
    async def open(cls, url: SecretStr, cluster: str) -> AsyncIterator[Bus]:
        """Use the Redis at a URL; it is called on first use. ConfigError if the URL is none of Redis."""
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        try:
            redis = Redis.from_url(
                url.get_secret_value(),
                # Later versions answer in another form, and so does another protocol.
                protocol=2,
                socket_connect_timeout=_CONNECT_TIMEOUT_S,
                socket_timeout=_LONGEST_WAIT_S + _ANSWER_TIMEOUT_S,
                # Whoever calls knows when to try again.
                retry=Retry(NoBackoff(), 0),
            )
            secret = unquote(urlsplit(url.get_secret_value()).password or "")
        except ValueError:
            # What the library says may contain the password.
            raise ConfigError(
                "REDIS_URL is no URL of a Redis: use redis://user:password@host:6379/0 (rediss:// for TLS, "
                "unix:// for a socket, special characters as %XX)"
            ) from None
        try:
            yield cls(redis, cluster, secret)
        finally:
            await redis.aclose()

    async def ping(self) -> None:
        """Check that Redis answers."""
        with self._explained():
            await self._redis.ping()

    # The stream

    async def publish(self, message: bytes, author: str, memo: bytes) -> str:
        """Append a message, together with what its author wants to know of it later; returns its position."""
        with self._explained():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.xadd(self._stream, {b"m": message}, maxlen=MOST_MESSAGES, approximate=True)
                pipe.expire(self._stream, KEPT_S)
                pipe.set(self._memo(author), memo, ex=KEPT_S)
                position, *_ = await pipe.execute()
        return _text(position)

    async def memo(self, author: str) -> bytes | None:
        """What an author wanted to know; None if it is gone."""
        with self._explained():
            memo: Any = await self._redis.get(self._memo(author))
        return None if memo is None else bytes(memo)

    async def last(self) -> str:
        """The position after the last message."""
        with self._explained():
            found: Any = await self._redis.xrevrange(self._stream, count=1)
        return _text(found[0][0]) if found else BEGINNING

    async def read(self, after: str, limit: int, wait_s: float) -> list[Entry]:
        """The messages after a position, at most `limit`; waits for the first one if there is none yet."""
        wait_ms = max(1, round(min(wait_s, _LONGEST_WAIT_S) * 1_000))
        with self._explained():
            found: Any = await self._redis.xread({self._stream: after}, count=limit, block=wait_ms)
        entries = found[0][1] if found else []
        # Redis is not ours alone, so there may be anything.
        return [Entry(_text(position), (fields or {}).get(b"m", b"")) for position, fields in entries]

    # Boxes for letters

    async def put(self, box: str, letter: bytes, kept_s: float) -> None:
        """Put a letter into a box, which is emptied if nobody touches it for so long."""
        with self._explained():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.lpush(self._box(box), letter)
                pipe.ltrim(self._box(box), 0, MOST_LETTERS - 1)
                pipe.pexpire(self._box(box), max(1, round(kept_s * 1_000)))
                await pipe.execute()

    async def take(self, box: str, wait_s: float) -> bytes | None:
        """Take the oldest letter out of a box, and wait for one if there is none; None if none came."""
        with self._explained():
            found: Any = await self._redis.brpop([self._box(box)], min(wait_s, _LONGEST_WAIT_S))
        return bytes(found[1]) if found else None

    def _memo(self, author: str) -> str:
        return f"{self._prefix}:published:{author}"

    def _box(self, name: str) -> str:
        return f"{self._prefix}:box:{name}"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise BusUnavailable for whatever Redis or the way to it refuses, without the password."""
        from redis.exceptions import RedisError

        try:
            yield
        except (RedisError, OSError, TimeoutError) as error:
            told = str(error) or type(error).__name__
            if self._secret:
                told = told.replace(self._secret, "…")
            raise BusUnavailable(f"Redis can't be used now: {told}") from error


def _text(position: bytes | str) -> str:
    return position.decode() if isinstance(position, bytes) else position
