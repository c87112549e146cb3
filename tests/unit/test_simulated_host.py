"""Thirty virtual days of two hosts with random faults: what must hold of the maintainers, whatever happens.

What happened is checked against the rules as people would state them, not by the functions under test.
`PLEIADES_SIMULATIONS=200` plays so many scenarios instead of one.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, timedelta
from functools import partial
from itertools import pairwise

from hypothesis import given, settings

from atlas.adapters.actions import Attempt, AttemptState, Thing
from maia.maintenance.schedules import configured
from tests.simulated_host import (
    CHECKED_DUTIES,
    FIGURES,
    NODES,
    STEP,
    Need,
    Scenario,
    Simulation,
    Told,
    Trace,
    local,
    scenarios,
    turns,
)

HOUR = timedelta(hours=1)
_MOST = int(os.environ.get("PLEIADES_SIMULATIONS", "0"))


@settings(max_examples=_MOST or 1)
@given(scenarios())
def test_whatever_happens_limits_windows_and_schedules_hold(scenario: Scenario) -> None:
    trace = Simulation(scenario).run()
    check_thresholds(scenario, trace)
    check_cool_downs_and_hourly_limits(scenario, trace)
    check_giving_up(scenario, trace)
    check_hosts(scenario, trace)
    check_windows(scenario, trace)
    check_duties(scenario, trace)
    check_alerts(scenario, trace)


@settings(max_examples=_MOST or 1)
@given(scenarios(days=7, applies=False))
def test_in_plan_mode_nothing_is_applied(scenario: Scenario) -> None:
    trace = Simulation(scenario).run()
    assert trace.planned
    assert not trace.attempts
    check_duties(scenario, trace)


# Thresholds


def check_thresholds(scenario: Scenario, trace: Trace) -> None:
    """Between two changes of a figure's judgement are as many samples as it takes to judge."""
    needed = scenario.settings.health.needed
    for (node, figure), judged in trace.high.items():
        assert figure in FIGURES
        changes = [step for (_, was), (step, is_high) in pairwise(judged) if was != is_high]
        for earlier, later in pairwise(changes):
            assert later - earlier >= needed, f"{figure} of {node} flaps at step {later}"


# Actions


def check_cool_downs_and_hourly_limits(scenario: Scenario, trace: Trace) -> None:
    actions = scenario.settings.actions
    for attempts in trace.attempts.values():
        for earlier, later in pairwise(attempts):
            assert later.at >= (earlier.finished_at or later.at), "two attempts at one thing at once"
            pause = later.at - (earlier.finished_at or earlier.at)
            assert later.asked or pause >= timedelta(seconds=actions.cool_down_s)
        for place, attempt in enumerate(attempts):
            within = [each for each in attempts[: place + 1] if attempt.at - each.at < HOUR]
            assert attempt.asked or len(within) <= actions.most_an_hour


def check_giving_up(scenario: Scenario, trace: Trace) -> None:
    """So many attempts in a row without lasting effect and no more, and nothing is given up before."""
    actions = scenario.settings.actions
    for thing, attempts in trace.attempts.items():
        row = Row(actions.give_up_after, timedelta(seconds=actions.lasting_s))
        events: list[tuple[datetime, int, Callable[[datetime], None]]] = []
        for attempt in attempts:
            events.append((attempt.at, 3, partial(row.begin, attempt)))
            if attempt.finished_at is not None:
                events.append((attempt.finished_at, 0, partial(row.end, attempt)))
        events += [(at, 1, row.see_well) for at in trace.well.get(thing, ())]
        events += [(need.at, 2, partial(row.need, need)) for need in trace.needs if need.thing == thing]
        for at, _, happen in sorted(events, key=lambda event: event[:2]):
            happen(at)


class Row:
    """The last attempts in a row without lasting effect, retold event by event."""

    def __init__(self, most: int, lasting: timedelta) -> None:
        self.most, self.lasting, self.count = most, lasting, 0
        self.well_since: datetime | None = None
        self.had_effect = False
        self.last_end: datetime | None = None

    def begin(self, attempt: Attempt, at: datetime) -> None:
        paused = self.last_end is not None and at - self.last_end > timedelta(hours=12)
        if attempt.asked:
            self.count = 0
        else:
            self.count = 1 if self.had_effect or paused else self.count + 1
        assert self.count <= self.most, f"{attempt.thing} was not given up"
        self.well_since, self.had_effect = None, False

    def end(self, attempt: Attempt, at: datetime) -> None:
        self.last_end = at
        self.well_since = at if attempt.state is AttemptState.APPLIED else None

    def see_well(self, at: datetime) -> None:
        self.well_since = self.well_since or at
        self.had_effect |= at - self.well_since >= self.lasting

    def need(self, need: Need, at: datetime) -> None:
        if self.well_since is not None and at - self.well_since >= self.lasting:
            self.had_effect = True
        self.well_since = None
        if need.held is not None and "given up" in need.held:
            assert self.count >= self.most, f"{need.thing} was given up too early"
            assert not self.had_effect


def check_hosts(scenario: Scenario, trace: Trace) -> None:
    """Restarts are never at once on two hosts, and there is a pause between them."""
    restarts = sorted(
        (each for attempts in trace.attempts.values() for each in attempts if each.is_restart),
        key=lambda each: each.at,
    )
    spacing = timedelta(seconds=scenario.settings.actions.host_spacing_s)
    ended: dict[str, datetime] = {}
    for restart in restarts:
        for node in set(NODES) - {restart.node}:
            assert node not in ended or restart.at >= ended[node] + spacing
        ended[restart.node] = max(restart.finished_at or restart.at, ended.get(restart.node, restart.at))


def check_windows(scenario: Scenario, trace: Trace) -> None:
    """What disturbs the agents happens in the windows, by the clock on the wall."""
    for attempt in trace.attempts.get(Thing("vacuum", "video_stats_log"), ()):
        wall = local(attempt.at, scenario.zone).strftime("%H:%M")
        assert any(is_within(wall, span) for span in scenario.settings.windows), wall


def is_within(wall: str, span: str) -> bool:
    begin, end = span.split("-")
    return begin <= wall < end if begin < end else wall >= begin or wall < end


# Duties


def check_duties(scenario: Scenario, trace: Trace) -> None:
    """Each turn is run once, as soon as a maintainer is there; of several that were missed, the last one."""
    schedules = configured(None, scenario.zone)
    looked = {node: [when(scenario, node, step) for step in trace.present[node]] for node in NODES}
    looked[""] = sorted(at for instants in looked.values() for at in instants)
    done: dict[tuple[str, str], list[tuple[datetime, datetime]]] = defaultdict(list)
    for each in trace.duties:
        done[each.duty, each.node].append((each.turn, each.at))
    for duty in CHECKED_DUTIES:
        due = list(turns(schedules[duty.name], scenario.begins, scenario.begins + scenario.steps * STEP))
        for node in NODES if duty.of_host else ("",):
            ran = done[duty.name, node]
            # What it ran for at first was before the beginning.
            first = [(schedules[duty.name].last_until(looked[node][0]), looked[node][0])]
            assert ran == first + list(caught_up(due, looked[node])), duty.name
            check_days(scenario, duty.name, [turn for turn, _ in ran], looked[node])


def when(scenario: Scenario, node: str, step: int) -> datetime:
    return scenario.begins + step * STEP + NODES.index(node) * timedelta(minutes=2)


def caught_up(due: Iterable[datetime], looked: list[datetime]) -> Iterator[tuple[datetime, datetime]]:
    """The turns to run and when, given the instants at which somebody looked."""
    waiting = iter(due)
    turn = next(waiting, None)
    for place, at in enumerate(looked):
        latest = None
        while turn is not None and turn <= at:
            latest, turn = turn, next(waiting, None)
        if latest is not None and place > 0:
            yield latest, at


def check_days(scenario: Scenario, duty: str, ran: list[datetime], looked: list[datetime]) -> None:
    """A daily duty runs once on each local day on which a maintainer was always there, however long it is."""
    if duty not in {"backup", "cleanup", "tidy"}:
        return
    days = Counter(local(turn, scenario.zone).date() for turn in ran)
    looks = Counter(local(at, scenario.zone).date() for at in looked)
    for day, count in looks.items():
        if count >= least_looks(scenario, day):
            assert days[day] == 1, f"{duty} on {day}"


def least_looks(scenario: Scenario, day: date) -> int:
    """How many looks a local day has if a maintainer was there all the time."""
    midnight = local(scenario.begins, scenario.zone).replace(
        year=day.year, month=day.month, day=day.day, hour=0, minute=0, fold=0
    )
    following = midnight + timedelta(days=1)
    return int((following.timestamp() - midnight.timestamp()) / STEP.total_seconds())


# Alerts


def check_alerts(scenario: Scenario, trace: Trace) -> None:
    by_key: dict[str, list[Told]] = defaultdict(list)
    for told in trace.told:
        by_key[told.key].append(told)
        wall = local(told.at, scenario.zone).strftime("%H:%M")
        assert told.severity == "error" or not is_within(wall, "22:00-07:00"), f"{told} in quiet hours"
    for key, telling in by_key.items():
        check_story(scenario, telling)
        if key.startswith("host."):
            check, _, node = key.removeprefix("host.").partition(":")
            judged = trace.high.get((node, f"{check}_percent"), [])
            raised = sum(is_high and not was for (_, was), (_, is_high) in pairwise([(0, False), *judged]))
            assert "disk_emergency" in key or sum(told.what == "new" for told in telling) <= raised


def check_story(scenario: Scenario, telling: list[Told]) -> None:
    """What people are told of one thing begins with what is new, and is not repeated too soon."""
    resend = timedelta(seconds=scenario.settings.alerts.resend_s)
    last: Told | None = None
    for told in telling:
        is_open = last is not None and last.what != "over"
        assert is_open == (told.what != "new"), f"{told} after {last}"
        if told.what == "lasts":
            assert last is not None
            assert told.at - last.at >= resend
        last = told
