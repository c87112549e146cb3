"""`Graph`: the knowledge graph for programs, in a few methods that take and return plain values.

    from maia.graphing import Graph

    async with Graph.open() as graph:
        await graph.add_node("tag:lo fi", {"shown": "Lo-Fi", "mood": [0.2, 0.9]})
        await graph.add_edge("co_occurs", "tag:lo fi", "tag:jazz", weight=1.5)
        print(await graph.neighbours("tag:lo fi"))

Atoms are called by their text forms, such as `tag:lo fi` or `tagged(video:ID, tag:lo fi)`. What is added here
counts as said by people. `maia.views.graph` has more to show, and `atlas.adapters.graph` is what both use.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias
from uuid import UUID

from atlas.adapters.graph import OWN, Added, Atom, Evidence, NewAtom, Sources, Value
from atlas.adapters.graph_matching import GraphMatchingDAO
from atlas.adapters.graph_queries import Wanted
from atlas.adapters.graph_views import GraphViewsDAO
from atlas.composition import Atlas, current
from maia.graphing.forms import Form, FormError, LinkForm, parse_form
from maia.graphing.naming import NoSuchAtom, expanded, handle_of, name_atoms, new_atom, resolve
from maia.graphing.paths import hubs, shortest_path
from maia.graphing.similar import similar_atoms
from maia.graphing.templates import parse_order, parse_query, shown_variables, template_of
from maia.learning.truth import TruthValue

Content: TypeAlias = float | str | Sequence[float] | Sequence[str]
"""What a value may be; a single number or text is stored as a list of one."""


@dataclass(frozen=True, slots=True)
class GraphAtom:
    """An atom by its text form, with its truth value, its weight if it has one, and its values by key."""

    id: str
    type: str
    name: str | None
    ends: tuple[str, ...]
    truth: TruthValue
    count: float
    weight: float | None
    values: Mapping[str, tuple[float, ...] | tuple[str, ...]] = field(default_factory=dict)


class Graph:
    """The graph of one space; the others than this site's own are read-only."""

    def __init__(self, atlas: Atlas | None = None, *, space: int = OWN) -> None:
        """In the current Atlas unless another is given."""
        self._atlas = atlas or current()
        self.dao: GraphViewsDAO = GraphViewsDAO(
            self._atlas.db, clock=self._atlas.clock, settings=self._atlas.settings
        ).of(space)

    @classmethod
    @asynccontextmanager
    async def open(cls, *, space: int = OWN) -> AsyncIterator[Graph]:
        """Open an Atlas with the settings of the environment, and the graph in it."""
        from atlas import config

        async with Atlas.open(config.load()) as atlas:
            yield cls(atlas, space=space)

    # Adding and removing

    async def add_node(
        self,
        id_: str,
        node: Mapping[str, Content] | None = None,
        *,
        pos: int | None = None,
        neg: int | None = None,
    ) -> None:
        """Add a node such as `tag:music` if it isn't there, and set the values that are given.

        `pos` and `neg`, this site's observations for and against it, stay as they are unless given.
        """
        form = parse_form(id_)
        if isinstance(form, LinkForm):
            raise FormError(id_, 0, "a link is added with add_edge or add_link")
        await self._add([(form, None, pos, neg)], node)

    async def add_edge(
        self,
        type_: str,
        source: str,
        target: str,
        *,
        weight: float | None = None,
        pos: int | None = None,
        neg: int | None = None,
    ) -> str:
        """Add a link of two with its ends; returns its text form."""
        return await self.add_link(type_, [source, target], weight=weight, pos=pos, neg=neg)

    async def add_link(
        self,
        type_: str,
        outgoing: Iterable[str],
        *,
        weight: float | None = None,
        pos: int | None = None,
        neg: int | None = None,
    ) -> str:
        """Add a link with the atoms in its outgoing set; returns its text form."""
        form = LinkForm(type_, tuple(map(parse_form, outgoing)))
        await self._add([(form, weight, pos, neg)])
        [handle] = await resolve(self.dao, [form])
        return (await name_atoms(self.dao, [handle]))[handle].text

    async def add_all(
        self, ids: Iterable[str], *, pos: int = 0, neg: int = 0, weight: float | None = None
    ) -> Added:
        """Add many atoms by their text forms, a thousand a statement: all of them, or none.

        Observations are added to those that there are; a weight takes the place of the one that there is.
        """
        return await self._add([(parse_form(each), weight, pos, neg) for each in ids], counting=True)

    async def observe(self, id_: str, *, pos: int = 0, neg: int = 0) -> None:
        """Add observations for and against an atom to those that there are."""
        await self._add([(parse_form(id_), None, pos, neg)], counting=True)

    async def remove(self, *ids: str) -> int:
        """Take back that atoms are there; returns how many are gone, with the links to them.

        What the facts or other sites say stays.
        """
        self._check_own()
        handles = await resolve(self.dao, list(map(parse_form, ids)))
        return len(await self.dao.remove(handles, Sources.PEOPLE))

    # Reading

    async def node(self, id_: str) -> GraphAtom | None:
        """A node, or a link, with its values; None if it isn't there."""
        found = await self._atoms([await handle_of(self.dao, id_)])
        return found[0] if found else None

    async def edges(
        self,
        id_: str,
        types: Sequence[str] | None = None,
        *,
        limit: int = 1_000,
    ) -> list[GraphAtom]:
        """The links that have an atom in their outgoing set: its incoming set."""
        links = await self.dao.incoming(await handle_of(self.dao, id_), types, limit=limit)
        return await self._atoms([each.handle for each in links])

    async def neighbours(
        self,
        id_: str,
        types: Sequence[str] | None = None,
        *,
        limit: int = 1_000,
    ) -> list[str]:
        """The atoms at the other ends of an atom's links of two, the heaviest and surest links first."""
        near = await self.dao.near(await handle_of(self.dao, id_), types, limit=limit)
        return await self._texts([each.handle for each in near])

    async def path(self, source: str, target: str, types: Sequence[str] | None = None) -> list[str]:
        """The atoms on a shortest path, ends included; empty if there is none of up to eight links."""
        start, goal = await resolve(self.dao, [parse_form(source), parse_form(target)])
        found = await shortest_path(self.dao, start, goal, types, avoid=await hubs(self.dao))
        return await self._texts(found.atoms)

    async def similar(self, id_: str, *, limit: int = 10) -> list[tuple[str, float]]:
        """The atoms of its type that are most like it, with how much they are; see `similar_atoms`."""
        alike = await similar_atoms(self.dao, await self._there(id_), limit)
        names = await name_atoms(self.dao, [each for each, _ in alike.atoms])
        return [(names[each].text, how) for each, how in alike.atoms if each in names]

    async def query(self, text: str, *, order: Sequence[str] = (), limit: int = 100) -> list[dict[str, str]]:
        """What matches a query such as `tagged(?video, tag:music)`: for each match the atoms by variable."""
        form = parse_query(text)
        template = await template_of(self.dao, form)
        shown = shown_variables(form, template)
        wanted = Wanted(shown, "rows", tuple(map(parse_order, order)), limit)
        atlas = self._atlas
        matching = GraphMatchingDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).of(self.dao.space)
        found = await matching.match(template, wanted)
        names = await name_atoms(self.dao, {each for row in found.rows for each in row})
        return [
            {variable.name: names[each].text for variable, each in zip(shown, row, strict=True)}
            for row in found.rows
            if all(each in names for each in row)
        ]

    # Common to the methods

    def _check_own(self) -> None:
        if self.dao.space != OWN:
            raise NoSuchAtom("the graphs of other sites are read-only here: use the space own")

    async def _add(
        self,
        given: Sequence[tuple[Form, float | None, int | None, int | None]],
        values: Mapping[str, Content] | None = None,
        *,
        counting: bool = False,
    ) -> Added:
        self._check_own()
        types = await self.dao.types()
        forms = [form for form, *_ in given]
        handles = await expanded(self.dao, forms)
        atoms: list[NewAtom] = [
            new_atom(form, types, Evidence(pos or 0, neg or 0), weight, handles)
            for form, weight, pos, neg in given
        ]
        # Evidence that isn't given stays as it is: nothing is added to it.
        counting = counting or all(pos is None and neg is None for _, _, pos, neg in given)
        async with self.dao.transaction() as inside:
            added = await inside.add(atoms, Sources.PEOPLE, counting=counting)
            if values:
                [handle] = await resolve(inside, forms)
                await inside.set_values([_value(handle, key, each) for key, each in values.items()])
        return added

    async def _there(self, id_: str) -> UUID:
        handle = await handle_of(self.dao, id_)
        if not await self.dao.get([handle]):
            raise NoSuchAtom(f"there is no atom {id_}")
        return handle

    async def _texts(self, handles: Sequence[UUID]) -> list[str]:
        names = await name_atoms(self.dao, handles)
        return [names[each].text for each in handles if each in names]

    async def _atoms(self, handles: Sequence[UUID]) -> list[GraphAtom]:
        atoms = {each.handle: each for each in await self.dao.get(handles)}
        names = await name_atoms(self.dao, atoms)
        values: dict[UUID, dict[str, tuple[float, ...] | tuple[str, ...]]] = {}
        for each in await self.dao.values(list(atoms)):
            values.setdefault(each.handle, {})[each.key] = _content(each)
        return [
            GraphAtom(
                id=names[handle].text,
                type=atoms[handle].type,
                name=atoms[handle].name,
                ends=tuple(names[end].text for end in names[handle].outgoing or ()),
                truth=_truth(atoms[handle]),
                count=atoms[handle].count,
                weight=atoms[handle].weight,
                values=values.get(handle, {}),
            )
            for handle in handles
            if handle in atoms and handle in names
        ]


def _truth(atom: Atom) -> TruthValue:
    return TruthValue.of_counts(atom.positive, atom.count - atom.positive)


def _value(handle: UUID, key: str, content: Content) -> Value:
    """A value from what a program gives: texts if there is a text, or else numbers."""
    if isinstance(content, str):
        return Value(handle, key, texts=[content])
    if isinstance(content, int | float):
        return Value(handle, key, floats=[float(content)])
    texts = [each for each in content if isinstance(each, str)]
    numbers = [float(each) for each in content if isinstance(each, int | float)]
    if texts and numbers:
        raise NoSuchAtom(f"the value {key} mixes texts and numbers: use one of them")
    return Value(handle, key, texts=texts) if texts else Value(handle, key, floats=numbers)


def _content(value: Value) -> tuple[float, ...] | tuple[str, ...]:
    if value.floats is not None:
        return tuple(value.floats)
    return tuple(value.texts if value.texts is not None else map(str, value.handles or ()))
