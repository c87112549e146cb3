"""Answers in JSON that are put together are those of the dataclasses."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import orjson
import pytest

from maia.learning.evidence import Counts
from maia.learning.known_patterns import known
from maia.learning.matching import Matcher
from maia.learning.patterns import Condition, Operator, Pattern, PatternType
from maia.learning.recommending import Adviser
from maia.views.pattern_answers import PatternAnswers
from maia.views.patterns import advice_of, matches_of
from tests.believed import NOW

CONDITIONS = (
    (Condition("a", Operator.EQUALS, "x"), Condition("n", Operator.ABOVE, 2.5)),
    (Condition("a", Operator.EQUALS, 1), Condition("a", Operator.EQUALS, True)),
    (Condition("b", Operator.DIFFERS, None), Condition("a", Operator.EQUALS, 'quoted "x"')),
    (),
)
PATTERNS = known(
    [
        (
            Pattern(PatternType.TOOL_USAGE, {"n": n}, f'says “{n}” "so"', conditions, action, {"cost": 2}),
            Counts(pos, 1, 3.5 * pos, NOW - timedelta(days=n) if n else None),
        )
        for n, (conditions, action, pos) in enumerate(
            (each, action, pos) for each in CONDITIONS for action in (None, "go", "wait") for pos in (0, 90)
        )
    ]
)
CONTEXTS = ({"a": "x", "n": 3}, {"a": 1}, {"a": True, "b": 1}, {"a": 'quoted "x"', "b": "y"}, {"b": None})


@pytest.mark.parametrize("context", CONTEXTS)
def test_they_are_the_same(context: dict[str, str | int | None]) -> None:
    matcher, answers = Matcher(PATTERNS), PatternAnswers()
    for _ in range(2):
        found = matcher.match(context, NOW, 20)
        expected = orjson.dumps(matches_of(matcher, context, NOW, 20, 0.0), option=orjson.OPT_UTC_Z)
        if found:
            assert answers.matches(found) == expected
        for explore in (False, True):
            advised = Adviser(matcher).recommend(context, NOW, explore=explore, seed=7)
            expected = orjson.dumps(advice_of(advised), option=orjson.OPT_UTC_Z)
            assert answers.advice(advised) == expected
        # What is kept of a pattern must not outlive its counts.
        matcher.add(*known([(replace(each.pattern, statement="new"), Counts(80, 2)) for each in PATTERNS]))
