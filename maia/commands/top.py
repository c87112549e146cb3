"""`maia top`: the videos that grow most."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from maia.arguments import ZoneName, parse_named, parse_span, zone_name, zone_number
from maia.terminal import AsJson, console, print_json, shown, with_atlas

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from atlas.adapters.board import Filters, Leader
    from atlas.composition import Atlas
    from maia.plots import Curve

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

By = Literal["velocity", "score", "acceleration", "relative"]

_USUAL_SPAN: Final = timedelta(days=7)
_BARS, _FEW_BARS = 24, 12
_WIDE: Final = 120
_GIVE_WAY: Final[dict[str, int]] = {"title": 3, "channel": 2}
"""The columns that are cut to the width there is, and their shares of what the others leave."""
_LEAST_WIDTH: Final = 8
_CSV: Final = (
    "rank", "video_id", "title", "channel_id", "channel_title", "category_id", "published_at", "zone",
    "sampled_at", "views", "velocity", "acceleration", "relative_velocity", "viral_score", "window_velocity",
    "url", "attribution",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """The leaders, and how each grew over the same span."""

    by: By
    window: timedelta | None
    now: datetime
    leaders: list[Leader]
    curves: list[Curve]

    @property
    def since(self) -> datetime:
        """Where the sparklines begin: the window's start, or where the samples of the last week do."""
        if self.window is not None:
            return self.now - self.window
        begins = [curve.at_s[0] for curve in self.curves if len(curve.at_s)]
        return datetime.fromtimestamp(min(begins), UTC) if begins else self.now - _USUAL_SPAN

    def growth(self, bars: int) -> list[list[float | None]]:
        """Each leader's views per hour in so many equal parts of the span; None where nothing was seen."""
        from maia.plots import rates

        spans = self.since.timestamp(), self.now.timestamp()
        return [
            [None if rate != rate else rate for rate in rates(curve, *spans, bars).tolist()]
            for curve in self.curves
        ]


@app.command()
def top(
    by: Annotated[
        By,
        typer.Option(
            help="What to go by: velocity (views an hour now), score (how unusual, 0 to 1), acceleration "
            "(its change an hour), relative (to what the channel's videos have at that age)."
        ),
    ] = "velocity",
    window: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN",
            help="With velocity: the mean over this span, such as 90m, 24h or 7d, instead of now's. Else: "
            "only what was sampled in it.",
            show_default=False,
        ),
    ] = None,
    category: Annotated[
        str | None,
        typer.Option(help="Only this category, by number or name, such as Music.", show_default=False),
    ] = None,
    channel: Annotated[
        str | None, typer.Option(help="Only this channel, by id, address or title.", show_default=False)
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Only what has this tag.", show_default=False)] = None,
    zone: Annotated[ZoneName | None, typer.Option(help="Only this zone.", show_default=False)] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many videos.")] = 10,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of text.")] = False,
) -> None:
    """Show the videos that grow most, each with the growth of its views as a sparkline.

    For example:

    - `maia top` is who has most views an hour now.
    - `maia top --by score --zone hot` is who stands out among the youngest.
    - `maia top --window 7d --category Music -n 50` is who grew most over a week of music.
    - `maia top --by relative --channel "Tape Loop FM" --csv > tape-loop.csv` is a channel against itself.

    Velocity, and whatever is made of it, is computed by Pleiades, not by YouTube.
    """
    from atlas.adapters.board import Filters

    if as_json and as_csv:
        raise typer.BadParameter("--json or --csv, not both")
    filters = Filters(_channel(channel), _category(category), zone_number(zone), tag)
    span = parse_span(window, "--window")
    board = with_atlas(lambda atlas: leaderboard(atlas, by, limit, filters, span))
    if as_json:
        print_json(as_dict(board))
    elif as_csv:
        _print_csv(board)
    else:
        print_leaderboard(board)


def _channel(given: str | None) -> str | None:
    """A channel's id out of its address; anything else may be a title."""
    if given is not None and "youtube.com/" in given:
        return parse_named(given).id
    return given


def _category(given: str | None) -> int | None:
    from maia.youtube.emulator.facts import CATEGORIES

    if given is None or given.isdecimal():
        return None if given is None else int(given)
    for number, (title, _) in CATEGORIES.items():
        if title.casefold() == given.casefold():
            return number
    names = ", ".join(sorted({title for title, _ in CATEGORIES.values()}))
    raise typer.BadParameter(f"there is no category {given!r}: give its number, or one of {names}")


async def leaderboard(
    atlas: Atlas,
    by: By = "velocity",
    limit: int = 10,
    filters: Filters | None = None,
    window: timedelta | None = None,
) -> Leaderboard:
    """The leaders and their curves, as the database has them now."""
    from atlas.adapters.board import BoardDAO, Lead
    from maia.plots import Curve

    dao, now = BoardDAO(atlas.db, clock=atlas.clock, settings=atlas.settings), atlas.clock.now()
    leaders = await dao.top(Lead(by), limit, filters, window)
    samples = await dao.samples([leader.id for leader in leaders], now - (window or _USUAL_SPAN), now)
    curves = [
        Curve.of([s.sampled_at for s in lines], [s.views for s in lines], [s.velocity for s in lines])
        for lines in samples.values()
    ]
    return Leaderboard(by, window, now, leaders, curves)


def as_dict(board: Leaderboard) -> dict[str, Any]:
    """For machines: instants in full, the growth as numbers."""
    from maia.plots import ATTRIBUTION

    videos = [
        asdict(leader) | {"rank": rank, "zone": zone_name(leader.zone), "growth": growth, "url": _url(leader)}
        for rank, (leader, growth) in enumerate(zip(board.leaders, board.growth(_BARS), strict=True), 1)
    ]
    return {
        "by": board.by,
        "window_h": None if board.window is None else board.window.total_seconds() / 3600,
        "now": board.now,
        "growth_since": board.since,
        "attribution": f"velocity, and what is made of it: {ATTRIBUTION}",
        "videos": videos,
    }


def _print_csv(board: Leaderboard) -> None:
    """Who computed the figures stands in a column: it stays with a row wherever that goes."""
    from maia.plots import ATTRIBUTION

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_CSV)
    for rank, leader in enumerate(board.leaders, 1):
        mean = leader.leads_by if board.window is not None and board.by == "velocity" else None
        writer.writerow(
            (
                rank, leader.id, leader.title, leader.channel_id, leader.channel_title, leader.category_id,
                _stamp(leader.published_at), zone_name(leader.zone), _stamp(leader.last_at), leader.views,
                leader.velocity, leader.acceleration, leader.relative_velocity, leader.viral_score, mean,
                _url(leader), ATTRIBUTION,
            )
        )  # fmt: skip


def _stamp(instant: datetime | None) -> str | None:
    return None if instant is None else instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _url(leader: Leader) -> str:
    return f"https://www.youtube.com/watch?v={leader.id}"


# In the terminal


def print_leaderboard(board: Leaderboard) -> None:
    """The table, in the width that there is: titles give way first, then the less important columns go."""
    from maia.plots import ATTRIBUTION

    out = console()
    if not board.leaders:
        out.print(
            "No such video has that figure: velocity takes two samples (maia tracker), and filters may "
            "leave none."
        )
        return
    out.print(_table(board, out.width))
    out.print(f"Velocity and what is made of it: {ATTRIBUTION}.", style="dim")


def _table(board: Leaderboard, width: int) -> Table:
    from rich import box
    from rich.table import Table

    wide = width >= _WIDE
    bars = _BARS if wide else _FEW_BARS
    headings, rows = _headings(board, wide=wide), list(_rows(board, bars, wide=wide))
    table = Table(
        title=_headline(board), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
        show_edge=False, pad_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for heading, cells in zip(headings, _widths(headings, rows, width), strict=True):
        figures = heading not in ("video", *_GIVE_WAY, headings[-1])
        table.add_column(
            heading, width=cells, no_wrap=True, overflow="ellipsis", justify="right" if figures else "left",
            style="green" if heading == headings[-1] else None,
        )  # fmt: skip
    for row in rows:
        table.add_row(*row)
    return table


def _widths(headings: Sequence[str], rows: Sequence[Sequence[str | Text]], width: int) -> list[int]:
    """What each column needs, but titles and channels share what the others leave."""
    from rich.cells import cell_len

    needed = [
        max(cell_len(str(cell)) for cell in (heading, *column))
        for heading, *column in zip(headings, *rows, strict=True)
    ]
    fixed = sum(cells for cells, heading in zip(needed, headings, strict=True) if heading not in _GIVE_WAY)
    left = width - fixed - 2 * (len(headings) - 1)
    shares = sum(_GIVE_WAY.get(heading, 0) for heading in headings)
    return [
        min(cells, max(left * _GIVE_WAY[heading] // shares, _LEAST_WIDTH)) if heading in _GIVE_WAY else cells
        for heading, cells in zip(headings, needed, strict=True)
    ]


def _headings(board: Leaderboard, *, wide: bool) -> list[str]:
    about = ("channel", "age") if wide else ()
    span = _span_text((board.now - board.since).total_seconds() / 3600)
    figures = [heading for heading, _ in _figures(board, wide=wide)]
    return ["#", "video", "title", *about, "views", *figures, f"growth, {span}"]


def _rows(board: Leaderboard, bars: int, *, wide: bool) -> Iterator[list[str | Text]]:
    from rich.text import Text

    from maia.plots import bars_of, compact

    for rank, (leader, growth) in enumerate(zip(board.leaders, board.growth(bars), strict=True), 1):
        title = Text(leader.title or "–", style=f"link {_url(leader)}")
        about = (Text(leader.channel_title or "–"), _age(board.now, leader.published_at)) if wide else ()
        views = "hidden" if leader.views is None else compact(leader.views)
        figures = [read(leader) for _, read in _figures(board, wide=wide)]
        yield [str(rank), leader.id, title, *about, views, *figures, bars_of(growth)]


def _headline(board: Leaderboard) -> str:
    over = f" over {_span_text(board.window.total_seconds() / 3600)}" if board.window is not None else ""
    names = {
        "velocity": f"views an hour{over or ' now'}",
        "score": "viral score",
        "acceleration": "change of the views an hour",
        "relative": "velocity against what is usual for the channel at that age",
    }
    return f"Leading by {names[board.by]}, {shown(board.now)}"


def _figures(board: Leaderboard, *, wide: bool) -> list[tuple[str, Any]]:
    """Headings and readers of the columns of figures, that which leads always among them."""
    from maia.plots import compact

    def number(value: float | None) -> str:
        return "–" if value is None else compact(value)

    windowed = board.window is not None and board.by == "velocity"
    every = {
        "velocity": ("views/h", lambda leader: number(leader.leads_by if windowed else leader.velocity)),
        "acceleration": ("change/h", lambda leader: number(leader.acceleration)),
        "relative": ("× usual", lambda leader: number(leader.relative_velocity)),
        "score": ("score", lambda leader: shown(leader.viral_score)),
    }
    kept = every if wide else {name: every[name] for name in dict.fromkeys(("velocity", board.by))}
    return list(kept.values())


def _age(now: datetime, born_at: datetime | None) -> str:
    return "–" if born_at is None else _span_text(max((now - born_at).total_seconds() / 3600, 0))


def _span_text(hours: float) -> str:
    if hours < 2:
        return f"{hours * 60:.0f} min"
    return f"{hours:.0f} h" if hours < 72 else f"{hours / 24:,.0f} d"
