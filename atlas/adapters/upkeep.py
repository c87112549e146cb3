"""Upkeep of tables and indexes: which are worth a VACUUM or a rebuild, by estimates that cost little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from atlas.adapters.dao import DAO
from atlas.db import Database
from atlas.errors import DatabaseError

_MANY_DEAD: Final = 10_000
"""Fewer dead rows cost nobody anything, and are left to autovacuum."""
_MOST_TABLES: Final = 20
_LARGE_INDEX_BYTES: Final = 64 * 2**20
_BLOAT_FACTOR: Final = 3.0
"""The estimate can be off by half, so that only clear cases count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BloatedTable:
    """A table with many dead rows, whether it is being vacuumed now, and the command that does so."""

    name: str
    live: int
    dead: int
    bytes: int
    is_vacuumed: bool
    command: str

    @property
    def dead_share(self) -> float:
        return self.dead / max(self.live + self.dead, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexToMend:
    """An index that a failed build left invalid, or one that takes far more space than its entries need.

    `needed_bytes` is None for an invalid one. `command` rebuilds or drops it.
    """

    name: str
    table: str
    bytes: int
    command: str
    needed_bytes: int | None = None


class UpkeepDAO(DAO):
    """Finds what to vacuum and rebuild, and does it."""

    async def bloated_tables(self, part: float = 1.0) -> list[BloatedTable]:
        """Large tables whose share of dead rows reaches that part of the settings' limit, the worst first."""
        share = self._settings.maintainer.health.dead_rows * part
        rows = await self._executor.fetch("upkeep.bloated_tables", _MANY_DEAD, share, _MOST_TABLES)
        return [BloatedTable(**row) for row in rows]

    async def invalid_indexes(self) -> list[IndexToMend]:
        """The indexes that failed builds left behind."""
        return [IndexToMend(**row) for row in await self._executor.fetch("upkeep.invalid_indexes")]

    async def bloated_indexes(self) -> list[IndexToMend]:
        """Large indexes that are several times as large as their entries need, the worst first."""
        rows = await self._executor.fetch("upkeep.bloated_indexes", _LARGE_INDEX_BYTES, _BLOAT_FACTOR)
        return [IndexToMend(**row) for row in rows]

    async def run(self, command: str) -> None:
        """Run a VACUUM, REINDEX or DROP that one of the above named, outside any transaction."""
        if not isinstance(self._executor, Database):
            raise DatabaseError(f"{command} can't run in a transaction: use a DAO without one")
        await self._executor.run_alone(command)

    async def checkpoint(self) -> None:
        """Write everything out, after which the server frees log files that it no longer needs."""
        await self.run("CHECKPOINT")
