from __future__ import annotations

import numpy as np
import pytest

from maia.learning.archetypes import AGES_H, Archetype, Archetypes, ArchetypeSettings, normalized
from maia.learning.states import StateError, pack
from maia.learning.velocity import Floats

KINDS = {"early": (2.0, 1.8), "steady": (60.0, 0.9), "late": (0.0, 0.0)}
SAMPLED_H = np.concatenate((np.arange(0.5, 24, 1.5), np.arange(24, 175, 6)))


def curve(kind: str, random: np.random.Generator) -> Floats:
    """Views at SAMPLED_H: a power of age that is over soon or not, or a wave after some days."""
    size = np.exp(random.normal(11, 1.5))
    tau, alpha = KINDS[kind]
    if kind == "late":
        middle = random.uniform(60, 80)
        grown = 1 / (1 + np.exp(-(SAMPLED_H - middle) / 12)) + 0.0005 * SAMPLED_H
    else:
        grown = 1 - (1 + SAMPLED_H / (tau * np.exp(random.normal(0, 0.15)))) ** -alpha
    return np.round(size * grown)


def curves(per_kind: int, seed: int) -> tuple[list[str], list[Floats]]:
    random = np.random.default_rng(seed)
    kinds = [kind for kind in KINDS for _ in range(per_kind)]
    random.shuffle(kinds)
    return kinds, [curve(kind, random) for kind in kinds]


def shapes(views: list[Floats]) -> list[Floats]:
    found = [normalized(SAMPLED_H, each) for each in views]
    return [shape for shape in found if shape is not None]


def taught(seed: int = 0, settings: ArchetypeSettings | None = None) -> Archetypes:
    learnt = Archetypes(settings or ArchetypeSettings(archetypes=3, first_curves=120))
    learnt.learn(shapes(curves(150, seed)[1]))
    return learnt


def test_three_kinds_of_curves_are_told_apart():
    learnt = taught()
    kinds, views = curves(100, 9)
    found = learnt.learn(shapes(views))
    numbers = {kind: {int(n) for k, n in zip(kinds, found, strict=True) if k == kind} for kind in KINDS}
    assert all(len(of_kind) == 1 for of_kind in numbers.values())
    assert len(set.union(*numbers.values())) == 3
    by_kind = {kind: learnt.archetypes[of_kind.pop()] for kind, of_kind in numbers.items()}
    assert by_kind["early"].first_day > 0.85
    assert by_kind["early"].name == "peaks within 6 h, half its views within 6 h, flat after a day"
    assert by_kind["late"].peak_h > 48
    assert by_kind["late"].name.startswith("peaks after two days, half its views within four days")
    assert 0.2 < by_kind["steady"].first_day < 0.6
    assert by_kind["steady"].later_days > 0.2
    assert sum(each.weight for each in learnt.archetypes) == pytest.approx(1)
    assert sum(each.weight for each in learnt.archetypes if abs(each.weight - 1 / 3) < 0.05) > 0.99


def test_first_samples_tell_the_archetype_and_more_of_them_better():
    learnt = taught()
    _, views = curves(60, 21)
    truth = learnt.learn(shapes(views))
    right = []
    for until_h in (6.0, 24.0, 72.0):
        early = until_h >= SAMPLED_H
        chances = [learnt.assign(SAMPLED_H[early], each[early]) for each in views]
        assert all(chance.sum() == pytest.approx(1) for chance in chances)
        right.append(float(np.mean([chance.argmax() for chance in chances] == truth)))
    # The first hours tell little of a curve that rises later.
    assert right[0] < right[1] < right[2]
    assert right[2] > 0.9


def test_one_sample_or_none_tells_only_what_is_common():
    learnt = taught()
    common = learnt.assign([], [])
    np.testing.assert_allclose(common, [each.weight for each in learnt.archetypes], atol=0.01)
    np.testing.assert_array_equal(learnt.assign([3.0], [100]), common)
    np.testing.assert_array_equal(learnt.assign([3.0, 4.0], [100, None]), common)
    np.testing.assert_array_equal(learnt.assign([3.0, 4.0], [0, 0]), common)
    assert learnt.assign([200.0, 400.0], [5, 6]).tolist() == common.tolist()


def test_a_small_count_tells_less_than_a_large_one():
    learnt = taught()
    few, many = (learnt.assign([1.0, 6.0, 12.0], np.array([3, 5, 6]) * scale) for scale in (1, 1000))
    assert few.max() < many.max()


def test_before_there_are_enough_curves_there_is_no_archetype():
    learnt = Archetypes(ArchetypeSettings(archetypes=2, first_curves=20))
    views = shapes(curves(5, 3)[1])
    assert learnt.learn(views).tolist() == [-1] * 15
    assert learnt.archetypes == []
    assert len(learnt.assign([1.0, 2.0], [1, 2])) == 0
    found = learnt.learn(views)
    assert (found[:5] == -1).all()
    assert (found[5:] >= 0).all()
    assert len(found) == 15


def test_a_state_in_mid_stream_has_the_same_future():
    for first in (50, 200):
        settings = ArchetypeSettings(archetypes=3, first_curves=120)
        views = shapes(curves(100, 4)[1])
        one = Archetypes(settings)
        one.learn(views[:first])
        other = Archetypes.from_state(one.state(), settings)
        np.testing.assert_array_equal(one.learn(views[first:]), other.learn(views[first:]))
        assert one.state() == other.state()
        assert [each.description for each in one.archetypes] == [
            each.description for each in other.archetypes
        ]


def test_a_seed_gives_the_same_archetypes_and_the_state_is_bounded():
    assert taught(1).state() == taught(1).state()
    learnt = taught(1)
    size = len(learnt.state())
    learnt.learn(shapes(curves(200, 5)[1]))
    assert len(learnt.state()) < 1.5 * size < 10_000


@pytest.mark.parametrize(
    "state", [b"", pack("archetypes", 1, []), pack("archetypes", 1, [b"", b"1234", b"", b""])]
)
def test_what_is_no_state_is_refused(state: bytes):
    with pytest.raises(StateError):
        Archetypes.from_state(state)


def test_an_incomplete_state_is_refused():
    row = np.zeros(len(AGES_H)).tobytes()
    with pytest.raises(StateError, match="incomplete"):
        Archetypes.from_state(pack("archetypes", 1, [b"", row, row, b""]))


def test_centres_follow_what_changes():
    learnt = taught(settings=ArchetypeSettings(archetypes=1, first_curves=50, memory=100))
    before = learnt.archetypes[0].first_day
    kinds, views = curves(300, 6)
    learnt.learn(shapes([each for kind, each in zip(kinds, views, strict=True) if kind == "early"]))
    assert before < 0.6
    assert learnt.archetypes[0].first_day > 0.85
    assert learnt.archetypes[0].weight == 1


def test_alike_curves_are_one_archetype_and_do_not_break_the_start():
    learnt = Archetypes(ArchetypeSettings(archetypes=3, first_curves=10))
    shape = normalized(SAMPLED_H, np.round(1000 * np.sqrt(SAMPLED_H)))
    assert shape is not None
    learnt.learn([shape] * 20)
    assert sum(each.weight for each in learnt.archetypes) == pytest.approx(1)
    np.testing.assert_allclose(learnt.archetypes[0].log_shares, shape)


@pytest.mark.parametrize(
    ("ages", "views"),
    [
        ([], []),
        ([1, 24, 48, 72, 96, 120, 144], [10] * 7),
        ([20, 24, 48, 72, 96, 120, 144, 170], [10] * 8),
        ([1, 24, 72, 96, 120, 144, 170], [10] * 7),
        ([1, 24, 48, 72, 96, 120, 144, 170], [0] * 8),
        ([1, 24, 48, 72, 96, 120, 144, 170], [None] * 8),
    ],
    ids=["nothing", "too short", "late", "gap", "unwatched", "hidden"],
)
def test_curves_that_do_not_tell_are_left_out(ages: list[float], views: list[float | None]):
    assert normalized(ages, views) is None


def test_a_curve_is_normalised_to_shares_that_only_grow():
    ages = [170, 1, 24, 48, 72, 100, 90, 120, 144, 150]
    shape = normalized(ages, [1000, 100, 500, 400, 800, None, 850, 900, 950, 10])
    assert shape is not None
    assert shape[-1] == 0
    assert (np.diff(shape) >= 0).all()
    assert shape[AGES_H.index(24.0)] == pytest.approx(np.log(0.5), abs=0.01)


def test_an_archetype_says_when_views_come():
    views = np.interp(AGES_H, [0, 1, 6, 24, 48, 168], [0, 100, 700, 900, 950, 1000])
    got = Archetype.of(np.log(views / 1000), np.full(len(AGES_H), 0.1), 0.25)
    assert got.first_day == pytest.approx(0.9)
    assert got.first_hours == pytest.approx(7 / 9)
    assert got.later_days == pytest.approx(0.05)
    assert 1 < got.half_h < 6
    assert got.half_life_h == pytest.approx(7.5 - got.peak_h)
    assert got.share_at([24.0, 168.0, 1000.0]) == pytest.approx([0.9, 1, 1])
    assert got.description == (
        "peaks within 6 h, half its views within 6 h, flat after a day: "
        f"fastest at {got.peak_h:.2g} h, half as fast {got.half_life_h:.0f} h later; "
        "78% of the first day's views come in 6 h, and 90% of the week's on the first day"
    )
    linear = Archetype.of(np.log(np.array(AGES_H) / 168), np.full(len(AGES_H), 0.1), 0.25)
    assert np.isnan(linear.half_life_h)
    assert "half as fast" not in linear.description


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="archetype"):
        ArchetypeSettings(archetypes=400)
