"""The suggestions duty: renews what holds now by the rules of `maia.maintenance.suggesting`."""

from __future__ import annotations

import asyncio
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from atlas.adapters.grounds import GroundsDAO
from atlas.adapters.health import HealthDAO
from atlas.adapters.patterns import PatternsDAO
from atlas.adapters.reports import ReportsDAO
from atlas.adapters.upkeep import UpkeepDAO
from atlas.clock import pacific_day
from atlas.queries import clean_text
from atlas.wording import counted
from maia.agents import AGENTS
from maia.maintainer.duties import DutyContext, DutyReport
from maia.maintenance.containers import is_container
from maia.maintenance.suggesting import (
    KEY_PREFIX,
    DiskHistory,
    Durations,
    Proposal,
    RingUse,
    Situation,
    propose,
)
from maia.views.ledger import ledger_lines

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from atlas.config import Settings

_WEEK: Final = timedelta(days=7)
_LONGEST_COMMAND: Final = 500


async def make_suggestions(context: DutyContext) -> DutyReport:
    """The duty: make or renew the suggestions that hold now, and withdraw its others."""
    found = propose(await situation(context.atlas))
    withdrawn = await renew(context.atlas, found)
    counts = Counter(each.category for each in found)
    told = ", ".join(f"{count} of {category}" for category, count in sorted(counts.items()))
    holding = counted(len(found), "suggestion holds", "suggestions hold")
    return DutyReport(
        summary=f"{holding}{f': {told}' if told else ''}; {withdrawn} withdrawn",
        details={"hold": dict(counts), "withdrawn": withdrawn, "keys": [each.key for each in found]},
    )


async def renew(atlas: Atlas, found: Sequence[Proposal]) -> int:
    """Store what was found, and withdraw the others of these rules; returns how many were withdrawn."""
    dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    held = {each.key for each in found}
    withdrawn = 0
    async with dao.transaction() as joined:
        for each in found:
            command = None if each.command is None else clean_text(each.command)[:_LONGEST_COMMAND]
            await joined.suggest(
                each.key, each.category, clean_text(each.text), command=command, evidence=each.evidence
            )
        for old in await joined.suggestions():
            if old.key.startswith(KEY_PREFIX) and old.key not in held:
                withdrawn += await joined.withdraw_suggestion(old.key)
    return withdrawn


async def situation(atlas: Atlas) -> Situation:
    """What the rules look at, read from the database, this machine and the settings."""
    dao = GroundsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    figures = HealthDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    upkeep = UpkeepDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    now = atlas.clock.now()
    looks = await dao.starving(now - _WEEK)
    return Situation(
        now=now,
        settings=atlas.settings,
        since=await figures.first_event_at(),
        last_backup_at=await dao.last_backup_at(now),
        disks=[
            DiskHistory(each.node, each.at_h, each.free_bytes, each.total_bytes)
            for each in await dao.disks(now - _WEEK)
        ],
        quota=await _quota(atlas, now),
        durations=await _durations(dao, now),
        tables=await upkeep.bloated_tables(),
        oldest_transaction_s=await dao.oldest_transaction_s(),
        tracker_cycles=looks.cycles,
        starving_cycles=looks.starving,
        open_files=await asyncio.to_thread(open_files, atlas.settings, os.environ),
        is_container=await asyncio.to_thread(is_container, os.environ),
        host_time_zone=await asyncio.to_thread(host_time_zone, os.environ),
    )


async def _quota(atlas: Atlas, now: datetime) -> list[RingUse]:
    """What part of its limit each ring used on each of the last seven complete Pacific days."""
    today = pacific_day(now)
    days = [today - timedelta(days=back) for back in range(7, 0, -1)]
    dao = ReportsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    used: defaultdict[tuple[str, str], dict[date, int]] = defaultdict(dict)
    begun: set[date] = set()
    for row in await dao.quota(days[0], days[-1]):
        used[row.bucket, row.ring][row.pacific_day] = row.used
        begun.add(row.pacific_day)
    limits: defaultdict[tuple[str, str], int] = defaultdict(int)
    for line in await ledger_lines(atlas):
        limits[line.bucket, line.ring] += line.ring_limit
    # On a day without any account nothing ran at all, which says nothing about shares.
    return [
        RingUse(bucket, ring, [used[bucket, ring].get(day, 0) / limit for day in days if day in begun])
        for (bucket, ring), limit in sorted(limits.items())
        if limit
    ]


async def _durations(dao: GroundsDAO, now: datetime) -> list[Durations]:
    agents = [agent.name for agent in AGENTS]
    last = await dao.durations(agents, now - _WEEK, now)
    before = await dao.durations(agents, now - 2 * _WEEK, now - _WEEK)
    return [
        Durations(name, last[name].seconds, last[name].cycles, before[name].seconds, before[name].cycles)
        for name in agents
        if name in last and name in before
    ]


# This machine


def open_files(settings: Settings, environment: Mapping[str, str]) -> list[str]:
    """Files that settings come from and that every user may read, if the settings hold secrets at all."""
    if not _has_secrets(settings):
        return []
    named = [".env", environment.get("PLEIADES_CONFIG", "")]
    files = [Path(name).absolute() for name in named if name]
    return [str(path) for path in files if _is_open(path)]


def _has_secrets(settings: Settings) -> bool:
    secrets: Iterable[object] = (
        settings.database_url,
        settings.youtube_api_key_pool_json,
        settings.hf_token,
        settings.redis_url,
        settings.notifier.urls,
    )
    return any(secrets)


def _is_open(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def host_time_zone(environment: Mapping[str, str], root: Path = Path("/")) -> str | None:
    """The name of this machine's time zone; None if it doesn't say."""
    from zoneinfo import ZoneInfo

    for name in (environment.get("TZ", "").removeprefix(":"), _named(root), _linked(root)):
        if not name:
            continue
        try:
            ZoneInfo(name)
        except (OSError, ValueError, KeyError):
            continue
        return name
    return None


def _named(root: Path) -> str:
    try:
        return (root / "etc/timezone").read_text("ascii", errors="replace").strip()
    except OSError:
        return ""


def _linked(root: Path) -> str:
    try:
        target = str((root / "etc/localtime").readlink())
    except OSError:
        return ""
    return target.partition("zoneinfo/")[2]
