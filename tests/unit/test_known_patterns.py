"""What is believed of patterns is what their evidence says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.evidence import Counts, Prior, confidence, interval, strength
from maia.learning.known_patterns import known
from maia.learning.patterns import Pattern, PatternType


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=20))
def test_confidence_is_that_of_the_evidence(pairs: list[tuple[int, int]]) -> None:
    prior = Prior(2.0, 1.0)
    stated = [Pattern(PatternType.ANOMALY, {"n": n}, "s") for n in range(len(pairs))]
    made = known(
        [(each, Counts(*pair)) for each, pair in zip(stated, pairs, strict=True)],
        prior,
        [p.id for p in stated[:1]],
    )
    assert [each.id for each in made] == [each.id for each in stated]
    assert [each.pinned for each in made] == [n == 0 for n in range(len(pairs))]
    for each, (pos, neg) in zip(made, pairs, strict=True):
        assert each.strength == pytest.approx(float(strength(pos, neg, prior)))
        assert each.confidence == pytest.approx(float(confidence(pos, neg, prior)))
        assert each.ceiling == pytest.approx(float(interval(pos, neg, prior)[1]))
        assert each.support == pos + neg
