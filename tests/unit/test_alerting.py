"""The policy of alerts, over random sequences of findings: who is told of what, when, and how often."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas.adapters.incidents import Incident
from maia.maintenance import causes, messages
from maia.maintenance.alerting import AlertRules, Decision, decide
from maia.maintenance.causes import CAUSES, causes_of
from maia.maintenance.findings import Component, Finding, Severity
from maia.maintenance.windows import Windows

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
BERLIN = ZoneInfo("Europe/Berlin")
ALL = frozenset(Component)
RULES = AlertRules(resend=4 * HOUR)
SUBJECTS = ("a", "b", "a/b", "a:b", "[a]", "a/prefect", "*", "hunter", "tracker", "")
CAUSE_KEYS = st.builds(
    lambda start, subject: f"{start}{subject}",
    st.sampled_from(
        sorted(
            {
                pattern.replace("{subject}", "").rstrip("*/").replace("*", "silent")
                for rule in CAUSES
                for pattern in (rule.cause, *rule.effects)
                if pattern != "*"
            }
        )
    ),
    st.sampled_from((*SUBJECTS, *(f":{subject}" for subject in SUBJECTS), ":a/x", "/prefect")),
)
"""Keys near those that the table of causes speaks of."""


def finding(key: str, severity: Severity = Severity.ERROR) -> Finding:
    component, _, rest = key.partition(".")
    check, _, subject = rest.partition(":")
    return Finding(
        component=Component(component), check=check, subject=subject, severity=severity, text=f"{key} is bad."
    )


@dataclass
class Maintainers:
    """What maintainers would store and send, one after the other."""

    rules: AlertRules = RULES
    node: str = "here"
    incidents: dict[int, Incident] = field(default_factory=dict)
    told: list[tuple[datetime, Incident, str]] = field(default_factory=list)
    """When people were told of which incident, and why; "over" if of its end."""
    messages: int = 0

    def run(
        self,
        now: datetime,
        findings: Iterable[Finding] = (),
        *,
        judged: Collection[Component] = ALL,
        reached: bool = True,
        killed: bool = False,
    ) -> Decision:
        unfinished = [each for each in self.incidents.values() if each.status != "closed"]
        decision = decide(findings, unfinished, judged=judged, now=now, rules=self.rules, node=self.node)
        for each in (*decision.problems, *decision.recoveries, *decision.others):
            stored = each if each.id else replace(each, id=len(self.incidents) + 1)
            self.incidents[stored.id] = stored
            if each in decision.others:
                continue
            if killed:
                # After it told people or before, nobody knows; the claim has ended by the next run.
                self.incidents[stored.id] = replace(stored, attempts=stored.attempts + 1)
            elif reached:
                self._settle(stored, now, decision.reasons.get(each.key, ""))
        self.messages += bool(decision.problems) + bool(decision.recoveries)
        return decision

    def _settle(self, each: Incident, now: datetime, reason: str) -> None:
        if each.status == "recovered":
            self.told.append((now, each, "over"))
            self.incidents[each.id] = replace(each, status="closed", attempts=0)
        else:
            self.told.append((now, each, reason))
            self.incidents[each.id] = replace(
                each, announced_at=now, announced_severity=each.severity, attempts=0
            )

    def acknowledge(self, key: str, now: datetime) -> None:
        [one] = [each for each in self.incidents.values() if each.key == key and each.status == "open"]
        self.incidents[one.id] = replace(one, acknowledged_at=now, acknowledged_severity=one.severity)

    @property
    def words(self) -> list[str]:
        return [f"{reason} {each.key}" for _, each, reason in self.told]

    def open(self) -> set[str]:
        return {each.key for each in self.incidents.values() if each.status == "open"}


class TestLife:
    def test_an_incident_is_told_of_then_again_then_its_end(self) -> None:
        at = Maintainers()
        for hours in (0, 1, 3.9, 4, 7):
            at.run(NOON + hours * HOUR, [finding("database.connections")])
        at.run(NOON + 8 * HOUR)
        assert [now for now, *_ in at.told] == [NOON, NOON + 4 * HOUR, NOON + 8 * HOUR]
        assert at.words == [
            "new database.connections",
            "lasts database.connections",
            "over database.connections",
        ]
        assert at.open() == set()

    def test_what_gets_more_severe_is_told_of_at_once_and_what_gets_less_is_not(self) -> None:
        at = Maintainers()
        for minute, severity in enumerate(
            (Severity.WARNING, Severity.ERROR, Severity.WARNING, Severity.ERROR)
        ):
            at.run(NOON + minute * MINUTE, [finding("host.cpu:a", severity)])
        assert at.words == ["new host.cpu:a", "worse host.cpu:a"]

    def test_what_is_acknowledged_is_silent_until_it_is_over_or_worse(self) -> None:
        at = Maintainers()
        bad = [finding("host.cpu:a", Severity.WARNING)]
        at.run(NOON, bad)
        at.acknowledge("host.cpu:a", NOON)
        at.run(NOON + 9 * HOUR, bad)
        assert at.words == ["new host.cpu:a"]
        at.run(NOON + 10 * HOUR, [finding("host.cpu:a")])
        at.run(NOON + 15 * HOUR, [finding("host.cpu:a")])
        at.acknowledge("host.cpu:a", NOON)
        at.run(NOON + 20 * HOUR, [finding("host.cpu:a")])
        at.run(NOON + 21 * HOUR)
        assert at.words[1:] == ["worse host.cpu:a", "lasts host.cpu:a", "over host.cpu:a"]

    def test_infos_are_no_incidents(self) -> None:
        at = Maintainers()
        at.run(NOON, [finding("host.cpu:a", Severity.INFO)])
        assert at.incidents == {}

    def test_warnings_settle_and_errors_do_not(self) -> None:
        at = Maintainers(replace(RULES, settle=10 * MINUTE))
        both = [finding("host.cpu:a", Severity.WARNING), finding("host.memory:a")]
        at.run(NOON, both)
        at.run(NOON + 9 * MINUTE, both)
        assert at.words == ["new host.memory:a"]
        at.run(NOON + 10 * MINUTE, both)
        assert at.words == ["new host.memory:a", "new host.cpu:a"]

    def test_a_warning_that_does_not_last_is_never_told_of(self) -> None:
        at = Maintainers(replace(RULES, settle=10 * MINUTE))
        at.run(NOON, [finding("host.cpu:a", Severity.WARNING)])
        at.run(NOON + 9 * MINUTE)
        assert at.words == []
        assert at.open() == set()

    def test_what_is_back_before_it_counts_as_over_is_the_same_incident(self) -> None:
        at = Maintainers(replace(RULES, recovery_settle=4 * MINUTE))
        for minute in range(0, 60, 3):
            at.run(NOON + minute * MINUTE, [finding("host.cpu:a")] if minute % 2 else [])
        at.run(NOON + 60 * MINUTE)
        at.run(NOON + 64 * MINUTE)
        assert at.words == ["new host.cpu:a", "over host.cpu:a"]
        [one] = at.incidents.values()
        assert one.well_since == NOON + 60 * MINUTE

    def test_several_at_once_are_one_message(self) -> None:
        at = Maintainers()
        at.run(NOON, [finding("host.cpu:a"), finding("ledger.burn"), finding("queues.lag:hot")])
        at.run(NOON + MINUTE)
        assert at.messages == 2

    def test_without_notices_of_recovery_incidents_just_end(self) -> None:
        at = Maintainers(replace(RULES, recovery=False))
        at.run(NOON, [finding("host.cpu:a")])
        at.run(NOON + MINUTE)
        assert at.words == ["new host.cpu:a"]
        assert {each.status for each in at.incidents.values()} == {"closed"}

    def test_of_two_findings_with_one_key_the_more_severe_counts(self) -> None:
        at = Maintainers()
        at.run(NOON, [finding("host.cpu:a", Severity.WARNING), finding("host.cpu:a")])
        [one] = at.incidents.values()
        assert one.severity == "error"

    def test_a_host_does_not_end_what_another_sees_of_itself(self) -> None:
        at = Maintainers()
        service = finding("services.failed:here/x.service")
        at.run(NOON, [service, finding("host.cpu:a")])
        at.node = "elsewhere"
        at.run(NOON + MINUTE)
        assert at.open() == {"services.failed:here/x.service"}
        at.run(NOON + 2 * MINUTE, [service])
        at.node = "here"
        at.run(NOON + 3 * MINUTE)
        assert at.open() == {"services.failed:here/x.service"}
        at.run(NOON + 2 * MINUTE + 48 * HOUR)
        assert at.open() == set()


class TestWhatFails:
    def test_what_reached_nobody_is_told_of_at_the_next_run(self) -> None:
        at = Maintainers()
        at.run(NOON, [finding("host.cpu:a")], reached=False)
        at.run(NOON + MINUTE, [finding("host.cpu:a")])
        at.run(NOON + 2 * MINUTE, reached=False)
        at.run(NOON + 3 * MINUTE)
        assert at.words == ["new host.cpu:a", "over host.cpu:a"]

    def test_the_end_of_what_people_may_know_of_is_told_of(self) -> None:
        at = Maintainers()
        at.run(NOON, [finding("host.cpu:a")], killed=True)
        at.run(NOON + MINUTE)
        assert at.words == ["over host.cpu:a"]

    def test_what_is_back_after_its_end_may_have_been_told_of_is_new(self) -> None:
        at = Maintainers()
        at.run(NOON, [finding("host.cpu:a")])
        at.run(NOON + MINUTE, killed=True)
        at.run(NOON + 2 * MINUTE, [finding("host.cpu:a")])
        assert at.words == ["new host.cpu:a", "new host.cpu:a"]
        assert [each.status for each in at.incidents.values()] == ["closed", "open"]

    def test_what_is_back_while_people_are_told_of_its_end_is_new(self) -> None:
        at = Maintainers()
        at.run(NOON, [finding("host.cpu:a")])
        at.run(NOON + MINUTE, reached=False)
        at.incidents[1] = replace(at.incidents[1], is_claimed=True)
        at.run(NOON + 2 * MINUTE, [finding("host.cpu:a")])
        assert [(each.status, each.opened_at) for each in at.incidents.values()] == [
            ("recovered", NOON), ("open", NOON + 2 * MINUTE),
        ]  # fmt: skip
        assert at.words == ["new host.cpu:a", "new host.cpu:a"]

    def test_what_is_being_told_of_is_left_alone(self) -> None:
        at = Maintainers()
        at.run(NOON, [finding("host.cpu:a")])
        [one] = at.incidents.values()
        at.incidents[1] = replace(one, announced_at=None, announced_severity=None, is_claimed=True)
        at.run(NOON + MINUTE, [finding("host.cpu:a")])
        at.run(NOON + 2 * MINUTE)
        assert at.words == ["new host.cpu:a"]
        assert at.incidents[1].status == "recovered"


class TestCauses:
    def test_with_the_database_away_there_is_exactly_one_message(self) -> None:
        at = Maintainers()
        others = [f"{component}.unknown" for component in Component if component != "database"]
        others += ["host.silent:a", "host.disk:a", "agents.silent:hunter", "database.connections"]
        for minute in range(0, 60, 5):
            at.run(NOON + minute * MINUTE, map(finding, ["database.unreachable", *others]))
        assert at.words == ["new database.unreachable"]
        at.run(NOON + HOUR)
        assert at.words == ["new database.unreachable", "over database.unreachable"]
        assert at.messages == 2

    def test_the_root_is_named_and_its_effects_are_listed_with_it(self) -> None:
        at = Maintainers()
        decision = at.run(
            NOON,
            map(finding, ["queues.lag:hot", "agents.silent:tracker", "prefect.unreachable", "ledger.burn"]),
        )
        assert sorted(at.words) == ["new ledger.burn", "new prefect.unreachable"]
        causes = {each.key: each.cause for each in decision.others}
        assert causes == dict.fromkeys(("queues.lag:hot", "agents.silent:tracker"), "prefect.unreachable")
        message = messages.problems(decision.problems, decision.reasons, decision.others, NOON)
        assert message.title == "2 errors: ledger.burn, prefect.unreachable"
        assert message.body.splitlines() == [
            "error: ledger.burn is bad [ledger.burn]",
            "error: prefect.unreachable is bad [prefect.unreachable]",
            "  Probably because of it: queues.lag:hot, agents.silent:tracker",
        ]

    def test_what_outlasts_its_cause_is_told_of_then(self) -> None:
        at = Maintainers(replace(RULES, recovery_settle=10 * MINUTE))
        both = ["vault.unreachable", "maintenance.overdue:backup"]
        at.run(NOON, map(finding, both))
        at.run(NOON + 5 * MINUTE, [finding("maintenance.overdue:backup")])
        assert at.words == ["new vault.unreachable"]
        at.run(NOON + 15 * MINUTE, [finding("maintenance.overdue:backup")])
        assert at.words == [
            "new vault.unreachable",
            "new maintenance.overdue:backup",
            "over vault.unreachable",
        ]

    def test_an_error_is_not_hidden_by_a_warning(self) -> None:
        at = Maintainers()
        at.run(NOON, [finding("host.disk:a", Severity.WARNING), finding("vault.waiting")])
        assert sorted(at.words) == ["new host.disk:a", "new vault.waiting"]

    def test_a_silent_host_explains_only_what_is_on_it(self) -> None:
        severities = dict.fromkeys(
            ("host.silent:a[1]", "host.cpu:a[1]", "services.failed:a[1]/x", "services.unhealthy:a[1]/x",
             "host.cpu:a1", "services.failed:a[12]/x", "services.failed:b/x"), 2,
        )  # fmt: skip
        assert [*causes_of(severities).values()] == [None, *["host.silent:a[1]"] * 3, None, None, None]

    def test_a_silent_agent_is_explained_by_its_hosts_if_all_of_them_are_silent(self) -> None:
        severities = dict.fromkeys(
            ("host.silent:a", "host.silent:b", "agents.silent:tracker", "queues.lag:hot"), 2
        )
        assert causes_of(severities)["agents.silent:tracker"] is None
        for hosts, root in ((("b", "a"), "host.silent:a"), (("b",), "host.silent:b"), (("a", "c"), None)):
            roots = causes_of(severities, {"agents.silent:tracker": hosts})
            assert roots["agents.silent:tracker"] == root
            assert roots["queues.lag:hot"] == (root or "agents.silent:tracker")

    def test_a_host_and_the_agents_that_it_alone_ran_are_one_alert(self) -> None:
        at = Maintainers()
        tracker = replace(finding("agents.silent:tracker"), hosts=("a",))
        decision = at.run(NOON, [finding("host.silent:a"), tracker])
        assert at.words == ["new host.silent:a"]
        told = messages.problems(decision.problems, decision.reasons, decision.others, NOON)
        assert "Probably because of it: agents.silent:tracker" in told.body
        assert told.title == "Error: host.silent:a"

    def test_the_effects_of_a_rule_are_all_on_the_causes_subject_or_none_is(self) -> None:
        for rule in CAUSES:
            assert len({"{subject}" in pattern for pattern in rule.effects}) == 1
            local = [pattern for pattern in rule.effects if "{subject}" in pattern]
            assert all(re.search(r":\{subject\}(/|$)", pattern) for pattern in local)

    def test_twice_as_many_incidents_take_twice_as_many_comparisons(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        compared = 0

        def counted(text: str, pattern: str) -> bool:
            nonlocal compared
            compared += 1
            return fnmatchcase(text, pattern)

        monkeypatch.setattr(causes, "fnmatchcase", counted)
        counts = []
        for hosts in (50, 100):
            compared = 0
            kinds = ("host.silent:{}", "host.disk:{}", "host.memory:{}", "services.failed:{}/prefect")
            causes_of({kind.format(host): 2 for host in range(hosts) for kind in kinds})
            counts.append(compared)
        assert counts[1] <= 2.1 * counts[0]

    @given(st.dictionaries(CAUSE_KEYS, st.integers(1, 3), max_size=14))
    def test_causes_are_those_that_comparing_each_with_each_finds(self, severities: dict[str, int]) -> None:
        assert causes_of(severities) == compared_with_each(severities)

    @given(
        st.dictionaries(
            st.sampled_from(
                [
                    each.replace("{subject}", "a").replace("*", "")
                    for rule in CAUSES
                    for each in (
                        f"{rule.cause.rstrip('*')}a" if ":" in rule.cause else rule.cause,
                        *rule.effects,
                    )
                ]
            ),
            st.integers(1, 2),
            min_size=1,
        )
    )
    def test_every_incident_has_a_root_that_has_none(self, severities: dict[str, int]) -> None:
        roots = causes_of(severities)
        for key, root in roots.items():
            if root is not None:
                assert roots[root] is None
                assert severities[root] >= severities[key]
        assert None in roots.values()


def compared_with_each(severities: Mapping[str, int]) -> dict[str, str | None]:
    """The root cause of each incident, as the table of causes says it word by word."""

    def rank(cause: str) -> tuple[int, str]:
        return next(place for place, rule in enumerate(CAUSES) if fnmatchcase(cause, rule.cause)), cause

    def explains(cause: str, effect: str) -> bool:
        subject = "".join(f"[{each}]" if each in "*?[" else each for each in cause.partition(":")[2])
        return any(
            fnmatchcase(cause, rule.cause) and fnmatchcase(effect, pattern.replace("{subject}", subject))
            for rule in CAUSES
            for pattern in rule.effects
        )

    roots: dict[str, str | None] = {}
    for key, severity in severities.items():
        root, passed = key, {key}
        enough = [each for each in severities if severities[each] >= severity]
        while found := [each for each in enough if each not in passed and explains(each, root)]:
            root = min(found, key=rank)
            passed.add(root)
        roots[key] = None if root == key else root
    return roots


class TestQuietHours:
    NIGHT = Windows.of(["22:00-07:00"], "Europe/Berlin")

    def test_only_errors_are_told_of_and_afterwards_what_still_lasts(self) -> None:
        at = Maintainers(replace(RULES, quiet=self.NIGHT))
        evening = datetime(2026, 11, 2, 21, 30, tzinfo=UTC)
        warnings = [finding("host.cpu:a", Severity.WARNING), finding("host.cpu:b", Severity.WARNING)]
        at.run(evening, [*warnings, finding("ledger.burn")])
        at.run(evening + HOUR, warnings[:1])
        assert at.words == ["new ledger.burn", "over ledger.burn"]
        at.run(datetime(2026, 11, 3, 5, 59, tzinfo=UTC), warnings[:1])
        assert len(at.words) == 2
        at.run(datetime(2026, 11, 3, 6, 0, tzinfo=UTC), warnings[:1])
        assert at.words[2:] == ["new host.cpu:a"]

    def test_the_end_of_a_warning_is_told_of_in_the_morning(self) -> None:
        at = Maintainers(replace(RULES, quiet=self.NIGHT))
        at.run(NOON, [finding("host.cpu:a", Severity.WARNING)])
        for hour in range(10, 18):
            at.run(NOON + hour * HOUR)
            assert at.words == ["new host.cpu:a"]
        at.run(NOON + 18 * HOUR)
        assert at.words == ["new host.cpu:a", "over host.cpu:a"]

    def test_what_is_back_in_the_same_night_has_never_ended(self) -> None:
        at = Maintainers(replace(RULES, quiet=self.NIGHT))
        warning = [finding("host.cpu:a", Severity.WARNING)]
        at.run(NOON, warning)
        at.run(NOON + 11 * HOUR)
        at.run(NOON + 12 * HOUR, warning)
        at.run(NOON + 18 * HOUR, warning)
        assert at.words == ["new host.cpu:a", "lasts host.cpu:a"]
        assert len(at.incidents) == 1


KEYS = (
    "database.unreachable", "database.cannot_store", "host.disk:a", "host.silent:a", "host.cpu:a",
    "vault.waiting", "agents.silent:tracker", "queues.lag:hot", "services.failed:a/x", "ledger.burn",
)  # fmt: skip
STEPS = st.lists(
    st.fixed_dictionaries(
        {
            "minutes": st.integers(0, 400),
            "bad": st.dictionaries(st.sampled_from(KEYS), st.sampled_from(Severity), max_size=5),
            "judged": st.sampled_from([ALL, ALL, ALL, frozenset({Component.HOST, Component.DATABASE})]),
            "reached": st.sampled_from([True, True, True, False]),
            "acknowledge": st.none() | st.sampled_from(KEYS),
        }
    ),
    max_size=40,
)
RANDOM_RULES = st.builds(
    AlertRules,
    resend=st.sampled_from([HOUR, 4 * HOUR]),
    settle=st.sampled_from([timedelta(), 30 * MINUTE]),
    recovery_settle=st.sampled_from([timedelta(), 4 * MINUTE, HOUR]),
    quiet=st.sampled_from(
        [
            Windows.of(spans, "Europe/Berlin")
            for spans in ([], ["22:00-07:00"], ["01:30-02:30", "12:00-13:00"])
        ]
    ),
)
STARTS = st.sampled_from(
    [NOON, datetime(2026, 10, 24, 18, tzinfo=UTC), datetime(2027, 3, 27, 18, tzinfo=UTC)]
)


class TestRandomSequences:
    @settings(max_examples=150)
    @given(STEPS, RANDOM_RULES, STARTS)
    def test_what_people_are_told_always_makes_sense(
        self, steps: list[dict[str, Any]], rules: AlertRules, start: datetime
    ) -> None:
        at, now = Maintainers(rules), start
        for step in steps:
            now += timedelta(minutes=step["minutes"])
            if step["acknowledge"] in at.open():
                at.acknowledge(step["acknowledge"], now)
            before = dict(at.incidents)
            findings = [finding(*each) for each in step["bad"].items()]
            decision = at.run(now, findings, judged=step["judged"], reached=step["reached"])
            self.check_every_error_is_covered(decision, at, findings, step["judged"])
            self.check_what_was_not_judged(before, at, step["judged"])
        self.check_intervals(at, rules)
        self.check_recoveries(at)
        self.check_quiet_hours(at, rules)

    @staticmethod
    def check_every_error_is_covered(
        decision: Decision, at: Maintainers, findings: list[Finding], judged: Collection[Component]
    ) -> None:
        """An error, or what explains it, is being told of, was told of, or is acknowledged."""
        open_ = {each.key: each for each in at.incidents.values() if each.status == "open"}
        for each in findings:
            if each.severity is Severity.ERROR and each.component in judged:
                root = open_[open_[each.key].cause or each.key]
                known = root.announced_at or root.acknowledged_at or root.key in decision.reasons
                assert known or root.well_since or root.component not in judged, root

    @staticmethod
    def check_what_was_not_judged(
        before: dict[int, Incident], at: Maintainers, judged: Collection[Component]
    ) -> None:
        for id_, each in at.incidents.items():
            if each.component not in judged:
                assert id_ in before
                was = before[id_]
                assert (was.status == "open") == (each.status == "open")

    @staticmethod
    def check_intervals(at: Maintainers, rules: AlertRules) -> None:
        last: dict[str, tuple[datetime, Incident, str]] = {}
        for now, each, reason in at.told:
            if reason != "over" and each.key in last:
                then, earlier, what = last[each.key]
                is_worse = earlier.severity == "warning" and each.severity == "error"
                assert what == "over" or is_worse or now - then >= rules.resend
            last[each.key] = (now, each, reason)

    @staticmethod
    def check_recoveries(at: Maintainers) -> None:
        ends: set[int] = set()
        begun: set[int] = set()
        for _, each, reason in at.told:
            if reason == "over":
                assert each.id not in ends
                assert each.id in begun or each.acknowledged_at or each.attempts
                ends.add(each.id)
            else:
                assert each.id not in ends
                begun.add(each.id)

    @staticmethod
    def check_quiet_hours(at: Maintainers, rules: AlertRules) -> None:
        for now, each, _ in at.told:
            wall = now.astimezone(BERLIN).strftime("%H:%M")
            spans = [(f"{span.start:%H:%M}", f"{span.end:%H:%M}") for span in rules.quiet.spans]
            if any(
                begin <= wall < end if begin < end else wall >= begin or wall < end for begin, end in spans
            ):
                assert "error" in (each.severity, each.announced_severity)


class TestMessages:
    def test_one_incident_is_its_own_title(self) -> None:
        at = Maintainers()
        at.run(NOON, [])
        bad = replace(finding("host.disk:a"), command="maia system cleanup")
        first = at.run(NOON, [bad])
        again = at.run(NOON + 5 * HOUR, [bad])
        over = at.run(NOON + 6 * HOUR)
        said = [
            messages.problems(first.problems, first.reasons, (), NOON),
            messages.problems(again.problems, again.reasons, (), NOON + 5 * HOUR),
            messages.recoveries(over.recoveries),
        ]
        assert [each.title for each in said] == [
            "Error: host.disk:a", "Error: host.disk:a (still)", "Recovered: host.disk:a",
        ]  # fmt: skip
        assert said[0].body == "error: host.disk:a is bad [host.disk:a]\n  Next: maia system cleanup"
        assert said[1].body.startswith("error: host.disk:a is bad (for 5 h)")
        assert said[2].body == "host.disk:a lasted 6 h, from 2026-11-02 12:00 UTC: host.disk:a is bad"
        assert [each.level for each in said] == ["error"] * 3

    def test_a_flood_is_cut(self) -> None:
        at = Maintainers()
        decision = at.run(NOON, [replace(finding(f"host.cpu:{n}"), text="x" * 5000) for n in range(500)])
        message = messages.problems(decision.problems, decision.reasons, (), NOON)
        assert message.title == "500 errors: host.cpu:0, host.cpu:1, host.cpu:10 and 497 more"
        assert message.body.endswith("\nAnd more: maia alerts lists all.")
        assert len(message.body) < 8000


def test_a_clock_that_was_a_year_ahead_keeps_nobody_from_being_told() -> None:
    each = Maintainers()
    each.run(NOON + timedelta(days=365), [finding("host.disk:a")])
    each.run(NOON, [finding("host.disk:a")])
    each.run(NOON + MINUTE, [finding("host.disk:a")])
    assert [(at, reason) for at, _, reason in each.told[1:]] == [(NOON, "lasts")]
    each.run(NOON + 2 * MINUTE)
    assert each.told[-1][2] == "over"
