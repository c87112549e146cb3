"""What Pleiades does, as metrics: computed from Atlas when they are asked for, so that no process need live.

Counters come from totals in the database, which survive the processes that did the work, this exporter and
the events themselves. `FAMILIES` describes every metric; the documentation is written from it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0, generate_latest

from atlas.adapters.maia import MaiaDAO
from atlas.adapters.metrics import LedgerEntry, MetricsDAO, Total
from atlas.clock import pacific_day
from atlas.composition import Atlas
from atlas.config import BUCKETS, RINGS, Bucket, QuotaSettings
from atlas.errors import AtlasError
from atlas.pacing import Allowance
from maia.errors import MaiaError
from maia.learning.zones import Zone

logger = logging.getLogger(__name__)

SECONDS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper bounds of the histogram of cycles' seconds."""

COUNTS_KEPT_S = 60.0
"""How long a look through whole tables is good for."""

# What single topics and videos are skipped for without an error of theirs: the quota, the time, a later
# sample, or the end of the whole cycle, which counts once by its outcome.
_NO_ERRORS = frozenset(
    {"ring_closed", "late", "not_later", "rate_limited", "keys_rejected", "interrupted", "failed"}
)
_FAILING_OUTCOMES = frozenset({"rate_limited", "keys_rejected", "failed"})
_TOLD_AS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "cycles": ("pleiades_cycles_total", ("agent", "outcome")),
    "cycle_seconds": ("cycle_seconds", ("agent",)),
    "cycle_seconds_at_most": ("cycle_seconds_at_most", ("agent", "le")),
    "units": ("pleiades_calls_total", ("agent", "bucket")),
    "new": ("pleiades_videos_found_total", ("agent",)),
    "samples": ("pleiades_samples_total", ("agent",)),
    "lapses": ("pleiades_lease_expiries_total", ("agent",)),
    "breakouts": ("pleiades_breakouts_total", ()),
}

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Family:
    """A metric and what it means."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str


FAMILIES = (
    Family("pleiades_up", "gauge", (), "Whether everything here could be computed: 1, else 0."),
    Family("pleiades_cycles_total", "counter", ("agent", "outcome"), "Cycles that ended, by how they ended."),
    Family("pleiades_cycle_seconds", "histogram", ("agent",), "How long cycles took."),
    Family("pleiades_videos", "gauge", (), "Videos that are known."),
    Family("pleiades_channels", "gauge", (), "Channels that are known."),
    Family(
        "pleiades_videos_found_total", "counter", ("agent",), "Videos that cycles met for the first time."
    ),
    Family("pleiades_samples_total", "counter", ("agent",), "Samples of videos' counts that were stored."),
    Family("pleiades_breakouts_total", "counter", (), "Breakouts that were detected."),
    Family("pleiades_calls_total", "counter", ("agent", "bucket"), "Units of quota that cycles used."),
    Family("pleiades_quota_used", "gauge", ("project", "ring", "bucket"), "Units used on this Pacific day."),
    Family(
        "pleiades_quota_reserved",
        "gauge",
        ("project", "ring", "bucket"),
        "Units reserved for calls under way, or by processes that died during one.",
    ),
    Family(
        "pleiades_quota_allowed",
        "gauge",
        ("project", "ring", "bucket"),
        "Units that pace admits of the ring by now.",
    ),
    Family(
        "pleiades_quota_limit",
        "gauge",
        ("project", "ring", "bucket"),
        "Units that the ring may spend in the whole Pacific day.",
    ),
    Family(
        "pleiades_ledger_closed",
        "gauge",
        ("project", "bucket"),
        "Whether YouTube closed the bucket: 1, else 0.",
    ),
    Family(
        "pleiades_queue_topics", "gauge", ("status",), "Topics of the search queue: active, cooling, parked."
    ),
    Family("pleiades_queue_leased", "gauge", (), "Active topics that an agent holds."),
    Family("pleiades_tracker_live", "gauge", ("zone",), "Videos that are tracked."),
    Family("pleiades_tracker_due", "gauge", ("zone",), "Videos whose sample is due."),
    Family("pleiades_tracker_starving", "gauge", ("zone",), "Videos overdue beyond the settings' patience."),
    Family(
        "pleiades_tracker_lag_seconds", "gauge", ("zone",), "For how long the oldest due sample has been due."
    ),
    Family(
        "pleiades_lease_expiries_total",
        "counter",
        ("agent",),
        "Claims whose lease ran out, as their processes vanished.",
    ),
    Family(
        "pleiades_errors_total",
        "counter",
        ("agent", "disposition"),
        "Failures by what was done about them: of single topics or videos, and of whole cycles.",
    ),
    Family(
        "pleiades_churns_total",
        "counter",
        ("agent",),
        "Processes that a 429 ended, for another to go on later.",
    ),
    Family("pleiades_vault_waiting", "gauge", (), "Objects that wait because the vault refused them."),
    Family("pleiades_database_pool_size", "gauge", (), "Connections that this process has open."),
    Family("pleiades_database_pool_idle", "gauge", (), "Those of them that are idle."),
    Family("pleiades_database_bytes", "gauge", (), "Size of the database."),
    Family(
        "pleiades_oldest_xmin_age_seconds",
        "gauge",
        (),
        "Age of the oldest transaction that keeps rows from being cleaned away; it makes claims dear.",
    ),
)
"""Every metric of ours, in the order in which they are told."""

Sample = tuple[tuple[str, ...], float]


class MetricsError(MaiaError):
    """The metrics cannot be exported."""


class Exporter:
    """Computes the metrics of an Atlas."""

    def __init__(self, atlas: Atlas) -> None:
        self._atlas = atlas
        self._metrics = MetricsDAO(atlas.db, atlas.events)
        self._maia = MaiaDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._turn = asyncio.Lock()
        self._counts: tuple[float, Mapping[str, float]] | None = None
        self._process = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._process)

    async def exposition(self) -> bytes:
        """The metrics in the text format of Prometheus, process_* with them.

        Where the database does not answer `pleiades_up` is 0 and the others are missing: what is not known is
        not told.
        """
        async with self._turn:
            try:
                samples = await self._collect()
            except AtlasError as error:
                logger.warning("the metrics cannot be computed: %s", error)
                samples = {"pleiades_up": [((), 0.0)]}
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Told(samples))
        return generate_latest(registry) + generate_latest(self._process)

    async def _collect(self) -> dict[str, list[Sample]]:
        tables = await self._tables()
        await self._metrics.fold(SECONDS)
        samples = _of_totals(await self._metrics.totals())
        samples |= await self._quota()
        samples |= await self._queue_and_clock()
        samples |= await self._database()
        for name, count in tables.items():
            samples[name] = [((), count)]
        samples["pleiades_up"] = [((), 1.0)]
        return samples

    async def _quota(self) -> dict[str, list[Sample]]:
        now, settings = self._atlas.clock.now(), self._atlas.settings
        entries = {(e.project, e.bucket): e for e in await self._metrics.ledger(pacific_day(now))}
        projects = {project for project, _ in entries}
        projects |= {key.project for keys in settings.key_pool.values() for key in keys}
        samples: dict[str, list[Sample]] = defaultdict(list)
        for project in sorted(projects):
            for bucket in BUCKETS:
                entry = entries.get((project, bucket))
                closed = entry is not None and entry.closed_until is not None and entry.closed_until > now
                samples["pleiades_ledger_closed"].append(((project, bucket), float(closed)))
                for name, values in _accounts(settings.quota, project, bucket, entry, now).items():
                    samples[name] += values
        return samples

    async def _queue_and_clock(self) -> dict[str, list[Sample]]:
        now = self._atlas.clock.now()
        queue = await self._maia.queue_counts()
        samples: dict[str, list[Sample]] = {
            "pleiades_queue_topics": [
                (("active",), queue.active), (("cooling",), queue.cooling), (("parked",), queue.parked),
            ],
            "pleiades_queue_leased": [((), queue.leased)],
        }  # fmt: skip
        for zone in await self._maia.clock_counts():
            lag_s = max(0.0, (now - zone.oldest_due_at).total_seconds()) if zone.oldest_due_at else 0.0
            told = {"live": zone.live, "due": zone.due, "starving": zone.starving, "lag_seconds": lag_s}
            for name, value in told.items():
                label = (Zone(zone.zone).name.lower(),)
                samples.setdefault(f"pleiades_tracker_{name}", []).append((label, value))
        return samples

    async def _database(self) -> dict[str, list[Sample]]:
        server = await self._atlas.db.fetchrow("health.server")
        assert server is not None
        size, idle = self._atlas.db.connections
        told = {
            "pleiades_vault_waiting": await self._atlas.vault.waiting(),
            "pleiades_database_pool_size": size,
            "pleiades_database_pool_idle": idle,
            "pleiades_database_bytes": server["bytes"],
            "pleiades_oldest_xmin_age_seconds": server["oldest_transaction_s"],
        }
        return {name: [((), float(value))] for name, value in told.items()}

    async def _tables(self) -> Mapping[str, float]:
        """How many rows the large tables have, and which claims in them lapsed, looked at once in a while."""
        if self._counts is None or time.monotonic() - self._counts[0] > COUNTS_KEPT_S:
            await self._metrics.count_lapses()
            found = await self._maia.discoveries()
            counts = {"pleiades_videos": float(found.videos), "pleiades_channels": float(found.channels)}
            self._counts = (time.monotonic(), counts)
        return self._counts[1]


def _accounts(
    quota: QuotaSettings, project: str, bucket: Bucket, entry: LedgerEntry | None, now: datetime
) -> dict[str, list[Sample]]:
    """What each ring had and may have of a project's bucket; nothing of rings without a part in it."""
    samples: dict[str, list[Sample]] = defaultdict(list)
    for ring in RINGS:
        allowance = Allowance.of(quota, project, ring, bucket)
        used = entry.used[ring] if entry else 0
        reserved = entry.reserved[ring] if entry else 0
        if allowance.ring_limit <= 0 and not used and not reserved:
            continue
        label = (project, ring, bucket)
        samples["pleiades_quota_used"].append((label, used))
        samples["pleiades_quota_reserved"].append((label, reserved))
        samples["pleiades_quota_allowed"].append((label, allowance.at(now)))
        samples["pleiades_quota_limit"].append((label, allowance.ring_limit))
    return samples


def _of_totals(totals: Iterable[Total]) -> dict[str, list[Sample]]:
    """Counters and the histogram's parts, from the totals by their names in the events."""
    samples: dict[str, list[Sample]] = defaultdict(list)
    errors: Counter[tuple[str, str]] = Counter()
    for total in totals:
        if total.metric in _TOLD_AS:
            name, labels = _TOLD_AS[total.metric]
            samples[name].append((tuple(str(total.labels[label]) for label in labels), total.total))
        reason = total.labels.get({"cycles": "outcome", "skipped": "reason"}.get(total.metric, ""))
        agent = str(total.labels.get("agent", ""))
        if total.metric == "cycles" and reason == "rate_limited":
            samples["pleiades_churns_total"].append(((agent,), total.total))
        if reason in _FAILING_OUTCOMES if total.metric == "cycles" else reason and reason not in _NO_ERRORS:
            errors[agent, str(reason)] += int(total.total)
    samples["pleiades_errors_total"] = [(label, float(count)) for label, count in sorted(errors.items())]
    return samples


class _Told:
    """Hands one round of samples to prometheus_client."""

    def __init__(self, samples: Mapping[str, Sequence[Sample]]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        for family in FAMILIES:
            if family.kind == "histogram":
                yield self._histogram(family)
                continue
            made: CounterMetricFamily | GaugeMetricFamily
            make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            made = make(family.name, family.help, labels=family.labels)
            for labels, value in self._samples.get(family.name, ()):
                made.add_metric(labels, value)
            if made.samples:
                yield made

    def _histogram(self, family: Family) -> HistogramMetricFamily:
        made = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        sums = {labels[0]: value for labels, value in self._samples.get("cycle_seconds", ())}
        below: dict[str, dict[float, float]] = defaultdict(dict)
        for (agent, bound), value in self._samples.get("cycle_seconds_at_most", ()):
            below[agent][float(bound)] = value
        counts: Counter[str] = Counter()
        for (agent, _), value in self._samples.get("pleiades_cycles_total", ()):
            counts[agent] += int(value)
        for agent, total_s in sums.items():
            buckets = [(str(bound), below[agent].get(bound, 0.0)) for bound in SECONDS]
            made.add_metric([agent], [*buckets, ("+Inf", float(counts[agent]))], total_s)
        return made


@asynccontextmanager
async def exported(atlas: Atlas, host: str, port: int) -> AsyncIterator[str]:
    """Serve /metrics, and /health which says whether Atlas answers; yields the URL of the former."""
    exporter = Exporter(atlas)

    async def metrics(_: web.Request) -> web.Response:
        body = await exporter.exposition()
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_PLAIN_1_0_0})

    async def health(_: web.Request) -> web.Response:
        answers = await atlas.ping()
        healthy = all(answer == "ok" for answer in answers.values())
        return web.json_response(answers, status=200 if healthy else 503)

    served = web.Application()
    served.add_routes([web.get("/metrics", metrics), web.get("/health", health)])
    runner = web.AppRunner(served, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise MetricsError(
                f"{host}:{port} cannot be listened on ({error.strerror}): end what listens there, or set "
                "PLEIADES_METRICS__PORT"
            ) from error
        bound = runner.addresses[0]
        yield f"http://{f'[{bound[0]}]' if ':' in bound[0] else bound[0]}:{bound[1]}/metrics"
    finally:
        await runner.cleanup()


def documentation() -> str:
    """Every metric as a table in Markdown."""
    lines = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{family.name}` | {family.kind} | {', '.join(family.labels) or '–'} | {family.help} |"
        for family in FAMILIES
    ]
    return "\n".join(lines) + "\n"
