"""`maia top`: shows the videos that grow fastest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from maia.commands.arguments import parse_channel, parse_span
from maia.commands.terminal import (
    AsJson,
    Excel,
    Raw,
    as_text,
    console,
    csv_form,
    percent,
    print_csv,
    print_json,
    span_between,
    span_text,
    with_atlas,
)
from maia.views.leaderboard import By
from maia.views.words import (
    ATTRIBUTION,
    SHORT_AT_MOST_S,
    Broadcast,
    Length,
    ZoneName,
    plain,
    zone_number,
)

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from atlas.composition import Atlas
    from atlas.csvform import CsvForm
    from maia.views.forecasts import VideoForecast
    from maia.views.leaderboard import Leaderboard

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

_WIDE: Final = 120
_FLEXIBLE: Final[dict[str, int]] = {"title": 3, "channel": 2}
"""The columns that are cut to fit, and their shares of the width that the others leave."""
_LEAST_WIDTH: Final = 8
_GROWTH: Final = "growth"
_CSV: Final = (
    "rank", "video_id", "title", "channel_id", "channel_title", "category_id", "published_at", "duration_s",
    "state", "zone", "sampled_at", "views", "velocity", "acceleration", "relative_velocity", "viral_score",
    "window_velocity", "forecast_at", "forecast_views", "views_in_24h", "views_in_24h_low",
    "views_in_24h_high", "top_chance_24h", "views_in_7d", "views_in_7d_low", "views_in_7d_high",
    "top_chance_7d", "url", "attribution",
)  # fmt: skip


@app.command()
def top(
    by: Annotated[
        By,
        typer.Option(
            metavar="FIGURE",
            help="Rank by velocity (views per hour now), score (how unusual, from 0 to 1), acceleration (the "
            "change of velocity per hour), relative (velocity compared with the channel's other videos at "
            "that age) or forecast (the views expected to be gained in the next 24 h).",
        ),
    ] = "velocity",
    window: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN",
            help="With velocity: rank by the mean over this time, such as 90m, 24h or 7d. Otherwise: only "
            "videos sampled within it.",
            show_default=False,
        ),
    ] = None,
    category: Annotated[
        str | None,
        typer.Option(help="Only this category, by number or name, such as Music.", show_default=False),
    ] = None,
    channel: Annotated[
        str | None,
        typer.Option(help="Only this channel, by id, @handle, address or title.", show_default=False),
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Only videos with this tag.", show_default=False)] = None,
    zone: Annotated[
        ZoneName | None,
        typer.Option(
            help="Only videos under a day old (hot), up to a week (warm), or older (cold).",
            show_default=False,
        ),
    ] = None,
    length: Annotated[
        Length | None,
        typer.Option(help="Only short videos (up to 3 minutes), or only longer ones.", show_default=False),
    ] = None,
    broadcast: Annotated[
        Broadcast | None,
        typer.Option(help="Only videos that are live now, upcoming, or neither.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many videos.")] = 10,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of text.")] = False,
    excel: Excel = False,
    raw: Raw = False,
) -> None:
    """Show the videos that grow fastest, each with a sparkline of its growth.

    For example:

    - `maia top` shows the videos with the most views per hour now.
    - `maia top --by score --zone hot` shows the most unusual videos of the last day.
    - `maia top --window 7d --category Music -n 50` shows the music videos that grew most in a week.
    - `maia top --length long --broadcast none` leaves out Shorts, live and upcoming videos.
    - `maia top --by forecast` shows who is expected to gain most by tomorrow, and the chance of each to be
      among the fastest 5 % of its age. It needs forecasts of the last two days (maia learner).
    - `maia top --by relative --channel "Tape Loop FM" --csv > tape-loop.csv` compares a channel's videos.

    CSV has an apostrophe before every text that a spreadsheet would run as a formula; --raw leaves it out.

    Velocity, and every figure derived from it, is computed by Pleiades, not by YouTube.
    """
    from atlas.adapters.board import Filters
    from maia.commands.resolving import channel_id_of
    from maia.views.leaderboard import leaderboard

    if as_json and as_csv:
        raise typer.BadParameter("--json or --csv, not both")
    if (excel or raw) and not as_csv:
        raise typer.BadParameter("--excel and --raw need --csv")
    named = None if channel is None else parse_channel(channel)
    filters = Filters(
        category_id=_category(category),
        zone=zone_number(zone),
        tag=tag,
        length=length,
        broadcast=broadcast,
        short_at_most_s=SHORT_AT_MOST_S,
    )
    span = parse_span(window, "--window")

    async def look(atlas: Atlas) -> Leaderboard:
        # Several channels may have the same title, and then all of them are included.
        meant = named and (named.id if named.kind is None else await channel_id_of(atlas, named))
        return await leaderboard(atlas, by, limit, replace(filters, channel=meant), span)

    board = with_atlas(look)
    if as_json:
        print_json(plain(board))
    elif as_csv:
        _print_csv(board, csv_form(excel=excel, raw=raw))
    else:
        print_leaderboard(board)


def _category(given: str | None) -> int | None:
    from maia.youtube.categories import category_of

    if given is None or given.isdecimal():
        return None if given is None else int(given)
    try:
        return category_of(given).id
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _print_csv(board: Leaderboard, form: CsvForm) -> None:
    """Print CSV, with a column that says who computed the figures, as rows may be copied elsewhere."""
    windowed = board.window_h is not None and board.by == "velocity"
    rows = [
        (
            row.rank, row.id, row.title, row.channel_id, row.channel_title, row.category_id,
            row.published_at, row.duration_s, row.state, row.zone, row.last_at, row.views,
            row.velocity, row.acceleration, row.relative_velocity, row.viral_score,
            row.leads_by if windowed else None, *_forecast_cells(row.forecast), row.url, ATTRIBUTION,
        )
        for row in board.videos
    ]  # fmt: skip
    print_csv(_CSV, rows, form)


def _forecast_cells(forecast: VideoForecast | None) -> tuple[object, ...]:
    if forecast is None:
        return (None,) * 10
    ahead = (
        (round(each.views), _rounded(each.low), _rounded(each.high), each.top_chance)
        for each in (forecast.day, forecast.week)
    )
    return forecast.made_at, forecast.views, *chain.from_iterable(ahead)


def _rounded(views: float | None) -> int | None:
    return None if views is None else round(views)


# In the terminal


def print_leaderboard(board: Leaderboard) -> None:
    """Print the leaderboard as a table that fits the terminal: less important columns go, titles are cut."""
    out = console()
    if not board.videos:
        needs = (
            "a forecast of the last two days (maia learner)"
            if board.by == "forecast"
            else "the two samples that a velocity needs (maia tracker)"
        )
        out.print(f"No video to show: either the filters exclude all of them, or none has {needs}.")
        return
    out.print(_table(board, out.width))
    out.print(f"Velocity and figures derived from it: {ATTRIBUTION}.", style="dim")


def _table(board: Leaderboard, width: int) -> Table:
    from rich import box
    from rich.table import Table

    wide = width >= _WIDE
    headings, rows = _fitting(_headings(board, wide=wide), list(_rows(board, wide=wide)), width)
    table = Table(
        title=_headline(board), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
        show_edge=False, pad_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for heading, cells in zip(headings, _widths(headings, rows, width), strict=True):
        is_growth = heading.startswith(_GROWTH)
        figures = heading not in ("video", *_FLEXIBLE) and not is_growth
        table.add_column(
            heading, width=cells, no_wrap=True, overflow="ellipsis", justify="right" if figures else "left",
            style="green" if is_growth else None,
        )  # fmt: skip
    for row in rows:
        table.add_row(*row)
    return table


def _fitting(
    headings: list[str], rows: list[list[str | Text]], width: int
) -> tuple[list[str], list[list[str | Text]]]:
    """The columns for which there is room: rather no sparkline, and no views, than cut numbers."""
    for name in (_GROWTH, "views"):
        if _left(headings, rows, width) >= _LEAST_WIDTH:
            break
        place = next(n for n, heading in enumerate(headings) if heading.startswith(name))
        headings = headings[:place] + headings[place + 1 :]
        rows = [row[:place] + row[place + 1 :] for row in rows]
    return headings, rows


def _left(headings: Sequence[str], rows: Sequence[Sequence[str | Text]], width: int) -> int:
    """How many cells titles and channels have to share."""
    needed = _needed(headings, rows)
    fixed = sum(cells for cells, heading in zip(needed, headings, strict=True) if heading not in _FLEXIBLE)
    return width - fixed - 2 * (len(headings) - 1)


def _needed(headings: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> list[int]:
    from rich.cells import cell_len

    return [
        max(cell_len(str(cell)) for cell in (heading, *column))
        for heading, *column in zip(headings, *rows, strict=True)
    ]


def _widths(headings: Sequence[str], rows: Sequence[Sequence[str | Text]], width: int) -> list[int]:
    """The width each column needs; titles and channels share what the others leave."""
    needed, left = _needed(headings, rows), _left(headings, rows, width)
    shares = sum(_FLEXIBLE.get(heading, 0) for heading in headings)
    return [
        min(cells, max(left * _FLEXIBLE[heading] // shares, _LEAST_WIDTH)) if heading in _FLEXIBLE else cells
        for heading, cells in zip(headings, needed, strict=True)
    ]


def _headings(board: Leaderboard, *, wide: bool) -> list[str]:
    about = ("channel", "age") if wide else ()
    span = span_text((board.now - board.growth_since).total_seconds() / 3600)
    figures = [heading for heading, _ in _figures(board, wide=wide)]
    return ["#", "video", "title", *about, "views", *figures, f"{_GROWTH}, {span}"]


def _rows(board: Leaderboard, *, wide: bool) -> Iterator[list[str | Text]]:
    from rich.text import Text

    from maia.commands.plots import bars_of, compact

    for row in board.videos:
        title = Text(row.title or "–", style=f"link {row.url}")
        about = (Text(row.channel_title or "–"), span_between(row.published_at, board.now)) if wide else ()
        views = "hidden" if row.views is None else compact(row.views)
        figures = [read(row) for _, read in _figures(board, wide=wide)]
        growth = row.growth if wide else _halve(row.growth)
        yield [str(row.rank), row.id, title, *about, views, *figures, bars_of(growth)]


def _halve(growth: Sequence[float | None]) -> list[float | None]:
    """The means of pairs of neighbours, ignoring unknown values."""
    pairs = (
        [rate for rate in growth[place : place + 2] if rate is not None] for place in range(0, len(growth), 2)
    )
    return [sum(pair) / len(pair) if pair else None for pair in pairs]


def _headline(board: Leaderboard) -> str:
    over = f" over {span_text(board.window_h)}" if board.window_h is not None else ""
    names = {
        "velocity": f"views per hour{over or ' now'}",
        "score": "viral score",
        "acceleration": "change of views per hour",
        "relative": "velocity compared with the channel's other videos at that age",
        "forecast": "views expected in the 24 h after the last count",
    }
    return f"Leading by {names[board.by]}, {as_text(board.now)}"


def _figures(board: Leaderboard, *, wide: bool) -> list[tuple[str, Any]]:
    """The columns of figures, as headings and getters; the figure that ranks is always among them."""
    from maia.commands.plots import compact

    def number(value: float | None) -> str:
        return "–" if value is None else compact(value)

    windowed = board.window_h is not None and board.by == "velocity"
    every = {
        "velocity": ("views/h", lambda row: number(row.leads_by if windowed else row.velocity)),
        "acceleration": ("change/h", lambda row: number(row.acceleration)),
        "relative": ("× usual", lambda row: number(row.relative_velocity)),
        "score": ("score", lambda row: as_text(row.viral_score)),
    }
    if board.by == "forecast":
        ahead = {
            "forecast": ("next 24 h", lambda row: f"+{number(row.leads_by)}"),
            "chance": ("top 5 %", lambda row: _chance(row.forecast)),
        }
        kept = every | ahead if wide else {"velocity": every["velocity"], **ahead}
        return list(kept.values())
    kept = every if wide else {name: every[name] for name in dict.fromkeys(("velocity", board.by))}
    return list(kept.values())


def _chance(forecast: VideoForecast | None) -> str:
    chance = None if forecast is None else forecast.day.top_chance
    return "–" if chance is None else percent(chance)
