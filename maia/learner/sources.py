"""What the learner reads, each source from a cursor that never skips anything."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar, Final

from atlas.adapters.curves import CurvesDAO
from atlas.adapters.discovery import DiscoveryDAO
from atlas.adapters.patterns import Model
from atlas.adapters.telemetry import SampleCursor, TelemetryDAO
from atlas.clock import pacific_day
from atlas.composition import Atlas
from atlas.events import Event
from maia.discovery.plan import bucket_of, units_spent
from maia.learner import observing
from maia.learner.knowledge import restored_model
from maia.learner.outcomes import TEMPLATES, Outcomes
from maia.learner.sequences import Sequences
from maia.learning.detector import Reads
from maia.learning.observations import Measurement, Observation, ViewCurve
from maia.learning.priors import judged_day
from maia.learning.privacy import Pseudonyms
from maia.learning.templates import FailureTemplates

CURVE_AGE: Final = timedelta(days=8)
"""Curves are learnt once the video is that old."""

_LATE: Final = timedelta(minutes=10)
"""No transaction stores a sample later than this after it was taken."""
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_LEAST_POINTS: Final = 3
_JUDGED_AFTER: Final = timedelta(days=3)
"""Videos found on a day are a day old by the end of the next, and judged at the latest on the third."""
_ARMS: Final = 30
_EVENTS_AT_ONCE: Final = 5_000
_TEMPLATES_VERSION: Final = 1
_FIGURES: Final = ("seconds", "new", "samples")
_HOST_SERIES: Final = (
    "cpu_percent", "load_1", "memory_percent", "swap_percent", "disk_percent", "received_bytes_per_s",
    "sent_bytes_per_s", "temperature_c",
)  # fmt: skip


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

    @property
    def left(self) -> int:
        """About how much there is after what was read, for the progress; 0 if that isn't known."""
        return 0

    def models(self) -> list[Model]:
        """What the source itself has learnt, to be stored with its cursor."""
        return []


class _EventSource(Source):
    """A source that reads some kinds of events of the log."""

    kinds: ClassVar[tuple[str, ...]]
    start = "0"

    def __init__(self, atlas: Atlas) -> None:
        super().__init__(atlas)
        self._read = self._ids_read = self._ids_left = 0

    async def read(self, position: str, limit: int) -> Page:
        # Taken first: what the log shows up to here is complete, also where no event is of our kinds.
        complete = await self.atlas.events.cursor()
        inputs: list[Any] = []
        end, read, is_last = int(position), 0, False
        # A few at a time, as an event takes several times the memory of what is made of it.
        while read < limit and not is_last:
            wanted = min(_EVENTS_AT_ONCE, limit - read)
            events = await self.atlas.events.since(end, kinds=self.kinds, limit=wanted)
            inputs += self.inputs(events)
            read, is_last = read + len(events), len(events) < wanted
            end = events[-1].id if events else end
        if is_last:
            end = max(end, complete)
        self._read += read
        self._ids_read += end - int(position)
        self._ids_left = max(0, complete - end)
        return Page(inputs, str(end), read, is_last)

    @property
    def left(self) -> int:
        # Ids of events of other kinds lie between: about as many as so far.
        return round(self._ids_left * self._read / self._ids_read) if self._ids_read else 0

    @abstractmethod
    def inputs(self, events: Sequence[Event]) -> Sequence[Any]:
        """What the events tell."""


class Acts(_EventSource):
    """What agents and operators did."""

    name = "events"
    reads = "observations"
    kinds = observing.KINDS

    def __init__(self, atlas: Atlas, pseudonyms: Pseudonyms, models: Mapping[str, Model]) -> None:
        super().__init__(atlas)
        self._outcomes, templates = Outcomes(models), models.get(TEMPLATES)
        self._templates, self._texts = restored_model(FailureTemplates, templates), 0
        self._seen = templates.observations if templates else 0
        self._observer = observing.Observer(pseudonyms, self._template)
        self._sequences = Sequences(models)

    def inputs(self, events: Sequence[Event]) -> Sequence[Observation]:
        observations = self._observer.observations(events)
        self._outcomes.learn(observations)
        self._sequences.learn_acts(observations)
        return observations

    def models(self) -> list[Model]:
        """What was learnt of outcomes, of operators' next actions and of failures' templates, if anything."""
        models = [*self._outcomes.models(), *self._sequences.models()]
        if self._texts:
            seen = self._seen + self._texts
            models.append(Model(TEMPLATES, _TEMPLATES_VERSION, self._templates.state(), seen))
        return models

    def _template(self, text: str) -> str:
        self._texts += 1
        return self._templates.template(text).text


class Figures(_EventSource):
    """How long cycles took and what they brought, as series."""

    name = "figures"
    reads = "measurements"
    kinds = tuple(kind for kind in observing.KINDS if kind.endswith(".cycle"))

    def inputs(self, events: Sequence[Event]) -> Sequence[Measurement]:
        return [
            Measurement(f"{event.kind.removesuffix('.cycle')} {name}", event.at, float(value))
            for event in events
            for name in _FIGURES
            if isinstance(value := event.payload.get(name), (int, float)) and not isinstance(value, bool)
        ]


class HostMetrics(Source):
    """What the machines were doing: the samples of their load."""

    name = "metrics"
    reads = "measurements"
    start = "0 0"

    async def read(self, position: str, limit: int) -> Page:
        dao = TelemetryDAO(self.atlas.db, clock=self.atlas.clock, settings=self.atlas.settings)
        rows = max(1, limit // len(_HOST_SERIES))
        page = await dao.since(SampleCursor(*map(int, position.split())), rows)
        measurements = [
            Measurement(f"{sample.node} {name}", sample.at, float(value))
            for sample in page.samples
            for name in _HOST_SERIES
            if (value := getattr(sample, name)) is not None
        ]
        end = f"{page.cursor.xid} {page.cursor.id}"
        return Page(measurements, end, len(measurements), len(page.samples) < rows)


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
        # Not up to the present: if a clock was ahead once, that would be far beyond all videos to come.
        end = _position(stored[-1].born_at, stored[-1].video_id) if stored else position
        curves = [
            ViewCurve(each.video_id, each.born_at, each.ages_h, each.views, each.category_id)
            for each in stored
            if len(each.views) >= _LEAST_POINTS
        ]
        return Page(curves, end, len(stored), is_last)


class Yields(Source):
    """What each arm of discovery brought on each Pacific day, once all its early videos are judged.

    Days are read in whole, so a page may have more inputs than asked for.
    """

    name = "yields"
    reads = "observations"
    start = date(2000, 1, 1).isoformat()
    """The last day that was read."""

    async def read(self, position: str, limit: int) -> Page:
        dao = DiscoveryDAO(self.atlas.db, clock=self.atlas.clock, settings=self.atlas.settings)
        until = pacific_day(self.atlas.clock.now()) - _JUDGED_AFTER
        after = date.fromisoformat(position)
        if after >= until:
            return Page((), position, 0, is_last=True)
        rows = [row for row in await dao.yields_since(after + timedelta(days=1)) if row.pacific_day <= until]
        days = sorted({row.pacific_day for row in rows})
        taken = days[: max(1, limit // _ARMS)]
        is_last = len(taken) == len(days)
        # Not up to the present, as for curves.
        end = taken[-1] if taken else after
        inputs = [
            judged_day(row.arm, bucket, row.pacific_day, units, row.growing)
            for row in rows
            if row.pacific_day <= end and (units := units_spent(row, bucket := bucket_of(row.arm))) > 0
        ]
        return Page(inputs, end.isoformat(), len(inputs), is_last)


def _position(instant: datetime, id_: str) -> str:
    return f"{instant.astimezone(UTC).isoformat()} {id_}"
