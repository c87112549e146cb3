"""`maia learner score`: shows how good the learner's forecasts were. `maia learner` runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from atlas.wording import counted
from maia.commands.arguments import parse_since
from maia.commands.tables import Column, print_table
from maia.commands.terminal import AsJson, as_text, console, print_json, print_text, with_atlas
from maia.views.words import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maia.views.forecasts import ForecastScore, ForecastScores

app = typer.Typer()

_COLUMNS: Final = (
    Column("age", right=True), "checked", "error", Column("× damped", right=True),
    Column("80 % held", right=True), Column("95 % interval", rank=2, right=True),
    Column("width", rank=3, right=True), Column("top 5 %", rank=1, right=True),
)  # fmt: skip
_MEANING: Final = (
    "checked: forecasts whose hour has come. error: median of |log(forecast ÷ views)|; 0.1 is about 10 %. "
    "× damped: that over the error of a velocity that fades as is typical; below 1 is better. 80 % held: how "
    "many of the 80 % intervals did; .78–.82 is the goal, * is off it by more than chance explains. "
    "width: median of log(high ÷ low). top 5 %: average precision of the chance to be among the fastest."
)


@app.command()
def score(
    since: Annotated[
        str,
        typer.Option(
            metavar="SPAN|DAY|TIME",
            help="Only forecasts that were compared with what came since then: a span before now such as 24h "
            "or 7d, a day in UTC, or a time such as 2026-11-02T08:00:00Z. They are kept for 30 days.",
        ),
    ] = "30d",
    as_json: AsJson = False,
) -> None:
    """Show how good the forecasts of views were, by how far ahead they looked and by the videos' age.

    The learner compares a sample of its forecasts with the views that came. Each is judged as it was made.

    For example:

    - `maia learner score --since 7d`
    - `maia learner score --json | jq '.scores[] | [.age, .coverage]'`

    Forecasts, and every figure derived from them, are computed by Pleiades, not by YouTube.
    """
    from maia.views.forecasts import forecast_scores

    begin = parse_since(since, "--since")
    scores = with_atlas(lambda atlas: forecast_scores(atlas, begin))
    if as_json:
        print_json(plain(scores))
    else:
        _print(scores)


def _print(scores: ForecastScores) -> None:
    from maia.views.forecasts import horizon

    for hours in dict.fromkeys(each.horizon_h for each in scores.scores):
        rows = [_row(each) for each in scores.scores if each.horizon_h == hours]
        print_table(_COLUMNS, rows, title=f"Forecasts of the views {horizon(hours)} later, by age")
    if scores.scores:
        console().print(_MEANING, style="dim")
    print_text(_conclusion(scores))


def _row(score: ForecastScore) -> Sequence[object]:
    off = "*" if score.is_off else ""
    within = (
        "–"
        if score.coverage_low is None or score.coverage_high is None
        else f"{score.coverage_low:.3f}–{score.coverage_high:.3f}"
    )
    return (
        score.age, score.forecasts, f"{score.error:.4f}", _number(score.ratio, 2),
        f"{_number(score.coverage, 3)}{off}", within, _number(score.width, 3),
        _number(score.average_precision, 3),
    )  # fmt: skip


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _conclusion(scores: ForecastScores) -> str:
    begin = as_text(scores.since)
    checked = (
        f"Scored: the latest {counted(scores.checked, 'forecast')} checked since {begin}."
        if scores.is_cut
        else f"{counted(scores.checked, 'forecast was', 'forecasts were')} checked since {begin}."
        if scores.checked
        else f"No forecast was checked since {begin}: that is done once its day or week has passed."
    )
    due = "" if scores.first_due_at is None else f", the first due at {as_text(scores.first_due_at)}"
    off = sum(each.is_off for each in scores.scores)
    judged = sum(each.coverage is not None for each in scores.scores)
    kept = (
        f" In {judged - off} of {counted(judged, 'row')} with intervals, these hold as often as they should."
        if judged
        else ""
    )
    waiting = (
        f"{counted(scores.waiting, 'waits', 'wait')} for what comes{due}."
        if scores.waiting
        else "None is waiting."
    )
    return f"{checked}{kept} {waiting}"
