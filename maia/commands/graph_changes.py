"""The commands of `maia graph` that change it: people's own atoms, and bringing it up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from atlas.wording import counted
from maia.commands.graph_arguments import Atoms, in_space
from maia.commands.terminal import AsJson, ExitStatus, print_error, print_json, print_text, progress_bar

if TYPE_CHECKING:
    from atlas.adapters.graph import Added
    from atlas.composition import Atlas
    from maia.graphing.deriving import Derived
    from maia.graphing.feeding import Fed


def add(
    atoms: Atoms,
    pos: Annotated[
        int, typer.Option("--for", min=0, metavar="N", help="Add so many observations for each.")
    ] = 0,
    neg: Annotated[int, typer.Option("--against", min=0, metavar="N", help="Add so many against each.")] = 0,
    weight: Annotated[
        float | None,
        typer.Option(help="The weight of the links; what it means is up to you.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add nodes and links of your own, with the atoms that the links connect.

    What you add stays until you remove it, whatever the videos say. What is there already only gains your
    evidence. For concepts and links between them there are the types concept and related_to.

    For example:

    - `maia graph add 'concept:study music'`
    - `maia graph add 'related_to(concept:study music, tag:lo fi)' --for 3 --weight 2`
    """

    async def work(atlas: Atlas, _: int) -> Added:
        from maia.graphing.graph import Graph

        return await Graph(atlas).add_all(atoms, pos=pos, neg=neg, weight=weight)

    done = in_space(None, work)
    if as_json:
        print_json({"added": done.added, "changed": done.changed})
    else:
        print_text(f"{counted(done.added, 'atom')} added, {done.changed:,} changed")


def remove(atoms: Atoms, as_json: AsJson = False) -> None:
    """Take back nodes and links that people added, and with a node all links to it.

    What the videos, topics and patterns say stays, and so does what other sites say.

    For example:

    - `maia graph remove 'concept:study music'`
    - `maia graph remove 'related_to(concept:study music, tag:lo fi)'`
    """

    async def work(atlas: Atlas, _: int) -> int:
        from maia.graphing.graph import Graph

        return await Graph(atlas).remove(*atoms)

    gone = in_space(None, work)
    if as_json:
        print_json({"removed": gone})
    elif gone:
        print_text(f"{counted(gone, 'atom')} removed, links included")
    else:
        print_text(
            "Nothing is gone: either nobody had added these, or the facts or other sites say them, too. "
            "maia graph get ATOM shows who says one.",
        )


def update(
    again: Annotated[
        bool, typer.Option("--rebuild", help="Read everything anew, instead of only what changed.")
    ] = False,
    derived: Annotated[
        bool, typer.Option("--derive/--no-derive", help="Whether to derive links from the facts, too.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Bring the graph up to date with the videos, topics and patterns now.

    The learner does so in each of its cycles: this is for those who don't want to wait. If another process
    does the same at the moment, this leaves it out, and fails. For example:

    - `maia graph update`
    - `maia graph update --rebuild` after a repair; it ends with the same graph
    """

    async def work(atlas: Atlas, _: int) -> tuple[Fed, Derived | None]:
        from maia.graphing.deriving import derive
        from maia.graphing.feeding import feed, rebuild

        with progress_bar("Reading what changed") as bar:
            fed = await (rebuild if again else feed)(atlas, bar)
        if not derived:
            return fed, None
        with progress_bar("Deriving links") as bar:
            return fed, await derive(atlas, lambda what, done, total: bar(done, total, f"Deriving: {what}"))

    fed, links = in_space(None, work)
    if as_json:
        print_json({"fed": fed, "derived": links})
    else:
        _print_update(fed, links)
    if not fed.is_alone or (links is not None and not links.is_alone):
        print_error(_busy(fed, links), ExitStatus.FAILED)
        raise typer.Exit(ExitStatus.FAILED)


def _print_update(fed: Fed, links: Derived | None) -> None:
    if fed.is_alone:
        read = counted(fed.read, "video, topic or pattern", "videos, topics and patterns")
        print_text(f"{read} read: {fed.added:,} atoms added, {fed.removed:,} removed.")
    if links is not None and links.is_alone:
        print_text(
            f"{counted(links.links, 'derived link')}: {links.written:,} written, {links.removed:,} removed."
        )


def _busy(fed: Fed, links: Derived | None) -> str:
    """What another process is doing at the moment, so that this one left it out."""
    doing = [] if fed.is_alone else ["reads what changed"]
    doing += [] if links is None or links.is_alone else ["derives links"]
    return (
        f"another process {' and '.join(doing)} at the moment, so that this was left out: wait until it is "
        "done, then run this again"
    )
