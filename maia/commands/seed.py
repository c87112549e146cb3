"""`maia seed`: topics for the hunter to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maia.terminal import AsJson, print_json, with_atlas

if TYPE_CHECKING:
    from atlas.composition import Atlas

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)


@app.command()
def seed(
    queries: Annotated[
        list[str] | None, typer.Argument(metavar="QUERY", help="What to search for.", show_default=False)
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="Queries, one a line; blank lines and lines that begin with # don't count; - is stdin.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put topics at the head of the search queue.

    They go ahead of every tag, in their order. One that waits in the queue moves up; one that cooled or was
    parked is searched again.
    """
    wanted = [*(queries or []), *_read(file)]
    if not wanted:
        raise typer.BadParameter('name at least one topic, such as maia seed "lofi hip hop", or --file FILE')

    async def add(atlas: Atlas) -> int:
        from atlas.adapters.maia import MaiaDAO

        return await MaiaDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).seed(wanted)

    added = with_atlas(add)
    if as_json:
        print_json({"given": len(wanted), "added": added})
    else:
        typer.echo(
            f"seeded {len(wanted)} topics, {added} of them new or active again; hunt with: maia hunter"
        )


def _read(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        text = typer.get_text_stream("stdin").read() if str(file) == "-" else file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file} can't be read as UTF-8 text: {error}") from error
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
