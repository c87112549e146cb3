"""Tidies this host: deletes our abandoned temporary files, rotates our logs and deletes old ones."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Final

from atlas.clock import SystemClock
from atlas.composition import Atlas
from atlas.wording import counted
from maia.maintainer.actions import Action, ActionFailed, Plan
from maia.maintainer.duties import DutyContext, DutyReport
from maia.maintenance import leftovers, log_files
from maia.maintenance.leftovers import Leftover, Places
from maia.maintenance.wording import size_text

_SHOWN: Final = 20


class RemoveLeftovers(Action):
    """Deletes temporary files of ours that nobody uses any more. They are aged by real time."""

    kind = "cleanup"
    about = "Delete our abandoned temporary files."
    cool_down_s: ClassVar[float | None] = 0.0

    def __init__(self, atlas: Atlas) -> None:
        settings = atlas.settings
        self._places = Places.of(settings)
        self._older_than = timedelta(hours=settings.maintainer.retention.temporary_h)
        self.target = f"temporary files of {settings.node_id}"

    async def plan(self) -> Plan | None:
        found = await self._find()
        if not found:
            return None
        size = sum(each.bytes for each in found)
        found_here = counted(
            len(found), "abandoned temporary file or folder", "abandoned temporary files and folders"
        )
        return Plan(
            text=f"Delete {found_here}, {size_text(size)}",
            commands=tuple(str(each.path) for each in found[:_SHOWN]),
            details={
                "table": "temporary files", "what": "abandoned", "rows": len(found), "bytes": size,
                "older_than": f"{self._older_than.total_seconds() / 3600:g} h", "how": "delete",
            },
        )  # fmt: skip

    async def apply(self, plan: Plan) -> str:
        found = await self._find()
        for each in found:
            await asyncio.to_thread(leftovers.remove, each)
        left = [each.path for each in found if each.path.exists()]
        if left:
            raise ActionFailed(f"{left[0]} can't be deleted: delete it by hand (rm -r {left[0]})")
        return f"deleted {len(found):,}, {size_text(sum(each.bytes for each in found))}"

    async def _find(self) -> list[Leftover]:
        now = SystemClock().now()
        return await asyncio.to_thread(leftovers.find, self._places, now, self._older_than)


class RotateLogs(Action):
    """Compresses logs that have grown too large, and deletes those that are too old."""

    kind = "cleanup"
    about = "Rotate our log files."
    cool_down_s: ClassVar[float | None] = 0.0

    def __init__(self, atlas: Atlas) -> None:
        retention = atlas.settings.maintainer.retention
        self._data = atlas.settings.data_folder
        self._days, self._largest_bytes = retention.logs_days, retention.log_mb * 2**20
        self.target = f"logs of {atlas.settings.node_id}"

    async def plan(self) -> Plan | None:
        old, large = await asyncio.to_thread(self._find, SystemClock().now())
        if not old and not large:
            return None
        size = sum(log.bytes for log in (*old, *large))
        return Plan(
            text=f"Rotate {counted(len(large), 'log')} and delete {len(old):,} older than "
            f"{counted(self._days, 'day')}",
            commands=tuple(str(log.path) for log in (*large, *old)),
            details={
                "table": "logs", "what": "large or old logs", "rows": len(old) + len(large), "bytes": size,
                "older_than": counted(self._days, "day"), "how": "compress, or delete",
            },
        )  # fmt: skip

    async def apply(self, plan: Plan) -> str:
        now = SystemClock().now()
        old, large = await asyncio.to_thread(self._find, now)
        try:
            for log in old:
                await asyncio.to_thread(log.path.unlink, missing_ok=True)
            for log in large:
                await asyncio.to_thread(log_files.rotate, log, now)
        except OSError as error:
            where = error.filename or self._data
            raise ActionFailed(f"{where} can't be rotated or deleted: {error.strerror}") from error
        return f"rotated {len(large):,} and deleted {len(old):,}"

    def _find(self, now: datetime) -> tuple[list[log_files.LogFile], list[log_files.LogFile]]:
        logs = log_files.find(self._data)
        old = log_files.too_old(logs, now.astimezone(UTC), self._days)
        return old, [log for log in log_files.too_large(logs, self._largest_bytes) if log not in old]


async def tidy_host(context: DutyContext) -> DutyReport:
    """Delete this host's abandoned temporary files, and rotate its logs."""
    results: dict[str, str] = {}
    for action in (RemoveLeftovers(context.atlas), RotateLogs(context.atlas)):
        taken = await context.take(action)
        if taken is not None:
            results[taken.target] = taken.result or taken.plan.text
    summary = "; ".join(f"{target}: {result}" for target, result in results.items())
    return DutyReport(summary=f"{summary or 'nothing was left to tidy'}.", details={"results": results})
