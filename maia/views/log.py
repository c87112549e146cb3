"""The log view: the last lines that processes of all hosts logged, without secrets."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from atlas.adapters.log_lines import StoredLogLine
    from atlas.composition import Atlas

Level = Literal["info", "warning", "error"]

MOST: Final = 500
_LEVELS: Final[dict[Level, int]] = {
    "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LogRow:
    """A line of a log; `run` is the session of an agent's run, as in its events."""

    id: int
    at: datetime
    node: str
    level: str
    logger: str
    agent: str | None
    run: str | None
    text: str


async def log(atlas: Atlas, level: Level, limit: int) -> tuple[LogRow, ...]:
    """The last lines of at least a level, newest first; processes store theirs with a delay of seconds."""
    from atlas.adapters.log_lines import LogLinesDAO

    dao = LogLinesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    lines = await dao.latest(min(limit, MOST), _LEVELS[level])
    return tuple(map(_row, sorted(lines, key=lambda line: (line.at, line.id), reverse=True)))


def _row(line: StoredLogLine) -> LogRow:
    return LogRow(
        id=line.id,
        at=line.at,
        node=line.node,
        level=logging.getLevelName(line.level).lower(),
        logger=line.logger,
        agent=line.agent,
        run=line.run,
        text=line.text,
    )
