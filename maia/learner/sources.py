"""What the learner reads, each source from a cursor that never skips anything: events and view curves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final

from atlas.adapters.curves import CurvesDAO
from atlas.composition import Atlas
from maia.learner import observing
from maia.learning.detector import Reads
from maia.learning.observations import ViewCurve
from maia.learning.privacy import Pseudonyms
from maia.learning.templates import FailureTemplates

CURVE_AGE: Final = timedelta(hours=72)
"""Curves are learnt once the video is that old."""

_LATE: Final = timedelta(minutes=10)
"""No transaction stores a sample later than this after it was taken."""
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_LAST_ID: Final = "~"
_LEAST_POINTS: Final = 3


@dataclass(frozen=True, slots=True)
class Page:
    """Inputs for detectors, and the position after them. `read` counts what was read for them."""

    inputs: Sequence[Any]
    end: str
    read: int
    is_last: bool


class Source(ABC):
    """Something that the learner reads in pages."""

    name: ClassVar[str]
    reads: ClassVar[Reads]
    start: ClassVar[str]

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas

    @abstractmethod
    async def read(self, position: str, limit: int) -> Page:
        """What comes after a position, about `limit` inputs at most."""

    async def waiting(self, position: str) -> int:
        """About how much comes after a position, for the progress; 0 if that isn't known."""
        return 0


class Events(Source):
    """What agents and operators did, from the event log."""

    name = "events"
    reads = "observations"
    start = "0"

    def __init__(self, atlas: Atlas, pseudonyms: Pseudonyms, templates: FailureTemplates) -> None:
        super().__init__(atlas)
        self._observer = observing.Observer(pseudonyms, templates)

    async def read(self, position: str, limit: int) -> Page:
        # Taken first: what the log shows up to here is complete, also where no event is of our kinds.
        complete = await self.atlas.events.cursor()
        events = await self.atlas.events.since(int(position), kinds=observing.KINDS, limit=limit)
        is_last = len(events) < limit
        end = max(complete, int(position)) if is_last else events[-1].id
        if is_last and events:
            end = max(end, events[-1].id)
        return Page(self._observer.observations(events), str(end), len(events), is_last)

    async def waiting(self, position: str) -> int:
        return max(0, await self.atlas.events.cursor() - int(position))


class Curves(Source):
    """How the views of videos grew in their first days, in the order in which they were published.

    A video that is stored after its turn has no early counts to learn from, and is left out.
    """

    name = "curves"
    reads = "curves"
    start = f"{_EPOCH.isoformat()} "

    async def read(self, position: str, limit: int) -> Page:
        instant, _, id_ = position.partition(" ")
        dao = CurvesDAO(self.atlas.db, clock=self.atlas.clock, settings=self.atlas.settings)
        until = self.atlas.clock.now() - CURVE_AGE - _LATE
        after = (datetime.fromisoformat(instant), id_)
        if after[0] >= until:
            return Page((), position, 0, is_last=True)
        stored = await dao.grown(after, until, CURVE_AGE, limit)
        is_last = len(stored) < limit
        end = (
            f"{until.isoformat()} {_LAST_ID}"
            if is_last
            else _position(stored[-1].born_at, stored[-1].video_id)
        )
        curves = [
            ViewCurve(each.video_id, each.born_at, each.ages_h, each.views, each.category_id)
            for each in stored
            if len(each.views) >= _LEAST_POINTS
        ]
        return Page(curves, end, len(stored), is_last)


def _position(instant: datetime, id_: str) -> str:
    return f"{instant.astimezone(UTC).isoformat()} {id_}"
