"""How cycles follow what the host can bear and what quota is left: batch sizes, and turns that are sat out.

Only a batch size that nobody asked for is changed, and only turns of a schedule are sat out. Every change is
counted in the cycle's statistics under its cause, and told in its detail.
"""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from maia.maintenance.monitor import HostPressure, Monitor, pressure

if TYPE_CHECKING:
    from atlas.composition import Atlas

logger = logging.getLogger(__name__)

BUSY, HOT, BATTERY, QUOTA, TURN = "busy", "hot", "on_battery", "quota", "turns_sat_out"
"""The causes by which `CycleStatistics.adapted` counts."""

BUSY_DIVISOR: Final = 2
HOT_DIVISOR: Final = 4
"""By what a batch is divided on a busy host, and on one that is hot or runs on its battery."""
LARGEST_QUOTA_FACTOR: Final = 10


@dataclass(slots=True)
class Adaptation:
    """What was changed in a cycle, by cause, and why in words."""

    causes: dict[str, int] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def note(self, cause: str, reason: str) -> None:
        """Count a change; a reason that was given before is not repeated."""
        self.causes[cause] = self.causes.get(cause, 0) + 1
        if reason not in self.reasons:
            self.reasons.append(reason)

    def detail(self, detail: str | None) -> str | None:
        """A cycle's detail with the reasons."""
        parts = [part for part in (detail, *self.reasons) if part]
        return "; ".join(parts) or None


async def host_pressure(atlas: Atlas) -> HostPressure:
    """Whether this host is hot, busy or on battery now; not at all if the settings don't want to know.

    How busy the processors are this moment says nothing; their load over five minutes does.
    """
    if not atlas.settings.learner.adapt_to_host:
        return HostPressure()
    sample = await asyncio.to_thread(Monitor.of(atlas, processes=False).sample)
    return pressure(sample)


def sized_for_host(batch_size: int, found: HostPressure, adaptation: Adaptation) -> int:
    """A smaller batch for a host under pressure, at least 1, with a note of why."""
    if not found:
        return batch_size
    divisor = HOT_DIVISOR if found.hot or found.on_battery else BUSY_DIVISOR
    size = max(1, batch_size // divisor)
    cause = HOT if found.hot else BATTERY if found.on_battery else BUSY
    adaptation.note(cause, f"a batch of {size:,} instead of {batch_size:,}: {', '.join(found.reasons)}")
    return size


def sized_for_quota(batch_size: int, left: int, cost: float, rounds: float) -> int:
    """A batch that spends what is left of the day's units evenly over its remaining rounds.

    It is never smaller than usual, as pacing already keeps units from ending early, and at most
    LARGEST_QUOTA_FACTOR times as large. `cost` is what an item may cost.
    """
    wanted = math.ceil(left / (max(rounds, 1.0) * cost)) if left > 0 else 0
    return min(max(batch_size, wanted), LARGEST_QUOTA_FACTOR * batch_size)
