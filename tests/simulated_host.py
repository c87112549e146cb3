"""Two simulated hosts in virtual time: probes, faults, people, and what the maintainers do about them.

The judgement of health, the schedules, the policy of actions and that of alerts are the product's own, pure
functions. What surrounds them is simulated: loads that rise and spike, services that die, revive, and are or
aren't cured by a restart, maintainers that are away or get killed in mid-action, and people who intervene.
Everything that happens is written down, so that tests can check it against what should be.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Final
from zoneinfo import ZoneInfo

from hypothesis import assume
from hypothesis import strategies as st

from atlas.adapters.actions import Attempt, AttemptState, History, Permission, Thing
from atlas.adapters.health import HostLoad
from atlas.adapters.incidents import Incident
from atlas.maintainer_settings import AlertSettings, MaintainerSettings
from maia.maintainer.duties import DUTIES
from maia.maintenance import policy
from maia.maintenance.alerting import AlertRules
from maia.maintenance.alerting import decide as decide_alerts
from maia.maintenance.findings import Component, Finding
from maia.maintenance.health import Basis, Figures, HostWindow, ServiceCondition, ServiceState, judge
from maia.maintenance.health_terms import WINDOW
from maia.maintenance.policy import Limits, Request
from maia.maintenance.schedules import Schedule, configured, due_turn
from maia.maintenance.windows import Windows

CHECKED_DUTIES: Final = tuple(duty for duty in DUTIES if duty.name != "health")
"""The duties whose turns are looked up; that of the health is at every step."""
STEP: Final = timedelta(minutes=5)
DAYS: Final = 30
STEPS_A_DAY: Final = 24 * 12
NODES: Final = ("node-1", "node-2")
UNITS: Final = ("pleiades.service", "pleiades-metrics.service")
FIGURES: Final = ("cpu_percent", "memory_percent", "disk_percent")
LEASE: Final = timedelta(minutes=1)
TABLE: Final = "video_stats_log"

_USUAL: Final = {"cpu_percent": 40.0, "memory_percent": 55.0, "disk_percent": 60.0}
_ASKED_TOO_EARLY: Final = 0.02
_BLOAT: Final = 0.003
"""How probable it is that a table becomes bloated within a step."""
_OFFSET: Final = timedelta(minutes=2)
"""How much later than the first host the second one's turns are."""

CLOCK_CHANGES: Final = {
    "Europe/Berlin": (datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC)),
    "America/New_York": (datetime(2026, 3, 8, 7, tzinfo=UTC), datetime(2026, 11, 1, 6, tzinfo=UTC)),
}


# What goes wrong


@dataclass(frozen=True, slots=True)
class LoadFault:
    """A figure of a host that spikes to a height, or rises to it step by step, for some steps."""

    node: str
    figure: str
    begins: int
    steps: int
    height: float
    is_ramp: bool

    def at(self, step: int) -> float | None:
        """The figure at a step; None before and after."""
        if not self.begins <= step < self.begins + self.steps:
            return None
        usual, done = _USUAL[self.figure], (step - self.begins + 1) / self.steps
        return usual + (self.height - usual) * (done if self.is_ramp else 1.0)


@dataclass(frozen=True, slots=True)
class ServiceFault:
    """A unit that fails. It stays well for so many steps after each restart (0: the restart is in vain).

    After the last of them a restart cures it, or if it is `stubborn`, they all are as the last one. It also
    revives by itself after `lasts` steps.
    """

    node: str
    unit: str
    begins: int
    well_for: tuple[int, ...]
    stubborn: bool
    lasts: int


@dataclass(frozen=True, slots=True)
class Absence:
    """Steps in which a host's maintainer does not run."""

    node: str
    begins: int
    steps: int


@dataclass(frozen=True, slots=True)
class Visit:
    """A person who restarts a unit by hand; and cures it, or not."""

    node: str
    unit: str
    step: int
    cures: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Some days in which a clock change falls, and what goes wrong in them."""

    zone: str
    begins: datetime
    days: int = DAYS
    applies: bool = True
    seed: int = 0
    loads: tuple[LoadFault, ...] = ()
    services: tuple[ServiceFault, ...] = ()
    absences: tuple[Absence, ...] = ()
    visits: tuple[Visit, ...] = ()
    killed: float = 0.0
    """The share of attempts during which the maintainer is killed."""
    settings: MaintainerSettings = field(default_factory=MaintainerSettings)

    @property
    def steps(self) -> int:
        return self.days * STEPS_A_DAY


_NODES = st.sampled_from(NODES)
_UNITS = st.sampled_from(UNITS)


def _loads(steps: st.SearchStrategy[int]) -> st.SearchStrategy[LoadFault]:
    heights, lengths = st.floats(70, 99.5), st.integers(1, 400)
    return st.builds(LoadFault, _NODES, st.sampled_from(FIGURES), steps, lengths, heights, st.booleans())


def _services(steps: st.SearchStrategy[int]) -> st.SearchStrategy[ServiceFault]:
    well_for = st.lists(st.sampled_from([0, 0, 1, 3, 14, 40]), max_size=4).map(tuple)
    return st.builds(ServiceFault, _NODES, _UNITS, steps, well_for, st.booleans(), st.integers(3, 2000))


_WINDOWS: Final = (("01:30-06:00",), ("23:00-02:30",), ("02:15-02:45", "12:00-12:30"))


@st.composite
def scenarios(draw: st.DrawFn, days: int = DAYS, applies: bool = True) -> Scenario:
    """Scenarios with a clock change on one of their days."""
    steps = st.integers(0, days * STEPS_A_DAY - 1)
    services = draw(st.lists(_services(steps), min_size=3, max_size=10))
    # What is wrong with a release fails on all hosts at once.
    services += [replace(fault, node=NODES[1 - NODES.index(fault.node)]) for fault in services[:3]]
    # Not the first scenario that comes to mind, in which all begins at once.
    assume(len({fault.begins for fault in services}) > 2)
    zone = draw(st.sampled_from(sorted(CLOCK_CHANGES)))
    change = draw(st.sampled_from(CLOCK_CHANGES[zone]))
    absences = st.builds(Absence, _NODES, steps, st.integers(1, days * 20))
    visits = st.builds(Visit, _NODES, _UNITS, steps, st.booleans())
    return Scenario(
        days=days,
        zone=zone,
        begins=change - timedelta(days=draw(st.integers(2, days - 2)), minutes=draw(st.integers(0, 1439))),
        applies=applies,
        seed=draw(st.integers(0, 2**32)),
        loads=tuple(draw(st.lists(_loads(steps), min_size=3, max_size=12))),
        services=tuple(services),
        absences=tuple(draw(st.lists(absences, max_size=4))),
        visits=tuple(draw(st.lists(visits, max_size=4))),
        killed=draw(st.sampled_from([0.0, 0.2])),
        settings=MaintainerSettings(
            time_zone=zone,
            windows=draw(
                st.sampled_from([("01:30-06:00",), ("23:00-02:30",), ("02:15-02:45", "12:00-12:30")])
            ),
            alerts=AlertSettings(quiet_hours=("22:00-07:00",)),
        ),
    )


# What happened


@dataclass(frozen=True, slots=True)
class DutyDone:
    """A run of a duty: the turn that it was for, and when it ran."""

    duty: str
    node: str
    turn: datetime
    at: datetime


@dataclass(frozen=True, slots=True)
class Told:
    """What people were told of an incident: new, worse, lasts or over."""

    key: str
    what: str
    severity: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Need:
    """An action was needed, by what the maintainer saw; and if it was held back, why."""

    thing: Thing
    at: datetime
    held: str | None


@dataclass(slots=True)
class Trace:
    """Everything that happened."""

    attempts: dict[Thing, list[Attempt]] = field(default_factory=lambda: defaultdict(list))
    needs: list[Need] = field(default_factory=list)
    well: dict[Thing, list[datetime]] = field(default_factory=lambda: defaultdict(list))
    duties: list[DutyDone] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    high: dict[tuple[str, str], list[tuple[int, bool]]] = field(default_factory=lambda: defaultdict(list))
    """The steps at which a figure of a host was judged, and whether it was too high."""
    present: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    planned: list[Permission] = field(default_factory=list)
    """What was decided on actions that were not allowed, and so only planned."""


class World:
    """The loads of the hosts and the state of their units."""

    def __init__(self, scenario: Scenario, noise: random.Random) -> None:
        self._noise = noise
        self._loads: dict[tuple[str, str], list[LoadFault]] = defaultdict(list)
        for load in scenario.loads:
            self._loads[load.node, load.figure].append(load)
        self._begin: dict[int, list[ServiceFault]] = defaultdict(list)
        for fault in scenario.services:
            self._begin[fault.begins].append(fault)
        self._faults: dict[tuple[str, str], tuple[ServiceFault, int]] = {}
        self._relapses: dict[tuple[str, str], int] = {}
        self.failed: set[tuple[str, str]] = set()

    def load(self, node: str, at: datetime, step: int) -> HostLoad:
        """The figures of a host, with noise."""
        figures: dict[str, float] = {}
        for figure, usual in _USUAL.items():
            heights = [height for load in self._loads[node, figure] if (height := load.at(step)) is not None]
            figures[figure] = min(100.0, max(0.0, max(heights, default=usual) + self._noise.gauss(0, 3)))
        return HostLoad(at=at, **figures)

    def advance(self, step: int) -> None:
        """Let units fail, relapse and revive."""
        for fault in self._begin.get(step, ()):
            key = fault.node, fault.unit
            if key not in self._faults:
                self._faults[key] = fault, 0
                self.failed.add(key)
        for key, (fault, _) in list(self._faults.items()):
            if step >= fault.begins + fault.lasts:
                self.cure(key)
            elif step >= self._relapses.get(key, step + 1):
                self._relapses.pop(key)
                self.failed.add(key)

    def restart(self, key: tuple[str, str], step: int) -> bool:
        """Restart a unit; returns whether it is well then."""
        if key not in self._faults:
            return True
        fault, restarts = self._faults[key]
        self._faults[key] = fault, restarts + 1
        if restarts >= len(fault.well_for) and not (fault.stubborn and fault.well_for):
            self.cure(key)
            return True
        well_for = fault.well_for[min(restarts, len(fault.well_for) - 1)]
        if well_for == 0:
            return False
        self.failed.discard(key)
        self._relapses[key] = step + well_for
        return True

    def cure(self, key: tuple[str, str]) -> None:
        """Let a unit be well for good."""
        self._faults.pop(key, None)
        self._relapses.pop(key, None)
        self.failed.discard(key)


class Records:
    """The table of actions, in memory."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._expires: dict[Thing, datetime] = {}

    def close_abandoned(self, now: datetime) -> None:
        """Close the attempts whose process is gone."""
        for thing, attempts in self._trace.attempts.items():
            if attempts[-1].state is AttemptState.RUNNING and now >= self._expires[thing]:
                attempts[-1] = policy.ended(attempts[-1], AttemptState.UNKNOWN, now)

    def history(self, thing: Thing, node: str) -> History:
        """The history for a decision."""
        elsewhere = [
            attempts[-1]
            for other, attempts in self._trace.attempts.items()
            if other.node not in (None, node) and attempts[-1].is_restart
        ]
        return History(tuple(reversed(self._trace.attempts.get(thing, []))), tuple(elsewhere))

    def note_need(self, thing: Thing, lasting: timedelta, now: datetime) -> None:
        """Note that the action is needed again."""
        if attempts := self._trace.attempts.get(thing):
            attempts[-1] = policy.needed_again(attempts[-1], lasting, now)

    def note_well(self, thing: Thing, lasting: timedelta, now: datetime) -> None:
        """Note that the thing is well."""
        attempts = self._trace.attempts.get(thing)
        if attempts and attempts[-1].state is not AttemptState.RUNNING:
            attempts[-1] = policy.seen_well(attempts[-1], lasting, now)

    def begin(self, attempt: Attempt, expires: datetime) -> None:
        self._trace.attempts[attempt.thing].append(attempt)
        self._expires[attempt.thing] = expires

    def finish(self, thing: Thing, state: AttemptState, now: datetime) -> None:
        attempts = self._trace.attempts[thing]
        attempts[-1] = policy.ended(attempts[-1], state, now)


@dataclass(frozen=True, slots=True)
class UnderWay:
    """An attempt that a host's maintainer is making, until an instant."""

    thing: Thing
    unit: tuple[str, str] | None
    ends: datetime


class Simulation:
    """A scenario, played step by step."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario, self.settings = scenario, scenario.settings
        self.random, self.trace = random.Random(scenario.seed), Trace()
        self.world = World(scenario, self.random)
        self.records = Records(self.trace)
        self.limits = Limits.of(self.settings)
        self.rules = _rules(self.settings)
        self.schedules = configured(None, scenario.zone)
        self.ids = count(1)
        self.incidents: dict[str, Incident] = {}
        self.loads: dict[str, list[HostLoad]] = defaultdict(list)
        self.last_high: dict[str, int] = defaultdict(lambda: -STEPS_A_DAY)
        self.known: frozenset[str] = frozenset()
        self.last_turns: dict[tuple[str, str], datetime] = {}
        self.next_turns: dict[tuple[str, str], datetime] = {}
        self.under_way: dict[str, UnderWay] = {}
        self.is_bloated = False

    def run(self) -> Trace:
        """Play all of it."""
        away: dict[str, set[int]] = defaultdict(set)
        for absence in self.scenario.absences:
            away[absence.node] |= set(range(absence.begins, absence.begins + absence.steps))
        visits: dict[int, list[Visit]] = defaultdict(list)
        for visit in self.scenario.visits:
            visits[visit.step].append(visit)
        for step in range(self.scenario.steps):
            self.world.advance(step)
            self.is_bloated = self.is_bloated or self.random.random() < _BLOAT
            for number, node in enumerate(NODES):
                now = self.scenario.begins + step * STEP + number * _OFFSET
                self._sample(node, now, step)
                self._finish(now, step)
                for visit in visits.get(step, ()):
                    if visit.node == node:
                        self._visit(visit, now, step)
                if step not in away[node] and node not in self.under_way:
                    self.trace.present[node].append(step)
                    self._maintain(node, now, step)
        return self.trace

    def _sample(self, node: str, now: datetime, step: int) -> None:
        load, limits = self.world.load(node, now, step), self.settings.health
        self.loads[node].append(load)
        if any(getattr(load, figure) >= getattr(limits, figure) for figure in FIGURES):
            self.last_high[node] = step

    def _maintain(self, node: str, now: datetime, step: int) -> None:
        """One cycle of a host's maintainer: duties, health, alerts and repairs."""
        self._duties(node, now)
        findings = self._judge(node, now, step)
        self._alert(node, findings, now)
        if node == NODES[0] and self.is_bloated:
            self._take(Thing("vacuum", TABLE), None, Request(disturbs=True), node, now)
        for unit in UNITS:
            key, thing = (node, unit), Thing("restart", unit, node)
            if key in self.world.failed:
                self._take(thing, key, Request(is_restart=True), node, now)
            elif self.scenario.applies:
                self.trace.well[thing].append(now)
                self.records.note_well(thing, self.limits.lasting, now)

    def _duties(self, node: str, now: datetime) -> None:
        for duty in CHECKED_DUTIES:
            key, schedule = (duty.name, node if duty.of_host else ""), self.schedules[duty.name]
            # Asking is dear. Before the next turn, it is only asked at times whether nothing is due then.
            if now < self.next_turns.get(key, now) and self.random.random() > _ASKED_TOO_EARLY:
                continue
            turn = due_turn(schedule, self.last_turns.get(key), now)
            if turn is not None:
                self.last_turns[key], self.next_turns[key] = turn, schedule.next_after(now)
                self.trace.duties.append(DutyDone(*key, turn, now))

    def _judge(self, node: str, now: datetime, step: int) -> Sequence[Finding]:
        # One more than the judgement looks at, so that it is the judgement that leaves out what is too old.
        loads = self.loads[node] = self.loads[node][-(int(WINDOW / STEP) + 2) :]
        if step - self.last_high[node] > len(loads) and not any(
            key.endswith(f":{node}") for key in self.known
        ):
            # Nothing in them can be too high, and nothing was. Judging is dear.
            loads = loads[-1:]
        services = [
            ServiceState(
                f"{node}/{unit}",
                ServiceCondition.FAILED if (node, unit) in self.world.failed else ServiceCondition.RUNNING,
                "is failed",
            )
            for unit in UNITS
        ]
        window = HostWindow(node=node, first_at=self.scenario.begins, last_at=now, loads=loads)
        basis = Basis(now=now, limits=self.settings.health, known=self.known)
        judgement = judge(Figures(hosts=[window], services=services), basis)
        mine = {finding.key for finding in judgement.findings}
        self.known = frozenset(mine | {key for key in self.known if not key.endswith(f":{node}")})
        for figure in FIGURES:
            check = f"host.{figure.removesuffix('_percent')}:{node}"
            self.trace.high[node, figure].append((step, check in mine))
        return judgement.findings

    def _alert(self, node: str, findings: Sequence[Finding], now: datetime) -> None:
        """Store what the policy of alerts decides as its table would, and note what people are told."""
        # Each host judges itself here; in the product, one judgement covers the loads of all hosts.
        mine = [each for each in self.incidents.values() if node in each.key]
        decision = decide_alerts(
            findings, mine, judged={Component.HOST, Component.SERVICES}, now=now, rules=self.rules, node=node
        )
        for each in decision.problems:
            self._tell(each, decision.reasons[each.key], now)
            self.incidents[each.key] = replace(
                each,
                id=each.id or next(self.ids),
                announced_at=now,
                announced_severity=each.severity,
                announcements=each.announcements + 1,
            )
        for each in decision.recoveries:
            self._tell(each, "over", now)
            del self.incidents[each.key]
        for each in decision.others:
            if each.status == "closed":
                self.incidents.pop(each.key, None)
            else:
                self.incidents[each.key] = replace(each, id=each.id or next(self.ids))

    def _tell(self, incident: Incident, what: str, now: datetime) -> None:
        self.trace.told.append(Told(incident.key, what, incident.severity, now))

    # Actions

    def _take(
        self, thing: Thing, unit: tuple[str, str] | None, request: Request, node: str, now: datetime
    ) -> bool:
        if self.scenario.applies:
            self.records.close_abandoned(now)
        permission = policy.decide(request, self.records.history(thing, node), self.limits, now)
        if not self.scenario.applies:
            self.trace.planned.append(permission)
            return False
        if not request.asked:
            self.trace.needs.append(Need(thing, now, permission.reason or None))
        self.records.note_need(thing, self.limits.lasting, now)
        if not permission.permitted or node in self.under_way:
            return False
        attempt = Attempt(at=now, node=node, thing=thing, is_restart=request.is_restart, asked=request.asked)
        takes = timedelta(seconds=self.random.choice([5, 30, 90, 200, 480]))
        if self.random.random() < self.scenario.killed:
            # Its process is gone; the row stays until its lease is over.
            self.records.begin(attempt, now + LEASE)
            return True
        # While it lives, its heartbeat renews the lease.
        self.records.begin(attempt, now + takes + LEASE)
        self.under_way[node] = UnderWay(thing, unit, now + takes)
        return True

    def _finish(self, now: datetime, step: int) -> None:
        """End the attempts whose time has come."""
        for node, under_way in list(self.under_way.items()):
            if under_way.ends <= now:
                del self.under_way[node]
                is_well = under_way.unit is None or self.world.restart(under_way.unit, step)
                if under_way.unit is None:
                    self.is_bloated = False
                state = AttemptState.APPLIED if is_well else AttemptState.FAILED
                self.records.finish(under_way.thing, state, under_way.ends)

    def _visit(self, visit: Visit, now: datetime, step: int) -> None:
        """Let a person restart a unit by hand, if the lock lets them."""
        key, thing = (visit.node, visit.unit), Thing("restart", visit.unit, visit.node)
        if key not in self.world.failed or not self.scenario.applies:
            return
        request = Request(is_restart=True, asked=True)
        if self._take(thing, key, request, visit.node, now) and visit.cures:
            self.world.cure(key)


def _rules(settings: MaintainerSettings) -> AlertRules:
    alerts = settings.alerts
    return AlertRules(
        resend=timedelta(seconds=alerts.resend_s),
        settle=timedelta(seconds=alerts.settle_s),
        recovery_settle=timedelta(seconds=alerts.recovery_settle_s),
        quiet=Windows.of(alerts.quiet_hours, settings.time_zone),
    )


def turns(schedule: Schedule, begins: datetime, ends: datetime) -> Iterator[datetime]:
    """Every turn of a schedule after `begins`, until `ends`."""
    at = begins
    while (at := schedule.next_after(at)) <= ends:
        yield at


def local(instant: datetime, zone: str) -> Any:
    """An instant by the wall clock of a zone."""
    return instant.astimezone(ZoneInfo(zone))
