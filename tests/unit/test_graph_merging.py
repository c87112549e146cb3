"""Bringing graphs up to date equals building them anew."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maia.graph.arrays import Texts, pairs_of
from maia.graph.checking import check, check_handles
from maia.graph.merging import difference, part_of, update, with_ends, without_loose
from tests.graph_arrays import (
    Known,
    Numbers,
    atoms,
    contents,
    graph_of,
    numbers,
    without,
)
from tests.sized_graphs import made_graph

MUSIC, LIVE = Known("tag", "music"), Known("tag", "live")
VIDEO = Known("video", "v")
TAGGED = Known("tagged", "", (VIDEO.handle, MUSIC.handle))
ABOUT = Known("list", "", (TAGGED.handle, LIVE.handle, TAGGED.handle))
ALL = dict.fromkeys((MUSIC, LIVE, VIDEO, TAGGED, ABOUT), Numbers())
GRAPH = graph_of(ALL)
NONE = pairs_of([])


@settings(max_examples=20)
@given(atoms(), atoms(), st.data())
def test_an_updated_graph_equals_one_that_is_built_anew(
    old: dict[Known, Numbers], more: dict[Known, Numbers], data: st.DataObject
) -> None:
    changed = data.draw(st.sets(st.sampled_from(list(old))) if old else st.just(set[Known]()))
    gone = data.draw(st.sets(st.sampled_from([each.handle for each in old]), max_size=2)) if old else set()
    now = without({**old, **more, **{each: data.draw(numbers) for each in sorted(changed, key=str)}}, gone)
    base, expected = graph_of(old), graph_of(now)
    difference_, removed = difference(base, expected)
    check(difference_)
    assert contents(update(base, difference_, removed)) == contents(expected)
    # What is unchanged may be told again, and what was never there may be removed.
    stray = np.concatenate([removed, pairs_of([UUID(int=7)])])
    assert contents(update(base, expected, stray)) == contents(expected)
    assert contents(update(graph_of({}), expected, NONE)) == contents(expected)


def test_a_difference_holds_only_what_changed_and_what_that_needs() -> None:
    numbers_of = {**ALL, ABOUT: Numbers(weight=0.5)}
    changed, removed = difference(GRAPH, graph_of(numbers_of))
    assert (len(changed), len(removed)) == (5, 0)
    changed, removed = difference(GRAPH, graph_of({**ALL, TAGGED: Numbers(sti=1)}))
    assert {changed.handle(place) for place in range(len(changed))} == {
        each.handle for each in (TAGGED, MUSIC, VIDEO)
    }
    changed, removed = difference(GRAPH, graph_of({MUSIC: Numbers()}))
    assert (len(changed), len(removed), changed.types) == (0, 4, ())
    assert len(difference(GRAPH, GRAPH)[0]) == 0


def test_what_would_leave_a_link_without_its_ends_is_refused() -> None:
    with pytest.raises(ValueError, match="names an atom that is not there"):
        update(GRAPH, graph_of({}), pairs_of([MUSIC.handle]))
    with pytest.raises(ValueError, match="changed and removed at once"):
        update(GRAPH, graph_of({LIVE: Numbers()}), pairs_of([LIVE.handle]))
    is_tagged = np.isin(np.arange(len(GRAPH)), GRAPH.places([TAGGED.handle]))
    with pytest.raises(ValueError, match="names an atom that is not there"):
        part_of(GRAPH, is_tagged)
    needed = with_ends(GRAPH, is_tagged)
    expected = graph_of(dict.fromkeys((MUSIC, VIDEO, TAGGED), Numbers()))
    assert contents(part_of(GRAPH, needed)) == contents(expected)
    is_ours = np.ones(len(GRAPH), bool)
    assert without_loose(GRAPH, is_ours).all()
    is_ours[GRAPH.places([MUSIC.handle])] = False
    whole = part_of(GRAPH, without_loose(GRAPH, is_ours))
    assert contents(whole) == contents(graph_of(dict.fromkeys((LIVE, VIDEO), Numbers())))


def test_handles_are_hashes_of_what_atoms_are() -> None:
    check_handles(GRAPH)
    check_handles(graph_of({}))
    check_handles(made_graph(30, 60))
    renamed = replace(GRAPH, names=replace(GRAPH.names, data=GRAPH.names.data ^ np.uint8(1)))
    retyped = replace(GRAPH, types=tuple(f"{each}s" for each in GRAPH.types))
    relinked = replace(GRAPH, outgoing=GRAPH.outgoing[::-1])
    for graph in (renamed, retyped, relinked):
        with pytest.raises(ValueError, match="is not the handle of what that atom is"):
            check_handles(graph)


def test_arrays_that_are_no_graph_are_refused() -> None:
    check(GRAPH)
    check(graph_of({}))
    circle = GRAPH.outgoing.copy()
    [about], [tagged] = GRAPH.places([ABOUT.handle]), GRAPH.places([TAGGED.handle])
    circle[GRAPH.outgoing_starts[tagged]] = about
    twice = GRAPH.handles.copy()
    twice[1] = twice[0]
    late = GRAPH.names.starts.copy()
    late[-1] += 1
    cases = {
        "its own outgoing set": replace(GRAPH, outgoing=circle),
        "not there": replace(GRAPH, outgoing=GRAPH.outgoing + np.int32(9)),
        "ascending order": replace(GRAPH, handles=twice),
        "alphabetical": replace(GRAPH, types=GRAPH.types[::-1]),
        "a type that is not there": replace(GRAPH, types=GRAPH.types[:1]),
        "another length": replace(GRAPH, sti=GRAPH.sti[1:]),
        "lengths of the names": replace(GRAPH, names=replace(GRAPH.names, starts=late)),
        "lengths of the outgoing sets": replace(GRAPH, outgoing_starts=GRAPH.outgoing_starts[::-1]),
        "utf-8": replace(GRAPH, names=replace(GRAPH.names, data=GRAPH.names.data | np.uint8(0x80))),
    }
    for words, graph in cases.items():
        with pytest.raises(ValueError, match=words):
            check(graph)
    letters = np.frombuffer("éb".encode(), np.uint8)
    word = graph_of({Known("tag", "é"): Numbers(), Known("tag", "b"): Numbers()})
    check(replace(word, names=Texts(np.array([0, 2, 3]), letters)))
    with pytest.raises(ValueError, match="within a character"):
        check(replace(word, names=Texts(np.array([0, 1, 3]), letters)))
    named = Texts(np.arange(6), np.full(5, 97, np.uint8))
    with pytest.raises(ValueError, match="a link has a name"):
        check(replace(GRAPH, names=named))
