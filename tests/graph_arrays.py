"""Graphs as arrays, for tests and benches: of named nodes and links, or of any content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any
from uuid import UUID

import numpy as np
from hypothesis import strategies as st

from atlas.adapters.graph import link_handle, node_handle
from maia.graph.arrays import GraphArrays, Int64s, Texts, pairs_of
from maia.graph.building import AttentionColumns, LooseAtoms, arrays_of, attended
from maia.graph.values import Elements, Kind, Values

NODE_TYPES = ("tag", "video", "wörd")
LINK_TYPES = ("list", "tagged")


@dataclass(frozen=True)
class Numbers:
    """What can change of an atom."""

    positive: float = 1
    count: float = 1
    pos: int = 1
    neg: int = 0
    sources: int = 1
    weight: float = np.nan
    seen_us: int = 0
    sti: float = 0
    lti: float = 0
    vlti: int = 0
    attended_us: int = 0


@dataclass(frozen=True)
class Known:
    """What an atom is."""

    type: str
    name: str = ""
    outgoing: tuple[UUID, ...] = ()

    @property
    def handle(self) -> UUID:
        return link_handle(self.type, self.outgoing) if self.outgoing else node_handle(self.type, self.name)


Atoms = Mapping[Known, Numbers]


def graph_of(atoms: Atoms) -> GraphArrays:
    """The arrays of atoms, built anew."""
    known, numbers = list(atoms), list(atoms.values())
    handles = pairs_of([each.handle for each in known])
    types = tuple(dict.fromkeys(each.type for each in known))
    linked = [nth for nth, each in enumerate(known) if len(each.outgoing) == 2]

    def column(name: str, form: Any) -> Any:
        return np.array([getattr(each, name) for each in numbers], form)

    graph = arrays_of(
        LooseAtoms(
            handles=handles,
            types=types,
            type_of=np.array([types.index(each.type) for each in known], np.int16),
            linked=np.array(linked, np.int64),
            ends=np.array([pairs_of(known[nth].outgoing) for nth in linked], np.uint64).reshape(-1, 2, 2),
            wide=[
                (nth, pairs_of(each.outgoing))
                for nth, each in enumerate(known)
                if len(each.outgoing) not in (0, 2)
            ],
            named=[(nth, each.name) for nth, each in enumerate(known) if not each.outgoing],
            positive=column("positive", np.float64),
            count=column("count", np.float64),
            pos=column("pos", np.int64),
            neg=column("neg", np.int64),
            sources=column("sources", np.uint8),
            weight=column("weight", np.float32),
            seen_us=column("seen_us", np.int64),
        )
    )
    attention = AttentionColumns(
        handles,
        column("sti", np.float32),
        column("lti", np.float32),
        column("vlti", np.uint8),
        column("attended_us", np.int64),
    )
    return attended(graph, attention)


Node = tuple[str, str]
"""Type and name."""
_UNSEEN = Numbers(positive=0, count=0, pos=0)


@dataclass(frozen=True)
class NamedGraph:
    """A graph, and where the atoms are that it was made of."""

    arrays: GraphArrays
    nodes: Mapping[Node, int]
    links: Int64s

    def places(self, nodes: Iterable[Node]) -> Int64s:
        return np.array([self.nodes[node] for node in nodes], np.int64)


def named_graph(
    nodes: Iterable[Node],
    links: Iterable[tuple[str, *tuple[Node | int, ...]]] = (),
    weights: Mapping[int, float] | None = None,
    counts: Mapping[int, tuple[float, float]] | None = None,
) -> NamedGraph:
    """A graph of nodes and of links (type, ends…); an end that is a number is an earlier link, by its place.

    `weights` and `counts` (positive, count) are by the place of the link in `links`.
    """
    known = {node: Known(*node) for node in nodes}
    atoms: dict[Known, Numbers] = dict.fromkeys(known.values(), _UNSEEN)
    made: list[Known] = []
    for nth, (type_, *ends) in enumerate(links):
        outgoing = (made[end] if isinstance(end, int) else known[end] for end in ends)
        made.append(Known(type_, "", tuple(each.handle for each in outgoing)))
        positive, count = (counts or {}).get(nth, (0, 0))
        atoms[made[-1]] = replace(
            _UNSEEN, positive=positive, count=count, weight=(weights or {}).get(nth, np.nan)
        )
    arrays = graph_of(atoms)
    places = arrays.places([each.handle for each in known.values()]).tolist()
    return NamedGraph(
        arrays, dict(zip(known, places, strict=True)), arrays.places([each.handle for each in made])
    )


def contents(graph: GraphArrays) -> dict[str, object]:
    """All that is in the arrays, bit by bit, so that NaN equals NaN."""
    found: dict[str, object] = {}
    for each in fields(GraphArrays):
        column = getattr(graph, each.name)
        if isinstance(column, Texts):
            found["starts"], column = column.starts.tobytes(), column.data
        found[each.name] = column if isinstance(column, tuple) else (column.dtype.str, column.tobytes())
    return found


def told(values: Values) -> list[tuple[UUID, dict[str, Elements]]]:
    """All values, atom by atom."""
    return list(values.by_atom())


whole = st.integers(0, 2**63 - 1)
single = st.floats(-(2**20), 2**20, width=32)
counts = st.floats(0, 1e300)
numbers = st.builds(
    Numbers,
    counts,
    counts,
    whole,
    whole,
    st.integers(1, 15),
    st.one_of(st.just(np.nan), single),
    st.integers(-(2**55), 2**55),
    single,
    single,
    st.integers(0, 255),
    st.integers(-(2**55), 2**55),
)
elements = st.one_of(
    st.builds(Elements, st.just(Kind.FLOATS), st.lists(st.floats(-1e300, 1e300), max_size=3)),
    st.builds(
        Elements,
        st.just(Kind.TEXTS),
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4), max_size=3),
    ),
    st.builds(Elements, st.just(Kind.HANDLES), st.lists(st.uuids(), max_size=3)),
)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
nodes = st.builds(Known, st.sampled_from(NODE_TYPES), names)


@st.composite
def atoms(draw: st.DrawFn, most_nodes: int = 5, most_links: int = 4) -> dict[Known, Numbers]:
    """Some nodes, and links of them and of other links."""
    found = draw(st.dictionaries(nodes, numbers, max_size=most_nodes))
    for _ in range(draw(st.integers(0, most_links)) if found else 0):
        ends = st.lists(st.sampled_from([each.handle for each in found]), min_size=1, max_size=3)
        link = Known(draw(st.sampled_from(LINK_TYPES)), "", tuple(draw(ends)))
        found[link] = draw(numbers)
    return found


@st.composite
def any_values(draw: st.DrawFn, handles: Sequence[UUID], least: int = 1) -> Values:
    """Values of some atoms, at least so many of each."""
    some = draw(st.lists(st.sampled_from(handles), unique=True, max_size=4)) if handles else []
    values = st.dictionaries(st.sampled_from(["a", "b", "ключ"]), elements, min_size=least)
    return Values.of([(handle, draw(values)) for handle in some])


def without(known: Atoms, gone: set[UUID]) -> dict[Known, Numbers]:
    """The atoms without some, and without the links that need them."""
    while True:
        left = {
            each: numbers
            for each, numbers in known.items()
            if each.handle not in gone and gone.isdisjoint(each.outgoing)
        }
        if len(left) == len(known):
            return left
        gone = gone | {each.handle for each in known if each not in left}
        known = left
