"""`maia report`: shows the report of a week, writes it to a file or into the vault, and lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from atlas.wording import counted
from maia.commands.arguments import ShowsByDefault
from maia.commands.tables import Column, print_table
from maia.commands.terminal import AsJson, percent, print_json, print_text, span_text, with_atlas

if TYPE_CHECKING:
    from datetime import datetime

    from atlas.adapters.reports import WrittenReport
    from atlas.composition import Atlas
    from maia.maintainer.reports import Written
    from maia.views.report import Report
    from maia.views.weeks import Week

app = typer.Typer(cls=ShowsByDefault, rich_markup_mode="markdown", add_completion=False)

Format = Literal["text", "html", "markdown", "json"]
_BY_ENDING: Final[dict[str, Format]] = {".html": "html", ".htm": "html", ".md": "markdown", ".json": "json"}


@app.callback()
def report() -> None:
    """Show the report of a week, write it to a file or into the vault, and list the reports."""


@app.command()
def show(
    week: Annotated[
        str | None,
        typer.Option(
            metavar="WEEK",
            help="The ISO week, such as 2026-W48, or this for the week that is not over yet. "
            "[default: the last one that is over]",
            show_default=False,
        ),
    ] = None,
    format_: Annotated[
        Format | None,
        typer.Option("--format", help="The format. [default: text, or by FILE's ending]", show_default=False),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write it to this file instead.", show_default=False
        ),
    ] = None,
    write: Annotated[
        bool,
        typer.Option(
            "--write",
            help="Write it into the vault now, in place of an earlier one, and announce it if that was not "
            "done yet.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the report of a week: what was found, what rose, what it cost, how well everything ran.

    `maia report` alone means this; `maia report list` lists the reports that were written. The maintainer
    writes each week's report into the vault on Monday at 09:00, as reports/2026-W48.html, .md and .json. A
    week without one is read from the database, for as long as samples and events are kept.

    For example:

    - `maia report` shows the last week that is over.
    - `maia report --week this` shows how this week is going.
    - `maia report --week 2026-W48 --output report.html` writes a page that needs no other file.
    - `maia report --format markdown | gh gist create -f report.md -` publishes it.
    - `maia report --write` writes the last week's report into the vault again.
    """
    chosen = _format(format_, output, as_json)

    async def look(atlas: Atlas) -> tuple[Report, str]:
        wanted = _week(week, atlas)
        return await _written(atlas, wanted) if write else await _read(atlas, wanted)

    shown, note = with_atlas(look)
    if output is not None:
        _save(shown, chosen, output)
        print_text(f"The report of {shown.week} is in {output}.", stderr=True)
    else:
        _print(shown, chosen)
    if note and (write or chosen == "text"):
        print_text(note, stderr=True)


@app.command("list")
def list_reports(
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1000, help="How many to show at most.")
    ] = 30,
    as_json: AsJson = False,
) -> None:
    """List the reports that were written, the last week first."""

    async def read(atlas: Atlas) -> list[WrittenReport]:
        from atlas.adapters.reports import ReportsDAO

        return await ReportsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).list(limit)

    found = with_atlas(read)
    if as_json:
        from maia.views.words import plain

        print_json([{name: value for name, value in plain(each).items() if name != "data"} for each in found])
        return
    if not found:
        print_text("No report is written yet; to write the last week's: maia report --write")
        return
    print_table(
        ("week", "written", Column("announced", rank=1), Column("in the vault as", 16, wraps=True)),
        [(each.week, each.made_at, each.announced_at, _place(each)) for each in found],
    )


def _place(written: WrittenReport) -> str:
    if written.objects and not written.refusal:
        return written.objects[0]
    return f"not yet: {written.refusal}" if written.refusal else "not yet"


def _format(given: Format | None, output: str | None, as_json: bool) -> Format:
    if as_json:
        if given not in (None, "json"):
            raise typer.BadParameter(f"--json and --format {given}: leave one out")
        return "json"
    if given is None and output is not None:
        ending = output[output.rfind(".") :].lower() if "." in output else ""
        if ending not in _BY_ENDING:
            raise typer.BadParameter(
                f"{output!r} ends in none of {', '.join(_BY_ENDING)}: rename it, or give --format"
            )
        return _BY_ENDING[ending]
    if given == "text" and output is not None:
        raise typer.BadParameter("--format text is for the terminal: use markdown for a file")
    return given or "text"


def _week(text: str | None, atlas: Atlas) -> Week:
    from maia.views.weeks import Week

    this = Week.of(atlas.clock.now(), atlas.settings.maintainer.time_zone)
    if text is None:
        return this.before
    if text.strip().lower() == "this":
        return this
    try:
        week = Week.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--week") from None
    if week > this:
        raise typer.BadParameter(f"{week} has not begun: this is {this}", param_hint="--week")
    return week


async def _read(atlas: Atlas, week: Week) -> tuple[Report, str]:
    from maia.agents import AGENTS
    from maia.maintainer.reports import Written, stored
    from maia.views.report_reading import report

    found = await stored(atlas, week)
    if found is not None:
        read, written = found
        place = Written(read, written.objects, written.refusal, announced=False).place
        return read, f"The report {place}" if written.refusal else ""
    made = await report(atlas, week, [agent.name for agent in AGENTS])
    return made, f"It is not in the vault; to write it there: maia report --week {week} --write"


async def _written(atlas: Atlas, week: Week) -> tuple[Report, str]:
    from maia.maintainer.reports import write

    written: Written = await write(atlas, week)
    announced = " It was announced." if written.announced else ""
    return written.report, f"The report {written.place}{'' if written.refusal else '.'}{announced}"


def _save(shown: Report, chosen: Format, output: str) -> None:
    import asyncio

    from atlas.local import LocalFile

    body = _document(shown, chosen).encode()

    async def save() -> None:
        async with LocalFile(output).writing(output) as file:
            await asyncio.to_thread(file.write, body)

    asyncio.run(save())


def _document(shown: Report, chosen: Format) -> str:
    import orjson

    from maia.maintainer.rendering import as_html, as_markdown

    if chosen == "html":
        return as_html(shown)
    if chosen == "markdown":
        return as_markdown(shown)
    return orjson.dumps(shown.as_dict(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()


def _print(shown: Report, chosen: Format) -> None:
    from maia.commands import streams

    if chosen == "json":
        print_json(shown.as_dict())
    elif chosen == "text":
        print_report(shown)
    else:
        streams.write_bytes(_document(shown, chosen).encode())


# In the terminal


def print_report(shown: Report) -> None:
    """Print a report in tables, with sparklines for its plots."""
    until = "" if shown.is_complete else "; the week is not over yet"
    first, last = shown.days[0], shown.days[-1]
    print_text(f"Pleiades, week {shown.week}: {first:%d %b} to {last:%d %b %Y}, {shown.time_zone}{until}\n")
    if shown.is_empty:
        print_text("A quiet week: nothing was found, sampled or changed. To look closer: maia status\n")
    else:
        _print_totals(shown)
    _print_discovery(shown)
    _print_work(shown)
    _print_health(shown)
    _print_knowledge(shown)
    _print_actions(shown)
    print_text(shown.attribution)


def _print_totals(shown: Report) -> None:
    from maia.views.figures import change

    now, before = shown.totals, shown.before
    names = ("new", "early", "growing", "samples", "breakouts", "units", "cycles")
    print_table(
        ("figure", "this week", "week before", Column("change", right=True)),
        [
            (name, getattr(now, name), getattr(before, name),
             change(getattr(now, name), getattr(before, name)))
            for name in names
        ],
    )  # fmt: skip


def _print_discovery(shown: Report) -> None:
    from maia.commands.plots import bars_of, compact

    if shown.arms:
        print_table(
            (
                Column("arm", 8), Column("found", rank=2), "new", "early", "growing",
                Column("units", right=True), Column("a unit", right=True), "new by day",
            ),
            [
                (arm.arm, arm.found, arm.new, arm.early, arm.growing, compact(arm.units),
                 "free" if arm.growing_per_unit is None else compact(arm.growing_per_unit),
                 bars_of(arm.new_by_day))
                for arm in shown.arms
            ],
            title="Discoveries (a unit: growing videos per unit; Monday to Sunday, Pacific days)",
        )  # fmt: skip
    if shown.risers:
        print_table(
            (
                "#", Column("video", 20), Column("channel", 10, rank=1), Column("gained", right=True),
                Column("views/h", right=True), "growth",
            ),
            [
                (each.rank, each.title or each.id, each.channel_title, f"+{compact(each.gained)}",
                 compact(each.views_per_hour), bars_of(_halves(each.growth)))
                for each in shown.risers
            ],
            title="Top risers",
        )  # fmt: skip


def _halves(growth: tuple[float | None, ...]) -> list[float | None]:
    """Half as many bars: the mean of each two."""
    pairs = [growth[place : place + 2] for place in range(0, len(growth), 2)]
    known = [[value for value in pair if value is not None] for pair in pairs]
    return [sum(values) / len(values) if values else None for values in known]


def _print_work(shown: Report) -> None:
    from maia.commands.plots import bars_of, compact

    if shown.quota:
        print_table(
            (
                "bucket", "ring", "used", Column("limit a day", rank=1),
                Column("of limit", right=True), "by day", Column("closed", 12, wraps=True, rank=2),
            ),
            [
                (use.bucket, use.ring, use.used, use.limit,
                 None if use.share is None else percent(use.share), bars_of(use.used_by_day, use.limit),
                 use.reason)
                for use in shown.quota
            ],
            title="Quota",
        )  # fmt: skip
    if shown.zones:
        print_table(
            ("zone", Column("mean", right=True), Column("most", right=True), "by day"),
            [
                (zone.zone, compact(zone.mean), compact(zone.most), bars_of(zone.mean_by_day))
                for zone in shown.zones
            ],
            title="Lag: videos that were due when the tracker looked",
        )


def _print_health(shown: Report) -> None:
    from maia.commands.plots import bars_of

    if shown.health:
        print_table(
            ("component", Column("mean", right=True), Column("lowest", right=True), "by day"),
            [
                (each.component, percent(each.mean), percent(each.lowest), bars_of(each.by_day, 1.0))
                for each in shown.health
            ],
            title="Health",
        )
    if shown.agents:
        print_table(
            (
                "agent", "cycles", "good", "failed", Column("took", right=True),
                Column("ended", 12, wraps=True),
            ),
            [
                (each.agent, each.cycles, each.good, each.failed, f"{each.seconds:.1f} s",
                 ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in each.outcomes.items()))
                for each in shown.agents
            ],
            title="Agents",
        )  # fmt: skip
    if shown.hosts:
        print_table(
            (
                "host", Column("cpu %, mean/most", right=True), Column("memory %", right=True), "disk %",
                "free GB",
            ),
            [
                (each.node, _pair(each.cpu_percent, each.cpu_most),
                 _pair(each.memory_percent, each.memory_most), each.disk_most and round(each.disk_most),
                 each.disk_free_bytes and round(each.disk_free_bytes / 1e9))
                for each in shown.hosts
            ],
            title="Hosts",
        )  # fmt: skip
    if shown.incidents:
        print_table(
            ("began", "severity", Column("what", 20, wraps=True), Column("lasted", right=True)),
            [
                (each.began_at, each.severity, each.text, _lasted(each.seconds, each.ended_at))
                for each in shown.incidents
            ],
            title="Incidents",
        )


def _pair(mean: float | None, most: float | None) -> str:
    return " / ".join(f"{value:.0f}" for value in (mean, most) if value is not None) or "–"


def _lasted(seconds: float, ended_at: datetime | None) -> str:
    span = span_text(seconds / 3600)
    return span if ended_at is not None else f"{span}, not over"


def _print_knowledge(shown: Report) -> None:
    learnt = shown.learnt
    if learnt is not None:
        known = counted(learnt.known, "pattern")
        title = f"Learnt: {known} known, {learnt.new:,} new, {learnt.forgotten:,} forgotten"
        ids = {each.id for each in learnt.newest}
        rows = [*learnt.newest, *(each for each in learnt.strongest if each.id not in ids)]
        print_table(
            ("", Column("pattern", 30, wraps=True), Column("confidence", right=True), "seen"),
            [
                ("new" if each.id in ids else "", each.statement, percent(each.confidence), each.support)
                for each in rows
            ],
            title=title,
        )
    if shown.forecasts:
        print_table(
            (
                "ahead", "checked", "median error", Column("better than velocity", right=True),
                Column("intervals held", right=True),
            ),
            [
                (each.horizon, each.forecasts, each.error, _share(each.better), _share(each.coverage))
                for each in shown.forecasts
            ],
            title="Forecasts",
        )  # fmt: skip


def _share(value: float | None) -> str | None:
    return None if value is None else percent(value) if value >= 0 else f"−{percent(-value)}"


def _print_actions(shown: Report) -> None:
    if shown.duties:
        print_table(
            ("duty", "runs", "failed", Column("said last", 24, wraps=True)),
            [(each.duty, each.runs, each.failed, each.summary) for each in shown.duties],
            title="The maintainer's duties",
        )
    if shown.actions:
        print_table(
            ("when", Column("what", 12, wraps=True), "state", Column("result", 20, wraps=True)),
            [
                (each.at, f"{each.kind} {each.target}".strip(), each.state, each.text)
                for each in shown.actions
            ],
            title="What the maintainer did",
        )
    if shown.suggestions:
        print_table(
            ("id", "category", Column("suggestion", 24, wraps=True), Column("command", 16, wraps=True)),
            [(each.id, each.category, each.text, each.command) for each in shown.suggestions],
            title="Suggestions (maia comments)",
        )
