"""`maia breakouts`: lists the videos that grew far more than expected, or waits for new ones."""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from atlas.foreign import one_line
from maia.commands.arguments import parse_since
from maia.commands.tables import Column, print_table
from maia.commands.terminal import (
    AsJson,
    Since,
    as_text,
    console,
    print_json,
    print_line,
    print_text,
    span_text,
    with_atlas,
)
from maia.views.words import ATTRIBUTION, DERIVED, plain

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from maia.views.breakouts import BreakoutRow, Breakouts

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

_COLUMNS: Final = (
    "at", "video", Column("title", 14), Column("channel", 10, rank=3), Column("age", rank=2, right=True),
    "views", "views/h", "× expected", Column("score", rank=1),
)  # fmt: skip


@app.command()
def breakouts(
    since: Since = "7d",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep running and show new ones, until Ctrl-C.")
    ] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many to show at most.")
    ] = 50,
    as_json: AsJson = False,
) -> None:
    """Show the videos that grew far more than expected from their age and history, newest first.

    With `--follow` the oldest comes first, and each new one appears as soon as the tracker has reported it;
    with `--json` each of them is one line of JSON.

    For example:

    - `maia breakouts --since 24h`
    - `maia breakouts --follow --json | jq -r '.url'`

    Velocity, and every figure derived from it, is computed by Pleiades, not by YouTube.
    """
    begin = parse_since(since, "--since")
    with_atlas(lambda atlas: _show(atlas, begin, limit, follow=follow, as_json=as_json))


async def _show(
    atlas: Atlas, begin: timedelta | datetime, limit: int, *, follow: bool, as_json: bool
) -> None:
    from maia.views.breakouts import breakouts
    from maia.views.breakouts import follow as new_breakouts

    since = begin if isinstance(begin, datetime) else atlas.clock.now() - begin
    found = await breakouts(atlas, since, limit)
    if not follow:
        print_json(plain(found)) if as_json else _print(found)
        return
    if not as_json:
        print_text(f"Velocity and figures derived from it: {ATTRIBUTION}. Times are UTC.")
    for row in reversed(found.breakouts):
        _print_one(row, as_json=as_json)
    if not as_json:
        console(stderr=True).print("Waiting for breakouts; press Ctrl-C to stop.", style="dim")
    async with aclosing(new_breakouts(atlas, found.cursor)) as rows:
        async for row in rows:
            _print_one(row, as_json=as_json)


def _print(found: Breakouts) -> None:
    if not found.breakouts:
        print_text(
            f"No breakout since {as_text(found.since)}: the tracker detects them as it runs (maia tracker)."
        )
        return
    rows = [
        (
            row.at, row.video_id, row.title, row.channel_title,
            None if row.age_h is None else span_text(row.age_h), row.views, _rounded(row.views_per_hour),
            row.times_expected, row.viral_score,
        )
        for row in found.breakouts
    ]  # fmt: skip
    print_table(_COLUMNS, rows, title=f"Breakouts since {as_text(found.since)}")
    print_text(f"Velocity and figures derived from it: {ATTRIBUTION}.")


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)


def _print_one(row: BreakoutRow, *, as_json: bool) -> None:
    from rich.text import Text

    from maia.commands.plots import compact

    if as_json:
        print_line(plain(row) | {"attribution": DERIVED})
        return
    times = "unexpected" if row.times_expected is None else f"{compact(row.times_expected)} × expected"
    speed = "–" if row.views_per_hour is None else compact(row.views_per_hour)
    line = Text(f"{row.at.astimezone(UTC):%Y-%m-%d %H:%M}  ").append(
        row.video_id, style=f"bold link {row.url}"
    )
    line.append(f"  {times:>15}  {speed:>5} views/h  {one_line(row.title or '–')}")
    out = console()
    # One line per breakout, cut to the width of a terminal.
    out.print(line, no_wrap=True, overflow="ellipsis" if out.is_terminal else "ignore", crop=out.is_terminal)
