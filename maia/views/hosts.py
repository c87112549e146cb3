"""The hosts view: what each machine was doing, and which commands and methods of the API were used."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atlas.adapters.telemetry import HostSample, SeriesPoint, Usage
    from atlas.composition import Atlas
    from maia.maintenance.monitor import HostPressure

MOST_HOSTS: Final = 50
POINTS: Final = 24
"""Into how many spans the time shown is divided."""


@dataclass(frozen=True, slots=True)
class Host:
    """A machine: its last sample, how that is judged, and its mean figures over the time shown."""

    node: str
    latest: HostSample
    pressure: HostPressure
    series: tuple[SeriesPoint, ...]

    def figures(self, name: str) -> list[float | None]:
        """A figure in each of the POINTS spans, None where there was no sample."""
        values: list[float | None] = [None] * POINTS
        for point in self.series:
            values[point.place] = point.figures[name]
        return values


@dataclass(frozen=True, slots=True)
class Hosts:
    """The machines sampled since an instant, at most MOST_HOSTS, and what was used since that day."""

    now: datetime
    since: datetime
    hosts: tuple[Host, ...]
    usage: tuple[Usage, ...]


async def hosts(atlas: Atlas, hours: float, node: str | None = None) -> Hosts:
    """The machines sampled in the last hours, or one of them alone, those sampled last first."""
    from atlas.adapters.telemetry import TelemetryDAO
    from maia.maintenance.monitor import pressure

    dao = TelemetryDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    now = atlas.clock.now()
    since = now - timedelta(hours=hours)
    latest = await dao.latest(since, node=node, limit=MOST_HOSTS)
    series = await dao.series([sample.node for sample in latest], since, now, POINTS)
    found = (_host(sample, series[sample.node], pressure(sample)) for sample in latest)
    return Hosts(now, since, tuple(found), tuple(await dao.usage(since.astimezone(UTC).date())))


def _host(sample: HostSample, series: Sequence[SeriesPoint], judged: HostPressure) -> Host:
    return Host(sample.node, sample, judged, tuple(series))
