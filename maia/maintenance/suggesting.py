"""Suggestions to people, by rules over figures and settings. Pure: nothing is read or changed here.

A text stays the same while what it says does, so that a suggestion that somebody has closed does not come
back with every new figure; the figures are in its evidence. Each rule says nothing where its figures are
missing or too few. What patterns and the agents' own cycles suggest is the learner's: `maia.learning.advice`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

import numpy as np

from atlas.adapters.upkeep import BloatedTable

if TYPE_CHECKING:
    import numpy.typing as npt

    from atlas.config import BucketShares, Settings

KEY_PREFIX: Final = "upkeep "
"""Begins the key of each suggestion that is made here, and of none other."""

LEAST_DISK_H: Final = 24.0
"""How long a disk must have been watched before its trend is told."""
_LEAST_POINTS: Final = 12
_SURE: Final = 0.95
_HORIZONS: Final = ((3, "within three days"), (7, "within a week"), (30, "within a month"))
_BACKUP_AGE: Final = timedelta(days=3)
_LEAST_CYCLES: Final = 50
_SLOWER: Final = 1.5
_LEAST_SLOWER_S: Final = 5.0
_STARVING: Final = 0.5
_FULL: Final = 0.95
_SPARE: Final = 0.5
_LEAST_DAYS: Final = 5
_SHARE_STEP: Final = 0.05
_MOST_INTERVAL_H: Final = 720.0
_SAVED_DAYS: Final = 14
"""The weekly report tells of two weeks."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A suggestion: what it is about, what it says, what to run or set, and the figures that it rests on."""

    key: str
    category: str
    text: str
    command: str | None
    evidence: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class DiskHistory:
    """Free bytes of a node's disk, at hours that only ever rise; `total_bytes` is its size."""

    node: str
    at_h: Sequence[float]
    free_bytes: Sequence[float]
    total_bytes: float | None


@dataclass(frozen=True, slots=True)
class DiskTrend:
    """When a disk will be too full at its recent pace: the estimate, and the 95 % interval of the pace."""

    days_left: float
    bytes_per_day: float
    low_per_day: float
    high_per_day: float


@dataclass(frozen=True, slots=True)
class RingUse:
    """What part of its daily limit of a bucket a ring used, by complete day."""

    bucket: str
    ring: str
    shares: Sequence[float]


@dataclass(frozen=True, slots=True)
class Durations:
    """An agent's cycles: median seconds and count, in the last week and in the one before."""

    agent: str
    seconds: float
    cycles: int
    seconds_before: float
    cycles_before: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the rules look at; None and empty stand for what isn't known."""

    now: datetime
    settings: Settings
    since: datetime | None = None
    """When the first thing was stored."""
    last_backup_at: datetime | None = None
    disks: Sequence[DiskHistory] = ()
    quota: Sequence[RingUse] = ()
    durations: Sequence[Durations] = ()
    tables: Sequence[BloatedTable] = ()
    oldest_transaction_s: float | None = None
    tracker_cycles: int = 0
    starving_cycles: int = 0
    open_files: Sequence[str] = ()
    """Files with secrets that every user of the machine may read."""
    is_container: bool = False
    host_time_zone: str | None = None


def propose(situation: Situation) -> list[Proposal]:
    """All that holds now, each with a key of its own."""
    return [
        *_about_disks(situation),
        *_about_secrets(situation),
        *_about_listening(situation),
        *_about_backups(situation),
        *_about_alerts(situation),
        *_about_transactions(situation),
        *_about_dead_rows(situation),
        *_about_slow_cycles(situation),
        *_about_shares(situation),
        *_about_unspent(situation),
        *_about_starving(situation),
        *_about_contradictions(situation),
        *_about_the_time_zone(situation),
    ]


def _proposal(
    about: str, category: str, text: str, command: str | None, evidence: Mapping[str, object]
) -> Proposal:
    return Proposal(f"{KEY_PREFIX}{about}", category, text, command, evidence)


# Storage


def disk_trend(history: DiskHistory, full_percent: float) -> DiskTrend | None:
    """The trend by the Theil-Sen estimator, which a few clean-ups or bursts don't mislead.

    None if the disk was not watched for long enough, or if it is not surely getting fuller.
    """
    from scipy.stats import theilslopes

    at_h = np.asarray(history.at_h, np.float64)
    free = np.asarray(history.free_bytes, np.float64)
    if len(at_h) < _LEAST_POINTS or at_h[-1] - at_h[0] < LEAST_DISK_H or np.ptp(free) == 0:
        return None
    slope, _, low, high = map(float, theilslopes(free, at_h, _SURE))
    if not (np.isfinite([slope, low, high]).all() and high < 0):
        return None
    reserve = (history.total_bytes or 0.0) * (1 - full_percent / 100)
    hours = max(_last(free) - reserve, 0.0) / -slope
    return DiskTrend(hours / 24, -slope * 24, -high * 24, -low * 24)


def _last(values: npt.NDArray[np.float64]) -> float:
    """The median of the last few, as one alone may be a moment's."""
    return float(np.median(values[-3:]))


def _about_disks(situation: Situation) -> Iterator[Proposal]:
    health = situation.settings.maintainer.health
    for history in situation.disks:
        trend = disk_trend(history, health.emergency_disk_percent)
        horizon = None if trend is None else _horizon(trend.days_left)
        if trend is None or horizon is None:
            continue
        yield _proposal(
            f"disk {history.node}",
            "storage",
            f"At its pace of the last days the disk of {history.node} will be "
            f"{health.emergency_disk_percent:g} % full {horizon}: free space, or keep less.",
            "maia system cleanup --apply",
            {
                "days_left": round(trend.days_left, 1),
                "gb_per_day": round(trend.bytes_per_day / 1e9, 2),
                "interval_gb_per_day": [
                    round(trend.low_per_day / 1e9, 2),
                    round(trend.high_per_day / 1e9, 2),
                ],
                "free_gb": round(history.free_bytes[-1] / 1e9, 1),
                "hours_watched": round(history.at_h[-1] - history.at_h[0]),
                "as_of": situation.now.isoformat(timespec="seconds"),
            },
        )


def _horizon(days: float) -> str | None:
    return next((words for most, words in _HORIZONS if days <= most), None)


# Security


def _about_secrets(situation: Situation) -> Iterator[Proposal]:
    for path in situation.open_files:
        yield _proposal(
            f"open file {path}",
            "security",
            f"Every user of this machine can read {path}, which holds secrets: let only its owner read it.",
            f"chmod 600 {shlex.quote(path)}",
            {"file": path, "as_of": situation.now.isoformat(timespec="seconds")},
        )
    settings = situation.settings
    if settings.vault_provider != "file" and settings.maintainer.backups.path is None:
        yield from _about_plain_backups(situation)


def _about_plain_backups(situation: Situation) -> Iterator[Proposal]:
    settings = situation.settings
    if settings.maintainer.backups.recipient is None and settings.maintainer.allows("backup"):
        yield _proposal(
            "plain backups",
            "security",
            "Backups leave this machine unencrypted: make an age key, keep its secret part elsewhere, and "
            "set PLEIADES_MAINTAINER__BACKUPS__RECIPIENT to its public part.",
            "maia config docs",
            {"vault": settings.vault_provider, "recipient": None},
        )


def _about_listening(situation: Situation) -> Iterator[Proposal]:
    host = situation.settings.host
    # A container has to listen to the outside; what reaches it is its engine's matter.
    if situation.is_container or _is_private(host):
        return
    yield _proposal(
        "listening",
        "security",
        "Prefect's server and the exporter listen on all the networks of this machine, and ask for no "
        "password: listen on this machine alone, or put a proxy with a password before them.",
        "HOST=127.0.0.1",
        {"host": host},
    )


def _is_private(host: str) -> bool:
    try:
        return not ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return host != ""


# Reliability


def _about_backups(situation: Situation) -> Iterator[Proposal]:
    maintainer, now = situation.settings.maintainer, situation.now
    if situation.since is None or now - situation.since < _BACKUP_AGE:
        return
    last = situation.last_backup_at
    if last is not None and now - last < _BACKUP_AGE:
        # Whoever made it, such as a timer.
        return
    evidence = {
        "last_backup_at": last and last.isoformat(timespec="seconds"),
        "data_since": situation.since.isoformat(timespec="seconds"),
        "as_of": now.isoformat(timespec="seconds"),
    }
    if "backup" in maintainer.off or not maintainer.allows("backup"):
        yield _proposal(
            "backups off",
            "reliability",
            f"There is no backup of the last {_BACKUP_AGE.days} days, and the maintainer may make "
            "none: allow it to.",
            _allowing(situation.settings, "backup"),
            evidence,
        )
    else:
        yield _proposal(
            "backup",
            "reliability",
            f"There is no backup of the last {_BACKUP_AGE.days} days: make one.",
            "maia backup create",
            evidence,
        )


def _allowing(settings: Settings, action: str) -> str:
    maintainer = settings.maintainer
    if action in maintainer.off:
        return f"PLEIADES_MAINTAINER__OFF={','.join(each for each in maintainer.off if each != action)}"
    return f"PLEIADES_MAINTAINER__APPLY={','.join([*maintainer.apply, action])}"


def _about_alerts(situation: Situation) -> Iterator[Proposal]:
    settings = situation.settings
    if not settings.notifier.urls:
        yield _proposal(
            "no alert URL",
            "reliability",
            "Alerts are only logged: name at least one address, such as that of a mailbox or a chat, in the "
            "form of https://appriseit.com/services/.",
            "PLEIADES_NOTIFIER__URLS=mailto://USER:PASSWORD@example.com",
            {"alert_urls": 0},
        )
    if settings.maintainer.alerts.ping_url is None:
        yield _proposal(
            "no ping URL",
            "reliability",
            "Nobody would notice if this machine stopped altogether: name the URL of a service that raises "
            "an alarm when no call comes, such as healthchecks.io.",
            "PLEIADES_MAINTAINER__ALERTS__PING_URL=https://hc-ping.com/UUID",
            {"ping_url": None},
        )


# Performance


def _about_transactions(situation: Situation) -> Iterator[Proposal]:
    limit_s, age_s = situation.settings.maintainer.health.long_transaction_s, situation.oldest_transaction_s
    if age_s is not None and age_s >= limit_s:
        yield _proposal(
            "transaction",
            "performance",
            f"A transaction has been open for more than {limit_s:g} s: until it ends, claims get dearer and "
            "dead rows stay. See whose it is, and end it.",
            "maia system health",
            {
                "oldest_transaction_s": round(age_s),
                "limit_s": limit_s,
                "as_of": situation.now.isoformat(timespec="seconds"),
            },
        )


def _about_dead_rows(situation: Situation) -> Iterator[Proposal]:
    limit = situation.settings.maintainer.health.dead_rows
    for each in situation.tables:
        if each.dead_share >= limit:
            yield _proposal(
                f"dead rows {each.name}",
                "performance",
                f"Much of table {each.name} is dead rows that autovacuum does not keep up with: tidy it.",
                "maia system cleanup --apply --only vacuum",
                {"live": each.live, "dead": each.dead, "share": round(each.dead_share, 3), "limit": limit},
            )


def _about_slow_cycles(situation: Situation) -> Iterator[Proposal]:
    for each in situation.durations:
        enough = min(each.cycles, each.cycles_before) >= _LEAST_CYCLES
        slower_s = each.seconds - each.seconds_before
        if enough and slower_s >= _LEAST_SLOWER_S and each.seconds >= _SLOWER * each.seconds_before:
            yield _proposal(
                f"slow {each.agent}",
                "performance",
                f"The {each.agent}'s cycles take much longer than a week ago: see since when, and why.",
                f'maia anomalies --series "{each.agent} seconds" --since 14d --plot',
                {
                    "median_s": round(each.seconds, 2),
                    "median_s_before": round(each.seconds_before, 2),
                    "cycles": each.cycles,
                    "cycles_before": each.cycles_before,
                },
            )


# Quota and tracking


def _about_shares(situation: Situation) -> Iterator[Proposal]:
    """A ring that is at its limit day by day while another leaves most of the same bucket."""
    for needy in situation.quota:
        if not _at_least(needy, _FULL):
            continue
        spare = [
            each
            for each in situation.quota
            if each.bucket == needy.bucket and each.ring != needy.ring and _below(each, _SPARE)
        ]
        for giver in sorted(spare, key=lambda each: (max(each.shares), each.ring))[:1]:
            moved = _moved(situation.settings, needy, giver)
            if moved is not None:
                yield moved


def _moved(settings: Settings, needy: RingUse, giver: RingUse) -> Proposal | None:
    """Half of what the giver leaves on its busiest day, in steps of 5 % of the bucket."""
    has, gets = _share(settings, giver), _share(settings, needy)
    spare = has * (1 - max(giver.shares)) / 2
    step = int(spare / _SHARE_STEP + 1e-9) * _SHARE_STEP
    if step <= 0:
        return None
    setting = "PLEIADES_QUOTA__SHARES__{}__{}={:g}"
    changes = ((giver.ring, has - step), (needy.ring, gets + step))
    return _proposal(
        f"shares {needy.bucket}",
        "quota",
        f"The {needy.ring} ring uses up its units of bucket {needy.bucket} every day, while {giver.ring} "
        "leaves most of its own: move some of them.",
        " ".join(
            setting.format(ring.upper(), needy.bucket.upper(), round(share, 2)) for ring, share in changes
        ),
        {
            f"{needy.ring}_used": [round(share, 3) for share in needy.shares],
            f"{giver.ring}_used": [round(share, 3) for share in giver.shares],
        },
    )


def _share(settings: Settings, of: RingUse) -> float:
    shares: BucketShares = getattr(settings.quota.shares, of.ring)
    share: float = getattr(shares, of.bucket)
    return share


def _at_least(use: RingUse, share: float) -> bool:
    return len(use.shares) >= _LEAST_DAYS and sum(each >= share for each in use.shares) >= _LEAST_DAYS


def _below(use: RingUse, share: float) -> bool:
    return len(use.shares) >= _LEAST_DAYS and max(use.shares) < share


def _about_unspent(situation: Situation) -> Iterator[Proposal]:
    """Searches are what finds videos: units of them that expire are lost."""
    hunter = situation.settings.hunter
    for use in situation.quota:
        if (use.bucket, use.ring) == ("search", "hunting") and _below(use, _SPARE) and max(use.shares) > 0:
            yield _proposal(
                "unspent search",
                "quota",
                "Most units of the search bucket expire unused: let each of the hunter's cycles ask more.",
                f"PLEIADES_HUNTER__BATCH_SIZE={min(2 * hunter.batch_size, 1000)}",
                {"used": [round(share, 3) for share in use.shares], "batch_size": hunter.batch_size},
            )


def _about_starving(situation: Situation) -> Iterator[Proposal]:
    cycles, starving = situation.tracker_cycles, situation.starving_cycles
    interval_h = situation.settings.tracker.cold_interval_h
    if cycles < _LEAST_CYCLES or starving < _STARVING * cycles or interval_h >= _MOST_INTERVAL_H:
        return
    yield _proposal(
        "starving",
        "tracking",
        "The tracker's units do not suffice for all videos, so that some wait far too long: sample old ones "
        "less often.",
        f"PLEIADES_TRACKER__COLD_INTERVAL_H={min(2 * interval_h, _MOST_INTERVAL_H):g}",
        {"cycles": cycles, "starving": starving, "cold_interval_h": interval_h},
    )


# Configuration


def _about_contradictions(situation: Situation) -> Iterable[Proposal]:
    maintainer = situation.settings.maintainer
    actions, backups = maintainer.actions, maintainer.backups
    rules: tuple[tuple[bool, str, str, str | None, Mapping[str, object]], ...] = (
        (
            backups.verify and backups.recipient is not None and backups.identity_file is None,
            "verify",
            "Backups are to be verified, but no secret key is named with which to read encrypted ones.",
            "PLEIADES_MAINTAINER__BACKUPS__VERIFY=false",
            {"verify": True, "recipient": True, "identity_file": None},
        ),
        (
            "restart" in maintainer.apply and not (actions.units or actions.containers or actions.children),
            "restart",
            "Restarts are allowed, but nothing is named that may be restarted.",
            "PLEIADES_MAINTAINER__ACTIONS__CHILDREN=true",
            {"units": [], "containers": [], "children": False},
        ),
        (
            not situation.settings.monitoring.enabled and "health" not in maintainer.off,
            "monitoring",
            "The maintainer is to judge the hosts' health, but their load is not recorded.",
            "PLEIADES_MONITORING__ENABLED=true",
            {"monitoring": False},
        ),
        (
            maintainer.retention.events_days < _SAVED_DAYS,
            "events",
            "Events are deleted before the weekly report has compared them with the week before.",
            f"PLEIADES_MAINTAINER__RETENTION__EVENTS_DAYS={_SAVED_DAYS}",
            {"events_days": maintainer.retention.events_days},
        ),
    )
    return [
        _proposal(f"contradiction {about}", "configuration", text, command, evidence)
        for holds, about, text, command, evidence in rules
        if holds
    ]


# Schedule


def _about_the_time_zone(situation: Situation) -> Iterator[Proposal]:
    here, chosen = situation.host_time_zone, situation.settings.maintainer.time_zone
    if chosen == "UTC" and here is not None and not here.startswith("Etc/") and here not in ("UTC", "Zulu"):
        yield _proposal(
            "time zone",
            "schedule",
            f"Schedules, windows and quiet hours are in UTC, while this machine's clock shows {here}.",
            f"PLEIADES_MAINTAINER__TIME_ZONE={here}",
            {"time_zone": chosen, "host_time_zone": here},
        )
