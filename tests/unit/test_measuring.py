from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.adapters.tracking import ChannelNorm, StoredCohort, Target, VideoUpdate
from atlas.config import TrackerSettings
from atlas.testing import NOON
from maia.learning.forecasts import Forecaster
from maia.learning.velocity import Cohort, Floats, Tracks, replay
from maia.learning.video_snapshots import Snapshots
from maia.tracker.foresight import Foresight
from maia.tracker.measuring import Cohorts, Counts, Measured, Meter, Reading

HOUR = timedelta(hours=1)
TOKEN = UUID(int=1)
SETTINGS = TrackerSettings()
NEVER = Target(
    "video", "UCchannel", 10, 0, None, NOON, NOON, 1.0, TOKEN, 1, 0, 0, NOON, None, None, None, None, None,
    None, None, (None,) * 8,
)  # fmt: skip


def meter(*stored: StoredCohort, saving: bool = False, **settings: object) -> Meter:
    return Meter(TrackerSettings(**settings), Cohorts(stored), saving=saving)


def target(id_: str = "video", **known: object) -> Target:
    return NEVER._replace(id=id_, **known)


def reading(of: Target, at: datetime, views: int | None = 0, **rest: object) -> Reading:
    return Reading(of, at, Counts(views, 1, None), **rest)


def following(before: Target, update: VideoUpdate) -> Target:
    """The claim after an update, as the clock would return it."""
    return before._replace(
        zone=update.zone, next_due_at=update.next_due_at, interval_h=update.interval_h,
        last_at=update.last_at, last_views=update.last_views, velocity=update.velocity,
        acceleration=update.acceleration, weight=update.weight, viral_score=update.viral_score,
        age_class=update.age_class, breakout_state=update.breakout_state, misses=update.misses,
        samples=before.samples + 1,
        doubted_views=update.doubted_views,
    )  # fmt: skip


def measured(of: Meter, *readings: Reading) -> Measured:
    return of.measure(readings, {})


def series(views: Sequence[int | None], step: timedelta = HOUR, of: Meter | None = None) -> list[VideoUpdate]:
    """The updates of a video with these counts, the first at NOON."""
    using, claimed, updates = of or meter(), NEVER, []
    for n, count in enumerate(views):
        (update,) = measured(using, reading(claimed, NOON + n * step, count)).updates
        updates.append(update)
        claimed = following(claimed, update)
    return updates


def test_a_series_measured_sample_by_sample_is_what_a_replay_of_it_gives():
    views = [0, 120, 300, 280, None, 700, 701, 701, 5000, 5200]
    expected = replay([NOON.timestamp() + 3600 * n for n in range(len(views))], views)
    updates = series(views)
    for name, column in (("velocity_of_step", expected.velocity), ("velocity", expected.smoothed),
                         ("acceleration", expected.acceleration)):  # fmt: skip
        got = [getattr(update, name) for update in updates]
        assert got == [None if math.isnan(value) else pytest.approx(value, rel=1e-12) for value in column]


def test_a_hidden_count_is_none_and_leaves_the_last_known_one():
    shown, hidden, again = series([100, None, 300])
    assert (hidden.views, hidden.likes, hidden.comments, hidden.velocity_of_step) == (None, 1, None, None)
    assert (hidden.last_at, hidden.last_views) == (shown.last_at, 100)
    assert again.velocity_of_step == 100.0


def test_across_the_epoch_everything_starts_anew():
    using = meter(methodology_epoch=NOON + timedelta(minutes=90))
    updates = series([0, 10, 20, 30], of=using)
    assert [update.methodology for update in updates] == [1, 1, 2, 2]
    assert [update.velocity_of_step for update in updates] == [None, 10.0, None, 10.0]
    assert updates[2].velocity is None
    assert updates[2].breakout_state[2] == 0


def test_a_missing_video_is_gone_at_the_second_miss():
    once = measured(meter(), Reading(target(interval_h=6.0), NOON, None)).updates[0]
    assert (once.misses, once.gone, once.sampled_at, once.next_due_at) == (1, False, None, NOON + 6 * HOUR)
    twice = measured(meter(), Reading(target(misses=1), NOON, None)).updates[0]
    assert (twice.misses, twice.gone) == (2, True)
    back = measured(meter(), reading(target(misses=1), NOON, 5)).updates[0]
    assert (back.misses, back.gone, back.views) == (0, False, 5)


def test_a_count_no_later_than_the_last_is_no_sample():
    known = target(last_at=NOON, last_views=10, velocity=5.0, misses=1)
    found = measured(meter(), reading(known, NOON, 10))
    assert found.not_later == {"video"}
    assert (found.updates[0].sampled_at, found.updates[0].misses) == (None, 1)
    assert found.updates[0].next_due_at > NOON


def test_zones_follow_the_age_and_pins_overrule_them():
    old = target(born_at=NOON - timedelta(days=3))
    zones = [
        measured(meter(), reading(each, NOON, 10)).updates[0].zone
        for each in (
            target(),
            old,
            old._replace(born_at=NOON - timedelta(days=8)),
            old._replace(pinned_zone=0),
        )
    ]
    assert zones == [0, 1, 2, 0]


def test_while_the_budget_is_short_nobody_is_sampled_faster_than_the_zone():
    quickening = target(last_at=NOON - HOUR, last_views=0, velocity=10.0, acceleration=5.0, weight=0.1)
    usual = measured(meter(), reading(quickening, NOON, 5000)).updates[0]
    short = measured(meter(saving=True), reading(quickening, NOON, 5000)).updates[0]
    assert (usual.interval_h, short.interval_h) == (pytest.approx(0.5, rel=0.01), 1.0)
    dead = quickening._replace(velocity=0.0, acceleration=0.0)
    assert measured(meter(saving=True), reading(dead, NOON, 0)).updates[0].interval_h == 3.0


def test_a_video_joins_its_channels_norm_once_an_age_class():
    updates = series([100 * n for n in range(8)])
    assert [update.counted and update.counted[0] for update in updates] == [
        None, 1, None, 2, None, None, 3, None,
    ]  # fmt: skip
    assert [update.age_class for update in updates] == [None, 1, 1, 2, 2, 2, 3, 3]
    assert updates[1].counted == (1, pytest.approx(math.log(101)))


def test_metadata_that_came_along_are_dated():
    assert measured(meter(), reading(target(), NOON, 1, refreshed=True)).updates[0].metadata_at == NOON
    assert measured(meter(), reading(target(), NOON, 1)).updates[0].metadata_at is None


def test_a_video_counts_once_a_day_in_its_cohort():
    using = meter()
    series([100 * n for n in range(30)], of=using)
    added = using.cohorts.take_added()
    # Hour 0 tells no velocity, and at the age of twelve hours the next day begins.
    assert {(row.day, row.age_class) for row in added} == {
        (NOON.date(), of_age) for of_age in (1, 2, 3)
    } | {(NOON.date() + timedelta(days=1), of_age) for of_age in (4, 5)}  # fmt: skip
    assert all(len(Cohort.from_bytes(row.digest)) == 1 for row in added)
    assert {row.measure for row in added} == {"velocity", "growth"}
    assert using.cohorts.take_added() == []


def cohort_of(velocities: Sequence[float], measure: str = "velocity") -> StoredCohort:
    digest = Cohort()
    digest.observe(velocities)
    return StoredCohort(NOON.date(), 1, 10, measure, digest.to_bytes())  # type: ignore[arg-type]


def moving(id_: str, velocity: int) -> Reading:
    """A video that gained so much in its second hour."""
    return reading(target(id_, last_at=NOON + HOUR, last_views=0), NOON + 2 * HOUR, velocity)


def test_the_score_grows_with_the_velocity_against_cohort_and_channel():
    stored = [cohort_of(range(1, 1001)), cohort_of([0.0] * 100, "growth")]
    readings = [moving(f"video{n}", velocity) for n, velocity in enumerate((5, 500, 990, 5000))]
    scores = [update.viral_score for update in measured(meter(*stored), *readings).updates]
    assert scores == sorted(scores)
    assert scores[0] < 0.1 < 0.4 < scores[1] < 0.7 < 0.9 < scores[2]


def test_a_channels_own_norm_says_what_is_usual_for_it():
    norms = {("UCchannel", 1): ChannelNorm(1000, math.log(11), 100.0)}
    using = meter(cohort_of(range(1, 1001)))
    readings = [moving("video", 500)]
    assert using.norm_keys(readings) == {("UCchannel", 1)}
    (update,) = using.measure(readings, norms).updates
    assert update.relative_velocity == pytest.approx(501 / 11, rel=0.05)


def test_digests_merge_to_what_one_would_have_been():
    one, other = cohort_of([1.0, 2.0]), cohort_of([3.0, 4.0])
    both = Cohort.from_bytes(Cohorts.merge(one.digest, other.digest))
    assert (
        both.percentile([2.0, 2.5, 3.0]).tolist()
        == Cohort.from_bytes(cohort_of([1.0, 2.0, 3.0, 4.0]).digest).percentile([2.0, 2.5, 3.0]).tolist()
    )
    assert len(both) == 4


def test_a_cohorts_norm_is_that_of_its_velocities():
    velocities = np.random.default_rng(1).lognormal(3, 2, 5000)
    cohort = Cohort()
    cohort.observe(velocities)
    count, mean, squares = cohort.norm()
    logs = np.log1p(velocities)
    assert count == 5000
    assert mean == pytest.approx(logs.mean(), rel=0.02)
    assert squares / count == pytest.approx(logs.var(), rel=0.05)
    assert Cohort().norm() == (0, 0, 0)


counts = st.one_of(st.none(), st.integers(0, 2**53))
ages = st.floats(-48, 24 * 400)
velocities = st.one_of(st.none(), st.floats(-1e9, 1e12))
claimed = st.builds(
    lambda n, age, waited, views, velocity, acceleration, weight, pinned, watch: target(
        f"video{n}", channel_id=f"UC{n % 3}", category_id=None if n % 5 == 0 else n % 4,
        born_at=NOON - timedelta(hours=age), pinned_zone=pinned,
        last_at=None if views is None else NOON - timedelta(hours=waited), last_views=views,
        velocity=velocity, acceleration=None if velocity is None else acceleration,
        weight=weight if velocity is not None else None, breakout_state=watch,
    ),
    st.integers(0, 1000), ages, st.floats(-1, 24 * 30), counts, velocities, st.floats(-1e12, 1e12),
    st.floats(1e-9, 1), st.one_of(st.none(), st.integers(0, 2)),
    st.one_of(
        st.just((None,) * 8),
        st.tuples(st.floats(-20, 40), st.floats(0.02, 9), *[st.floats(0, 1e6)] * 4, st.none(), st.none()),
    ),
)  # fmt: skip


@given(st.lists(st.tuples(claimed, counts, st.booleans()), min_size=1, unique_by=lambda row: row[0].id))
def test_whatever_comes_is_stored_without_nan_and_due_again_within_bounds(
    rows: list[tuple[Target, int | None, bool]],
):
    using = meter()
    readings = [
        Reading(each, NOON, None if absent else Counts(views, None, None)) for each, views, absent in rows
    ]
    found = using.measure(readings, {("UC1", 3): ChannelNorm(5, 2.0, 1.0)})
    assert {update.id for update in found.updates} == {each.id for each, *_ in rows}
    intervals = (SETTINGS.hot_interval_h, SETTINGS.warm_interval_h, SETTINGS.cold_interval_h)
    for update in found.updates:
        figures = (update.velocity, update.acceleration, update.weight, update.relative_velocity,
                   update.viral_score, update.velocity_of_step, *update.breakout_state)  # fmt: skip
        assert all(figure is None or math.isfinite(figure) for figure in figures)
        assert update.viral_score is None or 0 <= update.viral_score <= 1
        assert update.counted is None or math.isfinite(update.counted[1])
        if update.sampled_at is not None:
            base = intervals[update.zone]
            assert SETTINGS.fastest * base <= update.interval_h <= SETTINGS.slowest * base
            assert update.next_due_at == NOON + timedelta(hours=update.interval_h)
    assert all(row.day == NOON.astimezone(UTC).date() for row in using.cohorts.take_added())


def test_a_count_that_falls_to_a_fraction_is_doubted_for_one_answer() -> None:
    updates = series([79_000, 80_000, 0, 82_000])
    doubted, back = updates[2:]
    assert (doubted.views, doubted.velocity_of_step, doubted.doubted_views) == (0, None, 0)
    assert (doubted.last_views, doubted.velocity) == (80_000, 1000.0)
    assert (back.velocity_of_step, back.doubted_views, back.last_views) == (1000.0, None, 82_000)


def test_a_fall_that_is_confirmed_starts_anew() -> None:
    confirmed, after = series([79_000, 80_000, 500, 600, 700])[3:]
    assert (confirmed.velocity, confirmed.viral_score, confirmed.last_views) == (None, None, 600)
    assert after.velocity == 100.0


def test_a_gone_video_is_looked_for_after_a_day_a_week_and_25_days() -> None:
    claimed, at, looks = target(misses=1), NOON, []
    while True:
        (update,) = measured(meter(), Reading(claimed, at, None)).updates
        assert update.gone
        if update.next_due_at is None:
            break
        looks.append((update.next_due_at - NOON).days)
        at = update.next_due_at
        claimed = claimed._replace(gone_at=NOON, misses=update.misses)
    assert looks == [1, 7, 25]


def test_a_gone_video_that_is_there_again_returns() -> None:
    (update,) = measured(meter(), reading(target(gone_at=NOON - 24 * HOUR, misses=2), NOON, 5)).updates
    assert (update.returned, update.gone, update.misses) == (True, False, 0)


@pytest.mark.parametrize(("ahead_h", "wait_h"), [(3, 3), (0.1, 1), (0, 1), (300, 24)])
def test_what_is_upcoming_is_asked_for_when_it_starts_and_counts_for_nothing_until_then(
    ahead_h: float, wait_h: float
) -> None:
    upcoming = target(
        broadcast="upcoming", born_at=NOON + timedelta(hours=ahead_h), last_at=NOON - HOUR, last_views=0
    )
    using = meter()
    (update,) = measured(using, reading(upcoming, NOON, 0)).updates
    assert (update.zone, update.next_due_at) == (0, NOON + timedelta(hours=wait_h))
    assert (update.counted, using.cohorts.take_added()) == (None, [])


class TestForesight:
    """Waits that follow a forecast; the forecaster here gives every video the same chance."""

    class Chance(Foresight):
        factor = 0.5

        def factors(self, tracks: Tracks, *known: object) -> Floats:
            return np.full(len(tracks.at_s), self.factor)

    @pytest.fixture
    def likely(self) -> Foresight:
        return self.Chance(Forecaster(), 5000)

    @staticmethod
    def grown(**known: object) -> Target:
        return target(last_at=NOON, last_views=1000, velocity=100.0, acceleration=0.0, weight=0.5, **known)

    def wait_h(
        self, foresight: Foresight | None, *, saving: bool = False, **known: object
    ) -> tuple[float, int]:
        using = Meter(SETTINGS, Cohorts(()), saving=saving, foresight=foresight)
        found = measured(using, reading(self.grown(**known), NOON + HOUR, 1100))
        (update,) = found.updates
        return update.interval_h, found.by_forecast

    def test_a_likely_video_is_due_sooner(self, likely: Foresight):
        assert self.wait_h(None) == (1.0, 0)
        assert self.wait_h(likely) == (0.5, 1)

    def test_pinned_videos_broadcasts_and_saving_are_left_alone(self, likely: Foresight):
        assert self.wait_h(likely, pinned_zone=0) == (1.0, 0)
        assert self.wait_h(likely, broadcast="live")[1] == 0
        assert self.wait_h(likely, saving=True) == (1.0, 0)

    def test_the_zone_bounds_the_wait(self, likely: Foresight, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(self.Chance, "factor", 0.01)
        assert self.wait_h(likely) == (SETTINGS.fastest, 1)
        monkeypatch.setattr(self.Chance, "factor", 100.0)
        assert self.wait_h(likely) == (SETTINGS.slowest, 1)

    def test_a_forecaster_that_has_learnt_nothing_changes_nothing(self):
        assert self.wait_h(Foresight(Forecaster(), 0)) == (1.0, 0)

    def test_a_count_that_is_not_later_changes_no_wait(self, likely: Foresight):
        using = Meter(SETTINGS, Cohorts(()), foresight=likely)
        found = measured(using, reading(self.grown(), NOON - HOUR, 900))
        assert (found.not_later, found.by_forecast) == ({"video"}, 0)

    def test_a_learnt_forecaster_tells_top_videos_from_others(self):
        foresight = Foresight(learnt_forecaster(), 4000)
        few, many = (self.wait_of(foresight, velocity) for velocity in (0.5, 20_000.0))
        assert many < 1.0 < few

    @staticmethod
    def wait_of(foresight: Foresight, velocity: float) -> float:
        tracks = Tracks.of([NOON.timestamp()], [12 * velocity], [velocity], [0.0], [0.8])
        born_s = [(NOON - 12 * HOUR).timestamp()]
        return float(foresight.factors(tracks, born_s, np.zeros(1), np.zeros(1))[0])


def learnt_forecaster() -> Forecaster:
    """One that has seen videos half a day old go on as before, some of them a thousand times faster."""
    random = np.random.default_rng(1)
    velocity = np.exp(random.normal(2, 2.5, 4000))
    shots = Snapshots.of(
        np.full(4000, 12.0), 12 * velocity, velocity, np.zeros(4000), np.full(4000, 0.8), np.full(4000, 60.0)
    )
    forecaster = Forecaster()
    for block in range(0, 4000, 500):
        rows = slice(block, block + 500)
        forecaster.learn(shots[rows], 12 * velocity[rows] * 2.5)
    return forecaster
