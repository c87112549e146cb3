"""Computes what Prometheus gets from the database on request, so that agents need not keep running for it.

Counters come from totals in the database, which survive the processes that did the work, this exporter and
the events themselves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import generate_latest

from atlas.adapters.discovery import DiscoveryDAO
from atlas.adapters.federation import FederationDAO
from atlas.adapters.graph_metrics import GraphMetricsDAO, TypeCount
from atlas.adapters.health import HealthDAO
from atlas.adapters.maia import MaiaDAO
from atlas.adapters.metrics import LedgerEntry, MetricsDAO, Total
from atlas.adapters.patterns import PatternsDAO
from atlas.clock import pacific_day
from atlas.composition import Atlas
from atlas.config import BUCKETS, RINGS, Bucket, QuotaSettings
from atlas.errors import AtlasError
from atlas.pacing import Allowance, loan
from maia.federation.refusals import Reason
from maia.learning.zones import Zone
from maia.stack.families import (
    FAMILIES,
    OTHER_NAMES,
    Distribution,
    Family,
    LabelledValue,
    Samples,
    exposition,
)
from maia.stack.other_names import FAILING_OUTCOMES, under_other_names
from maia.views.federation import count_sites

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
_METRIC_OF_TOTAL: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "cycles": ("pleiades_cycles_total", ("agent", "outcome")),
    "units": ("pleiades_calls_total", ("agent", "bucket")),
    "new": ("pleiades_videos_found_total", ("agent",)),
    "samples": ("pleiades_samples_total", ("agent",)),
    "observations": ("pleiades_observations_total", ("agent",)),
    "lapses": ("pleiades_lease_expiries_total", ("agent",)),
    "breakouts": ("pleiades_breakouts_total", ()),
}
_JUDGED_WITHIN: Final = timedelta(days=1)


class Exporter:
    """Computes the metrics of an Atlas; a process that measures itself adds its own `families`."""

    def __init__(self, atlas: Atlas, families: Sequence[Family] = ()) -> None:
        self._atlas = atlas
        self._families = families
        self._health = HealthDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._patterns = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._federation = FederationDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._graph = GraphMetricsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._metrics = MetricsDAO(atlas.db, atlas.events)
        self._maia = MaiaDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._yields = DiscoveryDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._turn = asyncio.Lock()
        self._counts: tuple[float, Mapping[str, list[LabelledValue]]] | None = None
        self._process = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._process)

    async def exposition(self, own: Samples | None = None) -> bytes:
        """All metrics in the text format of Prometheus: of the database, of this process, and its `own`.

        If the database does not answer, `pleiades_up` is 0 and the other metrics are missing.
        """
        async with self._turn:
            try:
                samples = await self._collect()
            except AtlasError as error:
                logger.warning("the metrics cannot be computed: %s", error)
                samples = {"pleiades_up": [((), 0.0)]}
        families = [*FAMILIES, *OTHER_NAMES]
        return exposition(families, {**samples, **under_other_names(samples)}) + self.of_process(own or {})

    def of_process(self, own: Samples) -> bytes:
        """The metrics of this process alone, for which the database isn't asked."""
        return exposition(self._families, own) + generate_latest(self._process)

    async def _collect(self) -> dict[str, list[LabelledValue]]:
        tables = await self._tables()
        await self._metrics.fold(SECONDS)
        samples = _samples_of_totals(await self._metrics.totals())
        samples |= await self._quota()
        samples |= await self._discovery()
        samples |= await self._queue_and_clock()
        samples |= await self._database()
        samples |= await self._judged()
        samples |= await self._exchanged()
        samples |= await self._graph_unchanged()
        samples |= tables
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

    async def _judged(self) -> dict[str, list[LabelledValue]]:
        since = self._atlas.clock.now() - _JUDGED_WITHIN
        found = [(past.details or {}).get("score") for past in await self._health.judgements(since, 1)]
        scores = [float(score) for score in found if isinstance(score, int | float)]
        return {"pleiades_health_score": [((), score) for score in scores]}

    async def _exchanged(self) -> dict[str, list[LabelledValue]]:
        """What was exchanged with other sites."""
        now = self._atlas.clock.now()
        peers, refusals = await self._federation.peers(), await self._federation.refusals()
        refused: Counter[str] = Counter(dict.fromkeys(Reason, 0))
        for each in refusals:
            refused[each.reason] += each.count
        found: dict[str, dict[str, int]] = {
            "messages": {
                "in": sum(peer.messages_in for peer in peers),
                "out": sum(peer.messages_out for peer in peers),
                "refused": refused.total(),
            },
            "records": {
                "in": sum(peer.records_in for peer in peers),
                "out": sum(peer.records_out for peer in peers),
                "changed": sum(peer.changed for peer in peers),
            },
            "bytes": {
                "in": sum(peer.bytes_in for peer in peers), "out": sum(peer.bytes_out for peer in peers),
            },
        }  # fmt: skip
        isolated = sum(peer.isolated_until is not None and peer.isolated_until > now for peer in peers)
        return {
            "pleiades_federation_sites": [((), float(await count_sites(self._atlas)))],
            "pleiades_federation_isolated": [((), float(isolated))],
            "pleiades_federation_refused_total": [
                ((reason,), float(count)) for reason, count in sorted(refused.items())
            ],
            **{
                f"pleiades_federation_{name}_total": [((way,), float(n)) for way, n in counts.items()]
                for name, counts in found.items()
            },
        }

    async def _graph_unchanged(self) -> dict[str, list[LabelledValue]]:
        """Nothing while the graph is empty."""
        changed_at = await self._graph.last_change()
        if changed_at is None:
            return {}
        unchanged_s = (self._atlas.clock.now() - changed_at).total_seconds()
        return {"pleiades_graph_unchanged_seconds": [((), max(unchanged_s, 0.0))]}

    async def _tables(self) -> Mapping[str, list[LabelledValue]]:
        """Row counts of the large tables. It also counts expired claims, which is as slow."""
        if self._counts is None or time.monotonic() - self._counts[0] > COUNTS_KEPT_S:
            await self._metrics.count_lapses()
            found = await self._maia.discoveries()
            counts: dict[str, list[LabelledValue]] = {
                "pleiades_videos": [((), float(found.videos))],
                "pleiades_channels": [((), float(found.channels))],
                "pleiades_patterns": [((), float(await self._patterns.count_known()))],
            }
            counts |= _atoms(await self._graph.counts())
            self._counts = (time.monotonic(), counts)
        return self._counts[1]


def _atoms(counts: Iterable[TypeCount]) -> dict[str, list[LabelledValue]]:
    """The atoms of the knowledge graph by type: nodes and links."""
    found: dict[str, list[LabelledValue]] = {"pleiades_graph_atoms": [], "pleiades_graph_links": []}
    for each in counts:
        name = "pleiades_graph_links" if each.is_link else "pleiades_graph_atoms"
        found[name].append(((each.type,), float(each.atoms)))
    return found


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


def _samples_of_totals(totals: Sequence[Total]) -> dict[str, list[LabelledValue]]:
    """The counters, and the histogram of cycles, from the totals in the database."""
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
        if reason in FAILING_OUTCOMES if total.metric == "cycles" else reason and reason not in _NO_ERRORS:
            errors[agent, str(reason)] += int(total.total)
    samples["pleiades_errors_total"] = [(label, float(count)) for label, count in sorted(errors.items())]
    samples["pleiades_cycle_seconds"] = _durations(totals)
    return samples


def _durations(totals: Iterable[Total]) -> list[LabelledValue]:
    """How long the cycles of each agent took."""
    sums: dict[str, float] = {}
    counts: Counter[str] = Counter()
    at_most: dict[str, dict[float, float]] = defaultdict(lambda: dict.fromkeys(SECONDS, 0.0))
    for total in totals:
        agent = str(total.labels.get("agent", ""))
        if total.metric == "cycle_seconds":
            sums[agent] = total.total
        elif total.metric == "cycle_seconds_at_most" and (bound := float(total.labels["le"])) in SECONDS:
            at_most[agent][bound] = total.total
        elif total.metric == "cycles":
            counts[agent] += int(total.total)
    return [
        ((agent,), Distribution(at_most[agent], float(counts[agent]), total_s))
        for agent, total_s in sums.items()
    ]
