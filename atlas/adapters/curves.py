"""The view curves of videos, read in the order in which the videos were published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from atlas.adapters.dao import DAO


@dataclass(frozen=True, slots=True)
class StoredCurve:
    """A video's counts of views by age in hours; both empty if there are none."""

    video_id: str
    born_at: datetime
    category_id: int | None
    ages_h: Sequence[float]
    views: Sequence[float]


class CurvesDAO(DAO):
    """Reads view curves."""

    async def grown(
        self, after: tuple[datetime, str], until: datetime, within: timedelta, limit: int
    ) -> list[StoredCurve]:
        """The curves, up to an age, of at most `limit` videos born after (instant, id) and up to `until`."""
        rows = await self._executor.fetch("curves.grown", *after, until, within, limit)
        return [
            StoredCurve(
                row["video_id"], row["born_at"], row["category_id"], row["ages_h"] or (), row["views"] or ()
            )
            for row in rows
        ]
