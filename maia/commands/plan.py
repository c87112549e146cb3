"""`maia plan`: shows how the hunter divides today's units, why, and what came of yesterday's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from atlas.wording import counted
from maia.commands.tables import Column, print_table
from maia.commands.terminal import AsJson, print_json, print_text, with_atlas
from maia.views.words import plain

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from maia.views.plan import Plan

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)


@app.command()
def plan(as_json: AsJson = False) -> None:
    """Show how the hunter divides today's quota among sources and forms of search, and what came of it.

    Each line is an arm: a source, or a form in which search asks. Its `share` is of its quota bucket, of
    which `planned` and `used` are units. `early` are the videos found within 24 hours of publication;
    `expected` of them to grow are so many per unit. Which of them grew is known a day later; the next plan
    follows from that. Fix shares with PLEIADES_DISCOVERY__PINS, and switch arms off with
    PLEIADES_DISCOVERY__OFF.
    """
    found = with_atlas(_plan)
    if as_json:
        print_json(plain(found))
    else:
        _print(found)


async def _plan(atlas: Atlas) -> Plan:
    from maia.discovery.plan import check_arms
    from maia.views.plan import plan

    check_arms(atlas.settings.discovery)
    return await plan(atlas)


def _print(found: Plan) -> None:
    is_planned = any(line.share is not None for line in found.today)
    if is_planned or (found.today and found.strategy == "specification"):
        _print_today(found)
    elif found.strategy == "specification":
        print_text("Nothing was asked today. PLEIADES_HUNTER__STRATEGY=specification needs no plan.\n")
    else:
        print_text(f"There is no plan for {found.pacific_day} yet: the first run of maia hunter makes it.\n")
    if found.yesterday:
        _print_yesterday(found)
    threshold = found.growing_views_per_hour
    print_text(
        "Growing: "
        + (
            f"at least {counted(round(threshold), 'view')} an hour over the first 24 hours."
            if threshold is not None
            else "not known yet; it takes a day until the first videos found are judged."
        )
    )


def _print_today(found: Plan) -> None:
    columns = (
        "arm", "bucket", "share", "planned", "used", Column("new", rank=3), Column("early", rank=1),
        Column("expected", rank=2), Column("why", 18, wraps=True),
    )  # fmt: skip
    rows = [
        (
            line.arm, line.bucket, None if line.share is None else f"{line.share:.0%}", line.planned,
            line.used, line.new, line.early, None if line.expected is None else round(line.expected, 2),
            f"{line.unwell}; only tried now and then" if line.unwell else line.reason,
        )
        for line in found.today
    ]  # fmt: skip
    print_table(columns, rows, title=f"Plan of {found.pacific_day}, a Pacific day")


def _print_yesterday(found: Plan) -> None:
    columns = (
        "arm", Column("asks", rank=4), "units", Column("metadata units", rank=5), Column("found", rank=3),
        Column("new", rank=2), "early", Column("judged", rank=1), "growing", "per unit",
    )  # fmt: skip
    rows = [
        (
            line.arm, line.asks, line.units, round(line.enrichments, 1), line.found, line.new, line.early,
            line.judged, line.growing, None if line.per_unit is None else round(line.per_unit, 2),
        )
        for line in found.yesterday
    ]  # fmt: skip
    print_table(columns, rows, title="What came of the day before")
