"""Figures under the names by which the dashboards of other systems ask for them, computed from ours."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable
from typing import Final

import psutil

from maia.stack.families import Distribution, LabelledValue, Samples

FAILING_OUTCOMES: Final = frozenset({"rate_limited", "keys_rejected", "failed"})
"""Outcomes of a cycle that count as an error."""

_LEARNER: Final = "learner"


def under_other_names(samples: Samples) -> Samples:
    """The same figures once more, and those of this process and machine; unknown ones are left out."""
    figures = _of_process()
    if "pleiades_patterns" in samples:
        figures |= _of_database(samples)
    named: dict[str, list[LabelledValue]] = {name: [((), value)] for name, value in figures.items()}
    if score := samples.get("pleiades_health_score"):
        named["opencog_health_score"] = list(score)
    learning = [value for labels, value in samples.get("pleiades_cycle_seconds", ()) if labels == (_LEARNER,)]
    named["maya_learn_processing_seconds"] = [((), value) for value in learning]
    return named


def _of_database(samples: Samples) -> dict[str, float]:
    def total(name: str, chosen: Callable[[tuple[str, ...]], bool] = lambda _: True) -> float:
        return sum(_number(value) for labels, value in samples.get(name, ()) if chosen(labels))

    patterns = total("pleiades_patterns")
    exchanged = total("pleiades_federation_messages_total", lambda labels: labels[0] != "refused")
    cycles = total("pleiades_cycles_total")
    failed = total("pleiades_cycles_total", lambda labels: labels[1] in FAILING_OUTCOMES)
    durations = _distributions(value for _, value in samples.get("pleiades_cycle_seconds", ()))
    count, total_s = sum(each.count for each in durations), sum(each.total for each in durations)
    return {
        "pattern_engine_patterns_total": patterns,
        "pattern_engine_interactions_total": total("pleiades_observations_total"),
        "pattern_engine_federation_messages": exchanged,
        "maya_learn_patterns_total": patterns,
        "maya_learn_errors_total": total("pleiades_errors_total", lambda labels: labels[0] == _LEARNER),
        "opencog_operations_total": cycles,
        "opencog_operations_successful": cycles - failed,
        "opencog_operations_failed": failed,
        "opencog_operation_duration_avg": total_s / count * 1e3 if count else 0.0,
    }


def _of_process() -> dict[str, float]:
    process = psutil.Process()
    memory_bytes = float(process.memory_info().rss)
    figures = {
        "maya_learn_memory_usage_bytes": memory_bytes,
        "opencog_uptime_seconds": max(0.0, time.time() - process.create_time()),
        "opencog_memory_allocated_bytes": memory_bytes,
        "opencog_memory_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0,
    }
    # A container without network interfaces has no counters.
    if (network := psutil.net_io_counters()) is not None:
        figures["opencog_network_bytes_sent"] = float(network.bytes_sent)
        figures["opencog_network_bytes_received"] = float(network.bytes_recv)
        figures["opencog_network_errors_total"] = float(network.errin + network.errout)
    return figures


def _number(value: float | Distribution) -> float:
    assert not isinstance(value, Distribution)
    return value


def _distributions(values: Iterable[float | Distribution]) -> list[Distribution]:
    return [value for value in values if isinstance(value, Distribution)]
