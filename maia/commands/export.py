"""`maia export`: writes samples, videos or channels to a file, a bucket or standard output."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from atlas.wording import counted
from maia.commands.arguments import parse_day_or_moment
from maia.commands.terminal import (
    AsJson,
    Excel,
    Raw,
    csv_form,
    print_json,
    print_text,
    progress_bar,
    with_atlas,
)
from maia.views.words import SHORT_AT_MOST_S, Broadcast, Length

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from atlas.exports import Exported

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

_MOMENT = "DAY|TIME"


@app.command()
def export(
    to: Annotated[
        str,
        typer.Option(
            metavar="FILE|URL",
            help="A path, - for standard output, s3://bucket/…, hf://datasets/…, or vault:… for the "
            "configured vault. An existing file is replaced once the export is complete.",
        ),
    ],
    table: Annotated[
        Literal["samples", "videos", "channels", "channel-samples"],
        typer.Option(help="What to export; samples are those of videos."),
    ] = "samples",
    format_: Annotated[
        Literal["parquet", "csv"] | None,
        typer.Option("--format", help="The format. [default: by the name's ending]", show_default=False),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar=_MOMENT,
            help="Only samples taken, or videos and channels discovered, since then. Days are in UTC.",
            show_default=False,
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar=_MOMENT, help="Only those before then. [default for samples: now]", show_default=False
        ),
    ] = None,
    length: Annotated[
        Length | None,
        typer.Option(
            help="Only short videos (up to 3 minutes), or only longer ones; samples likewise.",
            show_default=False,
        ),
    ] = None,
    broadcast: Annotated[
        Broadcast | None,
        typer.Option(
            help="Only videos that are live now, upcoming, or neither; samples likewise.",
            show_default=False,
        ),
    ] = None,
    excel: Excel = False,
    raw: Raw = False,
    as_json: AsJson = False,
) -> None:
    """Write samples, videos or channels to a file or a bucket, as Parquet or CSV.

    A file appears only when it is complete. If the export is killed or the disk is full, an older file of
    that name stays as it was: run the export again. Samples are ordered by time, everything else by id.
    Memory use does not grow with the amount of data.

    For example:

    - `maia export --to samples.parquet`
    - `maia export --to s3://lake/2026-11-20.parquet --since 2026-11-20 --until 2026-11-21` exports one day;
      run it when the day is over.
    - `maia export --to videos.csv --table videos`
    - `maia export --to vault:exports/channels.parquet --table channels`
    - `maia export --to history.csv --table channel-samples --since 2026-11-01`
    - `maia export --to shorts.csv --table videos --length short`
    - `maia export --to - --format csv | gzip > samples.csv.gz`

    CSV has an apostrophe before every text that a spreadsheet would run as a formula, such as an id that
    begins with -. Use --raw to leave it out.

    Parquet needs the extra `parquet`: `.venv/bin/pip install -e '.[parquet]'`. Columns named …_by_pleiades
    are computed by Pleiades, not by YouTube. YouTube's terms of service also apply to exported data.
    """
    format_ = format_ or _format_of(to)
    if (excel or raw) and format_ != "csv":
        raise typer.BadParameter("--excel and --raw only apply to CSV")
    if as_json and to == "-":
        raise typer.BadParameter("--to - and --json both print to standard output: leave out --json")
    form = csv_form(excel=excel, raw=raw)
    begin, end = parse_day_or_moment(since, "--since"), parse_day_or_moment(until, "--until")
    if begin is not None and end is not None and begin >= end:
        raise typer.BadParameter(f"--since {since} is not before --until {until}")

    if (length or broadcast) and table.startswith("channel"):
        raise typer.BadParameter(f"--length and --broadcast only apply to videos, not to {table}")

    async def write(atlas: Atlas) -> Exported:
        from atlas.exports import Format, Selection, Table, export, locate

        target, name = locate(to, atlas.settings, atlas.db)
        selection = Selection(Table(table), begin, end, length, broadcast, SHORT_AT_MOST_S)
        share = 1.0 if table.endswith("samples") else None
        # The program that reads standard output may write to the same terminal.
        with progress_bar(f"Exporting {table}", share, hidden=to == "-") as bar:
            return await export(
                atlas.db, atlas.clock, target, name, selection, Format(format_),
                lambda share, _: None if share is None else bar(share), csv_form=form,
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
        place = "standard output" if to == "-" else to
        rows, size = counted(written.rows, table.removesuffix("s")), counted(written.bytes, "byte")
        summary = f"wrote {rows} ({size}) to {place} in {took_s:.1f} s"
        print_text(summary, stderr=to == "-")


def _format_of(to: str) -> Literal["parquet", "csv"]:
    if to == "-":
        return "csv"
    if to.endswith((".parquet", ".pq")):
        return "parquet"
    if to.endswith(".csv"):
        return "csv"
    raise typer.BadParameter(
        f"{to!r} ends neither in .parquet nor in .csv: rename it, or give --format", param_hint="--to"
    )
