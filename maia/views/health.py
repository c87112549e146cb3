"""The health view: gathers the figures of every component, each by a probe of its own, and judges them.

A probe that fails or hangs is reported as a finding, and keeps no other from being judged. If PostgreSQL is
away, that alone is reported, and what depends on it is not judged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from atlas import network
from atlas.adapters.health import HealthDAO, HostLoad, PastJudgement
from atlas.adapters.queue import QueueDAO
from atlas.adapters.upkeep import UpkeepDAO
from atlas.composition import Atlas, check_free_disk
from atlas.config import Settings
from atlas.errors import AtlasError, CannotStore, DatabaseUnavailable, EmbeddedServerError
from maia.cycle.outcome import EXIT_STATUSES, Outcome
from maia.maintenance.findings import Component
from maia.maintenance.health import (
    Answer,
    Basis,
    Figures,
    Growth,
    HostWindow,
    Judgement,
    Queues,
    ServiceState,
    Watched,
    ZoneLag,
    judge,
    known_afterwards,
)
from maia.maintenance.health_terms import MOST_SAMPLES, WINDOW
from maia.maintenance.monitor import Monitor
from maia.maintenance.server_rules import connections_percent
from maia.views.ledger import ledger_lines
from maia.views.words import ZONES

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_S: Final = 10.0
"""Longest time that a probe may take."""

_GOOD: Final = tuple(
    outcome.value
    for outcome in Outcome
    if outcome not in EXIT_STATUSES and outcome is not Outcome.INTERRUPTED
)
_NO_URL: Final = "PREFECT_API_URL is no URL: write for example http://127.0.0.1:4200/api"
_NEAR_LIMIT: Final = 0.5
"""Tables are looked at from this part of the limit on, for a judgement with hysteresis."""
_EARLIER: Final = timedelta(hours=2)
_MOST_EARLIER: Final = 50
_GROWTH_SINCE: Final = (timedelta(hours=48), timedelta(hours=20))

Services = Callable[[], Awaitable[Sequence[ServiceState]]]
Duties = Callable[[], Awaitable[Sequence[Watched]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be judged beyond what Atlas knows: agents with their periods, Prefect, services, duties."""

    agents: Mapping[str, float] = field(default_factory=dict)
    """The agents that should be at work, and the seconds between their runs by their own clock."""
    prefect_url: str | None = None
    services: Services | None = None
    duties: Duties | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """The health of everything, as seen from one node.

    `measured` are figures that the next judgement compares with, and `known` the keys of what it should know
    to be wrong.
    """

    now: datetime
    node: str
    score: float
    healthy: bool
    judgement: Judgement
    measured: Mapping[str, float]
    known: frozenset[str]
    services: tuple[ServiceState, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The health as plain values, as the duty stores it and `--json` prints it."""
        return {
            "at": self.now.isoformat(timespec="seconds"),
            "node": self.node,
            "score": round(self.score, 3),
            "healthy": self.healthy,
            "components": {
                each.component.value: {
                    "score": None if each.score is None else round(each.score, 3),
                    "reasons": list(each.reasons),
                }
                for each in self.judgement.components
            },
            "findings": [
                {
                    "key": finding.key,
                    "severity": finding.severity.value,
                    "text": finding.text,
                    "value": finding.value,
                    "limit": finding.limit,
                    "command": finding.command,
                }
                for finding in self.judgement.findings
            ],
            "measured": dict(self.measured),
            "known": sorted(self.known),
        }


async def health(atlas: Atlas, wanted: Wanted) -> Health:
    """Gather and judge everything now. Changes nothing, and raises nothing that a probe raises."""
    figures, past = await gather(atlas, wanted)
    settings = atlas.settings
    basis = Basis(
        now=atlas.clock.now(),
        limits=settings.maintainer.health,
        known=past.known,
        speed=speed_of(settings),
        burst=settings.quota.burst,
    )
    judgement = judge(figures, basis)
    return Health(
        now=basis.now,
        node=settings.node_id,
        score=judgement.score,
        healthy=judgement.is_healthy,
        judgement=judgement,
        measured=_measured(figures),
        known=known_afterwards(judgement, past.known),
        services=tuple(figures.services or ()),
    )


def speed_of(settings: Settings) -> float:
    """How many times faster than real time the clock of the settings runs."""
    return settings.clock.speed if settings.clock.start else 1.0


def _measured(figures: Figures) -> dict[str, float]:
    if figures.server is None:
        return {}
    return {
        "connections_percent": round(connections_percent(figures.server), 2),
        "database_bytes": figures.server.bytes,
    }


# Gathering


@dataclass(frozen=True, slots=True)
class Past:
    """What earlier judgements knew and measured."""

    known: frozenset[str] = frozenset()
    connections_percent: tuple[float, ...] = ()
    size: Growth | None = None


@dataclass(frozen=True, slots=True)
class _Probe:
    """Reads some of the figures of a component."""

    component: Component
    read: Callable[[], Awaitable[Any]]
    needs_database: bool = True


async def gather(atlas: Atlas, wanted: Wanted) -> tuple[Figures, Past]:
    """Every figure that can be had now, and what earlier judgements left."""
    gatherer = _Gatherer(atlas, wanted)
    probes = gatherer.probes()
    away = await _why_away(atlas)
    asked = {name: each for name, each in probes.items() if away is None or not each.needs_database}
    answers = await asyncio.gather(*(_attempt(name, each) for name, each in asked.items()))
    read: dict[str, Any] = {}
    failed: dict[Component, str] = {}
    for (name, probe), (value, error) in zip(asked.items(), answers, strict=True):
        if error is None:
            read[name] = value
        elif probe.needs_database and isinstance(error, (DatabaseUnavailable, EmbeddedServerError)):
            away = str(error)
        else:
            failed.setdefault(probe.component, f"{name}: {_told(error)}")
    return gatherer.figures(read, failed, away), read.get("past") or Past()


async def _why_away(atlas: Atlas) -> str | None:
    """Why PostgreSQL does not answer; None if it does."""
    _, error = await _attempt("database", _Probe(Component.DATABASE, atlas.db.ping))
    return None if error is None else _told(error)


async def _attempt(name: str, probe: _Probe) -> tuple[Any, BaseException | None]:
    """What a probe reads, or why it failed; one that hangs is left behind."""
    task = asyncio.ensure_future(probe.read())
    # Also if this judgement is cancelled just when the probe fails.
    task.add_done_callback(_consume)
    try:
        await asyncio.wait({task}, timeout=PROBE_TIMEOUT_S)
    finally:
        if not task.done():
            task.cancel()
    if not task.done():
        return None, TimeoutError(f"no answer within {PROBE_TIMEOUT_S:g} s")
    if task.cancelled():
        return None, RuntimeError("it was interrupted")
    if (error := task.exception()) is not None:
        expected = isinstance(error, (AtlasError, OSError))
        logger.debug("the probe %s failed", name, exc_info=error)
        if not expected:
            logger.error("the probe %s failed: %s", name, error, exc_info=error)
        return None, error
    return task.result(), None


def _told(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _consume(task: asyncio.Future[Any]) -> None:
    """Take note of how a probe ended that may be left behind, so that nobody complains that none did."""
    if not task.cancelled():
        task.exception()


class _Gatherer:
    """Reads the figures of every component, for one judgement."""

    def __init__(self, atlas: Atlas, wanted: Wanted) -> None:
        self._atlas, self._wanted = atlas, wanted
        self._settings, self._now = atlas.settings, atlas.clock.now()
        self._speed = speed_of(atlas.settings)
        self._dao = HealthDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        self._upkeep = UpkeepDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)

    def probes(self) -> dict[str, _Probe]:
        """Every probe by name; those of what is not set up are left out."""
        probes = {
            "past": _Probe(Component.DATABASE, self._past),
            "server": _Probe(Component.DATABASE, self._dao.server),
            "tables": _Probe(Component.DATABASE, partial(self._upkeep.bloated_tables, _NEAR_LIMIT)),
            "indexes": _Probe(Component.DATABASE, self._upkeep.invalid_indexes),
            "hosts": _Probe(Component.HOST, self._hosts),
            "free disk": _Probe(Component.DATABASE, self._cannot_store, needs_database=False),
            "this host": _Probe(Component.HOST, self._this_host, needs_database=False),
            "queues": _Probe(Component.QUEUES, self._queues),
            "vault": _Probe(Component.VAULT, self._vault, needs_database=False),
        }
        if any(self._settings.key_pool.values()):
            probes["ledger"] = _Probe(Component.LEDGER, lambda: ledger_lines(self._atlas))
        if self._wanted.agents:
            probes["agents"] = _Probe(Component.AGENTS, self._agents)
        if self._wanted.prefect_url is not None:
            probes["prefect"] = _Probe(Component.PREFECT, self._prefect, needs_database=False)
        if self._wanted.services is not None:
            probes["services"] = _Probe(Component.SERVICES, self._wanted.services, needs_database=False)
        if self._wanted.duties is not None:
            probes["duties"] = _Probe(Component.MAINTENANCE, self._wanted.duties)
        return probes

    def figures(self, read: Mapping[str, Any], failed: Mapping[Component, str], away: str | None) -> Figures:
        """The figures that were read, by the name of their probe."""
        past: Past = read.get("past") or Past()
        server, vault_queue = read.get("server") or (None, None)
        return Figures(
            server=server,
            earlier_percent=past.connections_percent,
            growth_since=past.size,
            cannot_store=read.get("free disk"),
            tables=read.get("tables") or (),
            indexes=read.get("indexes") or (),
            hosts=self._with_this_host(read.get("hosts"), read.get("this host")),
            queues=read.get("queues"),
            ledger=read.get("ledger"),
            agents=read.get("agents"),
            prefect=read.get("prefect"),
            vault=read.get("vault"),
            vault_queue=vault_queue,
            vault_required=self._settings.vault.required,
            services=read.get("services"),
            duties=read.get("duties"),
            database_away=away,
            failed=failed,
        )

    async def _past(self) -> Past:
        now, speed = self._now, self._speed
        earlier = await self._dao.judgements(now - _EARLIER * speed, _MOST_EARLIER)
        first, last = _GROWTH_SINCE
        then = await self._dao.judgement_between(now - first * speed, now - last * speed)
        percents = [_measured_then(each, "connections_percent") for each in reversed(earlier)]
        size = then and _measured_then(then, "database_bytes")
        return Past(
            known=frozenset(map(str, earlier[0].details.get("known") or ())) if earlier else frozenset(),
            connections_percent=tuple(percent for percent in percents if percent is not None),
            size=Growth(then.at, int(size)) if then and size else None,
        )

    async def _hosts(self) -> list[HostWindow]:
        since = self._now - timedelta(hours=self._settings.maintainer.health.forget_hosts_h) * self._speed
        beats = await self._dao.heartbeats(since)
        nodes = [beat.node for beat in beats]
        loads = await self._dao.loads(nodes, self._now - WINDOW * self._speed, MOST_SAMPLES)
        return [
            HostWindow(node=beat.node, first_at=beat.first_at, last_at=beat.last_at, loads=loads[beat.node])
            for beat in beats
        ]

    async def _this_host(self) -> HostLoad:
        """This host now, in case that its samples can't be stored; for processors the time is too short."""
        monitor = Monitor.of(self._atlas, processes=False)
        sample = await asyncio.to_thread(monitor.sample)
        return HostLoad(self._now, None, sample.memory_percent, sample.disk_percent)

    def _with_this_host(
        self, hosts: Sequence[HostWindow] | None, load: HostLoad | None
    ) -> list[HostWindow] | None:
        if load is None:
            return None if hosts is None else list(hosts)
        node, found = self._settings.node_id, list(hosts or ())
        for place, host in enumerate(found):
            if host.node == node:
                newest = max(host.last_at, load.at)
                found[place] = replace(host, last_at=newest, loads=[*host.loads, load])
                return found
        return [HostWindow(node=node, first_at=load.at, last_at=load.at, loads=[load]), *found]

    async def _queues(self) -> Queues:
        topics = QueueDAO(self._atlas.db, clock=self._atlas.clock, settings=self._settings)
        backlog, tracker = await self._dao.backlog(), self._settings.tracker
        intervals_h = (tracker.hot_interval_h, tracker.warm_interval_h, tracker.cold_interval_h)
        has_tracker = bool(self._settings.key_pool["tracking"])
        return Queues(
            zones=[
                ZoneLag(
                    ZONES[each.zone],
                    (self._now - each.oldest_due_at) / timedelta(hours=1),
                    intervals_h[each.zone],
                )
                for each in backlog
                if each.oldest_due_at is not None and has_tracker
            ],
            expired={
                "tracker": sum(each.expired for each in backlog),
                "hunter": await self._dao.expired_asks(),
            },
            parked=(await topics.queue_counts()).parked,
        )

    async def _agents(self) -> list[Watched]:
        since = await self._dao.first_event_at()
        cycles = await self._dao.last_cycles(self._wanted.agents, _GOOD)
        return [
            Watched(
                name=each.agent,
                period_s=self._wanted.agents[each.agent],
                good_at=each.good_at,
                since=since,
                last=None
                if each.outcome is None or each.outcome in _GOOD
                else f"{each.outcome}{f', {each.detail}' if each.detail else ''}",
                hosts=each.nodes,
            )
            for each in cycles
        ]

    async def _prefect(self) -> Answer:
        import aiohttp

        assert self._wanted.prefect_url is not None
        url = f"{self._wanted.prefect_url.rstrip('/')}/health"
        try:
            # The URL may contain a password, which no finding may repeat.
            place, proxy = network.without_secret(url), network.proxy_for(url)
        except ValueError:
            return Answer(False, _NO_URL)
        timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S / 2)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(url, proxy=proxy) as answer,
            ):
                # Without a login it is known to be there all the same.
                fine = answer.ok or answer.status in (401, 403)
                return Answer(
                    fine, "" if fine else f"what answers at {place} is not its API ({answer.status})"
                )
        except (aiohttp.ClientConnectionError, TimeoutError, OSError) as error:
            return Answer(False, f"{place}: {_told(error)}")
        except (aiohttp.ClientError, ValueError) as error:
            # Its text may repeat the URL.
            is_url = isinstance(error, aiohttp.ClientResponseError)
            return Answer(False, f"{place}: {type(error).__name__}" if is_url else _NO_URL)

    async def _cannot_store(self) -> str | None:
        """Why the embedded server can't store anything: its disk is full."""
        try:
            check_free_disk(self._atlas)
        except CannotStore as error:
            return str(error)
        return None

    async def _vault(self) -> Answer:
        try:
            await self._atlas.vault.ping()
        except AtlasError as error:
            return Answer(False, str(error))
        return Answer(True)


def _measured_then(past: PastJudgement, name: str) -> float | None:
    """A figure of an earlier judgement, which another version may have stored in another form."""
    measured = past.details.get("measured")
    value = measured.get(name) if isinstance(measured, Mapping) else None
    return float(value) if isinstance(value, (int, float)) else None
