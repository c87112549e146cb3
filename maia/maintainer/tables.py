"""Keeps tables in order: missing partitions, dead rows, and indexes that are invalid or bloated."""

from __future__ import annotations

from datetime import UTC, date, timedelta
from typing import ClassVar, Final

from atlas.adapters.retention import RetentionDAO
from atlas.adapters.tracking import TrackingDAO
from atlas.adapters.upkeep import BloatedTable, IndexToMend, UpkeepDAO
from atlas.composition import Atlas
from atlas.errors import DatabaseError
from atlas.wording import counted
from maia.maintainer.actions import Action, ActionFailed, Plan
from maia.maintenance.wording import size_text

PARTITION_DAYS: Final = 7
"""Partitions are created this many days ahead, for the case that nobody can create them later."""


class CreatePartitions(Action):
    """Creates the partitions for the samples of today and the next days."""

    kind = "partitions"
    about = "Create missing partitions for the samples of the next days."
    cool_down_s: ClassVar[float | None] = 0.0
    target = "video_stats_log"

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas

    async def plan(self) -> Plan | None:
        today = self.atlas.clock.now().astimezone(UTC).date()
        days = [today + timedelta(days=ahead) for ahead in range(PARTITION_DAYS + 1)]
        dao = RetentionDAO(self.atlas.db, clock=self.atlas.clock, settings=self.atlas.settings)
        missing = await dao.missing_days(days)
        if not missing:
            return None
        return Plan(
            text=f"Create {counted(len(missing), 'partition')} for samples of {missing[0]} to {missing[-1]}",
            commands=tuple(f"SELECT ensure_sample_days('{{{day}}}')" for day in missing),
            details={
                "table": self.target, "what": "missing partitions", "rows": len(missing),
                "how": "create the partitions of the coming days", "days": [str(day) for day in missing],
            },
        )  # fmt: skip

    async def apply(self, plan: Plan) -> str:
        dao = TrackingDAO(self.atlas.db, clock=self.atlas.clock, settings=self.atlas.settings)
        made = await dao.ensure_partitions([date.fromisoformat(day) for day in plan.details["days"]])
        return f"created {counted(len(made), 'partition')}" if made else "others had created them meanwhile"


class Vacuum(Action):
    """Vacuums a table with many dead rows, which others can read and write meanwhile."""

    kind = "vacuum"
    about = "Make the space of dead rows usable again, and renew the planner's statistics."

    def __init__(self, dao: UpkeepDAO, table: BloatedTable) -> None:
        self._dao, self._table, self.target = dao, table, table.name

    async def plan(self) -> Plan | None:
        table = self._table
        return Plan(
            text=f"Vacuum {table.name}: {table.dead:,} dead of {counted(table.dead + table.live, 'row')}",
            commands=(table.command,),
            details={
                "table": table.name, "what": "dead rows", "rows": table.dead, "bytes": table.bytes,
                "how": "VACUUM (ANALYZE)",
            },
        )  # fmt: skip

    async def apply(self, plan: Plan) -> str:
        await _run(self._dao, self._table.command)
        return f"vacuumed {self._table.name}"


class Reindex(Action):
    """Rebuilds an index that is invalid or bloated, or drops what an interrupted rebuild left."""

    kind = "reindex"
    about = "Rebuild invalid and bloated indexes, and drop leftovers of interrupted rebuilds."
    disturbs: ClassVar[bool] = True

    def __init__(self, dao: UpkeepDAO, index: IndexToMend) -> None:
        self._dao, self._index, self.target = dao, index, index.name

    async def plan(self) -> Plan | None:
        index, why = self._index, _why(self._index)
        return Plan(
            text=f"{why}: {index.command}",
            commands=(index.command,),
            details={
                "table": index.name, "what": why, "rows": None, "bytes": index.bytes,
                "how": " ".join(index.command.split()[:3]),
            },
        )  # fmt: skip

    async def apply(self, plan: Plan) -> str:
        await _run(self._dao, self._index.command)
        return f"done: {self._index.command}"


async def table_actions(atlas: Atlas) -> list[Action]:
    """What keeps the tables in order now."""
    dao = UpkeepDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    tables = [Vacuum(dao, table) for table in await dao.bloated_tables() if not table.is_vacuumed]
    indexes = [Reindex(dao, index) for index in [*await dao.invalid_indexes(), *await dao.bloated_indexes()]]
    return [CreatePartitions(atlas), *tables, *indexes]


def _why(index: IndexToMend) -> str:
    if index.needed_bytes is None:
        return f"{index.name} is invalid"
    return f"{index.name} takes {size_text(index.bytes)} and needs {size_text(index.needed_bytes)}"


async def _run(dao: UpkeepDAO, command: str) -> None:
    try:
        await dao.run(command)
    except DatabaseError as error:
        raise ActionFailed(f"{command}: {error}") from error
