"""Graphs in arrays, made of names, for tests and benches of the graph's mathematics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from maia.graph.arrays import Float64s, GraphArrays, Int64s, UInt64s
from maia.graph.building import LooseAtoms, arrays_of

Node = tuple[str, str]
"""Type and name."""


@dataclass(frozen=True)
class MadeGraph:
    """A graph, and where the atoms are that it was made of."""

    arrays: GraphArrays
    nodes: Mapping[Node, int]
    links: Int64s

    def places(self, nodes: Iterable[Node]) -> Int64s:
        return np.array([self.nodes[node] for node in nodes], np.int64)


def made_graph(
    nodes: Iterable[Node],
    links: Iterable[tuple[str, *tuple[Node | int, ...]]] = (),
    weights: Mapping[int, float] | None = None,
    counts: Mapping[int, tuple[float, float]] | None = None,
) -> MadeGraph:
    """A graph of nodes and of links (type, ends…); an end that is a number is an earlier link, by its place.

    `weights` and `counts` (positive, count) are by the place of the link in `links`.
    """
    named = list(dict.fromkeys(nodes))
    digests = [_digest(f"n{type_}\0{name}".encode()) for type_, name in named]
    at = {node: nth for nth, node in enumerate(named)}
    given = list(links)
    outgoing = []
    for type_, *ends in given:
        places = [end + len(named) if isinstance(end, int) else at[end] for end in ends]
        outgoing.append(places)
        digests.append(_digest(f"l{type_}\0".encode() + b"".join(digests[place] for place in places)))
    types = tuple(sorted({type_ for type_, *_ in [*named, *given]}))
    code = {type_: nth for nth, type_ in enumerate(types)}
    size = len(digests)
    handles = np.frombuffer(b"".join(digests), ">u8").astype(np.uint64).reshape(-1, 2)
    pairs = [nth for nth, ends in enumerate(outgoing) if len(ends) == 2]
    weight = np.full(size, np.nan, np.float32)
    for nth, each in (weights or {}).items():
        weight[len(named) + nth] = each
    positive, count = _counts(len(named), size, counts or {})
    loose = LooseAtoms(
        handles=handles,
        types=types,
        type_of=np.array([code[type_] for type_, *_ in [*named, *given]], np.int16),
        linked=np.array(pairs, np.int64) + len(named),
        ends=_ends(handles, [outgoing[nth] for nth in pairs]),
        wide=[(len(named) + n, handles[ends]) for n, ends in enumerate(outgoing) if len(ends) != 2],
        named=list(enumerate(name for _, name in named)),
        positive=positive,
        count=count,
        pos=np.zeros(size, np.int64),
        neg=np.zeros(size, np.int64),
        sources=np.ones(size, np.uint8),
        weight=weight,
        seen_us=np.zeros(size, np.int64),
    )
    return _found(loose, named, len(named))


def _found(loose: LooseAtoms, named: list[Node], first_link: int) -> MadeGraph:
    arrays = arrays_of(loose)
    order = np.lexsort((loose.handles[:, 1], loose.handles[:, 0]))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return MadeGraph(arrays, {node: int(place[nth]) for nth, node in enumerate(named)}, place[first_link:])


def _counts(first: int, size: int, counts: Mapping[int, tuple[float, float]]) -> tuple[Float64s, Float64s]:
    positive, count = np.zeros(size), np.zeros(size)
    for nth, (for_it, all_) in counts.items():
        positive[first + nth], count[first + nth] = for_it, all_
    return positive, count


def _ends(handles: UInt64s, pairs: list[list[int]]) -> UInt64s:
    return handles[np.array(pairs, np.int64).reshape(-1, 2)]


def _digest(text: bytes) -> bytes:
    return sha256(text).digest()[:16]
