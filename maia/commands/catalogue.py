"""`maia catalogue`: makes catalogues for the emulator and shows what they contain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from atlas import paths
from atlas.wording import counted
from maia.commands import terminal
from maia.commands.arguments import parse_moment
from maia.commands.tables import Column, print_table
from maia.commands.terminal import AsJson, print_text, progress_bar

if TYPE_CHECKING:
    from maia.emulator.importing import ImportReport
    from maia.emulator.recordings import BadRow

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    help="Create and inspect catalogues: the videos that the emulator serves.",
)

VIDEOS_PER_CHANNEL = 4
WorldKind = Literal["mixed", "plain"]

Output = Annotated[
    Path,
    typer.Option("--output", "-o", metavar="FILE", help="The catalogue to write; replaced if it exists."),
]


def parse_columns(mappings: list[str]) -> dict[str, str]:
    """Parse `ours=theirs` pairs, separated by commas; typer.BadParameter for anything else."""
    columns: dict[str, str] = {}
    for mapping in (part for text in mappings for part in text.split(",")):
        ours, separator, theirs = mapping.partition("=")
        if not (separator and ours.strip() and theirs.strip()):
            raise typer.BadParameter(
                f"{mapping!r} is not OURS=THEIRS, such as video_id=vid", param_hint="--columns"
            )
        columns[ours.strip()] = theirs.strip()
    return columns


class _BadRows:
    """Reports bad rows on stderr, up to a number of them per file, and counts all."""

    def __init__(self, most: int) -> None:
        self._most, self._console = most, terminal.console(stderr=True)
        self.seen: Counter[Path] = Counter()

    def __call__(self, path: Path, row: BadRow) -> None:
        self.seen[path] += 1
        if self.seen[path] <= self._most:
            self._console.print(f"{path}:{row.line}: skipped: {row.reason}", style="yellow", markup=False)

    def close(self) -> None:
        for path, rows in self.seen.items():
            if rows > self._most:
                self._console.print(
                    f"{path}: … and {counted(rows - self._most, 'more row')} skipped", style="yellow"
                )


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(metavar="CSV…", help="CSV files, plain or gzipped.")],
    output: Output,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OURS=THEIRS", help="What the file calls one of our columns, such as views=plays."
        ),
    ] = None,
    year: Annotated[
        int | None,
        typer.Option(min=2005, max=2099, help="The year of dates without one; else from the file name."),
    ] = None,
    captured_at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When the counts were read, if no column has it."),
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="The files' encoding, such as cp1252. [default: UTF-8]")
    ] = None,
    keep_zeros: Annotated[
        bool,
        typer.Option(
            "--keep-zeros", help="Believe 0 likes or comments at 1,000 views or more; else they are hidden."
        ),
    ] = False,
    show_bad: Annotated[int, typer.Option(min=0, help="How many skipped rows to report per file.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Merge CSV files of recorded videos and samples into one catalogue.

    A file needs a column video_id, one of views, likes and comments, and captured_at as a column or option.
    Others are used if they are there, such as title, published_at, channel_id, tags and duration. Usual names
    of columns, such as view_count, are recognised.

    Rows that cannot be read are reported, counted and skipped. If a video is in several files, its samples
    are merged and the newest title, tags and so on are kept.
    """
    from maia.emulator.importing import import_recordings
    from maia.emulator.recordings import ReadOptions

    moment = parse_moment(captured_at, "--captured-at")
    reading = ReadOptions(parse_columns(columns or []), year, moment, encoding, keep_zeros)
    bad_rows = _BadRows(show_bad)
    total = sum(file.stat().st_size for file in files if paths.is_file(file))
    with progress_bar("Importing", total) as progress:
        report = import_recordings(output, files, reading, on_bad_row=bad_rows, progress=progress)
    bad_rows.close()
    if as_json:
        terminal.print_json(report.as_dict())
    else:
        _print_report(report)


def _print_report(report: ImportReport) -> None:
    print_table(
        (
            Column("file", 20, wraps=True),
            "rows",
            "samples",
            "skipped",
            Column("columns not used", 12, wraps=True),
        ),
        [
            (file.path, file.rows, file.samples, file.bad_rows, ", ".join(file.unused_columns) or None)
            for file in report.files
        ],
    )
    held = (
        f"{counted(report.videos, 'video')} of {counted(report.channels, 'channel')}, "
        f"{counted(report.samples, 'sample')}"
    )
    lines = [f"{report.catalogue}: {held}"]
    if report.estimated_publications:
        estimated = counted(report.estimated_publications, "publication date is", "publication dates are")
        lines.append(f"{estimated} estimated: no row has them")
    if report.untitled:
        untitled = counted(report.untitled, "video has", "videos have")
        lines.append(f"{untitled} no title in any file: the id is used instead")
    if report.undated:
        undated = counted(report.undated, "video was", "videos were")
        lines.append(f"{undated} left out: no publication date and no sample")
    print_text("\n".join(lines))


@app.command()
def synthesize(
    output: Output,
    videos: Annotated[int, typer.Option(min=1, help="How many videos.")] = 20_000,
    channels: Annotated[
        int | None,
        typer.Option(min=1, help="How many channels. [default: a quarter of the videos; 1,000 if plain]"),
    ] = None,
    days: Annotated[float, typer.Option(min=0.01, help="Over how many days they are published.")] = 30,
    seed: Annotated[int, typer.Option(help="The same seed makes the same catalogue.")] = 1,
    start: Annotated[str | None, typer.Option(metavar="TIME", help="When the first day starts.")] = None,
    premieres: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            min=0,
            max=1,
            help="The share of videos that are premieres. [default: 0.01; 0 if plain]",
        ),
    ] = None,
    world: Annotated[
        WorldKind, typer.Option(help="mixed is hard to search, as described above; plain is even.")
    ] = "mixed",
    as_json: AsJson = False,
) -> None:
    """Make up a catalogue: channels, titles in eight languages, tags and growth, from a seed.

    In a mixed world most videos hardly move. Channels differ by orders of magnitude in size and in how often
    they upload, at their own hours. Topics share tags, events make some of them hot for a day or two, and
    1.5 % of the videos break out, also on small channels. A tenth of the videos are older than the first day.
    There are shorts, premieres and streams.

    In a plain world, channels and topics are alike but for their size.
    """
    from maia.emulator.catalogue import Catalogue
    from maia.emulator.synthesis import DEFAULT_START
    from maia.emulator.synthesis import synthesize as write

    if channels is None:
        channels = 1_000 if world == "plain" else max(1, videos // VIDEOS_PER_CHANNEL)
    begin = parse_moment(start, "--start") or DEFAULT_START
    with progress_bar("Synthesizing", videos) as progress:
        write(
            output,
            videos=videos,
            channels=channels,
            days=days,
            seed=seed,
            start=begin,
            premieres=premieres,
            world=world,
            progress=progress,
        )
    with Catalogue.open(output) as catalogue:
        _print_summary(catalogue.summary(), as_json=as_json)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A catalogue.")], as_json: AsJson = False
) -> None:
    """Show what a catalogue contains."""
    from maia.emulator.catalogue import Catalogue

    with Catalogue.open(file) as catalogue:
        _print_summary(catalogue.summary(), as_json=as_json)


def _print_summary(summary: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        terminal.print_json(summary)
        return
    origin = ", ".join(f"{name} {value}" for name, value in summary["origin"].items() if name != "made_by")
    rows = [
        (name.replace("_", " "), terminal.as_text(value))
        for name, value in summary.items()
        if name != "origin"
    ]
    print_table(
        ("", Column("", 20, wraps=True)), [*rows, ("made by", f"{summary['origin']['made_by']}: {origin}")]
    )
