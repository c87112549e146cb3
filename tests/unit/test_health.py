"""The judgement of health: rules, scores, hysteresis and dead-man switches, without any I/O."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from atlas.adapters.health import (
    HorizonHolder,
    HostLoad,
    OpenTransaction,
    VaultQueue,
)
from atlas.adapters.upkeep import BloatedTable, IndexToMend
from atlas.clock import pacific_midnight
from atlas.keyring import KeyState, KeyStatus, LedgerLine
from atlas.maintainer_settings import HealthSettings
from maia.learning.thresholds import ThresholdDetector, ThresholdSettings
from maia.maintenance.findings import Component, Finding, Severity
from maia.maintenance.health import (
    PROBE,
    Answer,
    Basis,
    ComponentHealth,
    Figures,
    Growth,
    HostWindow,
    Judgement,
    Queues,
    ServiceCondition,
    ServiceState,
    Watched,
    ZoneLag,
    judge,
    known_afterwards,
    overall_score,
    score_of,
)
from maia.maintenance.health_terms import UNREACHABLE, WINDOW
from maia.maintenance.server_rules import database_findings, host_findings, is_high
from maia.maintenance.wording import shortened, size_text, span_text
from tests.simulated_probes import SERVER, SimulatedProbes

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
LIMITS = HealthSettings()
BASIS = Basis(now=NOON, limits=LIMITS)

percents = st.floats(0, 100, allow_nan=False)
findings = st.builds(
    Finding,
    component=st.sampled_from(Component),
    check=st.sampled_from(["a", "b", UNREACHABLE]),
    subject=st.text(max_size=3),
    severity=st.sampled_from(Severity),
    text=st.just("Something is wrong."),
)


def bloated(name: str, live: int, dead: int, *, is_vacuumed: bool = False) -> BloatedTable:
    return BloatedTable(
        name=name,
        live=live,
        dead=dead,
        bytes=2**20,
        is_vacuumed=is_vacuumed,
        command=f"VACUUM (ANALYZE) {name}",
    )


def keys(found: Judgement | list[Finding]) -> set[str]:
    return {each.key for each in (found.findings if isinstance(found, Judgement) else found)}


def only(found: Judgement) -> Finding:
    (finding,) = found.findings
    return finding


# Scores


def judged(found: list[Finding], others: set[Component]) -> list[ComponentHealth]:
    of = {component: [each for each in found if each.component is component] for component in Component}
    return [
        ComponentHealth(each, score_of(of[each]) if of[each] or each in others else None, tuple(of[each]))
        for each in Component
    ]


@settings(max_examples=50)
@given(st.lists(findings, max_size=8), findings, st.sets(st.sampled_from(Component)))
def test_another_finding_never_raises_a_score(
    found: list[Finding], another: Finding, others: set[Component]
) -> None:
    before, after = judged(found, others), judged([*found, another], others)
    for one, other in zip(before, after, strict=True):
        assert (
            0 <= (1 if other.score is None else other.score) <= (1 if one.score is None else one.score) <= 1
        )
    assert 0 <= overall_score(after) <= overall_score(before) <= 1


@given(st.lists(findings, max_size=6))
def test_more_severe_never_raises_a_score(found: list[Finding]) -> None:
    assert score_of([replace(each, severity=Severity.ERROR) for each in found]) <= score_of(found)


def test_one_part_that_is_down_is_not_hidden_by_the_others() -> None:
    probes = SimulatedProbes(server=None)
    probes.sample(NOON)
    judgement = probes.judge(NOON)
    assert keys(judgement) == {"database.unreachable"}
    assert judgement.score == 0
    assert not judgement.is_healthy


def test_what_is_not_set_up_is_not_judged_and_takes_nothing_away() -> None:
    judgement = judge(Figures(), BASIS)
    assert judgement.score == 1
    assert {each.score for each in judgement.components} == {None}
    assert judgement.settled == frozenset()


def test_reasons_are_told_worst_first() -> None:
    probes = SimulatedProbes(services={"a": ServiceCondition.RUNNING, "b": ServiceCondition.FAILED})
    probes.sample(NOON)
    judgement = probes.judge(NOON, vault_queue=VaultQueue(3, NOON - 2 * HOUR))
    assert [each.key for each in judgement.findings] == ["services.failed:b", "vault.waiting"]
    services = next(each for each in judgement.components if each.component is Component.SERVICES)
    assert services.reasons == ("b has failed: failed",)
    assert services.score == pytest.approx(0.4)


# N of M samples, with hysteresis


@given(
    st.lists(st.floats(-1, 1, allow_nan=False), min_size=10, max_size=200),
    st.sampled_from(["limit", "clear"]),
    st.integers(1, 5),
)
def test_noise_smaller_than_the_margin_does_not_flap(noise: list[float], around: str, needed: int) -> None:
    limits = HealthSettings(needed=needed, window=5)
    level = limits.cpu_percent - (limits.margin_percent if around == "clear" else 0)
    # Strictly smaller, as values at the limit itself are high.
    values = [level + each * (limits.margin_percent - 0.01) for each in noise]
    states = [is_high(values[: end + 1], limits.cpu_percent, limits) for end in range(len(values))]
    assert sum(one != other for one, other in pairwise([False, *states])) <= (1 if around == "limit" else 0)


@given(
    st.lists(percents, max_size=60), st.lists(percents, max_size=40), st.integers(1, 5), st.integers(0, 20)
)
def test_once_it_was_quiet_nothing_earlier_matters(
    before: list[float], after: list[float], needed: int, cut: int
) -> None:
    """So a window of samples replaces a state that would have to survive every process."""
    limits = HealthSettings(needed=needed, window=5)
    quiet = [limits.cpu_percent - limits.margin_percent - 1] * limits.window
    endless = ThresholdDetector(ThresholdSettings(limits.cpu_percent, 75, needed, limits.window))
    for value in [*before, *quiet, *after]:
        endless.update(value)
    assert is_high([*before[cut:], *quiet, *after], limits.cpu_percent, limits) == endless.is_high


@given(
    st.lists(st.floats(-1, 1, allow_nan=False), min_size=30, max_size=80), st.sampled_from([0.0, -2.5, -4.9])
)
def test_nor_does_it_when_samples_leave_the_window(noise: list[float], offset: float) -> None:
    probes, told = SimulatedProbes(), []
    for step, each in enumerate(noise):
        now = NOON + step * WINDOW / 8
        probes.sample(now, cpu=LIMITS.cpu_percent + offset + each * 2.4)
        told.append("host.cpu:host" in keys(probes.judge(now)))
    assert sum(one != other for one, other in pairwise([False, *told])) <= 1


def test_it_takes_n_of_m_samples() -> None:
    probes = SimulatedProbes()
    states = []
    for minute, cpu in enumerate([90, 5, 90, 5, 90, 5, 5, 78, 5, 5]):
        now = NOON + minute * MINUTE
        probes.sample(now, cpu=cpu)
        states.append(keys(probes.judge(now)) == {"host.cpu:host"})
    assert states == [False] * 4 + [True] * 4 + [False] * 2


def test_a_figure_that_a_host_does_not_have_is_no_finding() -> None:
    loads = [HostLoad(NOON - minute * MINUTE) for minute in range(9)]
    host = HostWindow(node="n", first_at=NOON - HOUR, last_at=NOON, loads=loads)
    assert list(host_findings([host], BASIS)) == []


def test_only_the_current_window_counts() -> None:
    old = [HostLoad(NOON - WINDOW - minute * MINUTE, 99, 99, 99) for minute in range(9, 0, -1)]
    host = HostWindow(node="n", first_at=NOON - DAY, last_at=NOON, loads=old)
    assert list(host_findings([host], BASIS)) == []


def test_a_disk_that_is_nearly_full_cannot_wait() -> None:
    probes = SimulatedProbes()
    probes.sample(NOON, disk=95.0)
    assert only(probes.judge(NOON)).severity is Severity.ERROR
    probes.sample(NOON + MINUTE, disk=94.0)
    assert "host.disk_emergency:host" in keys(probes.judge(NOON + MINUTE))
    # It lasts until the disk is as free as the maintainer makes it then.
    probes.sample(NOON + 2 * MINUTE, disk=90.0)
    assert "host.disk_emergency:host" in keys(probes.judge(NOON + 2 * MINUTE))
    probes.sample(NOON + 3 * MINUTE, disk=89.9)
    assert "host.disk_emergency:host" not in keys(probes.judge(NOON + 3 * MINUTE))


@given(st.lists(st.floats(-0.049, 0.049), min_size=5, max_size=50))
def test_what_is_known_does_not_flap_either(noise: list[float]) -> None:
    probes, told = SimulatedProbes(), []
    for step, each in enumerate(noise):
        lag_h = LIMITS.lag_intervals * (1 + each)
        queues = Queues(zones=[ZoneLag("hot", lag_h, 1.0)], expired={}, parked=0)
        told.append("queues.lag:hot" in keys(probes.judge(NOON + step * MINUTE, queues=queues)))
    assert sum(one != other for one, other in pairwise([False, *told])) <= 1


@given(st.integers(1, 10), st.integers(1, 5))
def test_limits_that_contradict_each_other_are_refused(needed: int, window: int) -> None:
    if needed <= window:
        assert HealthSettings(needed=needed, window=window).window == window
    else:
        with pytest.raises(ValidationError, match="must not be more than window"):
            HealthSettings(needed=needed, window=window)
    with pytest.raises(ValidationError, match="must not be below disk_percent"):
        HealthSettings(disk_percent=95, emergency_disk_percent=90)


# Dead-man switches


@given(
    st.lists(
        st.tuples(st.sampled_from(["good", "bad", "restart", "look"]), st.integers(1, 3000)), max_size=60
    ),
    st.floats(1, 4),
    st.integers(0, 2000),
)
def test_an_agent_is_silent_after_its_period_and_grace_whatever_restarts(
    acts: list[tuple[str, int]], missed: float, grace_s: int
) -> None:
    limits = HealthSettings(missed_runs=missed, grace_s=grace_s)
    probes = SimulatedProbes(limits=limits, agents={"hunter": 600.0}, since=NOON)
    now = last = NOON
    for act, seconds in acts:
        now += timedelta(seconds=seconds)
        if act == "good":
            probes.succeed(now, "hunter")
            last = now
        elif act == "restart":
            # Only what the database keeps is left.
            probes = SimulatedProbes(
                limits=limits, agents=probes.agents, good_at=probes.good_at, since=probes.since
            )
        silent = "agents.silent:hunter" in keys(probes.judge(now))
        assert silent == (now - last > timedelta(seconds=600 * missed + grace_s))


def test_a_virtual_clock_stretches_the_grace() -> None:
    agent = Watched(name="hunter", period_s=36_000, good_at=NOON - timedelta(seconds=72_000 + 50_000))
    assert keys(judge(Figures(agents=[agent]), BASIS)) == {"agents.silent:hunter"}
    assert keys(judge(Figures(agents=[agent]), replace(BASIS, speed=60))) == set()


def test_a_clock_that_was_set_back_is_no_silence() -> None:
    agent = Watched(name="hunter", period_s=600, good_at=NOON + DAY)
    assert keys(judge(Figures(agents=[agent]), BASIS)) == set()


def test_nothing_is_expected_of_what_had_no_chance_yet() -> None:
    new = Watched(name="hunter", period_s=600, good_at=None)
    assert keys(judge(Figures(agents=[new]), BASIS)) == set()
    waited = replace(new, since=NOON - HOUR)
    finding = only(judge(Figures(agents=[waited]), BASIS))
    assert finding.severity is Severity.WARNING
    assert finding.text == "The hunter has never completed a cycle in 60 min; one is due every 10 min."


def test_a_duty_that_failed_is_told_of_before_it_is_overdue() -> None:
    backup = Watched(name="backup", period_s=86_400, good_at=NOON - HOUR, last="no space\nleft")
    finding = only(judge(Figures(duties=[backup]), BASIS))
    assert (finding.key, finding.text) == (
        "maintenance.failed:backup",
        "The duty backup failed: no space left",
    )
    late = replace(backup, good_at=NOON - 3 * DAY, last=None)
    finding = only(judge(Figures(duties=[late]), BASIS))
    assert finding.text == "The duty backup was last done 3 d ago; it is due every 24 h."


# Hosts


def test_a_host_is_silent_after_its_interval_and_grace_and_forgotten_later() -> None:
    def at(age: timedelta) -> set[str]:
        host = HostWindow(node="n", first_at=NOON - age - DAY, last_at=NOON - age)
        return keys(list(host_findings([host], BASIS)))

    limit = timedelta(seconds=LIMITS.host_interval_s + LIMITS.grace_s)
    assert at(limit) == set()
    assert at(limit + MINUTE) == {"host.silent:n"}
    assert at(timedelta(hours=LIMITS.forget_hosts_h) + MINUTE) == set()


def test_a_container_that_did_one_job_is_not_missed() -> None:
    host = HostWindow(node="n", first_at=NOON - HOUR, last_at=NOON - 50 * MINUTE)
    assert list(host_findings([host], BASIS)) == []


def test_many_containers_that_do_one_job_are_one_finding_and_none_after_they_are_gone() -> None:
    def container(number: int, age: timedelta) -> HostWindow:
        at = NOON - age
        return HostWindow(
            node=f"c{number}", first_at=at, last_at=at, loads=[HostLoad(at, 1, 1, 96 + number / 10)]
        )

    (alone,) = host_findings([container(1, MINUTE)], BASIS)
    assert alone.key == "host.disk_emergency:c1"
    (both,) = host_findings([container(1, 6 * MINUTE), container(2, MINUTE)], BASIS)
    assert both.key == "host.disk_emergency:passing"
    assert both.text.startswith("The disk of c2 is 96.2 % full")
    assert both.text.endswith("The same holds for 1 more host that just appeared.")
    assert list(host_findings([container(1, HOUR)], BASIS)) == []


def test_a_clock_that_is_ahead_is_told_of() -> None:
    host = HostWindow(node="n", first_at=NOON, last_at=NOON + HOUR)
    (finding,) = host_findings([host], BASIS)
    assert finding.text.startswith("The clock of n is 60 min ahead")


@pytest.mark.parametrize(
    ("heard_of", "told"),
    [
        ({"a": 61, "b": 61}, {"agents.silent:tracker", "host.silent:a", "host.silent:b"}),
        # Whether b is silent is not known yet; if it is, people are told of the hosts alone.
        ({"a": 61, "b": 11}, {"host.silent:a"}),
        ({"a": 11, "b": 11}, set()),
        ({"a": 11, "b": 1}, {"agents.silent:tracker"}),
    ],
)
def test_an_agent_waits_until_it_is_known_whether_its_hosts_are_silent(
    heard_of: dict[str, int], told: set[str]
) -> None:
    tracker = Watched(name="tracker", period_s=60, good_at=NOON - HOUR, hosts=("a", "b"))
    hosts = [
        HostWindow(node=node, first_at=NOON - DAY, last_at=NOON - minutes * MINUTE)
        for node, minutes in heard_of.items()
    ]
    judgement = judge(Figures(agents=[tracker], hosts=hosts), BASIS)
    assert keys(judgement) == told
    silent = [each for each in judgement.findings if each.check == "silent" and each.hosts]
    assert [each.hosts for each in silent] == [("a", "b")] * ("agents.silent:tracker" in told)


def test_a_silent_host_is_not_judged_by_its_last_load() -> None:
    loads = [HostLoad(NOON - HOUR - minute * MINUTE, 99, 99, 99) for minute in range(9, 0, -1)]
    host = HostWindow(node="n", first_at=NOON - DAY, last_at=loads[-1].at, loads=loads)
    assert keys(list(host_findings([host], BASIS))) == {"host.silent:n"}


# PostgreSQL


def test_connections_need_several_judgements_unless_none_is_left() -> None:
    used = replace(SERVER, connections=85)
    assert list(database_findings(used, [], None, BASIS)) == []
    (finding,) = database_findings(used, [85.0, 20.0, 85.0], None, BASIS)
    assert finding.severity is Severity.WARNING
    (finding,) = database_findings(replace(SERVER, connections=96), [], None, BASIS)
    assert finding.severity is Severity.ERROR


def test_a_server_that_answers_but_cannot_store() -> None:
    finding = only(judge(Figures(cannot_store="31 MiB of free disk left"), BASIS))
    assert finding.text == "PostgreSQL can't store anything: 31 MiB of free disk left"
    assert keys(list(database_findings(replace(SERVER, is_read_only=True), [], None, BASIS))) == {finding.key}


def test_a_dump_may_take_its_time() -> None:
    for program, severity in (("psql", Severity.WARNING), ("pg_dump", Severity.INFO)):
        server = replace(SERVER, transaction=OpenTransaction(7, program, "idle in transaction", 1200))
        (finding,) = database_findings(server, [], None, BASIS)
        assert finding.severity is severity
        assert (finding.command is None) == (program == "pg_dump")


def test_old_rows_that_something_holds() -> None:
    server = replace(SERVER, holder=HorizonHolder("replication slot", "copy", 20_000_000), frozen_age=10**9)
    found = {each.key: each for each in database_findings(server, [], None, BASIS)}
    assert set(found) == {"database.held_rows:copy", "database.unfrozen"}
    assert found["database.unfrozen"].severity is Severity.WARNING
    worse = replace(SERVER, frozen_age=2 * 10**9)
    (finding,) = database_findings(worse, [], None, BASIS)
    assert finding.severity is Severity.ERROR


@pytest.mark.parametrize(
    ("then_gib", "hours", "grows"), [(5, 24, True), (5, 120, False), (9.9, 24, False), (0, 24, False)]
)
def test_growth_is_relative_to_a_day(then_gib: float, hours: float, grows: bool) -> None:
    then = Growth(NOON - hours * HOUR, int(then_gib * 2**30))
    assert keys(list(database_findings(SERVER, [], then, BASIS))) == ({"database.growth"} if grows else set())


def test_tables_and_indexes() -> None:
    figures = Figures(
        tables=[
            bloated("a", 10, 90),
            bloated("b", 10, 90, is_vacuumed=True),
            bloated("c", 75, 25),
        ],
        indexes=[IndexToMend(name="i", table="a", bytes=2**20, command="REINDEX INDEX CONCURRENTLY i")],
    )
    found = {each.key: each.severity for each in judge(figures, BASIS).findings}
    assert found == {
        "database.dead_rows:a": Severity.WARNING,
        "database.dead_rows:b": Severity.INFO,
        "database.invalid_index:i": Severity.WARNING,
    }


# Ledger


def line(**changes: object) -> LedgerLine:
    given_line = LedgerLine(
        ring="hunting", bucket="general", project="p", limit=10_000, ring_limit=4000, allowed=1000, used=0,
        reserved=0, left=4000, project_spent=0, closed_until=None, reason=None, keys=(),
    )  # fmt: skip
    return replace(given_line, **changes)  # type: ignore[arg-type]


def key(name: str, state: KeyState) -> KeyStatus:
    return KeyStatus(name, "p", state, "API key not valid", 0, 0, None)


def test_burn_is_relative_to_an_even_pace() -> None:
    morning = replace(BASIS, now=pacific_midnight(NOON.date()) + 6 * HOUR)
    assert keys(judge(Figures(ledger=[line(used=1400)]), morning)) == set()
    finding = only(judge(Figures(ledger=[line(used=2000, reserved=200)]), morning))
    assert finding.key == "ledger.burn:p/general/hunting"
    assert finding.value == pytest.approx(2200 / 1400)
    assert keys(judge(Figures(ledger=[line(ring_limit=4, used=40)]), morning)) == set()


def test_a_bucket_is_closed_once_for_all_rings() -> None:
    closed = [line(closed_until=NOON + HOUR, reason="429", ring=ring) for ring in ("hunting", "tracking")]
    assert only(judge(Figures(ledger=closed), BASIS)).key == "ledger.closed:p/general"
    assert keys(judge(Figures(ledger=[line(closed_until=NOON - HOUR, reason="429")]), BASIS)) == set()


def test_the_last_key_is_an_error() -> None:
    bad, good = key("k1", KeyState.DISABLED), key("k2", KeyState.ACTIVE)
    assert only(judge(Figures(ledger=[line(keys=(bad, good))]), BASIS)).severity is Severity.WARNING
    finding = only(judge(Figures(ledger=[line(keys=(bad,))]), BASIS))
    assert (finding.severity, finding.command) == (Severity.ERROR, "maia keys --enable k1")


@pytest.mark.parametrize("state", [KeyState.OPEN, KeyState.HALF_OPEN])
def test_a_key_that_keeps_failing_is_told_of_before_it_is_disabled(state: KeyState) -> None:
    resting = replace(key("k1", state), failures=9, reason="HTTP 403")
    assert keys(judge(Figures(ledger=[line(keys=(resting,))]), BASIS)) == set()
    failing = replace(resting, failures=10)
    finding = only(judge(Figures(ledger=[line(keys=(failing,))]), BASIS))
    assert (finding.key, finding.severity) == ("ledger.key:k1", Severity.ERROR)
    assert finding.text == "The API key k1 has failed 10 times in a row: HTTP 403"
    good = key("k2", KeyState.ACTIVE)
    assert only(judge(Figures(ledger=[line(keys=(failing, good))]), BASIS)).severity is Severity.WARNING


# What answers, and probes that fail


def test_answers() -> None:
    figures = Figures(prefect=Answer(False, "refused"), vault=Answer(False, "403"), vault_required=True)
    found = {each.key: each.severity for each in judge(figures, BASIS).findings}
    assert found == {"prefect.unreachable": Severity.ERROR, "vault.unreachable": Severity.ERROR}
    optional = judge(replace(figures, vault_required=False, prefect=None), BASIS)
    assert only(optional).severity is Severity.WARNING


@pytest.mark.parametrize("condition", ServiceCondition)
def test_services(condition: ServiceCondition) -> None:
    service = ServiceState("pleiades.service", condition, "exit status 1", "maia daemon restart")
    found = judge(Figures(services=[service]), BASIS).findings
    assert len(found) == (condition in (ServiceCondition.FAILED, ServiceCondition.UNHEALTHY))


def test_what_could_not_be_measured_stays_known_and_unsettled() -> None:
    figures = Figures(server=SERVER, failed={Component.QUEUES: "queues: too slow"})
    judgement = judge(figures, replace(BASIS, known=frozenset({"queues.parked", "database.growth"})))
    assert only(judgement).key == f"maintenance.{PROBE}:queues"
    assert judgement.settled == {Component.DATABASE}
    assert known_afterwards(judgement, {"queues.parked", "database.growth"}) == {
        "queues.parked", "maintenance.probe:queues",
    }  # fmt: skip


@given(st.floats(0, 1e9, allow_nan=False))
def test_spans_and_sizes_are_short(value: float) -> None:
    assert len(span_text(value)) <= 9
    assert len(size_text(value)) <= 10


@given(st.text(max_size=1000))
def test_foreign_texts_are_one_short_line(text: str) -> None:
    assert len(shortened(text)) <= 300
    assert "\n" not in shortened(text)
