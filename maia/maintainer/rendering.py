"""Turns a report into HTML, Markdown and a few lines of text.

Titles, channels and comments are foreign text. Whatever a template prints is made harmless for its format
unless one of the filters here made it, so that a forgotten filter only looks odd.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date, datetime
from functools import cache
from typing import Any, Final
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from atlas import foreign
from atlas.wording import counted
from maia.maintenance.wording import size_text, span_text
from maia.views.figures import bars_of, change, compact
from maia.views.report import ArmOfWeek, Report
from maia.views.svg import COLOURS, Plots, Series

_TICKS: Final = re.compile("`+")

Tile = tuple[str, float, float, str]
"""A headline figure: its name, this week's value, that of the week before, and what else to say."""


def as_html(report: Report) -> str:
    """A page that needs nothing else: no script, nothing loaded, its styles inside."""
    return _render("report.html.j2", report, plots=Plots())


def as_markdown(report: Report) -> str:
    """Tables and sparklines in the Markdown of GitHub."""
    text = _render("report.md.j2", report)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def title_of(report: Report) -> str:
    """What the announcement is called."""
    return f"Pleiades, week {report.week}"


def summary_of(report: Report) -> str:
    """The most telling figures of a week, in a few lines."""
    if report.is_empty:
        return "A quiet week: nothing was found, sampled or changed."
    totals, before = report.totals, report.before
    lines = [
        f"{counted(totals.new, 'new video')}{_versus(totals.new, before.new)}.",
        f"{totals.early:,} found within a day of publication; {totals.growing:,} of them grew fast.",
        f"{counted(totals.samples, 'sample')}{_versus(totals.samples, before.samples)}.",
        f"{counted(totals.breakouts, 'breakout')}.",
    ]
    if report.risers:
        first = report.risers[0]
        lines.append(f"Top riser: {first.title or first.id}, +{compact(first.gained)} views.")
    lines += _troubles(report)
    if report.suggestions:
        lines.append(f"{counted(len(report.suggestions), 'suggestion')} to look at: maia comments.")
    return "\n".join(lines)


def _troubles(report: Report) -> list[str]:
    lines = []
    if report.incidents:
        lasting = sum(each.ended_at is None for each in report.incidents)
        lines.append(f"{counted(len(report.incidents), 'incident')}, {lasting or 'none'} of them not over.")
    failed = {each.agent: each.failed for each in report.agents if each.failed}
    if failed:
        told = ", ".join(f"{count:,} of the {agent}" for agent, count in failed.items())
        lines.append(f"Cycles that failed: {told}.")
    return lines


def _versus(now: float, before: float) -> str:
    changed = change(now, before)
    return "" if changed is None else f" ({changed})"


# Templates


def _render(template: str, report: Report, **more: Any) -> str:
    environment = _html() if template.endswith(".html.j2") else _markdown()
    zone = ZoneInfo(report.time_zone)
    return environment.get_template(template).render(
        report=report,
        days=[f"{day:%a}" for day in report.days],
        first_day=_day(report.days[0]),
        last_day=_day(report.days[-1]),
        tiles=_tiles(report),
        new_by_arm=_by_arm(report.arms, "new_by_day"),
        early_by_day=_sums(report.arms, "early_by_day"),
        growing_by_day=_sums(report.arms, "growing_by_day"),
        zone_series=[Series(each.zone, each.mean_by_day) for each in report.zones],
        when=lambda instant: Markup(_when(instant, zone)),  # noqa: S704 - our own text
        title=title_of(report),
        **more,
    )


def _tiles(report: Report) -> list[Tile]:
    now, before = report.totals, report.before
    return [
        ("new videos", now.new, before.new, f"of {compact(now.found)} found"),
        ("found early", now.early, before.early, "within a day of publication"),
        ("early and growing", now.growing, before.growing, "among the fastest of their first day"),
        ("samples", now.samples, before.samples, counted(now.breakouts, "breakout")),
        ("units of quota", now.units, before.units, "over all buckets"),
        ("cycles", now.cycles, before.cycles, f"{sum(each.failed for each in report.agents):,} failed"),
    ]


def _by_arm(arms: Sequence[ArmOfWeek], name: str) -> list[Series]:
    """A series for each of the foremost arms, and one for the others together."""
    ranked = [arm for arm in arms if any(getattr(arm, name))]
    foremost = ranked if len(ranked) <= COLOURS else ranked[: COLOURS - 1]
    series = [Series(arm.arm, tuple(map(float, getattr(arm, name)))) for arm in foremost]
    rest = ranked[len(foremost) :]
    if rest:
        columns = zip(*(getattr(arm, name) for arm in rest), strict=True)
        series.append(Series(counted(len(rest), "other"), tuple(float(sum(column)) for column in columns)))
    return series


def _sums(arms: Sequence[ArmOfWeek], name: str) -> tuple[float, ...]:
    return tuple(float(sum(column)) for column in zip(*(getattr(arm, name) for arm in arms), strict=True))


def _day(day: date) -> str:
    return f"{day.day} {day:%B %Y}"


def _when(instant: datetime, zone: ZoneInfo) -> str:
    there = instant.astimezone(zone)
    return f"{there:%a} {there.day} {there:%b} {there:%H:%M}"


@cache
def _html() -> Environment:
    return _environment(_plain_html, autoescape=True, code=_html_code)


@cache
def _markdown() -> Environment:
    return _environment(_plain_markdown, autoescape=False, code=_markdown_code)


def _environment(finalize: Callable[[Any], Any], *, autoescape: bool, code: Any) -> Environment:
    environment = Environment(
        loader=PackageLoader("maia.maintainer", "templates"),
        autoescape=autoescape,  # noqa: S701 - finalize escapes everything for Markdown
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "code": code,
        "ours": _trusted(str),
        "compact": _trusted(compact),
        "number": _trusted(lambda value: f"{value:,.0f}"),
        "percent": _trusted(_percent),
        "change": _trusted(lambda now, before: change(now, before) or "–"),
        "span": _trusted(span_text),
        "spark": _trusted(bars_of),
        "size": _trusted(_size),
    }
    environment.globals |= {
        "Series": Series,
        "pair": _trusted(_pair),
        "link": _trusted(lambda address: address),
    }
    return environment


def _trusted(function: Callable[..., str]) -> Callable[..., Markup]:
    """The function, with what it returns marked as ours: it has no text of others."""

    def marked(*args: Any, **options: Any) -> Markup:
        return Markup(function(*args, **options))  # noqa: S704 - figures only

    return marked


def _plain_html(value: Any) -> Any:
    """What is printed: without control characters, and then escaped unless it is ours."""
    return foreign.one_line(value) if type(value) is str else value


def _plain_markdown(value: Any) -> Any:
    if isinstance(value, (Markup, int)):
        return value
    # GitHub looks for mentions in what it has rendered, where an escaped one is one again.
    return foreign.markdown(foreign.chat(foreign.one_line(str(value))))


def _html_code(text: str) -> Markup:
    return Markup("<code>{}</code>").format(foreign.one_line(text))


def _markdown_code(text: str) -> Markup:
    """A code span, fenced by more backticks than it contains; nothing in it takes effect."""
    line = foreign.one_line(text).strip()
    fence = "`" * (max(map(len, _TICKS.findall(line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    # In a table, GitHub looks for bars even inside code.
    escaped = line.replace("|", "\\|")
    return Markup(f"{fence}{pad}{escaped}{pad}{fence}")  # noqa: S704 - within a code span


def _percent(share: float | None) -> str:
    if share is None:
        return "–"
    return f"{share:.1%}".replace("%", " %") if 0 < share < 0.0995 else f"{share:.0%}".replace("%", " %")


def _size(size: float | None) -> str:
    return "–" if size is None else size_text(size)


def _pair(mean: float | None, most: float | None) -> str:
    """A mean and the highest figure, in percent."""
    known = [f"{value:.0f}" for value in (mean, most) if value is not None]
    return " / ".join(known) + " %" if known else "–"
