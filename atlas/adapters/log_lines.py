"""The log_lines table: what processes logged last, wherever they ran. Old lines make room for new ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from atlas.adapters.dao import DAO
from atlas.queries import clean_text

MOST_LINES: Final = 20_000
"""How many lines are kept, of all processes together."""

_LONGEST_TEXT: Final = 2_000
_LONGEST_LOGGER: Final = 200
_LONGEST_AGENT: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A line of a log; `level` is as Python counts, and `run` the session of an agent's run."""

    at: datetime
    level: int
    logger: str
    text: str
    agent: str | None = None
    run: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLogLine(LogLine):
    """A line as it was stored, and the node whose process logged it."""

    id: int
    node: str


class LogLinesDAO(DAO):
    """Appends lines, and reads the last ones."""

    async def append(self, lines: Sequence[LogLine]) -> None:
        """Append lines of this node; those that are then too many are deleted, oldest first."""
        last: int = await self._executor.fetchval(
            "log_lines.append",
            self._settings.node_id,
            [line.at for line in lines],
            [line.level for line in lines],
            [clean_text(line.logger)[:_LONGEST_LOGGER] for line in lines],
            [line.agent and clean_text(line.agent)[:_LONGEST_AGENT] for line in lines],
            [line.run and clean_text(line.run)[:_LONGEST_LOGGER] for line in lines],
            [clean_text(line.text)[:_LONGEST_TEXT] for line in lines],
        )
        await self._executor.execute("log_lines.trim", last - MOST_LINES)

    async def latest(self, most: int, least_level: int = 0) -> list[StoredLogLine]:
        """The last lines of at least a level, newest first."""
        rows = await self._executor.fetch("log_lines.latest", most, least_level)
        return [StoredLogLine(**row) for row in rows]
