"""When an action may be taken: each limit, when it ends, and what a person may pass over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.adapters.actions import Attempt, AttemptState, History, Permission, Thing
from atlas.maintainer_settings import MaintainerSettings
from maia.maintenance import policy
from maia.maintenance.policy import Held, Limits, Request

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
LIMITS = Limits.of(MaintainerSettings())
PLAIN = Request()
UNIT = Thing("restart", "pleiades.service", "here")
APPLIED, FAILED, UNKNOWN = AttemptState.APPLIED, AttemptState.FAILED, AttemptState.UNKNOWN


def attempt(minutes_ago: float, state: AttemptState = APPLIED, **changes: object) -> Attempt:
    """An attempt that took no time, and whose target was not well any more soon after."""
    at = NOON - minutes_ago * MINUTE
    begun = Attempt(at=at, node="here", thing=UNIT)
    if state is AttemptState.RUNNING:
        return begun
    done = replace(policy.ended(begun, state, at), well_since=None)
    return replace(done, **changes)  # type: ignore[arg-type]


def history(*attempts: Attempt, elsewhere: Iterable[Attempt] = ()) -> History:
    return History(tuple(sorted(attempts, key=lambda each: each.at, reverse=True)), tuple(elsewhere))


def held(found: History, request: Request = PLAIN, now: datetime = NOON) -> set[Held]:
    return {hold.held for hold in policy.holds(request, found, LIMITS, now)}


def decide(found: History, request: Request = PLAIN, now: datetime = NOON) -> Permission:
    return policy.decide(request, found, LIMITS, now)


def test_attempts_noted_by_a_clock_that_was_a_year_ahead_hold_nothing_back() -> None:
    ahead = [attempt(-365 * 24 * 60 + minute) for minute in range(5)]
    assert decide(history(*ahead, elsewhere=ahead), Request(is_restart=True)).permitted
    assert not decide(history(attempt(-2))).permitted


def test_what_was_never_tried_may_be_taken() -> None:
    assert decide(history()) == Permission(permitted=True)


class TestCoolDown:
    def test_it_lasts_from_the_end_of_the_last_attempt(self) -> None:
        found = history(attempt(5, finished_at=NOON - 3 * MINUTE))
        assert held(found) == {Held.COOL_DOWN}
        assert decide(found).at == NOON + 7 * MINUTE
        assert decide(found).reason == "its cool-down of 10 min lasts; possible from 12:07 UTC"

    def test_it_is_over_after_that(self) -> None:
        assert decide(history(attempt(10))).permitted

    @pytest.mark.parametrize("state", [APPLIED, FAILED, UNKNOWN])
    def test_it_follows_every_attempt(self, state: AttemptState) -> None:
        assert held(history(attempt(1, state))) == {Held.COOL_DOWN}

    def test_an_action_may_have_its_own(self) -> None:
        limits = Limits.of(MaintainerSettings(), 0)
        assert policy.holds(Request(), history(attempt(0)), limits, NOON) == []


class TestHourlyLimit:
    def test_so_many_attempts_an_hour_and_no_more(self) -> None:
        found = history(attempt(59), attempt(40), attempt(20))
        assert held(found) == {Held.HOURLY_LIMIT}
        assert decide(found).at == NOON + MINUTE
        assert "taken 3 times within an hour" in decide(found).reason

    def test_an_hour_later_the_first_no_longer_counts(self) -> None:
        assert decide(history(attempt(60), attempt(40), attempt(20))).permitted


class TestGivingUp:
    FRUITLESS = tuple(attempt(60 + 21 * n) for n in range(5))

    def test_after_some_attempts_without_lasting_effect_it_is_left_to_people(self) -> None:
        decision = decide(history(*self.FRUITLESS))
        assert (decision.permitted, decision.at) == (False, None)
        assert decision.reason == (
            "given up after 5 attempts without lasting effect; left to people: find the cause, then take it "
            "by hand"
        )

    def test_it_stays_so_however_long_that_lasts(self) -> None:
        assert held(history(*self.FRUITLESS), now=NOON + timedelta(days=90)) == {Held.GIVEN_UP}

    def test_one_fewer_is_not_enough(self) -> None:
        assert decide(history(*self.FRUITLESS[1:])).permitted

    def test_one_with_lasting_effect_begins_a_new_row(self) -> None:
        latest, *earlier = self.FRUITLESS
        found = history(replace(latest, well_since=latest.finished_at), *earlier)
        assert decide(found) == Permission(permitted=True, settled=True)

    def test_one_with_short_effect_does_not(self) -> None:
        latest, *earlier = self.FRUITLESS
        found = history(replace(latest, well_since=NOON - 59 * MINUTE), *earlier)
        assert not decide(found).permitted
        assert not decide(found).settled

    def test_a_person_who_takes_it_begins_a_new_row(self) -> None:
        by_hand = attempt(30, FAILED, asked=True)
        assert decide(history(by_hand, *self.FRUITLESS)).permitted

    def test_a_failure_every_night_is_no_reason_to_give_up(self) -> None:
        nightly = [attempt(24 * 60 * n, FAILED) for n in range(1, 20)]
        assert decide(history(*nightly)).permitted

    def test_a_killed_maintainer_counts(self) -> None:
        killed = [replace(each, state=UNKNOWN) for each in self.FRUITLESS]
        assert held(history(*killed)) == {Held.GIVEN_UP}


class TestWindow:
    DISTURBING = Request(disturbs=True)

    def test_what_disturbs_waits_for_the_window(self) -> None:
        assert decide(history(), self.DISTURBING) == Permission(
            permitted=False,
            reason="outside the maintenance window (01:30-06:00 UTC); possible from 2026-11-03 01:30 UTC",
            at=datetime(2026, 11, 3, 1, 30, tzinfo=UTC),
        )

    def test_a_cool_down_that_ends_outside_the_window_waits_for_the_next_one(self) -> None:
        now = datetime(2026, 11, 2, 5, 55, tzinfo=UTC)
        last = replace(attempt(0), at=now - MINUTE, finished_at=now - MINUTE)
        assert decide(history(last), self.DISTURBING, now).at == datetime(2026, 11, 3, 1, 30, tzinfo=UTC)

    def test_the_text_is_in_the_maintainers_time_zone(self) -> None:
        settings = MaintainerSettings(time_zone="Europe/Berlin", windows=("22:00-23:00",))
        decision = policy.decide(self.DISTURBING, history(), Limits.of(settings), NOON)
        assert decision.reason.endswith("possible from 22:00 CET")

    def test_without_windows_it_is_never_taken(self) -> None:
        limits = Limits.of(MaintainerSettings(windows=()))
        decision = policy.decide(self.DISTURBING, history(), limits, NOON)
        assert (decision.permitted, decision.at) == (False, None)
        assert "PLEIADES_MAINTAINER__WINDOWS" in decision.reason


class TestOtherHosts:
    RESTART = Request(is_restart=True)

    def there(self, minutes_ago: float, state: AttemptState) -> Attempt:
        return replace(attempt(minutes_ago, state), node="there")

    def test_a_restart_under_way_elsewhere_holds_one_here_back(self) -> None:
        found = history(elsewhere=[self.there(1, AttemptState.RUNNING)])
        assert decide(found, self.RESTART).reason == "there restarts pleiades.service now"
        assert decide(found).permitted

    def test_one_that_has_ended_does_so_for_a_while(self) -> None:
        found = history(elsewhere=[self.there(1, APPLIED)])
        assert decide(found, self.RESTART).at == NOON + 4 * MINUTE
        assert decide(found, self.RESTART, NOON + 4 * MINUTE).permitted


class TestAsked:
    ASKED = Request(asked=True, disturbs=True, is_restart=True)

    def test_a_person_passes_over_limits_and_windows(self) -> None:
        found = history(*TestGivingUp.FRUITLESS, attempt(3), attempt(2), attempt(1))
        assert decide(found, self.ASKED).permitted

    def test_but_not_over_an_attempt_that_is_under_way(self) -> None:
        assert held(history(attempt(1, AttemptState.RUNNING)), self.ASKED) == {Held.RUNNING}

    def test_nor_over_a_restart_elsewhere(self) -> None:
        there = replace(attempt(1, AttemptState.RUNNING), node="there")
        assert held(history(elsewhere=[there]), self.ASKED) == {Held.OTHER_HOST}


ATTEMPTS = st.builds(
    attempt,
    st.integers(0, 3000),
    st.sampled_from([APPLIED, FAILED, UNKNOWN]),
    asked=st.booleans(),
    settled=st.booleans(),
    well_since=st.none() | st.integers(0, 120).map(lambda minutes: NOON - minutes * MINUTE),
)


@given(st.lists(ATTEMPTS, max_size=8), st.booleans())
def test_it_is_permitted_at_the_instant_foretold_and_not_before(
    attempts: list[Attempt], disturbs: bool
) -> None:
    request, found = Request(disturbs=disturbs), history(*attempts)
    decision = decide(found, request)
    assert decision.permitted == (decision.reason == "")
    if decision.permitted:
        return
    needed = found
    if found.attempts:
        latest, *earlier = found.attempts
        needed = History((policy.needed_again(latest, LIMITS.lasting, NOON), *earlier))
    if decision.at is None:
        assert Held.GIVEN_UP in held(needed, request, NOON + timedelta(days=3))
        return
    assert held(needed, request, decision.at) == set()
    before = decision.at - timedelta(seconds=1)
    assert held(needed, request, before) or before < NOON


class TestLastingEffect:
    def test_well_for_long_settles_even_what_failed(self) -> None:
        failed = attempt(120, FAILED)
        seen = policy.seen_well(failed, LIMITS.lasting, NOON - HOUR)
        assert not seen.settled
        assert policy.seen_well(seen, LIMITS.lasting, NOON).settled

    def test_being_needed_in_between_begins_the_wait_anew(self) -> None:
        seen = policy.seen_well(attempt(120, FAILED), LIMITS.lasting, NOON - HOUR)
        needed = policy.needed_again(seen, LIMITS.lasting, NOON - MINUTE)
        assert not policy.seen_well(needed, LIMITS.lasting, NOON).settled
