"""The knowledge graph for people: atoms by what they are called, what is near them, and how much there is.

Atoms are named by their text forms, see `maia.graphing.forms`: `tag:music`, `tagged(video:ID, tag:music)`, or
the first characters of a handle. FormError points at what can't be read; NoSuchAtom says what there isn't.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, Literal
from uuid import UUID

from atlas.adapters.graph import AT_ONCE, OWN, Atom, Sources, Value, node_handle
from atlas.wording import counted
from maia.graphing.forms import NodeForm, canonical, parse_form
from maia.graphing.naming import NoSuchAtom, check_type, handle_of, name_atoms, resolve
from maia.graphing.templates import (
    constants_of,
    parse_order,
    parse_query,
    parse_variable,
    shown_variables,
    template_of,
)
from maia.learning.truth import PERSONALITY
from maia.views.graph_answers import (
    AtomDetails,
    AtomPage,
    AtomRef,
    AtomView,
    CommunitiesView,
    CommunityView,
    GraphStats,
    Neighbourhood,
    PathView,
    QueryAnswer,
    QueryRow,
    SimilarAtom,
    SimilarAtoms,
    TypeFigures,
    details_of,
    neighbour_of,
    ref_of,
    source_names,
    view_of,
)

if TYPE_CHECKING:
    from atlas.adapters.graph_queries import Mode
    from atlas.adapters.graph_views import GraphViewsDAO
    from atlas.composition import Atlas
    from maia.graphing.communities import Communities
    from maia.graphing.templates import QueryForm

_TITLE_FIELDS: Final[tuple[tuple[Literal["channel", "title"], str], ...]] = (
    ("channel", "channel"),
    ("title", "video"),
)


async def spaces(atlas: Atlas) -> dict[str, int]:
    """The spaces by name: this site's own graph, and read-only copies of parts of others'."""
    return {each.name: each.id for each in await _dao(atlas, OWN).spaces()}


async def space_named(atlas: Atlas, name: str) -> int:
    """The number of a space; NoSuchAtom lists those that there are."""
    known = await spaces(atlas)
    if name not in known:
        mirrors = ", ".join(each for each in known if each != "own")
        raise NoSuchAtom(
            f"there is no space {name}; there is own, this site's graph"
            + (f", and mirrors of others: {mirrors}" if mirrors else ", and no mirror of another's yet")
        )
    return known[name]


async def get(atlas: Atlas, texts: Sequence[str], *, space: int = OWN) -> list[AtomDetails]:
    """Atoms with their values, in the order asked for; those that aren't there are left out."""
    dao = _dao(atlas, space)
    handles = await resolve(dao, [parse_form(text) for text in texts])
    atoms = {each.handle: each for each in await dao.get(handles)}
    values: dict[UUID, list[Value]] = {}
    for each in await dao.values(list(atoms)):
        values.setdefault(each.handle, []).append(each)
    links = await dao.incoming_counts(list(atoms))
    within = (handle for of in values.values() for value in of for handle in value.handles or ())
    names = await name_atoms(dao, [*atoms, *within])
    return [
        details_of(atoms[handle], names, values.get(handle, []), links.get(handle, {}))
        for handle in dict.fromkeys(handles)
        if handle in atoms
    ]


async def find(
    atlas: Atlas,
    text: str = "",
    *,
    type_: str | None = None,
    after: str | None = None,
    limit: int = 100,
    space: int = OWN,
) -> AtomPage:
    """Nodes whose names begin with a text, which may have a type before it, by type and name.

    `after` is where another page said that the next one begins.
    """
    dao = _dao(atlas, space)
    known = await dao.types()
    prefix, named = text, type_
    before, colon, behind = text.partition(":")
    if type_ is None and colon and before in known and not known[before].is_link:
        named, prefix = before, behind
    if named is not None:
        check_type(named, known, is_link=False)
    types = [each.name for each in known.values() if not each.is_link and named in (None, each.name)]
    begins = {each: canonical(NodeForm(each, prefix)).name if prefix else "" for each in types}
    begin = ("", "") if after is None else _place_of(after)
    found = await dao.by_name(begins, after=begin, limit=limit + 1)
    views = await _views(dao, found[:limit])
    return AtomPage(tuple(views), views[-1].atom if len(found) > limit and views else None)


async def check_type_before(atlas: Atlas, text: str, *, space: int = OWN) -> None:
    """NoSuchAtom lists the types of nodes if a text begins with what looks like one, and there is none."""
    before, colon, _ = text.partition(":")
    if colon and before.isidentifier():
        check_type(before, await _dao(atlas, space).types(), is_link=False)


async def find_titled(
    atlas: Atlas, text: str, *, type_: str | None = None, limit: int = 100, space: int = OWN
) -> AtomPage:
    """Channels, then videos, that are in the graph and whose titles have all words of a text."""
    from maia.views.search import search

    dao = _dao(atlas, space)
    if type_ not in (None, "channel", "video"):
        raise NoSuchAtom(f"only channels and videos have titles, not {type_}")
    found = [
        match
        for only, kind in _TITLE_FIELDS
        if type_ in (None, kind)
        for match in (await search(atlas, text, limit, only=only)).matches
    ]
    views = await _views(dao, [node_handle(each.kind, each.id) for each in found])
    return AtomPage(tuple(views[:limit]), None)


async def incoming(
    atlas: Atlas,
    text: str,
    *,
    types: Sequence[str] | None = None,
    after: str | None = None,
    limit: int = 100,
    space: int = OWN,
) -> AtomPage:
    """The links that have an atom in their outgoing set, by handle; NoSuchAtom if it isn't there."""
    dao = _dao(atlas, space)
    handle = await _there(dao, text)
    begin = UUID(int=0) if after is None else await handle_of(dao, after)
    links = await dao.incoming(handle, await _link_types(dao, types), after=begin, limit=limit + 1)
    names = await name_atoms(dao, [each.handle for each in links[:limit]])
    views = tuple(view_of(each, names) for each in links[:limit])
    return AtomPage(views, views[-1].handle if len(links) > limit else None)


async def neighbours(
    atlas: Atlas,
    text: str,
    *,
    hops: int = 1,
    types: Sequence[str] | None = None,
    limit: int = 100,
    space: int = OWN,
) -> Neighbourhood:
    """The atoms that an atom is linked with by links of two, at most `limit` one hop away and as many two.

    NoSuchAtom if it isn't there.
    """
    from atlas.adapters.graph_views import FAN_OUT

    dao = _dao(atlas, space)
    handle = await _there(dao, text)
    wanted = await _link_types(dao, types)
    near = await dao.near(handle, wanted, limit=limit)
    sampled = any(each.met >= FAN_OUT for each in near)
    if hops > 1:
        further = await dao.second_neighbours(handle, wanted, limit=limit)
        near = [*near, *further]
    handles = [each.handle for each in near] + [each.link for each in near if each.link]
    atoms = {each.handle: each for each in await dao.get(handles)}
    names = await name_atoms(dao, [handle, *atoms, *(each.via for each in near if each.via)])
    views = tuple(neighbour_of(each, atoms, names) for each in near if each.handle in atoms)
    return Neighbourhood(ref_of(names[handle]), views, sampled)


async def path(
    atlas: Atlas,
    start: str,
    goal: str,
    *,
    types: Sequence[str] | None = None,
    most_links: int | None = None,
    space: int = OWN,
) -> PathView:
    """A shortest path between two atoms over links of two, but not over agents and categories.

    These connect nearly everything. NoSuchAtom if one of the two isn't there.
    """
    from maia.graphing.paths import MOST_LINKS, hubs, shortest_path

    dao, most = _dao(atlas, space), most_links or MOST_LINKS
    ends = await _there(dao, start), await _there(dao, goal)
    wanted = await _link_types(dao, types)
    found = await shortest_path(dao, *ends, wanted, avoid=await hubs(dao), most_links=most)
    links = {each.handle: each for each in await dao.get(found.links)}
    names = await name_atoms(dao, [*found.atoms, *found.links])
    note = None
    if not found.atoms:
        note = (
            f"There is no path of at most {counted(most, 'link')}."
            if found.is_certain
            else f"The search gave up after {found.visited:,} atoms: name the types of links to follow."
        )
    return PathView(
        tuple(ref_of(names[each]) for each in found.atoms if each in names),
        tuple(view_of(links[each], names) for each in found.links if each in links),
        found.visited,
        note,
    )


async def similar(atlas: Atlas, text: str, *, limit: int = 10, space: int = OWN) -> SimilarAtoms:
    """The atoms of an atom's type that are most like it, the likest first; NoSuchAtom if it isn't there."""
    from maia.graphing.similar import similar_atoms

    dao = _dao(atlas, space)
    handle = await _there(dao, text)
    alike = await similar_atoms(dao, handle, limit)
    atoms = {each.handle: each for each in await dao.get([each for each, _ in alike.atoms])}
    names = await name_atoms(dao, [handle, *atoms])
    found = (SimilarAtom(view_of(atoms[each], names), how) for each, how in alike.atoms if each in atoms)
    return SimilarAtoms(ref_of(names[handle]), alike.by, tuple(found))


async def communities(
    atlas: Atlas,
    *,
    of: str | None = None,
    types: Sequence[str] | None = None,
    limit: int = 10,
    members: int = 3,
    resolution: float = 1.0,
    seed: int = 0,
    space: int = OWN,
) -> CommunitiesView:
    """Groups of videos, channels and topics that are linked over the same tags, or that of an atom.

    Those of this site's graph are derived beforehand. Others, or over links of other types, or of another
    resolution, are found now, which reads the whole graph. A higher resolution gives more and smaller ones.
    """
    from maia.graphing.communities import LINKS, Clustering, find_communities

    dao = _dao(atlas, space)
    handle = None if of is None else await _there(dao, of)
    links = frozenset(await _link_types(dao, types) or LINKS)
    found = await find_communities(atlas, Clustering(links, resolution, seed), space=space)
    return await show_communities(atlas, found, of=handle, limit=limit, members=members, space=space)


async def show_communities(
    atlas: Atlas,
    found: Communities,
    *,
    of: UUID | None = None,
    limit: int = 10,
    members: int = 3,
    space: int = OWN,
) -> CommunitiesView:
    """The largest of the communities that were found, or that of an atom, with some of their members."""
    chosen = await asyncio.to_thread(found.chosen, of, limit, members)
    names = await name_atoms(
        _dao(atlas, space), [each for one in chosen for each in (*one.tags, *one.members)]
    )

    def refs(handles: Sequence[UUID]) -> tuple[AtomRef, ...]:
        """Without those that are gone since."""
        return tuple(ref_of(names[each]) for each in handles if each in names)

    views = (CommunityView(each.size, each.by_type, refs(each.tags), refs(each.members)) for each in chosen)
    return CommunitiesView(tuple(views), found.total, found.modularity, found.found_at)


async def query(
    atlas: Atlas,
    text: str,
    *,
    show: Sequence[str] | None = None,
    mode: Mode = "rows",
    order: Sequence[str] = (),
    limit: int = 100,
    explain: bool = False,
    max_cost: float | None = None,
    timeout_s: float | None = None,
    space: int = OWN,
) -> QueryAnswer:
    """What matches a query: the atoms of the variables to show, or of all that have a name.

    How a query is written, `maia.graphing.templates` says; `order` has texts such as `?link.weight`. With
    `explain`, it is only planned. QueryTooCostly or StatementTimeout if it takes too much.
    """
    from atlas.adapters.graph_matching import MAX_COST, TIMEOUT_S, GraphMatchingDAO
    from atlas.adapters.graph_queries import Wanted

    dao, form = _dao(atlas, space), parse_query(text)
    template = await template_of(dao, form)
    shown = tuple(map(parse_variable, show or ())) or shown_variables(form, template)
    wanted = Wanted(shown, mode, tuple(map(parse_order, order)), limit, PERSONALITY)
    matching = GraphMatchingDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).of(space)
    limit_s = timeout_s or TIMEOUT_S
    if explain:
        plan = await matching.explain(template, wanted, timeout_s=limit_s)
        names = tuple(map(str, shown))
        return QueryAnswer(str(form), names, (), None, False, plan.cost, (), plan.lines, plan.sql)
    found = await matching.match(template, wanted, max_cost=max_cost or MAX_COST, timeout_s=limit_s)
    views = await _views_of(dao, {each for row in found.rows for each in row})
    rows = tuple(
        QueryRow(tuple(views[each] for each in row), None if found.tallies is None else found.tallies[nth])
        for nth, row in enumerate(found.rows)
        if all(each in views for each in row)
    )
    missing = () if rows or found.total else await _missing(dao, form)
    return QueryAnswer(str(form), tuple(map(str, shown)), rows, found.total, found.more, found.cost, missing)


async def most_attended(
    atlas: Atlas, type_: str | None = None, *, limit: int = 100, space: int = OWN
) -> list[AtomView]:
    """The atoms with the highest short-term importance, as it was when it was last set."""
    dao = _dao(atlas, space)
    if type_ is not None:
        check_type(type_, await dao.types())
    atoms = await dao.most_attended(type_, limit=limit)
    names = await name_atoms(dao, [each.handle for each in atoms])
    return [view_of(each, names) for each in atoms]


async def stats(atlas: Atlas, *, space: int = OWN) -> GraphStats:
    """How much there is in a space."""
    dao = _dao(atlas, space)
    types = await dao.types()
    counts, attention = await dao.counts(), await dao.attention_totals()
    names = {number: name for name, number in (await spaces(atlas)).items()}
    figures = []
    for name in dict.fromkeys(each.type for each in counts):
        of_type = [each for each in counts if each.type == name]
        by_source = {
            source: sum(each.atoms for each in of_type if source in source_names(each.sources))
            for source in source_names(Sources(15))
        }
        figures.append(
            TypeFigures(
                type=name,
                is_link=types[name].is_link,
                what=types[name].what,
                atoms=sum(each.atoms for each in of_type),
                by_source={source: atoms for source, atoms in by_source.items() if atoms},
                positive=sum(each.positive for each in of_type),
                count=sum(each.count for each in of_type),
                seen_at=max(each.seen_at for each in of_type),
            )
        )
    return GraphStats(
        now=atlas.clock.now(),
        space=names[space],
        nodes=sum(each.atoms for each in figures if not each.is_link),
        links=sum(each.atoms for each in figures if each.is_link),
        types=tuple(figures),
        positive=sum(each.positive for each in figures),
        count=sum(each.count for each in figures),
        attended=attention.atoms,
        kept=attention.kept,
        sti=attention.sti,
        lti=attention.lti,
        attended_at=attention.attended_at,
        seen_at=max((each.seen_at for each in figures), default=None),
        gone=await dao.count_tombstones(),
        bytes=await dao.sizes(),
    )


async def _there(dao: GraphViewsDAO, text: str) -> UUID:
    handle = await handle_of(dao, text)
    if not await dao.get([handle]):
        raise NoSuchAtom(
            f"there is no atom {text}: maia graph find, or GET /api/v1/graph/atoms, "
            "lists those whose names begin alike"
        )
    return handle


async def _link_types(dao: GraphViewsDAO, types: Sequence[str] | None) -> list[str] | None:
    if not types:
        return None
    known = await dao.types()
    return [check_type(each, known, is_link=True).name for each in types]


async def _views(dao: GraphViewsDAO, handles: Sequence[UUID]) -> list[AtomView]:
    """Those of the atoms that are there, in the same order."""
    views = await _views_of(dao, handles)
    return [views[handle] for handle in handles if handle in views]


async def _views_of(dao: GraphViewsDAO, handles: Iterable[UUID]) -> dict[UUID, AtomView]:
    wanted = sorted(set(handles))
    atoms: list[Atom] = []
    for start in range(0, len(wanted), AT_ONCE):
        atoms += await dao.get(wanted[start : start + AT_ONCE])
    names = await name_atoms(dao, [each.handle for each in atoms])
    return {each.handle: view_of(each, names) for each in atoms}


async def _missing(dao: GraphViewsDAO, form: QueryForm) -> tuple[str, ...]:
    """The constants of a query that aren't there."""
    constants = constants_of(form)
    handles = await resolve(dao, constants)
    there = {each.handle for each in await dao.get(handles)}
    return tuple(str(each) for each, handle in zip(constants, handles, strict=True) if handle not in there)


def _place_of(after: str) -> tuple[str, str]:
    form = parse_form(after)
    if not isinstance(form, NodeForm):
        raise NoSuchAtom(f"{after} is no node: give the one that a page named as the next")
    return form.type, form.name


def _dao(atlas: Atlas, space: int) -> GraphViewsDAO:
    from atlas.adapters.graph_views import GraphViewsDAO

    dao = GraphViewsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    dao.space = space
    return dao
