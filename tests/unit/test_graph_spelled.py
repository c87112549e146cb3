"""How tags are shown, told from all videos at once: as from each tag's first carriers, whatever the order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.adapters.graph_feeding import CARRIERS
from maia.graphing import spelled
from maia.graphing.facts import shown_spelling
from maia.graphing.spelled import Spelled

spellings = st.sampled_from(["jazz", "Jazz", "JAZZ"])
carried = st.tuples(st.sampled_from(["jazz", "rock"]), spellings, st.integers(0, 2**64 - 1))


@given(
    parts=st.lists(st.lists(carried, max_size=9), max_size=5),
    most_loose=st.integers(0, 30),
)
def test_each_tag_is_shown_as_its_first_carriers_spell_it(
    parts: list[list[tuple[str, str, int]]], most_loose: int
) -> None:
    links = [link for part in parts for _, _, link in part]
    parts = [[(tag, text, link) for tag, text, link in part if links.count(link) == 1] for part in parts]
    collected = Spelled()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(spelled, "_MOST_LOOSE", most_loose)
        for part in parts:
            tags, texts, its = zip(*part, strict=True) if part else ((), (), ())
            collected.add(tags, texts, np.array(its, np.uint64))
    expected = {}
    for tag in {tag for part in parts for tag, _, _ in part}:
        first = sorted((link, text) for part in parts for each, text, link in part if each == tag)[:CARRIERS]
        expected[tag] = shown_spelling(tag, [text for _, text in first])
    assert dict(collected.shown()) == expected
