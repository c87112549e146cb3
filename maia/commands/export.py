"""`maia export`: the samples, videos or channels as one file, wherever it is to go."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from maia.arguments import parse_day_or_moment
from maia.terminal import AsJson, print_json, progress_bar, with_atlas

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from atlas.exports import Exported

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

_MOMENT = "DAY|INSTANT"


@app.command()
def export(
    to: Annotated[
        str,
        typer.Option(
            metavar="FILE|URL",
            help="Where: a path, s3://bucket/…, hf://datasets/owner/name/…, or vault:… for the vault of the "
            "settings. What is there is replaced, once all is written.",
        ),
    ],
    table: Annotated[Literal["samples", "videos", "channels"], typer.Option(help="What.")] = "samples",
    format_: Annotated[
        Literal["parquet", "csv"] | None,
        typer.Option("--format", help="How; by default as the name ends.", show_default=False),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar=_MOMENT,
            help="Only samples from then on, videos and channels discovered from then on; a day is UTC's.",
            show_default=False,
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar=_MOMENT, help="Only those before; samples by default before now.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write samples, videos or channels to a file or a bucket, as Parquet or CSV, in constant memory.

    The file appears when it is complete. An export that is killed, or finds the disk full, leaves what was
    there before, and is simply started again. Samples are in the order of their instants, the others by id.

    For example:

    - `maia export --to samples.parquet`
    - `maia export --to s3://lake/2026-11-20.parquet --since 2026-11-20 --until 2026-11-21` is one day,
      complete once it is over.
    - `maia export --to videos.csv --table videos`
    - `maia export --to vault:exports/channels.parquet --table channels`

    Parquet needs `pip install 'pleiades[parquet]'`. Columns named …_by_pleiades are computed by Pleiades, not
    by YouTube. YouTube's terms bind what you do with exported data, too.
    """
    format_ = format_ or _format_of(to)
    begin, end = parse_day_or_moment(since, "--since"), parse_day_or_moment(until, "--until")
    if begin is not None and end is not None and begin >= end:
        raise typer.BadParameter(f"--since {since} is not before --until {until}")

    async def write(atlas: Atlas) -> Exported:
        from atlas.exports import Format, Selection, Table, export, locate

        store, name = locate(to, atlas.settings, atlas.db)
        selection = Selection(Table(table), begin, end)
        with progress_bar(f"Exporting {table}", 1.0 if table == "samples" else None) as bar:
            return await export(
                atlas.db, atlas.clock, store, name, selection, Format(format_),
                lambda share, _: None if share is None else bar(share),
            )  # fmt: skip

    began = time.monotonic()
    written = with_atlas(write)
    took_s = time.monotonic() - began
    if as_json:
        print_json(
            {
                "to": to, "table": table, "format": format_, "since": begin, "until": end,
                "rows": written.rows, "bytes": written.bytes, "seconds": round(took_s, 3),
            }
        )  # fmt: skip
    else:
        typer.echo(f"{written.rows:,} {table}, {written.bytes:,} bytes, written to {to} in {took_s:.1f} s")


def _format_of(to: str) -> Literal["parquet", "csv"]:
    if to.endswith((".parquet", ".pq")):
        return "parquet"
    if to.endswith(".csv"):
        return "csv"
    raise typer.BadParameter(
        f"{to!r} ends neither in .parquet nor in .csv: name it so, or say --format", param_hint="--format"
    )
