"""Keeps the last lines of this process's log in the database, where the dashboard shows those of all.

Lines are gathered in memory and stored every two seconds, so that logging never waits for the database. If it
does not answer, the oldest lines are lost: the log itself is what the process writes to stderr.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, ClassVar, Final

from atlas.adapters.log_lines import LogLine, LogLinesDAO
from atlas.errors import DatabaseError
from maia import logs
from maia.cycle import sessions

if TYPE_CHECKING:
    from atlas.composition import Atlas

logger = logging.getLogger(__name__)

EVERY_S: Final = 2.0
MOST_WAITING: Final = 500
"""So many lines wait to be stored; if there are more in two seconds, the oldest of them are lost."""

_LAST_S: Final = 2.0
"""How long the end of a process may wait until its last lines are stored."""
_OURS: Final = ("maia", "atlas", "flows")


@asynccontextmanager
async def kept_log(atlas: Atlas) -> AsyncIterator[None]:
    """Keep what this process logs while the block runs; within another such block nothing is kept twice."""
    if _Keeper.active:
        yield
        return
    keeper = _Keeper(atlas)
    storing = asyncio.ensure_future(keeper.keep_storing())
    try:
        with _listening(keeper):
            yield
    finally:
        storing.cancel()
        await asyncio.wait([storing])
        await keeper.store_last()


@contextmanager
def _listening(keeper: _Keeper) -> Iterator[None]:
    """Let the keeper hear all that is worth keeping, and every other handler only what it heard before."""
    root = logging.getLogger()
    ours = [logging.getLogger(name) for name in _OURS]
    levels = [each.level for each in ours]
    usual = {each.name: each.getEffectiveLevel() for each in ours}

    def as_before(record: logging.LogRecord) -> bool:
        return record.levelno >= usual.get(record.name.partition(".")[0], 0)

    others = root.handlers[:]
    for handler in others:
        handler.addFilter(as_before)
    for each in ours:
        each.setLevel(min(each.getEffectiveLevel(), logging.INFO))
    _Keeper.active = True
    root.addHandler(keeper)
    try:
        yield
    finally:
        root.removeHandler(keeper)
        _Keeper.active = False
        for each, level in zip(ours, levels, strict=True):
            each.setLevel(level)
        for handler in others:
            handler.removeFilter(as_before)


class _Keeper(logging.Handler):
    """Gathers lines, from any thread, until they are stored."""

    active: ClassVar[bool] = False

    def __init__(self, atlas: Atlas) -> None:
        super().__init__(logging.INFO)
        self._dao = LogLinesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._clock = atlas.clock
        self._text = logs.text_formatter(atlas.settings)
        self._waiting: deque[LogLine] = deque(maxlen=MOST_WAITING)
        self._answers = True
        self.addFilter(_is_worth_keeping)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            session = sessions.current()
            self._waiting.append(
                LogLine(
                    at=self._clock.now(),
                    level=record.levelno,
                    logger=record.name,
                    text=self._text.format(record),
                    agent=session.agent if session else None,
                    run=session.id if session else None,
                )
            )
        except (KeyError, TypeError, ValueError):
            # The arguments of the record don't fit its message.
            self.handleError(record)

    async def keep_storing(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self._store()

    async def store_last(self) -> None:
        """Store what waits still, unless the database didn't answer lately."""
        if self._answers:
            try:
                async with asyncio.timeout(_LAST_S):
                    await self._store()
            except TimeoutError:
                logger.debug("the last lines of the log are not kept: the database is too slow")

    async def _store(self) -> None:
        if not (lines := self._taken()):
            return
        try:
            await self._dao.append(lines)
        except DatabaseError as error:
            self._answers = False
            logger.debug("lines of the log are not kept yet: %s", error)
            # The oldest ones go first if there is no room for all.
            self._waiting.extend([*lines, *self._taken()])
        else:
            self._answers = True

    def _taken(self) -> list[LogLine]:
        lines = []
        while self._waiting:
            lines.append(self._waiting.popleft())
        return lines


def _is_worth_keeping(record: logging.LogRecord) -> bool:
    """Whether people may want to know: all of ours, and warnings of others."""
    if record.name == __name__:
        return False
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] in _OURS
