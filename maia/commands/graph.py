"""`maia graph`: looks into the knowledge graph: atoms, neighbours, paths, queries, and how much there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from atlas.adapters.graph_queries import PROPERTIES
from maia.commands import graph_changes, graph_copies, graph_files, graph_mirrors, graph_sites
from maia.commands.graph_arguments import (
    Atoms,
    Hops,
    LinkTypes,
    OneAtom,
    SpaceName,
    in_space,
    of_types,
    refuse,
)
from maia.commands.graph_printing import (
    print_answer,
    print_communities,
    print_details,
    print_neighbours,
    print_page,
    print_path,
    print_similar,
    print_stats,
)
from maia.commands.terminal import AsJson, ExitStatus, print_json, print_text
from maia.views.words import plain

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from maia.views.graph_answers import (
        AtomDetails,
        AtomPage,
        AtomView,
        CommunitiesView,
        GraphStats,
        Neighbourhood,
        PathView,
        QueryAnswer,
        SimilarAtoms,
    )

_ABOUT: Final = """Look into the knowledge graph: what is connected, what is alike, and what gets attention.

The graph has nodes, such as `tag:lo fi`, `video:dQw4w9WgXcQ`, `channel:UC…`, `topic:jazz` and
`category:music`, and links between them, such as `tagged(video:dQw4w9WgXcQ, tag:lo fi)`. Both are atoms.
Wherever an ATOM is asked for, write it like this, or the first characters of its handle; put it in quotes for
the shell. A name with commas, parentheses or brackets in a link goes in double quotes: `tag:"rock, live"`.

docs/graph.md explains the types of atoms and answers questions step by step.
"""

app = typer.Typer(rich_markup_mode="markdown", add_completion=False, no_args_is_help=True, help=_ABOUT)

Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many to show at most.")]
NodeType = Annotated[
    str | None,
    typer.Option("--type", "-t", metavar="TYPE", help="Only atoms of this type.", show_default=False),
]

_FEW_MEMBERS: Final = 3


@app.command()
def get(atoms: Atoms, space: SpaceName = None, as_json: AsJson = False) -> None:
    """Show atoms with their truth value, attention, values, and the links they are in.

    For example:

    - `maia graph get tag:music`
    - `maia graph get 'tagged(video:dQw4w9WgXcQ, tag:music)' --json`
    - `maia graph get 3f8a91` by the first characters of its handle
    """

    async def look(atlas: Atlas, space: int) -> list[list[AtomDetails]]:
        from maia.views.graph import get

        return [await get(atlas, [each], space=space) for each in atoms]

    looked = in_space(space, look)
    found = [each for some in looked for each in some]
    missing = [atom for atom, some in zip(atoms, looked, strict=True) if not some]
    if as_json:
        print_json(plain({"atoms": found, "missing": missing}))
        raise typer.Exit(ExitStatus.FAILED if missing else ExitStatus.DONE)
    print_details(found)
    if missing:
        refuse(f"there is no atom {' and no '.join(missing)}: maia graph find lists what there is")


@app.command()
def find(
    text: Annotated[
        str, typer.Argument(metavar="[TYPE:]TEXT", help="How names begin, perhaps after a type and a colon.")
    ] = "",
    type_: NodeType = None,
    after: Annotated[
        str | None, typer.Option(metavar="ATOM", help="Go on after this node.", show_default=False)
    ] = None,
    titled: Annotated[
        bool, typer.Option("--titled", help="Find channels and videos by the words of their titles instead.")
    ] = False,
    limit: Limit = 30,
    space: SpaceName = None,
    as_json: AsJson = False,
) -> None:
    """List nodes by how their names begin.

    For example:

    - `maia graph find lo` lists the nodes of all types whose names begin with lo
    - `maia graph find tag:lo -n 100`
    - `maia graph find --type agent`
    - `maia graph find --titled 'city garden'`

    Names of videos and channels are their ids.
    """
    if titled and (after is not None or not text.strip()):
        raise typer.BadParameter("--titled needs words of a title, and doesn't go with --after")

    async def look(atlas: Atlas, space: int) -> AtomPage:
        from maia.views.graph import check_type_before, find, find_titled

        if titled:
            return await find_titled(atlas, text, type_=type_, limit=limit, space=space)
        found = await find(atlas, text, type_=type_, after=after, limit=limit, space=space)
        if not found.atoms and type_ is None:
            await check_type_before(atlas, text, space=space)
        return found

    page = in_space(space, look)
    if as_json:
        print_json(plain(page))
    else:
        print_page(page, "There is no such node.")
        if titled and len(page.atoms) == limit:
            print_text("There may be more: -n shows more.")


@app.command()
def incoming(
    atom: OneAtom,
    types: LinkTypes = None,
    after: Annotated[
        str | None, typer.Option(metavar="HANDLE", help="Go on after this link.", show_default=False)
    ] = None,
    limit: Limit = 30,
    space: SpaceName = None,
    as_json: AsJson = False,
) -> None:
    """List the links that an atom is in: its incoming set.

    For example:

    - `maia graph incoming tag:music --type co_occurs`
    - `maia graph incoming 'tagged(video:dQw4w9WgXcQ, tag:music)'` lists links about a link
    """

    async def look(atlas: Atlas, space: int) -> AtomPage:
        from maia.views.graph import incoming

        return await incoming(atlas, atom, types=types, after=after, limit=limit, space=space)

    page = in_space(space, look)
    if as_json:
        print_json(plain(page))
    else:
        print_page(page, f"No link{of_types(types)} has this atom in its outgoing set.")


@app.command()
def neighbours(
    atom: OneAtom,
    hops: Hops = 1,
    types: LinkTypes = None,
    limit: Limit = 20,
    space: SpaceName = None,
    as_json: AsJson = False,
) -> None:
    """List the atoms that an atom is linked with, and with --hops 2 what these are linked with.

    Direct neighbours come by the weight of their links times how often these were seen. Those two links away
    come by closeness: each atom between counts the more the fewer links it has, because sharing a rare tag
    says more than sharing music.

    For example:

    - `maia graph neighbours tag:jazz --type co_occurs`
    - `maia graph neighbours video:dQw4w9WgXcQ --hops 2 -n 10`
    """

    async def look(atlas: Atlas, space: int) -> Neighbourhood:
        from maia.views.graph import neighbours

        return await neighbours(atlas, atom, hops=hops, types=types, limit=limit, space=space)

    found = in_space(space, look)
    if as_json:
        print_json(plain(found))
    else:
        print_neighbours(found, hops, types)


@app.command()
def path(
    start: Annotated[str, typer.Argument(metavar="ATOM", help="Where it begins.")],
    goal: Annotated[str, typer.Argument(metavar="ATOM", help="Where it ends.")],
    types: LinkTypes = None,
    most: Annotated[
        int, typer.Option("--most", min=1, max=20, help="How many links it may have at most.")
    ] = 8,
    space: SpaceName = None,
    as_json: AsJson = False,
) -> None:
    """Show how two atoms are connected: one of the shortest paths between them.

    It doesn't lead over agents and categories, which connect nearly everything.

    For example:

    - `maia graph path video:dQw4w9WgXcQ topic:jazz`
    - `maia graph path channel:UC1 channel:UC2 --type uploaded_by --type tagged`
    """

    async def look(atlas: Atlas, space: int) -> PathView:
        from maia.views.graph import path

        return await path(atlas, start, goal, types=types, most_links=most, space=space)

    found = in_space(space, look)
    if as_json:
        print_json(plain(found))
    else:
        print_path(found)


@app.command()
def similar(atom: OneAtom, limit: Limit = 10, space: SpaceName = None, as_json: AsJson = False) -> None:
    """List the atoms of the same type that are most like an atom.

    For example:

    - `maia graph similar video:dQw4w9WgXcQ`
    - `maia graph similar channel:UC-lHJZR3Gqxm24_Vd_AJ5Yw -n 5 --json`
    """

    async def look(atlas: Atlas, space: int) -> SimilarAtoms:
        from maia.views.graph import similar

        return await similar(atlas, atom, limit=limit, space=space)

    found = in_space(space, look)
    if as_json:
        print_json(plain(found))
    else:
        print_similar(found)


@app.command()
def communities(
    of: Annotated[
        str | None,
        typer.Option(
            "--of",
            metavar="ATOM",
            help="Only the community of this atom, with more members.",
            show_default=False,
        ),
    ] = None,
    types: LinkTypes = None,
    resolution: Annotated[
        float, typer.Option(min=0.05, max=20, help="Higher gives more and smaller communities.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Another one may group a few atoms otherwise.")] = 0,
    limit: Limit = 10,
    space: SpaceName = None,
    as_json: AsJson = False,
) -> None:
    """Group videos, channels, topics and tags into communities of what is linked with each other.

    They are found whenever links are derived. Other links, another resolution or seed take some seconds for a
    million links. For example:

    - `maia graph communities`
    - `maia graph communities --resolution 3 -n 30`
    - `maia graph communities --of tag:jazz`
    """

    async def look(atlas: Atlas, space: int) -> CommunitiesView:
        from maia.views.graph import communities

        members = _FEW_MEMBERS if of is None else limit
        return await communities(
            atlas, of=of, types=types, limit=limit, members=members, resolution=resolution, seed=seed,
            space=space,
        )  # fmt: skip

    found = in_space(space, look)
    if as_json:
        print_json(plain(found))
    else:
        print_communities(found)


@app.command()
def query(
    text: Annotated[
        str,
        typer.Argument(
            metavar="QUERY",
            help="Links with variables, and conditions, between commas; in quotes for the shell.",
        ),
    ],
    show: Annotated[
        list[str] | None,
        typer.Option(
            "--show", "-s", metavar="VARIABLE", help="Only this one; may be repeated.", show_default=False
        ),
    ] = None,
    order: Annotated[
        list[str] | None,
        typer.Option(
            "--order",
            "-o",
            metavar="VARIABLE.PROPERTY",
            help=f"Sort by {', '.join(PROPERTIES)}, greatest first and names by alphabet, unless asc or desc "
            "follows; may be repeated.",
            show_default=False,
        ),
    ] = None,
    limit: Limit = 30,
    distinct: Annotated[bool, typer.Option("--distinct", help="Show equal rows once.")] = False,
    tally: Annotated[
        bool, typer.Option("--tally", help="Count equal rows, the most frequent first.")
    ] = False,
    count: Annotated[
        bool, typer.Option("--count", help="Only count the matches; with --distinct, different ones.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Only show how PostgreSQL would find them.")
    ] = False,
    max_cost: Annotated[
        float | None,
        typer.Option(min=1, help="Refuse plans that cost more. [default: 1,000,000]", show_default=False),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=3600,
            metavar="SECONDS",
            help="End it after this time. [default: 10]",
            show_default=False,
        ),
    ] = None,
    space: SpaceName = None,
    as_json: AsJson = False,
) -> None:
    """Find atoms that match a pattern of links with variables.

    A variable is `?name`, or `?name:video` for atoms of a type. Further conditions come after commas:

    - `?l = tagged(?v, ?t)` binds the link itself; links may be nested
    - `co_occurs(?a, ?b)[weight >= 2]` or `?v.sti > 1` bounds strength, confidence, count, weight, sti or lti
    - `?a != ?b` or `?a != tag:music`
    - `not tagged(?v, tag:live)`: there is no such link

    For example:

    - `maia graph query 'tagged(?video, tag:music), uploaded_by(?video, ?channel)'`
    - `maia graph query 'tagged(?v, tag:music), tagged(?v, ?tag), ?tag != tag:music' --show tag --tally`
    - `maia graph query '?l = co_occurs(tag:jazz, ?tag)[weight > 1]' --order '?l.weight'`
    - `maia graph query 'uploaded_by(?v, ?channel), not tagged(?v, ?t)' --count`
    """
    mode = _mode(distinct=distinct, tally=tally, count=count)

    async def look(atlas: Atlas, space: int) -> QueryAnswer:
        from maia.views.graph import query

        return await query(
            atlas, text, show=show, mode=mode, order=order or (), limit=limit, explain=explain,
            max_cost=max_cost, timeout_s=timeout, space=space,
        )  # fmt: skip

    answer = in_space(space, look)
    if as_json:
        print_json(plain(answer))
    else:
        from maia.graphing.templates import parse_order

        print_answer(answer, list(map(parse_order, order or ())))


@app.command()
def stats(
    attended: Annotated[
        int, typer.Option("--attended", min=0, max=1_000, help="How many of the most attended atoms to show.")
    ] = 5,
    space: SpaceName = None,
    as_json: AsJson = False,
) -> None:
    """Show how much there is: atoms by type and source, evidence, attention, and size on disk.

    For example:

    - `maia graph stats`
    - `maia graph stats --json | jq .bytes`
    """

    async def look(atlas: Atlas, space: int) -> tuple[GraphStats, list[AtomView]]:
        from maia.views.graph import most_attended, stats

        return await stats(atlas, space=space), await most_attended(atlas, limit=attended, space=space)

    found, most = in_space(space, look)
    if as_json:
        print_json(plain(found) | {"most_attended": plain(most)})
    else:
        print_stats(found, most)


app.command()(graph_files.export)
app.command("import")(graph_files.import_)
for each in (
    graph_changes.add,
    graph_changes.remove,
    graph_changes.update,
    graph_copies.snapshot,
    graph_copies.snapshots,
    graph_copies.restore,
    graph_copies.save,
    graph_copies.load,
):
    app.command()(each)
app.add_typer(graph_mirrors.app, name="mirror")
app.command()(graph_sites.forget_site)


def _mode(
    *, distinct: bool, tally: bool, count: bool
) -> Literal["rows", "distinct", "tally", "count", "count_distinct"]:
    if tally and (distinct or count):
        raise typer.BadParameter("--tally already counts equal rows: leave out --distinct and --count")
    if count:
        return "count_distinct" if distinct else "count"
    return "tally" if tally else "distinct" if distinct else "rows"
