"""Prometheus metrics, computed from the database on request, so that agents need not keep running for them.

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

from atlas.adapters.discovery import DiscoveryDAO
from atlas.adapters.maia import MaiaDAO
from atlas.adapters.metrics import LedgerEntry, MetricsDAO, Total
from atlas.clock import pacific_day
from atlas.composition import Atlas
from atlas.config import BUCKETS, RINGS, Bucket, QuotaSettings
from atlas.errors import AtlasError
from atlas.pacing import Allowance, loan
from maia.errors import MaiaError
from maia.learning.zones import Zone

logger = logging.getLogger(__name__)

SECONDS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper bounds of the histogram of cycles' seconds."""

COUNTS_KEPT_S = 60.0
"""How long counts of whole tables are reused, as they are slow to compute."""

# Reasons to skip a topic or video that are no errors: the quota, the time limit, an older sample, or the end
# of the whole cycle, which is counted once by its outcome.
_NO_ERRORS = frozenset(
    {
        "ring_closed",
        "late",
        "not_later",
        "unpromising",
        "rate_limited",
        "keys_rejected",
        "interrupted",
        "failed",
    }
)
_FAILING_OUTCOMES = frozenset({"rate_limited", "keys_rejected", "failed"})
_METRIC_OF_TOTAL: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "cycles": ("pleiades_cycles_total", ("agent", "outcome")),
    "cycle_seconds": ("cycle_seconds", ("agent",)),
    "cycle_seconds_at_most": ("cycle_seconds_at_most", ("agent", "le")),
    "units": ("pleiades_calls_total", ("agent", "bucket")),
    "new": ("pleiades_videos_found_total", ("agent",)),
    "samples": ("pleiades_samples_total", ("agent",)),
    "lapses": ("pleiades_lease_expiries_total", ("agent",)),
    "breakouts": ("pleiades_breakouts_total", ()),
}

MetricKind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its name, kind, labels and meaning."""

    name: str
    kind: MetricKind
    labels: tuple[str, ...]
    help: str


FAMILIES = (
    Family("pleiades_up", "gauge", (), "1 if the metrics could be computed, else 0."),
    Family("pleiades_cycles_total", "counter", ("agent", "outcome"), "Cycles, by outcome."),
    Family("pleiades_cycle_seconds", "histogram", ("agent",), "How long cycles took."),
    Family("pleiades_videos", "gauge", (), "Stored videos."),
    Family("pleiades_channels", "gauge", (), "Stored channels."),
    Family("pleiades_videos_found_total", "counter", ("agent",), "Videos found for the first time."),
    Family("pleiades_samples_total", "counter", ("agent",), "Stored samples of videos' counts."),
    Family("pleiades_breakouts_total", "counter", (), "Detected breakouts."),
    Family("pleiades_calls_total", "counter", ("agent", "bucket"), "Units of quota that cycles used."),
    Family(
        "pleiades_discovery_units_total",
        "counter",
        ("arm",),
        "Units that a source or form of search used of its bucket.",
    ),
    Family("pleiades_discovery_found_total", "counter", ("arm",), "Videos that it found, known ones too."),
    Family(
        "pleiades_discovery_early_total",
        "counter",
        ("arm",),
        "Videos that it found first, within 24 hours of publication.",
    ),
    Family("pleiades_discovery_growing_total", "counter", ("arm",), "Those of them that grew."),
    Family("pleiades_discovery_share", "gauge", ("arm",), "Its share of its bucket in today's plan."),
    Family("pleiades_discovery_unwell", "gauge", ("arm",), "1 if its answers are not as asked, else 0."),
    Family("pleiades_quota_used", "gauge", ("project", "ring", "bucket"), "Units used on this Pacific day."),
    Family(
        "pleiades_quota_reserved",
        "gauge",
        ("project", "ring", "bucket"),
        "Units reserved for calls in progress, or by processes that died during one.",
    ),
    Family(
        "pleiades_quota_allowed",
        "gauge",
        ("project", "ring", "bucket"),
        "Units of the ring's limit that pacing has released by now.",
    ),
    Family(
        "pleiades_quota_limit",
        "gauge",
        ("project", "ring", "bucket"),
        "Units that the ring may spend on this Pacific day, with what it borrows and without what it lends.",
    ),
    Family(
        "pleiades_ledger_closed",
        "gauge",
        ("project", "bucket"),
        "1 if YouTube closed the bucket, else 0.",
    ),
    Family(
        "pleiades_queue_topics", "gauge", ("status",), "Topics of the search queue: active, cooling, parked."
    ),
    Family("pleiades_queue_leased", "gauge", (), "Active topics that an agent has claimed."),
    Family("pleiades_tracker_live", "gauge", ("zone",), "Videos that are tracked."),
    Family("pleiades_tracker_due", "gauge", ("zone",), "Videos whose sample is due."),
    Family("pleiades_tracker_starving", "gauge", ("zone",), "Videos overdue by more than the patience set."),
    Family(
        "pleiades_tracker_lag_seconds", "gauge", ("zone",), "How long the most overdue video has been due."
    ),
    Family(
        "pleiades_lease_expiries_total",
        "counter",
        ("agent",),
        "Claims that expired because their process died.",
    ),
    Family(
        "pleiades_errors_total",
        "counter",
        ("agent", "disposition"),
        "Failures of single topics or videos, and of whole cycles, by reason or outcome.",
    ),
    Family(
        "pleiades_churns_total",
        "counter",
        ("agent",),
        "Processes that ended because of a 429; a later one continues.",
    ),
    Family(
        "pleiades_vault_waiting", "gauge", (), "Objects kept in the database because the vault refused them."
    ),
    Family("pleiades_database_pool_size", "gauge", (), "Open connections of the metrics process."),
    Family("pleiades_database_pool_idle", "gauge", (), "Idle connections of the metrics process."),
    Family("pleiades_database_bytes", "gauge", (), "Size of the database."),
    Family(
        "pleiades_oldest_xmin_age_seconds",
        "gauge",
        (),
        "Age of the oldest transaction that keeps PostgreSQL from removing dead rows; it slows agents down.",
    ),
)
"""All our metrics, in the order in which they are exported."""

LabelledValue = tuple[tuple[str, ...], float]
"""A value of a metric, with the values of its labels."""


class MetricsError(MaiaError):
    """The metrics cannot be served."""


class Exporter:
    """Computes the metrics of an Atlas."""

    def __init__(self, atlas: Atlas) -> None:
        self._atlas = atlas
        self._metrics = MetricsDAO(atlas.db, atlas.events)
        self._maia = MaiaDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._yields = DiscoveryDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._turn = asyncio.Lock()
        self._counts: tuple[float, Mapping[str, float]] | None = None
        self._process = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._process)

    async def exposition(self) -> bytes:
        """The metrics in the text format of Prometheus, process_* with them.

        If the database does not answer, `pleiades_up` is 0 and the other metrics are missing.
        """
        async with self._turn:
            try:
                samples = await self._collect()
            except AtlasError as error:
                logger.warning("the metrics cannot be computed: %s", error)
                samples = {"pleiades_up": [((), 0.0)]}
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(samples))
        return generate_latest(registry) + generate_latest(self._process)

    async def _collect(self) -> dict[str, list[LabelledValue]]:
        tables = await self._tables()
        await self._metrics.fold(SECONDS)
        samples = _samples_of_totals(await self._metrics.totals())
        samples |= await self._quota()
        samples |= await self._discovery()
        samples |= await self._queue_and_clock()
        samples |= await self._database()
        for name, count in tables.items():
            samples[name] = [((), count)]
        samples["pleiades_up"] = [((), 1.0)]
        return samples

    async def _quota(self) -> dict[str, list[LabelledValue]]:
        now, settings = self._atlas.clock.now(), self._atlas.settings
        entries = {(e.project, e.bucket): e for e in await self._metrics.ledger(pacific_day(now))}
        projects = {project for project, _ in entries}
        projects |= {key.project for keys in settings.key_pool.values() for key in keys}
        samples: dict[str, list[LabelledValue]] = defaultdict(list)
        for project in sorted(projects):
            for bucket in BUCKETS:
                entry = entries.get((project, bucket))
                closed = entry is not None and entry.closed_until is not None and entry.closed_until > now
                samples["pleiades_ledger_closed"].append(((project, bucket), float(closed)))
                for name, values in _accounts(settings.quota, project, bucket, entry, now).items():
                    samples[name] += values
        return samples

    async def _discovery(self) -> dict[str, list[LabelledValue]]:
        samples: dict[str, list[LabelledValue]] = defaultdict(list)
        for total in await self._yields.totals_by_arm():
            counts = {
                "units": total.units, "found": total.found, "early": total.early, "growing": total.growing,
            }  # fmt: skip
            for name, count in counts.items():
                samples[f"pleiades_discovery_{name}_total"].append(((total.arm,), float(count)))
        for arm in await self._yields.plan(pacific_day(self._atlas.clock.now())):
            samples["pleiades_discovery_share"].append(((arm.arm,), arm.share))
            samples["pleiades_discovery_unwell"].append(((arm.arm,), float(arm.unwell is not None)))
        return samples

    async def _queue_and_clock(self) -> dict[str, list[LabelledValue]]:
        now = self._atlas.clock.now()
        queue = await self._maia.queue_counts()
        samples: dict[str, list[LabelledValue]] = {
            "pleiades_queue_topics": [
                (("active",), queue.active), (("cooling",), queue.cooling), (("parked",), queue.parked),
            ],
            "pleiades_queue_leased": [((), queue.leased)],
        }  # fmt: skip
        for zone in await self._maia.clock_counts():
            lag_s = max(0.0, (now - zone.oldest_due_at).total_seconds()) if zone.oldest_due_at else 0.0
            values = {"live": zone.live, "due": zone.due, "starving": zone.starving, "lag_seconds": lag_s}
            for name, value in values.items():
                label = (Zone(zone.zone).name.lower(),)
                samples.setdefault(f"pleiades_tracker_{name}", []).append((label, value))
        return samples

    async def _database(self) -> dict[str, list[LabelledValue]]:
        server = await self._atlas.db.fetchrow("health.server")
        assert server is not None
        size, idle = self._atlas.db.connections
        values = {
            "pleiades_vault_waiting": await self._atlas.vault.waiting(),
            "pleiades_database_pool_size": size,
            "pleiades_database_pool_idle": idle,
            "pleiades_database_bytes": server["bytes"],
            "pleiades_oldest_xmin_age_seconds": server["oldest_transaction_s"],
        }
        return {name: [((), float(value))] for name, value in values.items()}

    async def _tables(self) -> Mapping[str, float]:
        """Row counts of the large tables. It also counts expired claims, which is as slow."""
        if self._counts is None or time.monotonic() - self._counts[0] > COUNTS_KEPT_S:
            await self._metrics.count_lapses()
            found = await self._maia.discoveries()
            counts = {"pleiades_videos": float(found.videos), "pleiades_channels": float(found.channels)}
            self._counts = (time.monotonic(), counts)
        return self._counts[1]


def _accounts(
    quota: QuotaSettings, project: str, bucket: Bucket, entry: LedgerEntry | None, now: datetime
) -> dict[str, list[LabelledValue]]:
    """The quota metrics of a project's bucket, for each ring that has a share of it."""
    samples: dict[str, list[LabelledValue]] = defaultdict(list)
    for ring in RINGS:
        allowance = Allowance.of(quota, project, ring, bucket)
        if entry is None or entry.lends:
            allowance = allowance.with_loan(loan(quota, project, ring, bucket))
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


def _samples_of_totals(totals: Iterable[Total]) -> dict[str, list[LabelledValue]]:
    """The counters, and the parts of the histogram, from the totals in the database."""
    samples: dict[str, list[LabelledValue]] = defaultdict(list)
    errors: Counter[tuple[str, str]] = Counter()
    for total in totals:
        if total.metric in _METRIC_OF_TOTAL:
            name, labels = _METRIC_OF_TOTAL[total.metric]
            samples[name].append((tuple(str(total.labels[label]) for label in labels), total.total))
        reason = total.labels.get({"cycles": "outcome", "skipped": "reason"}.get(total.metric, ""))
        agent = str(total.labels.get("agent", ""))
        if total.metric == "cycles" and reason == "rate_limited":
            samples["pleiades_churns_total"].append(((agent,), total.total))
        if reason in _FAILING_OUTCOMES if total.metric == "cycles" else reason and reason not in _NO_ERRORS:
            errors[agent, str(reason)] += int(total.total)
    samples["pleiades_errors_total"] = [(label, float(count)) for label, count in sorted(errors.items())]
    return samples


class _Collector:
    """Passes the samples of one request to prometheus_client."""

    def __init__(self, samples: Mapping[str, Sequence[LabelledValue]]) -> None:
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
async def serve_metrics(atlas: Atlas, host: str, port: int) -> AsyncIterator[str]:
    """Serve /metrics, and /health, which says whether Atlas's services answer; yields the URL of /metrics."""
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
                f"cannot listen on {host}:{port} ({error.strerror}): stop the program that does, or set "
                "PLEIADES_METRICS__PORT to another port"
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
