"""`maia anomalies`: shows where host metrics and agents' figures were odd, too high or shifted."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from atlas.wording import counted
from maia.commands.arguments import parse_since
from maia.commands.tables import Column, print_table
from maia.commands.terminal import AsJson, Since, as_text, console, print_json, print_text, with_atlas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atlas.composition import Atlas
    from maia.commands.plots import Chart
    from maia.views.anomalies import Anomalies, Series

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

_WIDEST_PLOT: Final = 140
_MOST_PLOTS: Final = 3
_LARGE: Final = 1e4


@app.command()
def anomalies(
    since: Since = "7d",
    series: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help='Only this series, such as "tracker seconds" or "HOST cpu_percent".',
            show_default=False,
        ),
    ] = None,
    kind: Annotated[
        Literal["anomaly", "threshold", "change_point"] | None,
        typer.Option(help="Only alarms of this kind.", show_default=False),
    ] = None,
    plot: Annotated[
        bool,
        typer.Option("--plot", help="Draw the series with their alarms: the one named, or the three worst."),
    ] = False,
    png: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw them into a PNG file (needs the extra plots).",
            show_default=False,
            dir_okay=False,
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many to show at most.")
    ] = 30,
    as_json: AsJson = False,
) -> None:
    """Show where a host's metrics, or the agents' figures, were odd, too high, or shifted for good.

    The learner watches each series without any setting: an `anomaly` is a value unlike what came before, a
    `threshold` a metric that stays too high, and a `change_point` a level that has shifted.

    For example:

    - `maia anomalies --since 24h --plot`
    - `maia anomalies --series "hunter new" --json | jq '.alarms[].at'`
    """
    begin = parse_since(since, "--since")

    async def look(atlas: Atlas) -> tuple[Anomalies, list[Series]]:
        from maia.agents import AGENTS
        from maia.views import anomalies as view

        agents = [agent.name for agent in AGENTS]

        start = begin if isinstance(begin, datetime) else atlas.clock.now() - begin
        found = await view.anomalies(atlas, start, series=series, kind=kind)
        drawn = [] if not plot and png is None else [series] if series else [*found.by_series()]
        return found, [await view.series(atlas, name, found, agents) for name in drawn[:_MOST_PLOTS]]

    found, drawn = with_atlas(look)
    if png is not None:
        _save(found, drawn, png)
    if as_json:
        _print_json(found, drawn, limit)
        return
    _print(found, limit, series)
    if plot:
        for each in drawn:
            _print_plot(each)


def _print_json(found: Anomalies, drawn: Sequence[Series], limit: int) -> None:
    from maia.views.words import plain

    shown = plain(found) | {"total": len(found.alarms), "alarms": [*map(plain, found.alarms[:limit])]}
    print_json(shown | ({"series": [plain(each) for each in drawn]} if drawn else {}))


def _print(found: Anomalies, limit: int, series: str | None = None) -> None:
    if not found.alarms:
        begin = as_text(found.since)
        print_text(
            f"Nothing was odd since {begin}: the learner watches as it runs (maia learner)."
            if series is None
            else f"There was no alarm of a series called {series!r} since {begin}: maia anomalies lists all."
        )
        return
    print_table(
        (
            "at", Column("series", 14, wraps=True), "kind", Column("value", right=True),
            Column("what", 16, wraps=True),
        ),
        [
            (alarm.at, alarm.series, alarm.kind.replace("_", " "), _figure(alarm.value), alarm.detail)
            for alarm in found.alarms[:limit]
        ],
        title=f"Alarms since {as_text(found.since)}",
    )  # fmt: skip
    if len(found.alarms) > limit:
        print_text(f"{limit:,} of {len(found.alarms):,} alarms; -n shows more.")


def _figure(value: float) -> str:
    from maia.commands.plots import compact

    return f"{value:.4g}" if abs(value) < _LARGE else compact(value)


def _print_plot(each: Series) -> None:
    from maia.commands.plots import chart_plot, print_plot

    out = console()
    if len(each.values) < 2:
        print_text(f"{each.name}: no values of it are stored for that time.")
        return
    marks = [alarm.at for alarm in each.alarms]
    print_plot(out, chart_plot([_chart(each)], min(out.width, _WIDEST_PLOT) - 1, marks))
    out.print(f"▲ marks {counted(len(marks), 'alarm')}", style="dim")


def _chart(each: Series) -> Chart:
    from maia.commands.plots import Chart

    return Chart.of(each.name, each.at, each.values, [alarm.at for alarm in each.alarms])


def _save(found: Anomalies, drawn: Sequence[Series], png: Path) -> None:
    from maia.commands.plots import save_charts

    plotted = [each for each in drawn if len(each.values) >= 2]
    if not plotted:
        print_text("There is nothing to draw.", stderr=True)
        return
    save_charts(
        [_chart(each) for each in plotted],
        png,
        title="Alarms",
        subtitle=f"since {as_text(found.since)}; a dashed line is an alarm",
    )
    print_text(f"The plot is in {png}.", stderr=True)
