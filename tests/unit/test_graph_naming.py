"""What atoms are called."""

from __future__ import annotations

from uuid import UUID

import pytest

from atlas.adapters.graph import DEEPEST, MOST_OUTGOING, link_handle, node_handle
from atlas.adapters.graph_views import CalledAtom
from maia.graphing import naming
from maia.graphing.forms import parse_form


@pytest.mark.parametrize("shown", [None, "Music"])
def test_texts_of_links_within_links_do_not_grow_without_end(shown: str | None) -> None:
    tag = node_handle("tag", "music")
    known = {tag: CalledAtom(tag, "tag", "music", None, shown)}
    ends: list[UUID] = [tag]
    for _ in range(DEEPEST):
        outgoing = [ends[-1]] * MOST_OUTGOING
        ends.append(link_handle("related_to", outgoing))
        known[ends[-1]] = CalledAtom(ends[-1], "related_to", None, outgoing, None)
    named = naming._named(known)
    assert named[ends[1]].text == f"related_to({', '.join(['tag:music'] * MOST_OUTGOING)})"
    assert named[ends[2]].text == f"related_to({', '.join([str(ends[1])] * MOST_OUTGOING)})"
    for each in named.values():
        parse_form(each.text)
        assert len(each.text) + len(each.shown or "") < 3 * naming.LONGEST_TEXT
