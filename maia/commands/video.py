"""`maia video`: everything known of a video, and its curve."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from maia.arguments import parse_span, parse_video, zone_name
from maia.terminal import AsJson, console, print_json, shown, with_atlas

if TYPE_CHECKING:
    from rich.console import Console

    from atlas.adapters.board import BreakoutLine, SampleLine, VideoDetails
    from atlas.composition import Atlas
    from maia.plots import Curve, Panel

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

_FAR_PAST: Final = datetime(2005, 1, 1, tzinfo=UTC)
_WIDEST_PLOT: Final = 140
_MOST_TAGS: Final = 15
_COLOURS: Final = ("cyan", "green")


@dataclass(frozen=True, slots=True)
class _Report:
    """What is shown of a video."""

    video: VideoDetails
    samples: list[SampleLine]
    breakouts: list[BreakoutLine]
    now: datetime

    @property
    def lag_s(self) -> float | None:
        """How long ago it was due; negative while it isn't yet, None where it is not sampled."""
        due = self.video.next_due_at
        return None if due is None or self.video.status != "live" else (self.now - due).total_seconds()

    def curve(self) -> Curve:
        from maia.plots import Curve

        columns = zip(*((s.sampled_at, s.views, s.velocity) for s in self.samples), strict=True)
        return Curve.of(*columns)

    def marks(self) -> list[datetime]:
        return [breakout.at for breakout in self.breakouts]


@app.command()
def video(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="Its id, or its address on YouTube.")],
    window: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN", help="Only samples of this span, such as 24h or 7d; else all.", show_default=False
        ),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw the curve as a picture, too (pip install 'pleiades[plots]').",
            show_default=False,
            dir_okay=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show everything known of a video, and the curve of its views and of its velocity.

    The upper chart shows the counts that YouTube told, the lower one the views an hour between them. A gap is
    a hidden count; ▲ is where a breakout was told.

    For example:

    - `maia video dQw4w9WgXcQ`
    - `maia video "https://www.youtube.com/watch?v=dQw4w9WgXcQ" --window 48h --png curve.png`
    - `maia video dQw4w9WgXcQ --json | jq '.samples[-1].views'`

    Velocity, and whatever is made of it, is computed by Pleiades, not by YouTube.
    """
    id_, span = parse_video(video), parse_span(window, "--window")
    report = with_atlas(lambda atlas: _look(atlas, id_, span))
    if png is not None:
        _draw(report, png)
    if as_json:
        print_json(_as_dict(report))
    else:
        _print(report)
        if png is not None:
            typer.echo(f"The curve is drawn in {png}.")


async def _look(atlas: Atlas, id_: str, window: timedelta | None) -> _Report:
    from atlas.adapters.board import BoardDAO

    dao, now = BoardDAO(atlas.db, clock=atlas.clock, settings=atlas.settings), atlas.clock.now()
    found = await dao.video(id_)
    if found is None:
        raise await _unknown(atlas, id_)
    since = _FAR_PAST if window is None else now - window
    samples = (await dao.samples([id_], since, now))[id_]
    return _Report(found, samples, await dao.breakouts(id_), now)


async def _unknown(atlas: Atlas, id_: str) -> Exception:
    from atlas.adapters.watches import WatchesDAO
    from maia.errors import MaiaError

    watched = await WatchesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).kinds_of([id_])
    if id_ in watched:
        return MaiaError(
            f"{id_} is watched, but not stored yet: the tracker asks YouTube for it (maia tracker), at once "
            "and then ever more seldom; maia watch list shows how often it did"
        )
    return MaiaError(f"{id_} is not known: let the tracker fetch it with maia watch add {id_}")


def _draw(report: _Report, png: Path) -> None:
    from maia.plots import PlotError, save_png

    found = report.video
    if not report.samples:
        raise PlotError(f"{found.id} has no sample to draw yet: {_when_sampled(report)}")
    velocity = None if found.velocity is None else f"{found.velocity:,.0f} views/h now"
    parts = (found.channel_title, found.id, zone_name(found.zone) or found.status, velocity)
    subtitle = " · ".join(part for part in parts if part)
    save_png(report.curve(), png, title=found.title or found.id, subtitle=subtitle, marks=report.marks())


def _as_dict(report: _Report) -> dict[str, Any]:
    from maia.plots import ATTRIBUTION

    found = asdict(report.video)
    found |= {"zone": zone_name(report.video.zone), "pinned_zone": zone_name(report.video.pinned_zone)}
    samples = [asdict(sample) for sample in report.samples]
    for sample in samples:
        del sample["video_id"]
    return {
        "now": report.now,
        "attribution": f"velocity, and what is made of it: {ATTRIBUTION}",
        "url": f"https://www.youtube.com/watch?v={report.video.id}",
        **found,
        "samples_stored": report.video.samples,
        "lag_s": report.lag_s,
        "breakouts": [breakout.payload for breakout in report.breakouts],
        "samples": samples,
    }


# In the terminal


def _print(report: _Report) -> None:
    from rich.text import Text

    from maia.plots import ATTRIBUTION

    out, found = console(), report.video
    out.print(Text(found.title or found.id, style=f"bold link https://www.youtube.com/watch?v={found.id}"))
    out.print(_facts(report))
    if report.samples:
        _print_curve(out, report)
        out.print(f"Velocity and what is made of it: {ATTRIBUTION}. Times are UTC.", style="dim")
    else:
        out.print(f"No sample yet: {_when_sampled(report)}.")


def _facts(report: _Report) -> Any:
    """What is known as two columns, leaving out what isn't."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in [*_about(report), *_clock(report), *_growth(report)]:
        if value is not None:
            grid.add_row(name, Text(value))
    return grid


def _about(report: _Report) -> list[tuple[str, str | None]]:
    found = report.video
    tags = ", ".join(found.tags[:_MOST_TAGS]) + (" …" if len(found.tags) > _MOST_TAGS else "")
    return [
        ("video", found.id),
        ("channel", f"{found.channel_title or '–'} ({found.channel_id})"),
        ("published", _instant(found.published_at)),
        ("discovered", f"{shown(found.discovered_at)}{_by(found)}"),
        ("category", _category(found.category_id)),
        ("length", None if found.duration_s is None else str(timedelta(seconds=found.duration_s))),
        ("tags", tags or None),
        ("metadata", f"of {shown(found.refreshed_at)}"),
    ]


def _by(found: VideoDetails) -> str:
    return "" if found.discovered_by is None else f", searching for {found.discovered_by!r}"


def _category(number: int | None) -> str | None:
    from maia.youtube.emulator.facts import CATEGORIES

    if number is None:
        return None
    return f"{CATEGORIES[number][0]} ({number})" if number in CATEGORIES else str(number)


def _instant(instant: datetime | None) -> str | None:
    return None if instant is None else shown(instant)


def _clock(report: _Report) -> list[tuple[str, str | None]]:
    found = report.video
    zone = zone_name(found.zone)
    pinned = " (pinned)" if found.pinned_zone is not None else ""
    every = "" if found.interval_h is None else f", every {found.interval_h:.3g} h"
    misses = f"{found.misses} answers without it" if found.misses else None
    return [
        (
            "status",
            f"gone since {_instant(found.gone_at) or 'a while'}" if found.status == "gone" else "live",
        ),
        ("watched", "yes" if found.watched else None),
        ("zone", None if zone is None else f"{zone}{pinned}{every}"),
        ("next sample", _due(report)),
        ("missed", misses),
        ("last error", found.last_error),
    ]


def _due(report: _Report) -> str | None:
    found, lag_s = report.video, report.lag_s
    if lag_s is None or found.next_due_at is None:
        return None
    held = ", being sampled" if found.leased else ""
    late = f"due since {_span(lag_s)}" if lag_s > 0 else f"in {_span(-lag_s)}"
    return f"{shown(found.next_due_at)} ({late}{held})"


def _span(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _growth(report: _Report) -> list[tuple[str, str | None]]:
    from maia.plots import ATTRIBUTION, compact

    found = report.video
    counts = {"views": found.last_views, "likes": found.last_likes, "comments": found.last_comments}
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count is not None)
    usual = found.relative_velocity
    return [
        ("counts", f"{told or 'hidden'}{_of(found.last_at)}"),
        ("samples", None if found.samples is None else f"{found.samples:,}"),
        ("velocity", None if found.velocity is None else f"{compact(found.velocity)} views/h, {ATTRIBUTION}"),
        (
            "acceleration",
            None if found.acceleration is None else f"{compact(found.acceleration)} views/h an hour",
        ),
        (
            "relative",
            None if usual is None else f"{compact(usual)} times what is usual for its channel and age",
        ),
        (
            "viral score",
            None if found.viral_score is None else f"{found.viral_score:.3f} of 1; ½ is ordinary",
        ),
        ("breakouts", "; ".join(_breakout(line) for line in report.breakouts) or None),
    ]


def _of(instant: datetime | None) -> str:
    return "" if instant is None else f", as of {shown(instant)}"


def _breakout(line: BreakoutLine) -> str:
    times = line.payload.get("times_expected")
    return shown(line.at) + (f", {times:,.1f} times the expected" if isinstance(times, (int, float)) else "")


def _when_sampled(report: _Report) -> str:
    if report.video.status == "gone":
        return "it is gone"
    return (
        "the tracker has not come to it"
        if report.lag_s is None or report.lag_s > 0
        else f"due {_due(report)}"
    )


def _print_curve(out: Console, report: _Report) -> None:
    from maia.plots import terminal_plot

    plot = terminal_plot(report.curve(), min(out.width, _WIDEST_PLOT) - 1, report.marks())
    for panel, colour in zip(plot.panels, _COLOURS, strict=True):
        out.print(f"\n{' ' * plot.margin} {panel.title}", style="bold")
        _print_panel(out, panel, plot.margin, colour)
    axis, labels = plot.axis
    out.print(f"{' ' * plot.margin}└{axis}\n{' ' * plot.margin} {labels}", style="dim")


def _print_panel(out: Console, panel: Panel, margin: int, colour: str) -> None:
    from rich.text import Text

    for label, drawn in zip(panel.labels, panel.drawn, strict=True):
        line = Text(f"{label.rjust(margin)}{'┤' if label else '│'}", style="dim")
        out.print(line.append(drawn.rstrip("\u2800"), style=f"not dim {colour}"))
