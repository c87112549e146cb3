"""The status view: the queue, what was found, the tracker's clock and its quota, and the last cycles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from atlas.adapters.patterns import Suggestion
    from atlas.adapters.queue import QueueCounts
    from atlas.adapters.videos import Discoveries
    from atlas.composition import Atlas
    from maia.views.clock import Tracking
    from maia.views.ledger import Ledger
    from maia.views.success import Calibration

_CALLS_OF: Final = timedelta(days=1)
CYCLES: Final = 5
"""How many of each agent's last cycles are shown."""


@dataclass(frozen=True, slots=True)
class VaultState:
    """Where raw responses are stored, and how many objects are still waiting."""

    provider: str
    waiting: int


@dataclass(frozen=True, slots=True)
class FeedsState:
    """The looks at feeds today, how many are allowed, and until when a refusal by YouTube pauses them."""

    enabled: bool
    looks_today: int
    looks_per_day: int
    next_look_at: datetime | None
    paused_until: datetime | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Status:
    """The state of everything; `cycles` holds each agent's last cycles, newest first."""

    now: datetime
    queue: QueueCounts
    found: Discoveries
    vault: VaultState
    feeds: FeedsState
    tracking: Tracking
    cycles: Mapping[str, tuple[Mapping[str, Any], ...]]
    ledger: Ledger
    calls: Calibration
    """How often the last day's calls succeeded, and what the learner expected of them."""
    suggestions: tuple[Suggestion, ...] = ()
    """The learner's, newest first."""


async def status(atlas: Atlas, agents: Iterable[str]) -> Status:
    """Read the status, with the last cycles of these agents."""
    from atlas.adapters.patterns import PatternsDAO
    from atlas.adapters.queue import QueueDAO
    from atlas.adapters.tracking import TrackingDAO
    from atlas.adapters.videos import VideosDAO
    from maia.views.clock import CLAIMS_AMONG, tracking
    from maia.views.ledger import ledger_lines, view_of
    from maia.views.success import calibration

    now, clock, settings = atlas.clock.now(), atlas.clock, atlas.settings
    lines = await ledger_lines(atlas)
    tracked = TrackingDAO(atlas.db, clock=clock, settings=settings)
    counts, claimed = await tracked.clock_counts(), await tracked.count_claimed(CLAIMS_AMONG)
    return Status(
        now=now,
        queue=await QueueDAO(atlas.db, clock=clock, settings=settings).queue_counts(),
        found=await VideosDAO(atlas.db, clock=clock, settings=settings).discoveries(),
        vault=VaultState(settings.vault_provider, await atlas.vault.waiting()),
        feeds=await _feeds(atlas),
        tracking=tracking(counts, claimed, lines, settings.tracker, now),
        cycles={agent: await _last_cycles(atlas, agent) for agent in agents},
        ledger=view_of(lines, now),
        calls=await calibration(atlas, now - _CALLS_OF),
        suggestions=tuple(await PatternsDAO(atlas.db, clock=clock, settings=settings).suggestions()),
    )


async def _feeds(atlas: Atlas) -> FeedsState:
    from atlas.adapters.uploads import UploadsDAO

    dao = UploadsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    pace, settings, now = await dao.pace(), atlas.settings.feeds, atlas.clock.now()
    paused = pace.closed_until is not None and pace.closed_until > now
    return FeedsState(
        enabled=not atlas.settings.discovery.is_off("feeds"),
        looks_today=pace.looks,
        looks_per_day=settings.looks_per_day,
        next_look_at=await dao.next_look_at(),
        paused_until=pace.closed_until if paused else None,
        reason=pace.reason if paused else None,
    )


async def _last_cycles(atlas: Atlas, agent: str) -> tuple[Mapping[str, Any], ...]:
    events = await atlas.events.latest(CYCLES, kinds=[f"{agent}.cycle"])
    return tuple({"at": event.at, "node": event.node, **event.payload} for event in events)
