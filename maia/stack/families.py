"""The metrics that Prometheus gets: a table that describes each, and how their values become its text format.

The documentation is written from the same tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest

MetricKind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its name, kind, labels and meaning."""

    name: str
    kind: MetricKind
    labels: tuple[str, ...]
    help: str


@dataclass(frozen=True, slots=True)
class Distribution:
    """The value of a histogram: how many values are at most each bound, how many there are, and their sum."""

    at_most: Mapping[float, float]
    count: float
    total: float


LabelledValue = tuple[tuple[str, ...], float | Distribution]
"""A value of a metric, with the values of its labels."""

Samples = Mapping[str, Sequence[LabelledValue]]
"""Values by the name of their metric."""

FAMILIES = (
    Family("pleiades_up", "gauge", (), "1 if the metrics could be computed, else 0."),
    Family("pleiades_cycles_total", "counter", ("agent", "outcome"), "Cycles, by outcome."),
    Family("pleiades_cycle_seconds", "histogram", ("agent",), "How long cycles took."),
    Family("pleiades_observations_total", "counter", ("agent",), "Observations that were learnt from."),
    Family("pleiades_patterns", "gauge", (), "Patterns that are known."),
    Family(
        "pleiades_health_score",
        "gauge",
        (),
        "Health by the maintainer's last judgement within a day, from 0 to 1.",
    ),
    Family("pleiades_videos", "gauge", (), "Stored videos."),
    Family("pleiades_channels", "gauge", (), "Stored channels."),
    Family("pleiades_graph_atoms", "gauge", ("type",), "Nodes of the knowledge graph."),
    Family("pleiades_graph_links", "gauge", ("type",), "Links of the knowledge graph."),
    Family(
        "pleiades_graph_unchanged_seconds",
        "gauge",
        (),
        "Time since the graph last changed: since an atom was added, observed anew or removed.",
    ),
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
    Family("pleiades_federation_sites", "gauge", (), "Sites that learn together, this one included."),
    Family(
        "pleiades_federation_messages_total",
        "counter",
        ("direction",),
        "Messages exchanged with other sites: in, out, and refused.",
    ),
    Family(
        "pleiades_federation_records_total",
        "counter",
        ("direction",),
        "Records in them: in, out, and changed (those that told anything new here).",
    ),
    Family("pleiades_federation_bytes_total", "counter", ("direction",), "Bytes of these messages: in, out."),
    Family(
        "pleiades_federation_refused_total", "counter", ("reason",), "Messages of others that were refused."
    ),
    Family("pleiades_federation_isolated", "gauge", (), "Sites of which nothing is taken for a while."),
    Family(
        "pleiades_vault_waiting", "gauge", (), "Objects kept in the database because the vault refused them."
    ),
    Family("pleiades_database_pool_size", "gauge", (), "Open connections of the process that is asked."),
    Family("pleiades_database_pool_idle", "gauge", (), "Idle connections of the process that is asked."),
    Family("pleiades_database_bytes", "gauge", (), "Size of the database."),
    Family(
        "pleiades_oldest_xmin_age_seconds",
        "gauge",
        (),
        "Age of the oldest transaction that keeps PostgreSQL from removing dead rows; it slows agents down.",
    ),
)
"""The metrics that the database holds, in the order in which they are exported."""

OTHER_NAMES: Final = (
    Family("pattern_engine_patterns_total", "gauge", (), "The same as pleiades_patterns."),
    Family(
        "pattern_engine_interactions_total",
        "counter",
        (),
        "The sum of pleiades_observations_total.",
    ),
    Family(
        "pattern_engine_federation_messages",
        "gauge",
        (),
        "The sum of pleiades_federation_messages_total without those refused.",
    ),
    Family("maya_learn_patterns_total", "gauge", (), "The same as pleiades_patterns."),
    Family("maya_learn_processing_seconds", "histogram", (), "pleiades_cycle_seconds of the learner."),
    Family("maya_learn_errors_total", "counter", (), "pleiades_errors_total of the learner."),
    Family("maya_learn_memory_usage_bytes", "gauge", (), "Memory of the process that is asked."),
    Family("opencog_uptime_seconds", "gauge", (), "How long the process that is asked has been running."),
    Family("opencog_operations_total", "counter", (), "The sum of pleiades_cycles_total."),
    Family("opencog_operations_successful", "gauge", (), "Cycles that did not fail."),
    Family("opencog_operations_failed", "gauge", (), "Cycles that failed, or were refused by YouTube."),
    Family("opencog_operation_duration_avg", "gauge", (), "Mean of pleiades_cycle_seconds, in milliseconds."),
    Family("opencog_memory_allocated_bytes", "gauge", (), "Memory of the process that is asked."),
    Family("opencog_memory_peak_bytes", "gauge", (), "Most memory that this process had."),
    Family("opencog_network_bytes_sent", "gauge", (), "Bytes that this machine sent since it started."),
    Family("opencog_network_bytes_received", "gauge", (), "Bytes that it received."),
    Family("opencog_network_errors_total", "counter", (), "Errors of its network interfaces."),
    Family("opencog_health_score", "gauge", (), "The same as pleiades_health_score."),
)
"""Figures under the names by which dashboards of other systems ask for them."""


def exposition(families: Sequence[Family], samples: Samples) -> bytes:
    """The values of these metrics in the text format of Prometheus; what has no value is left out."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(families, samples))
    return generate_latest(registry)


class _Collector:
    """Passes the samples of one request to prometheus_client."""

    def __init__(self, families: Sequence[Family], samples: Samples) -> None:
        self._families, self._samples = families, samples

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            if values := self._samples.get(family.name):
                yield _metric(family, values)


def _metric(family: Family, values: Sequence[LabelledValue]) -> Metric:
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, value in values:
            assert isinstance(value, Distribution), family.name
            buckets = [(str(bound), count) for bound, count in value.at_most.items()]
            histogram.add_metric(labels, [*buckets, ("+Inf", value.count)], value.total)
        return histogram
    make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    made: CounterMetricFamily | GaugeMetricFamily = make(family.name, family.help, labels=family.labels)
    for labels, value in values:
        assert not isinstance(value, Distribution), family.name
        made.add_metric(labels, value)
    return made


def documentation(families: Sequence[Family]) -> str:
    """These metrics as a table in Markdown."""
    lines = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{family.name}` | {family.kind} | {', '.join(family.labels) or '–'} | {family.help} |"
        for family in families
    ]
    return "\n".join(lines) + "\n"
