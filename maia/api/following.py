"""Following a change feed: it is read whenever the database tells of news, and now and then anyway."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from atlas.errors import AtlasError, UnknownCursor
from atlas.tasks import running

if TYPE_CHECKING:
    from atlas.db import Database

logger = logging.getLogger(__name__)

POLL_S: Final = 30.0
WAITING_POLL_S: Final = 0.2
"""While changes wait until transactions end that began earlier."""
_RECONNECT_S: Final = 1.0


async def follow(
    database: Database,
    channel: str,
    what: str,
    read: Callable[[], Awaitable[float]],
    forget: Callable[[], None],
    notice: Callable[[], None] = lambda: None,
) -> None:
    """Follow a feed until cancelled. `what` changes, for the log.

    `read` reads all there is, and returns how long to wait for a notice before it is called again. `forget`
    is told that no cursor is known any more, as in a restored database, and `notice` of each notice. After an
    outage it goes on where it was.
    """
    woken = asyncio.Event()
    listening = database.keep_listening(
        channel, lambda _: woken.set(), f"changes of {what} are not heard for now"
    )
    async with running(listening):
        while True:
            woken.clear()
            pause_s = await _read_or_say_why_not(what, read, forget)
            try:
                async with asyncio.timeout(pause_s):
                    await woken.wait()
            except TimeoutError:
                continue
            notice()


async def _read_or_say_why_not(
    what: str, read: Callable[[], Awaitable[float]], forget: Callable[[], None]
) -> float:
    try:
        return await read()
    except UnknownCursor:
        logger.info("the database was restored or has failed over: changes of %s are read anew", what)
        forget()
        return 0.0
    except AtlasError as error:
        logger.warning("changes of %s are not read for now: %s", what, error)
        return _RECONNECT_S
