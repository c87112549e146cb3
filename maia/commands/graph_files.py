"""The commands of `maia graph` that write it to files and read it from them."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from atlas.wording import counted
from maia.commands.graph_arguments import SpaceName, in_space
from maia.commands.terminal import AsJson, print_json, print_text, progress_bar

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from maia.graphing.exporting import Exported
    from maia.graphing.importing import Imported

FileFormat = Literal["json", "graphml", "parquet"]
ReadFormat = Literal["json", "graphml"]
_ENDINGS: dict[str, FileFormat] = {
    ".jsonl": "json", ".ndjson": "json", ".json": "json", ".graphml": "graphml", ".xml": "graphml",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip

_SNAPSHOT = ".plgraph"


def export(
    to: Annotated[
        str,
        typer.Argument(
            metavar="FILE|URL", help="A path or URL as for maia export --to, or - for standard output."
        ),
    ],
    format_: Annotated[
        FileFormat | None,
        typer.Option("--format", help="The format. [default: by the name's ending]", show_default=False),
    ] = None,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            "-t",
            metavar="TYPE",
            help="Only nodes or links of this type; may be repeated.",
            show_default=False,
        ),
    ] = None,
    around: Annotated[
        str | None, typer.Option(metavar="ATOM", help="Only what is near this atom.", show_default=False)
    ] = None,
    hops: Annotated[int, typer.Option(min=1, max=6, help="With --around: up to how many links away.")] = 1,
    space: SpaceName = None,
    as_json: AsJson = False,
) -> None:
    """Write the graph, or a part of it, as lines of JSON, GraphML or Parquet.

    A file appears only when it is complete, and memory use does not grow with the graph. Parquet makes two
    files, one for nodes and one for links. With types of nodes, links are only those between these.

    For example:

    - `maia graph export graph.jsonl`
    - `maia graph export jazz.graphml --around tag:jazz --hops 2` for Gephi, yEd or NetworkX
    - `maia graph export tags.graphml --type tag --type co_occurs`
    - `maia graph export graph.parquet` writes graph-nodes.parquet and graph-links.parquet
    - `maia graph export - | jq -r 'select(.type == "tag").name'`

    Parquet needs the extra `parquet`: `.venv/bin/pip install -e '.[parquet]'`.
    """
    format_ = format_ or _format_of(to)
    if to == "-" and (as_json or format_ == "parquet"):
        raise typer.BadParameter("standard output takes lines of JSON or GraphML, without --json")
    names = _names(to) if format_ == "parquet" else [to]

    async def write(atlas: Atlas, number: int) -> Exported:
        from atlas.exports import locate
        from maia.graphing.exporting import Format, Selection, export

        targets = [locate(name, atlas.settings, atlas.db) for name in names]
        selection = Selection(tuple(types or ()), around, hops, number)
        with progress_bar("Exporting the graph", hidden=to == "-") as bar:
            return await export(atlas, selection, Format(format_), targets, bar)

    done = in_space(space, write)
    if as_json:
        print_json(
            {"to": names, "format": format_, "nodes": done.nodes, "links": done.links, "bytes": done.bytes}
        )
        return
    what = f"{counted(done.nodes, 'node')} and {counted(done.links, 'link')} ({counted(done.bytes, 'byte')})"
    place = "standard output" if to == "-" else " and ".join(names)
    print_text(f"wrote {what} to {place}", stderr=to == "-")


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file, or - for standard input.")],
    format_: Annotated[
        ReadFormat | None,
        typer.Option("--format", help="The format. [default: by the name's ending]", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add the atoms of a file: lines of JSON, or GraphML.

    All of it is checked first: if a line makes no sense, the error names it and nothing is added. Importing a
    file again changes nothing.

    All atoms in it then count as said by people, too: they stay when the videos no longer say them, and other
    sites are told of them. So don't import an export of this site's own graph; to restore one, use maia graph
    save and load. Lines are such as

    - `{"type": "tag", "name": "lo fi", "values": {"mood": [0.2, 0.9]}}`
    - `{"type": "related_to", "outgoing": ["concept:study", "tag:lo fi"], "weight": 2, "pos": 3}`

    GraphML of other programs becomes concepts and links related_to, unless nodes and edges have one of our
    types. For example:

    - `maia graph import graph.jsonl`
    - `zcat graph.jsonl.gz | maia graph import -`
    """
    chosen = format_ or ("json" if file == "-" else _format_of(file, get_args(ReadFormat)))
    if chosen not in get_args(ReadFormat):
        raise typer.BadParameter(f"{chosen} can't be imported: use lines of JSON or GraphML")

    given = Path(file).expanduser()

    async def read(atlas: Atlas, _: int) -> Imported:
        from maia.graphing.exporting import Format
        from maia.graphing.importing import import_file

        with tempfile.TemporaryDirectory(prefix="pleiades-") as folder:
            path = _kept(Path(folder)) if file == "-" else given
            with progress_bar("Importing atoms", hidden=file == "-") as bar:
                return await import_file(atlas, path, Format(chosen), bar)

    if file != "-" and not given.is_file():
        raise typer.BadParameter(f"there is no file {file}")
    done = in_space(None, read)
    if as_json:
        print_json({"atoms": done.atoms, "added": done.added, "changed": done.changed})
    else:
        print_text(f"{counted(done.atoms, 'atom')} read: {done.added:,} new, {done.changed:,} changed")


def _kept(folder: Path) -> Path:
    """Standard input as a file, because it is read twice."""
    path = folder / "graph"
    with path.open("wb") as kept:
        shutil.copyfileobj(sys.stdin.buffer, kept)
    return path


def _names(to: str) -> list[str]:
    """The two files of Parquet, by the name that was given."""
    stem, dot, ending = to.rpartition(".")
    if not dot or "/" in ending:
        stem, ending = to, "parquet"
    return [f"{stem}-nodes.{ending}", f"{stem}-links.{ending}"]


def _format_of(name: str, formats: Sequence[str] = get_args(FileFormat)) -> FileFormat:
    if name == "-":
        return "json"
    for ending, format_ in _ENDINGS.items():
        if name.lower().endswith(ending):
            return format_
    if name.lower().endswith(_SNAPSHOT):
        raise typer.BadParameter(f"{name!r} is called as a snapshot: maia graph save and load are for these")
    known = ", ".join(ending for ending, format_ in _ENDINGS.items() if format_ in formats)
    raise typer.BadParameter(f"{name!r} ends in none of {known}: rename it, or give --format")
