"""The anomalies view: where series were odd, too high or shifted, and what the series were around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from atlas.adapters.patterns import Alarm, AlarmKind
    from atlas.composition import Atlas

_POINTS: Final = 400
_MOST_CYCLES: Final = 10_000
_MOST_ALARMS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Series:
    """A series over the time shown, oldest value first, with its alarms."""

    name: str
    at: tuple[datetime, ...]
    values: tuple[float, ...]
    alarms: tuple[Alarm, ...]


@dataclass(frozen=True, slots=True)
class Anomalies:
    """The alarms since an instant, newest first."""

    since: datetime
    now: datetime
    alarms: tuple[Alarm, ...]

    def by_series(self) -> dict[str, list[Alarm]]:
        """The alarms of each series, those with the most alarms first."""
        grouped: dict[str, list[Alarm]] = {}
        for alarm in self.alarms:
            grouped.setdefault(alarm.series, []).append(alarm)
        return dict(sorted(grouped.items(), key=lambda item: (-len(item[1]), item[0])))


async def anomalies(
    atlas: Atlas, since: datetime, *, series: str | None = None, kind: AlarmKind | None = None
) -> Anomalies:
    """The alarms since an instant, of all series and kinds or of one."""
    from atlas.adapters.patterns import PatternsDAO

    dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    alarms = await dao.alarms(since, series=series, kind=kind, limit=_MOST_ALARMS)
    return Anomalies(since, atlas.clock.now(), tuple(alarms))


async def series(atlas: Atlas, name: str, found: Anomalies, agents: Collection[str]) -> Series:
    """A series over the time of the alarms found, thinned to what a plot can show, and what was odd in it.

    It is a figure of one of the `agents`, or else of a host.
    """
    source, _, metric = name.rpartition(" ")
    if source in agents:
        points = await _of_cycles(atlas, source, metric, found.since)
    else:
        points = await _of_host(atlas, source, metric, found)
    alarms = tuple(alarm for alarm in found.alarms if alarm.series == name)
    if points:
        points = sorted({**dict(points), **{alarm.at: alarm.value for alarm in alarms}}.items())
    return Series(name, tuple(at for at, _ in points), tuple(value for _, value in points), alarms)


async def _of_host(
    atlas: Atlas, node: str, metric: str, found: Anomalies
) -> Sequence[tuple[datetime, float]]:
    from atlas.adapters.telemetry import TelemetryDAO

    dao = TelemetryDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    if found.now <= found.since:
        return ()
    points = (await dao.series([node], found.since, found.now, _POINTS)).get(node, [])
    return [(point.at, value) for point in points if (value := point.figures.get(metric)) is not None]


async def _of_cycles(
    atlas: Atlas, agent: str, figure: str, since: datetime
) -> Sequence[tuple[datetime, float]]:
    events = await atlas.events.latest(_MOST_CYCLES, kinds=[f"{agent}.cycle"])
    points = [
        (event.at, float(value))
        for event in reversed(events)
        if event.at >= since and isinstance(value := event.payload.get(figure), (int, float))
    ]
    step = -(-len(points) // _POINTS) or 1
    return points[::step]
