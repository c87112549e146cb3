"""`maia catalogue`: make catalogues for the emulator, and look into them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maia import terminal
from maia.arguments import parse_moment
from maia.terminal import AsJson, progress_bar

if TYPE_CHECKING:
    from maia.youtube.importing import ImportReport
    from maia.youtube.recordings import BadRow

app = typer.Typer(
    no_args_is_help=True, help="Make catalogues for the emulator: from recorded data, or from a seed."
)

Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="The catalogue; one that is there is replaced.")
]


def parse_columns(mappings: list[str]) -> dict[str, str]:
    """Read `ours=theirs`, several separated by commas; typer.BadParameter for anything else."""
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
    """Names bad rows on stderr, so many of each file, and counts all."""

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
                self._console.print(f"{path}: … and {rows - self._most:,} more rows skipped", style="yellow")


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(metavar="CSV…", help="Recorded data, plain or gzipped.")],
    output: Output,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OURS=THEIRS", help="A column that is not known by its name, such as views=plays."
        ),
    ] = None,
    year: Annotated[
        int | None,
        typer.Option(min=2005, max=2099, help="The year of dates dd.mm; else the file's name tells."),
    ] = None,
    captured_at: Annotated[
        str | None,
        typer.Option(metavar="INSTANT", help="When the counts were read, where no column says it."),
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="The files' encoding, such as cp1252; else UTF-8.")
    ] = None,
    keep_zeros: Annotated[
        bool,
        typer.Option(
            "--keep-zeros", help="Take 0 likes or comments at 1,000 views and more as 0, not as hidden."
        ),
    ] = False,
    show_bad: Annotated[int, typer.Option(min=0, help="Most skipped rows named of each file.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Merge CSV files of recorded videos and samples into one catalogue.

    Columns are found by their customary names. Rows that cannot be read are named, counted and skipped.
    Samples of a video in several files are united; the newest of what describes it wins.
    """
    from maia.youtube.importing import import_recordings
    from maia.youtube.recordings import Reading

    moment = parse_moment(captured_at, "--captured-at")
    reading = Reading(parse_columns(columns or []), year, moment, encoding, keep_zeros)
    bad_rows = _BadRows(show_bad)
    total = sum(file.stat().st_size for file in files if file.is_file())
    with progress_bar("Importing", total) as progress:
        report = import_recordings(output, files, reading, on_bad_row=bad_rows, progress=progress)
    bad_rows.close()
    if as_json:
        terminal.print_json(report.as_dict())
    else:
        _print_report(report)


def _print_report(report: ImportReport) -> None:
    terminal.print_table(
        ("file", "rows", "samples", "skipped", "columns not used"),
        [
            (file.path, file.rows, file.samples, file.bad_rows, ", ".join(file.unused_columns) or None)
            for file in report.files
        ],
    )
    held = f"{report.videos:,} videos of {report.channels:,} channels, {report.samples:,} samples"
    lines = [f"{report.catalogue}: {held}"]
    if report.estimated_publications:
        lines.append(f"{report.estimated_publications:,} publications are estimated: no row tells them")
    if report.untitled:
        lines.append(f"{report.untitled:,} videos have no title in any file: their ids stand for it")
    if report.undated:
        lines.append(
            f"{report.undated:,} videos were left out: neither a publication nor a sample tells their time"
        )
    typer.echo("\n".join(lines))


@app.command()
def synthesize(
    output: Output,
    videos: Annotated[int, typer.Option(min=1, help="How many videos.")] = 20_000,
    channels: Annotated[int, typer.Option(min=1, help="How many channels.")] = 1_000,
    days: Annotated[float, typer.Option(min=0.01, help="The days that the videos are published in.")] = 30,
    seed: Annotated[int, typer.Option(help="Another seed, another catalogue; the same, the same.")] = 1,
    start: Annotated[str | None, typer.Option(metavar="INSTANT", help="The first day's start.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a catalogue from a seed: plausible channels, titles in eight languages, tags and growth."""
    from maia.youtube.catalogue import Catalogue
    from maia.youtube.synthesis import DEFAULT_START
    from maia.youtube.synthesis import synthesize as write

    begin = parse_moment(start, "--start") or DEFAULT_START
    with progress_bar("Synthesizing", videos) as progress:
        write(output, videos=videos, channels=channels, days=days, seed=seed, start=begin, progress=progress)
    with Catalogue.open(output) as catalogue:
        _print_summary(catalogue.summary(), as_json=as_json)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A catalogue.")], as_json: AsJson = False
) -> None:
    """Show what a catalogue holds."""
    from maia.youtube.catalogue import Catalogue

    with Catalogue.open(file) as catalogue:
        _print_summary(catalogue.summary(), as_json=as_json)


def _print_summary(summary: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        terminal.print_json(summary)
        return
    origin = ", ".join(f"{name} {value}" for name, value in summary["origin"].items() if name != "made_by")
    rows = [
        (name.replace("_", " "), terminal.shown(value)) for name, value in summary.items() if name != "origin"
    ]
    terminal.print_table(("", ""), [*rows, ("made by", f"{summary['origin']['made_by']}: {origin}")])
