"""Strategies of hypothesis for patterns that say anything at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from maia.learning.patterns import Condition, Operator, Pattern, PatternType


def patterns_of(
    texts: SearchStrategy[str],
    numbers: SearchStrategy[float],
    as_data: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> SearchStrategy[Pattern]:
    """Patterns with these texts and numbers; `as_data` makes their data of mappings."""
    scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
    structures = st.dictionaries(texts, st.one_of(scalars, st.lists(scalars, max_size=3)), max_size=3)
    conditions = st.one_of(
        st.builds(Condition, texts, st.sampled_from([Operator.EQUALS, Operator.DIFFERS]), scalars),
        st.builds(Condition, texts, st.sampled_from([*Operator][2:]), numbers),
    )
    return st.builds(
        Pattern,
        st.sampled_from(PatternType),
        structures,
        texts,
        st.lists(conditions, max_size=3).map(tuple),
        st.one_of(st.none(), texts),
        structures.map(as_data),
    )
