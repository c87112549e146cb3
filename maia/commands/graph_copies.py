"""The commands of `maia graph` that keep copies of it: snapshots in the vault, and files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from atlas.wording import counted
from maia.commands.copying import print_snapshots, print_taken
from maia.commands.terminal import AsJson, print_json, print_text, with_atlas

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from maia.cycle.snapshot_chains import StoredSnapshot
    from maia.graphing.disk import Saved
    from maia.graphing.saving import Restored, Taken

Place = Annotated[
    Path,
    typer.Argument(
        metavar="FILE|FOLDER",
        help="A file is binary, or lines of JSON if its name ends in .jsonl.",
        show_default=False,
    ),
]
_UP_TO_DATE: Final = (
    "What has changed since is taken over in the learner's next cycle, or now by maia graph update."
)
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


def snapshot(
    full: Annotated[
        bool, typer.Option("--full", help="A whole one, not only what has changed since the last.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Store a snapshot of the graph in the vault.

    It holds what has changed since the last one, and now and then everything. The learner takes one by itself
    every PLEIADES_GRAPH__SNAPSHOT_INTERVAL_H hours; old ones are deleted.
    """

    async def work(atlas: Atlas) -> Taken:
        from functools import partial

        from maia.graphing import saving
        from maia.graphing.present import present_graph

        return await saving.take(atlas, partial(present_graph, atlas), full=full)

    taken = with_atlas(work)
    if as_json:
        print_json(taken)
        return
    print_taken(taken.snapshot, counted(taken.atoms, "atom"), taken.bytes, taken.deleted)


def snapshots(as_json: AsJson = False) -> None:
    """List the snapshots of the graph in the vault, newest first."""

    async def look(atlas: Atlas) -> list[StoredSnapshot]:
        from maia.graphing import saving

        return (await saving.stored(atlas))[::-1]

    found = with_atlas(look)
    if as_json:
        print_json({"snapshots": found})
    else:
        print_snapshots(
            found,
            none="There is no snapshot of the graph in the vault yet: maia graph snapshot takes one.",
            use="maia graph restore ID puts one in place of the graph.",
        )


def restore(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID|NAME]",
            help="The snapshot's id or name; the last one if left out.",
            show_default=False,
        ),
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Put a snapshot in place of the graph, once it and those it is based on have been verified.

    What people added since is lost. Facts aren't: the learner's next cycle takes over what has changed since,
    and derives again what is derived.
    """
    _confirm(f"the snapshot {name}" if name else "the last snapshot", yes=yes)

    async def work(atlas: Atlas) -> Restored:
        from functools import partial

        from maia.graphing import saving
        from maia.graphing.restoring import replace_graph

        return await saving.restore(atlas, partial(replace_graph, atlas), name)

    restored = with_atlas(work)
    if as_json:
        print_json(restored)
        return
    verified = counted(len(restored.chain), "snapshot")
    print_text(f"verified {verified}, up to {restored.chain[-1].name}")
    print_text(f"restored {counted(restored.atoms, 'atom')}")
    print_text(_UP_TO_DATE)


def save(
    to: Place,
    with_json: Annotated[
        bool, typer.Option("--with-json", help="In a folder: the same as lines of JSON beside the file.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the whole graph to a file, from which maia graph load restores it.

    A file is written aside and renamed, so that what was there stays until the new one is whole. In a folder
    that is there, each gets a name that says when it was written, and all but the last
    PLEIADES_GRAPH__SNAPSHOTS_KEPT are deleted. For example:

    - `maia graph save graph.plgraph`
    - `maia graph save graph.jsonl` for JSON, which is ten times larger and slower
    - `maia graph save /var/backups/pleiades --with-json` from a timer
    """
    if with_json and not to.is_dir():
        raise typer.BadParameter(f"--with-json is for folders, and {to} is none")

    async def work(atlas: Atlas) -> tuple[int, Saved]:
        from maia.graph.files import GraphSnapshot
        from maia.graphing import disk
        from maia.graphing.present import present_graph

        at = atlas.clock.now()
        graph, values = await present_graph(atlas)
        snapshot = GraphSnapshot(graph, at, atlas.clock.now(), values=values)
        if not to.is_dir():
            return len(graph), disk.Saved(to, await disk.write_file(to, snapshot), 0)
        kept = atlas.settings.graph.snapshots_kept
        return len(graph), await disk.save(to, snapshot, kept=kept, as_json=with_json)

    atoms, saved = with_atlas(work)
    if as_json:
        figures = {"file": str(saved.path), "atoms": atoms, "bytes": saved.bytes, "deleted": saved.deleted}
        print_json(figures)
        return
    print_text(f"wrote {counted(atoms, 'atom')} in {counted(saved.bytes, 'byte')} to {saved.path}")
    if saved.deleted:
        print_text(f"deleted {counted(saved.deleted, 'old file')}")


def load(file: Place, yes: Yes = False, as_json: AsJson = False) -> None:
    """Put the graph of a file in place of what there is, once all of the file has been verified.

    Of a folder, the last file that is whole is loaded. What people added since is lost. Facts aren't: the
    learner's next cycle takes over what has changed since, and derives again what is derived.
    """
    _confirm(str(file), yes=yes)

    async def work(atlas: Atlas) -> tuple[Path, int]:
        from maia.graphing import disk
        from maia.graphing.restoring import replace_graph

        path, snapshot = await disk.load_whole(file)
        await replace_graph(atlas, snapshot)
        return path, len(snapshot.graph)

    path, atoms = with_atlas(work)
    if as_json:
        print_json({"file": str(path), "atoms": atoms})
    else:
        print_text(f"loaded {counted(atoms, 'atom')} from {path}")
        print_text(_UP_TO_DATE)


def _confirm(what: str, *, yes: bool) -> None:
    if not yes:
        typer.confirm(f"Put {what} in place of the whole graph? What people added since is lost.", abort=True)
