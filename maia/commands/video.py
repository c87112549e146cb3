"""`maia video`: shows everything known about a video, and its curve."""

from __future__ import annotations

from datetime import datetime, timedelta
from math import floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from atlas.foreign import one_line
from atlas.wording import counted
from maia.commands.arguments import TakesIds, looks_like_a_video, parse_span, parse_video
from maia.commands.terminal import (
    AsJson,
    as_text,
    console,
    percent,
    print_json,
    print_text,
    span_text,
    with_atlas,
)
from maia.views.words import ATTRIBUTION, video_url, zone_name

if TYPE_CHECKING:
    from rich.console import Console

    from atlas.adapters.board import BreakoutLine
    from atlas.composition import Atlas
    from maia.views.forecasts import ExpectedViews, VideoForecast
    from maia.views.video import VideoView
    from maia.views.words import State

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

_WIDEST_PLOT: Final = 140
_MOST_TAGS: Final = 15


@app.command(cls=TakesIds)
def video(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="Its id, or its address on YouTube.")],
    window: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN",
            help="Show only samples of the last 24h or 7d, say. [default: all]",
            show_default=False,
        ),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also draw the curve into a PNG file (needs the extra plots).",
            show_default=False,
            dir_okay=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show everything known about a video, with charts of its views and its velocity.

    The upper chart shows the view counts that YouTube reported, the lower one the views per hour between
    them. A gap is a hidden count, and ▲ marks a breakout. Dotted lines continue the views by the forecast
    and its 80 % interval.

    For example:

    - `maia video dQw4w9WgXcQ`
    - `maia video "https://www.youtube.com/watch?v=dQw4w9WgXcQ" --window 48h --png curve.png`
    - `maia video dQw4w9WgXcQ --json | jq '.samples[-1].views'`
    - `maia video dQw4w9WgXcQ --json | jq '.forecast.day'`

    Velocity, and every figure derived from it, such as forecasts, is computed by Pleiades, not by YouTube.
    """
    id_, span = parse_video(video), parse_span(window, "--window")
    report = with_atlas(lambda atlas: _look(atlas, id_, span))
    if png is not None:
        _draw(report, png)
    if as_json:
        print_json(report.as_json())
    else:
        _print(report)
        if png is not None:
            print_text(f"The curve is in {png}.")


async def _look(atlas: Atlas, id_: str, window: timedelta | None) -> VideoView:
    from maia.views.video import video

    found = await video(atlas, id_, window)
    if found is None:
        raise await _unknown(atlas, id_)
    return found


async def _unknown(atlas: Atlas, id_: str) -> Exception:
    from atlas.adapters.watches import WatchesDAO
    from maia.errors import MaiaError

    watched = await WatchesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).kinds_of([id_])
    if id_ in watched:
        return MaiaError(
            f"{id_} is watched, but not stored yet: the tracker requests it again and again "
            "(maia tracker), with growing pauses; maia watch list shows how often it did"
        )
    if not looks_like_a_video(id_):
        return MaiaError(f"{id_} is not a video id, which has 11 characters: check it, or give the address")
    return MaiaError(f"{id_} is not known: let the tracker fetch it with maia watch add {id_}")


def _draw(report: VideoView, png: Path) -> None:
    from maia.commands.plots import PlotError, save_png

    found = report.details
    if not report.samples:
        raise PlotError(f"there is nothing to draw for {found.id}: {_without_samples(report)}")
    velocity = None if found.velocity is None else f"{found.velocity:,.0f} views/h now"
    parts = (found.channel_title, found.id, zone_name(found.zone) or found.status, velocity)
    subtitle = " · ".join(part for part in parts if part)
    save_png(
        report.curve(), png, title=found.title or found.id, subtitle=subtitle, marks=_marks(report),
        band=report.band(),
    )  # fmt: skip


def _marks(report: VideoView) -> list[datetime]:
    return [breakout.at for breakout in report.breakouts]


# In the terminal


def _print(report: VideoView) -> None:
    from rich.text import Text

    out, found = console(), report.details
    out.print(Text(one_line(found.title or found.id), style=f"bold link {video_url(found.id)}"))
    out.print(_facts(report))
    if report.samples:
        _print_curve(out, report)
        out.print(f"Velocity and figures derived from it: {ATTRIBUTION}. Times are UTC.", style="dim")
    else:
        out.print(f"{_without_samples(report)}.")


def _facts(report: VideoView) -> Any:
    """The known facts, in two columns."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in [*_about(report), *_clock(report), *_growth(report)]:
        if value is not None:
            grid.add_row(name, Text(value))
    return grid


def _about(report: VideoView) -> list[tuple[str, str | None]]:
    found = report.details
    tags = ", ".join(found.tags[:_MOST_TAGS]) + (" …" if len(found.tags) > _MOST_TAGS else "")
    return [
        ("video", found.id),
        ("channel", f"{found.channel_title or '–'} ({found.channel_id})"),
        ("published", _instant(found.published_at)),
        ("discovered", f"{as_text(found.discovered_at)}{_by(report)}"),
        ("met by", _met_by(report)),
        ("category", _category(found.category_id)),
        ("length", None if found.duration_s is None else str(timedelta(seconds=found.duration_s))),
        ("tags", tags or None),
        ("metadata", f"fetched {as_text(found.refreshed_at)}"),
    ]


def _met_by(report: VideoView) -> str | None:
    """The sources that met the video, the one that found it first."""
    words = {None: "", True: ", growing", False: ", not growing"}
    met = [
        f"{source.arm}{'' if source.age_h is None else f' at {source.age_h:.1f} h'}{words[source.growing]}"
        for source in report.sources
    ]
    return "; ".join(met) or None


def _by(report: VideoView) -> str:
    found_by = "" if report.found_by is None else f" by {report.found_by}"
    topic = report.details.discovered_by
    return found_by if topic is None else f"{found_by}, searching for {topic!r}"


def _category(number: int | None) -> str | None:
    from maia.youtube.categories import CATEGORIES

    if number is None:
        return None
    return f"{CATEGORIES[number].title} ({number})" if number in CATEGORIES else str(number)


def _instant(instant: datetime | None) -> str | None:
    return None if instant is None else as_text(instant)


def _why(report: VideoView) -> str:
    """By how much the forecast changed the interval, if it did."""
    factor = report.by_forecast
    return "" if factor is None else f" (×{factor:.2g} by its forecast)"


def _clock(report: VideoView) -> list[tuple[str, str | None]]:
    found = report.details
    zone = zone_name(found.zone)
    pinned = " (pinned)" if found.pinned_zone is not None else ""
    every = "" if found.interval_h is None else f", every {found.interval_h:.3g} h{_why(report)}"
    misses = f"absent from the last {counted(found.misses, 'answer')}" if found.misses else None
    return [
        ("status", _state(report)),
        ("watched", "yes" if found.watched else None),
        ("zone", None if zone is None else f"{zone}{pinned}{every}"),
        ("next sample", _due(report)),
        ("missed", misses),
        ("last error", found.last_error),
    ]


def _state(report: VideoView) -> str:
    words: dict[State, str] = {
        "tracked": "tracked",
        "upcoming": "upcoming: announced, but not started yet",
        "live": "live now, and tracked",
        "gone": f"gone from YouTube since {_instant(report.details.gone_at) or 'a while'}",
        "stored": "stored, not tracked yet",
    }
    return words[report.state]


def _due(report: VideoView) -> str | None:
    found, lag_s = report.details, report.lag_s
    if lag_s is None or found.next_due_at is None:
        return None
    held = ", being sampled" if found.leased else ""
    span = span_text(abs(lag_s) / 3600)
    late = f"{span} late" if lag_s > 0 else f"in {span}"
    return f"{as_text(found.next_due_at)} ({late}{held})"


def _growth(report: VideoView) -> list[tuple[str, str | None]]:
    from maia.commands.plots import compact

    found = report.details
    counts = {"view": found.last_views, "like": found.last_likes, "comment": found.last_comments}
    visible = ", ".join(counted(count, name) for name, count in counts.items() if count is not None)
    usual = found.relative_velocity
    return [
        ("counts", f"{visible or 'hidden'}{_as_of(found.last_at)}"),
        ("samples", f"{len(report.samples):,}"),
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
        ("forecast", None if report.forecast is None else _forecast(report.forecast)),
    ]


def _forecast(forecast: VideoForecast) -> str:
    """What is expected, in a line for each horizon."""
    lines = [_expected(forecast, each) for each in (forecast.day, forecast.week)]
    if (chance := forecast.day.top_chance) is not None:
        lines.append(f"chance to be among the fastest 5 % of its age in 24 h: {percent(chance)}")
    return "\n".join([*lines, f"counted from {as_text(forecast.made_at)}, {ATTRIBUTION}"])


def _expected(forecast: VideoForecast, ahead: ExpectedViews) -> str:
    from maia.views.forecasts import horizon

    unit = _rounding_unit(ahead.views - forecast.views, ahead)

    def views(count: float) -> str:
        return f"{max(round(count / unit) * unit, forecast.views):,}"

    if ahead.low is None or ahead.high is None:
        interval = "no interval: too little is learnt"
    else:
        interval = f"80 %: {views(ahead.low)}–{views(ahead.high)}"
    return f"in {horizon(ahead.hours)}: {views(ahead.views)} views ({interval})"


def _rounding_unit(gain: float, ahead: ExpectedViews) -> int:
    """The power of ten to which views are rounded: what is expected has two or three figures that tell."""
    width = gain if ahead.low is None or ahead.high is None else min(gain, ahead.high - ahead.low)
    figures = max(floor(log10(max(width, 1.0))) - 1, 0)
    return int(10**figures)


def _as_of(instant: datetime | None) -> str:
    return "" if instant is None else f", as of {as_text(instant)}"


def _breakout(line: BreakoutLine) -> str:
    times = line.payload.get("times_expected")
    return as_text(line.at) + (
        f", {times:,.1f} times the expected" if isinstance(times, (int, float)) else ""
    )


def _without_samples(report: VideoView) -> str:
    last_at = report.details.last_sampled_at
    if last_at is not None:
        return f"No sample in the window: the last one is from {as_text(last_at)}"
    return f"No sample yet: {_when_sampled(report)}"


def _when_sampled(report: VideoView) -> str:
    if report.details.status == "gone":
        return "it is gone"
    return (
        "the tracker has not sampled it yet"
        if report.lag_s is None or report.lag_s > 0
        else f"due {_due(report)}"
    )


def _print_curve(out: Console, report: VideoView) -> None:
    from maia.commands.plots import print_plot, terminal_plot

    columns = min(out.width, _WIDEST_PLOT) - 1
    print_plot(out, terminal_plot(report.curve(), columns, _marks(report), report.band()))
