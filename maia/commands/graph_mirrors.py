"""`maia graph mirror`: read-only copies of parts of other sites' graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from atlas.wording import counted
from maia.commands.tables import Column, print_table
from maia.commands.terminal import AsJson, print_json, print_text, with_atlas
from maia.views.words import plain

if TYPE_CHECKING:
    from atlas.adapters.mirrors import GraphFilter, Mirror, MirrorsDAO
    from atlas.composition import Atlas
    from maia.federation.mirroring import Refreshed

_NAME: Final = r"[a-z0-9][a-z0-9_-]{0,49}"

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", add_completion=False)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the mirror.")]


@app.callback()
def mirror() -> None:
    """Keep read-only copies of parts of other sites' graphs, up to date while maia api runs."""


@app.command()
def add(
    name: Name,
    peer: Annotated[
        str, typer.Argument(metavar="PEER", help="Host and port of a peer that the settings name.")
    ],
    types: Annotated[
        list[str] | None,
        typer.Option("--type", help="Only nodes and links of this type; repeat it. [default: all]"),
    ] = None,
    prefix: Annotated[str, typer.Option(help="Only nodes whose names begin so.")] = "",
    around: Annotated[
        str | None, typer.Option(metavar="TYPE:NAME", help="Only what is near this node.")
    ] = None,
    hops: Annotated[int, typer.Option(min=1, max=4, help="How near: so many links away at most.")] = 1,
    min_strength: Annotated[
        float, typer.Option(min=0, max=1, help="Only links that are at least so strongly believed.")
    ] = 0.0,
    min_count: Annotated[
        float, typer.Option(min=0, help="Only links with at least so many observations.")
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Copy a part of a peer's graph, and keep the copy up to date.

    For example:

    - `maia graph mirror add tags b.example:443 --type tag --type co_occurs`
    - `maia graph mirror add music b.example:443 --around tag:music --hops 2`
    """
    wanted = _filter(types, prefix, around, hops, min_strength, min_count)

    async def work(atlas: Atlas) -> Refreshed:
        from maia.federation.http import place_of, urls_of
        from maia.federation.running import Federation

        places = [place_of(url) for url in urls_of(atlas.settings.federation)]
        if peer not in places:
            known = ", ".join(places) or "none: set PLEIADES_FEDERATION__PEERS"
            raise typer.BadParameter(
                f"the settings name no peer {peer}; they name {known}", param_hint="PEER"
            )
        await _dao(atlas).add(_checked(name), peer, wanted)
        [done] = await Federation(atlas).refresh_mirrors([name])
        return done

    _tell([with_atlas(work)], as_json=as_json)


@app.command(name="list")
def list_(as_json: AsJson = False) -> None:
    """List the mirrors, what they copy, and how fresh they are."""

    async def work(atlas: Atlas) -> list[Mirror]:
        return await _dao(atlas).all()

    found = with_atlas(work)
    if as_json:
        print_json(plain(found))
    elif not found:
        print_text("There are no mirrors: maia graph mirror add NAME PEER makes one.")
    else:
        print_table(
            (
                Column("mirror", 10), Column("of", 12), Column("what", 12, rank=1, wraps=True),
                Column("atoms", right=True), Column("refreshed"), Column("state", 12, wraps=True),
            ),
            [
                (
                    each.name, each.place, _told(each.filter), each.atoms, each.refreshed_at,
                    each.failure or "well",
                )
                for each in found
            ],
        )  # fmt: skip


@app.command()
def refresh(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="[default: all]")] = None,
    as_json: AsJson = False,
) -> None:
    """Bring mirrors up to date now."""

    async def work(atlas: Atlas) -> list[Refreshed]:
        from maia.federation.running import Federation

        if name is not None:
            await _dao(atlas).get(name)
        return await Federation(atlas).refresh_mirrors(None if name is None else [name])

    _tell(with_atlas(work), as_json=as_json)


@app.command()
def remove(name: Name, as_json: AsJson = False) -> None:
    """Remove a mirror, and delete its atoms here."""

    async def work(atlas: Atlas) -> None:
        await _dao(atlas).remove(name)

    with_atlas(work)
    if as_json:
        print_json({"removed": name})
    else:
        print_text(f"The mirror {name} is removed.")


def _dao(atlas: Atlas) -> MirrorsDAO:
    from atlas.adapters.mirrors import MirrorsDAO

    return MirrorsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


def _checked(name: str) -> str:
    import re

    if not re.fullmatch(_NAME, name):
        raise typer.BadParameter(
            f"{name[:50]!r} is no name: use up to 50 small letters, digits, - and _", param_hint="NAME"
        )
    return name


def _filter(
    types: list[str] | None,
    prefix: str,
    around: str | None,
    hops: int,
    min_strength: float,
    min_count: float,
) -> GraphFilter:
    from atlas.adapters.graph import node_handle
    from atlas.adapters.mirrors import GraphFilter

    center = None
    if around is not None:
        type_, colon, name = around.partition(":")
        if not colon or not name:
            raise typer.BadParameter("name a node as TYPE:NAME, such as tag:music", param_hint="--around")
        center = node_handle(type_, name)
    return GraphFilter(tuple(types) if types else None, prefix, center, hops, min_strength, min_count)


def _told(wanted: GraphFilter) -> str:
    told = ["all types" if wanted.types is None else " ".join(wanted.types)]
    if wanted.prefix:
        told.append(f"{wanted.prefix}…")
    if wanted.around is not None:
        told.append(f"up to {counted(wanted.hops, 'link')} from {str(wanted.around)[:8]}")
    if wanted.min_strength:
        told.append(f"strength ≥ {wanted.min_strength:g}")
    if wanted.min_count:
        told.append(f"count ≥ {wanted.min_count:g}")
    return ", ".join(told)


def _tell(done: list[Refreshed], *, as_json: bool) -> None:
    if as_json:
        print_json(plain(done))
    elif not done:
        print_text("There are no mirrors: maia graph mirror add NAME PEER makes one.")
    else:
        print_table(
            (
                Column("mirror", 10), Column("atoms", right=True), Column("fetched", right=True),
                Column("dropped", right=True), Column("result", 12, wraps=True),
            ),
            [
                (each.name, each.atoms, each.fetched, each.dropped, each.failed or "well")
                for each in done
            ],
        )  # fmt: skip
    if any(each.failed for each in done):
        raise typer.Exit(1)
