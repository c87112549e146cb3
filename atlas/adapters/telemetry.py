"""What machines were doing (samples of their load), and how often commands and the API were used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal

import orjson

from atlas.adapters.dao import DAO, json_text
from atlas.clock import SystemClock
from atlas.db import Row
from atlas.errors import ConfigError
from atlas.queries import clean_text

UsageKind = Literal["command", "call"]

FORGOTTEN_AT_ONCE: Final = 10_000
"""Most rows of a table that one call of `forget_old` deletes, so that it never runs for long."""

_LONGEST_NAME: Final = 100
_ADOPTED_XID: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLoad:
    """What a program was doing, all its processes together: its name, and nothing else that tells of it."""

    name: str
    cpu_percent: float
    rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSample:
    """What a host was doing at one instant; a figure that it doesn't have is None.

    Rates and `cpu_percent` are means since the sample before. In a container, `cpus` and everything about
    memory go by its limits. `own_rss_bytes` counts the sampling process and those that it started.
    """

    at: datetime
    node: str
    cpus: float | None = None
    cpu_percent: float | None = None
    load_1: float | None = None
    load_5: float | None = None
    load_15: float | None = None
    memory_limit_bytes: int | None = None
    memory_used_bytes: int | None = None
    memory_percent: float | None = None
    swap_used_bytes: int | None = None
    swap_percent: float | None = None
    disk_free_bytes: int | None = None
    disk_percent: float | None = None
    received_bytes_per_s: float | None = None
    sent_bytes_per_s: float | None = None
    received_packets_per_s: float | None = None
    sent_packets_per_s: float | None = None
    disk_read_bytes_per_s: float | None = None
    disk_written_bytes_per_s: float | None = None
    temperature_c: float | None = None
    battery_percent: float | None = None
    on_battery: bool | None = None
    own_rss_bytes: int | None = None
    processes: tuple[ProcessLoad, ...] | None = None


@dataclass(frozen=True, slots=True)
class SampleCursor:
    """A place in the order in which samples are read; the default is before the first one."""

    xid: int = 0
    id: int = 0


@dataclass(frozen=True, slots=True)
class SamplePage:
    """Some samples, and the cursor that continues after them."""

    samples: tuple[HostSample, ...]
    cursor: SampleCursor


@dataclass(frozen=True, slots=True)
class SeriesPoint:
    """The mean figures of the samples in one of the equal spans that a series is divided into."""

    place: int
    at: datetime
    samples: int
    figures: Mapping[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How often a command or a method of the API was used, until `last_at`."""

    kind: UsageKind
    name: str
    count: int
    errors: int
    seconds: float
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How many rows were deleted because of their age."""

    samples: int
    usage: int


class TelemetryDAO(DAO):
    """Stores and reads samples of hosts, and counts of what was used."""

    async def store(self, samples: Iterable[HostSample]) -> int:
        """Store samples in one statement; returns how many. Figures that are not finite are left out."""
        rows = [_as_row(sample) for sample in samples]
        return await self._executor.execute("telemetry.store_samples", json_text(rows)) if rows else 0

    async def latest(self, since: datetime, *, node: str | None = None, limit: int = 100) -> list[HostSample]:
        """The last sample of each node since an instant, those sampled last first."""
        rows = await self._executor.fetch("telemetry.latest", since, _of_node(node), limit)
        return [_sample_of(row) for row in rows]

    async def series(
        self, nodes: Sequence[str], since: datetime, until: datetime, points: int
    ) -> dict[str, list[SeriesPoint]]:
        """The figures of nodes over a time, thinned by the database to at most `points` means a node."""
        if points < 1 or until <= since:
            raise ConfigError("a series needs at least one point, and an end after its beginning")
        series: dict[str, list[SeriesPoint]] = {node: [] for node in nodes}
        for row in await self._executor.fetch("telemetry.series", list(nodes), since, until, points):
            values = dict(row)
            node, place, at, count = (values.pop(name) for name in ("node", "place", "at", "samples"))
            series[node].append(SeriesPoint(place, at, count, values))
        return series

    async def since(self, cursor: SampleCursor, limit: int = 1000) -> SamplePage:
        """At most `limit` samples after a cursor, none of them skipped or returned by two pages.

        An open transaction delays all samples that were written after it began, in any database of the
        server. After a backup was restored on another server, cursors that were restored with it go on.
        """
        cursor = await self._on_this_server(cursor)
        rows = await self._executor.fetch("telemetry.since", cursor.xid, cursor.id, limit)
        samples = tuple(_sample_of(row) for row in rows)
        return SamplePage(samples, SampleCursor(rows[-1]["xid"], rows[-1]["id"]) if rows else cursor)

    async def horizon(self) -> SampleCursor:
        """A cursor after all samples that are settled now, for a reader that wants only later ones."""
        return SampleCursor(await self._executor.fetchval("telemetry.horizon"), 0)

    async def _on_this_server(self, cursor: SampleCursor) -> SampleCursor:
        """The cursor, translated if it and the samples before it come from another server.

        Transaction ids there mean nothing here, but the ids of rows still tell their order.
        """
        restored = await self._executor.fetchrow("telemetry.is_restored", cursor.xid)
        assert restored is not None
        if restored["samples"]:
            await self._executor.execute("telemetry.adopt_restored")
        return SampleCursor(_ADOPTED_XID, cursor.id) if restored["cursor"] else cursor

    async def count_usage(self, used: Sequence[Usage]) -> None:
        """Add to the counts of the day of each `last_at`, in one statement."""
        if not used:
            return
        columns = [
            [each.last_at.astimezone(UTC).date() for each in used],
            [each.kind for each in used],
            [clean_text(each.name)[:_LONGEST_NAME] for each in used],
            [each.count for each in used],
            [each.errors for each in used],
            [each.seconds for each in used],
            [each.last_at for each in used],
        ]
        await self._executor.execute("telemetry.count_usage", *columns)

    async def usage(self, since: date) -> list[Usage]:
        """What was used since a UTC day, commands first, the most used first."""
        return [Usage(**row) for row in await self._executor.fetch("telemetry.usage", since)]

    async def forget_old(self) -> Forgotten:
        """Delete samples and counts older than the settings say, at most FORGOTTEN_AT_ONCE of each.

        They must be that old by the database's clock too, unless our clock is a virtual one.
        """
        days = self._settings.monitoring.max_retention_days
        before = self._clock.now() - timedelta(days=days)
        also_by_database = days if isinstance(self._clock, SystemClock) else None
        bounds = FORGOTTEN_AT_ONCE, also_by_database
        samples = await self._executor.execute("telemetry.forget_samples", before, *bounds)
        day = before.astimezone(UTC).date()
        return Forgotten(samples, await self._executor.execute("telemetry.forget_usage", day, *bounds))


_FIGURES: Final = tuple(field.name for field in fields(HostSample) if field.name != "processes")


def _as_row(sample: HostSample) -> dict[str, object]:
    row = asdict(sample)
    row["node"] = clean_text(sample.node)[:_LONGEST_NAME]
    if sample.processes is not None:
        row["processes"] = [(each.name, each.cpu_percent, each.rss_bytes) for each in sample.processes]
    return {name: value for name, value in row.items() if value is not None}


def _program_of(name: str, cpu_percent: float, rss_bytes: int) -> ProcessLoad:
    return ProcessLoad(name=name, cpu_percent=cpu_percent, rss_bytes=rss_bytes)


def _sample_of(row: Row) -> HostSample:
    stored = row["processes"]
    busiest = None if stored is None else tuple(_program_of(*each) for each in orjson.loads(stored))
    return HostSample(**{name: row[name] for name in _FIGURES}, processes=busiest)


def _of_node(node: str | None) -> str | None:
    return None if node is None else clean_text(node)
