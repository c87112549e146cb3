"""What lies around an atom of the knowledge graph, as much of it as a drawing can show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from math import log1p
from typing import TYPE_CHECKING, Final, Literal
from uuid import UUID

from atlas.adapters.graph import OWN
from maia.graphing.forms import NodeForm, parse_form
from maia.graphing.naming import Named, NoSuchAtom, handle_of, name_atoms

if TYPE_CHECKING:
    from atlas.adapters.neighbourhood import InnerLink, NearLink
    from atlas.composition import Atlas

MOST_NEAR: Final = 24
MOST_BEYOND: Final = 8
_MOST_OF_EACH: Final = 12
_MOST_OF_ATOM: Final = 4
_WITHOUT_WEIGHT: Final = 1 / 3
_HUBS: Final = frozenset({"agent", "category"})
"""What atoms of these types have in common says little about them."""


@dataclass(frozen=True, slots=True)
class SurroundingAtom:
    """An atom by what people call it, how far from the middle it is, and how many of the links it has."""

    handle: str
    atom: str
    type: str
    shown: str
    hops: Literal[0, 1, 2]
    links: int


@dataclass(frozen=True, slots=True)
class SurroundingLink:
    """A link of two between atoms, called by their places.

    Weights of different types of links can't be compared: `share` is the weight as a share of the highest one
    of its type here, and of links without a weight, which say only that something is so, at most a third.
    """

    first: int
    second: int
    type: str
    weight: float | None
    count: float
    share: float


@dataclass(frozen=True, slots=True)
class Surroundings:
    """An atom, which comes first, with atoms around it, the nearest ones first, and links between them.

    There are all links with the first atom, and of those among the others the heaviest ones of each.
    """

    atoms: tuple[SurroundingAtom, ...]
    links: tuple[SurroundingLink, ...]

    def nearest(self, most: int) -> Surroundings:
        """The same with so many atoms at most."""
        return Surroundings(
            self.atoms[:most],
            tuple(each for each in self.links if max(each.first, each.second) < most),
        )


async def surroundings(atlas: Atlas, text: str, *, space: int = OWN) -> Surroundings:
    """What lies around the atom that a text names; NoSuchAtom if it isn't there.

    Each type of links gets its share of the room, so that a thousand videos of a tag don't crowd out the tags
    that go with it. Atoms that are two links away are shown if they connect at least two of the others.
    """
    from atlas.adapters.graph_views import GraphViewsDAO
    from atlas.adapters.neighbourhood import NeighbourhoodDAO

    graph = GraphViewsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    graph.space = space
    handle = await handle_of(graph, text)
    dao = NeighbourhoodDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).of(space)
    names = await name_atoms(graph, [handle])
    if handle not in names:
        raise NoSuchAtom(
            f"there is no atom {text}: maia graph find, or GET /api/v1/graph/atoms, "
            "lists those whose names begin alike"
        )
    near = _picked(await dao.nearest(handle, _MOST_OF_EACH), MOST_NEAR)
    names |= await name_atoms(graph, near)
    within = [each for each in near if names[each].type not in _HUBS]
    beyond = await dao.beyond(within, [handle, *near], MOST_BEYOND)
    names |= await name_atoms(graph, beyond)
    handles = [handle, *(each for each in (*near, *beyond) if each in names)]
    hops = {handle: 0} | dict.fromkeys(beyond, 2)
    return _surroundings(handles, hops, names, await dao.among(handles))


def _picked(links: Iterable[NearLink], most: int) -> list[UUID]:
    """The other ends of the heaviest links of each kind, then the next ones, without repetition."""
    kinds: dict[tuple[str, bool], list[UUID]] = {}
    for each in links:
        kinds.setdefault((each.type, each.comes_first), []).append(each.other)
    in_turn = chain.from_iterable(zip_longest(*kinds.values()))
    return list(dict.fromkeys(each for each in in_turn if each is not None))[:most]


def _surroundings(
    handles: Sequence[UUID],
    hops: Mapping[UUID, int],
    names: Mapping[UUID, Named],
    links: Sequence[InnerLink],
) -> Surroundings:
    places = {handle: nth for nth, handle in enumerate(handles)}
    highest: dict[str, float] = {}
    for each in links:
        highest[each.type] = max(highest.get(each.type, 0.0), _heaviness(each))
    shown = _clearest(
        SurroundingLink(
            places[each.first],
            places[each.second],
            each.type,
            each.weight,
            each.count,
            _share(each, highest[each.type]),
        )
        for each in links
    )
    degrees = Counter(place for each in shown for place in (each.first, each.second))
    atoms = tuple(
        _atom(names[handle], hops.get(handle, 1), degrees[nth]) for nth, handle in enumerate(handles)
    )
    return Surroundings(atoms, shown)


def _clearest(links: Iterable[SurroundingLink]) -> tuple[SurroundingLink, ...]:
    """The links with the middle, and of the others the heaviest ones of each atom: all would be a tangle."""
    kept, of_atom = [], Counter[int]()
    for each in sorted(links, key=lambda link: (0 not in (link.first, link.second), -link.share)):
        ends = (each.first, each.second)
        if 0 in ends or min(of_atom[end] for end in ends) < _MOST_OF_ATOM:
            kept.append(each)
            of_atom.update(ends)
    return tuple(kept)


def _heaviness(link: InnerLink) -> float:
    return max(link.weight, 0.0) if link.weight is not None else log1p(link.count)


def _share(link: InnerLink, highest: float) -> float:
    if highest <= 0:
        return 0.0
    return _heaviness(link) / highest * (1.0 if link.weight is not None else _WITHOUT_WEIGHT)


def _atom(named: Named, hops: int, links: int) -> SurroundingAtom:
    # The text of a link can be longer, or more deeply nested, than people may write.
    form = parse_form(named.text) if named.outgoing is None else None
    shown = named.shown or (form.name if isinstance(form, NodeForm) else named.text)
    away: Literal[0, 1, 2] = 0 if hops == 0 else 1 if hops == 1 else 2
    return SurroundingAtom(str(named.handle), named.text, named.type, shown, away, links)
