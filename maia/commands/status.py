"""`maia status`: shows the state of the queue, the quota, the agents and the vault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from atlas.wording import counted
from maia import agents
from maia.commands.keys import print_ledger
from maia.commands.tables import Column, print_table
from maia.commands.terminal import AsJson, as_text, print_json, print_text, with_atlas
from maia.views.words import ATTRIBUTION, plain

if TYPE_CHECKING:
    from atlas.adapters.patterns import Suggestion
    from maia.views.clock import Tracking
    from maia.views.status import FeedsState, Status
    from maia.views.success import Calibration

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

_MOST_SUGGESTIONS = 5
_MAIN_COUNTS = {"new", "found", "videos", "samples", "breakouts"}
"""The counts of a cycle to show even in a narrow terminal."""
_OTHER_COLUMNS = {"at", "node", "outcome", "seconds", "detail"}


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show the search queue, the sampling schedule, today's quota, the vault and the last cycles."""
    from maia.views.status import status

    found = with_atlas(lambda atlas: status(atlas, [agent.name for agent in agents.AGENTS]))
    if as_json:
        print_json(_as_json(found))
    else:
        _print(found)


def _as_json(found: Status) -> dict[str, Any]:
    ledger = found.ledger.ledger
    return {name: value for name, value in plain(found).items() if name != "ledger"} | {
        "quota": plain(ledger)
    }


def _print(found: Status) -> None:
    counts = found.found
    print_text(
        f"{as_text(found.now)}: {counted(counts.videos, 'video')} of "
        f"{counted(counts.channels, 'channel')}; {counted(counts.topics, 'topic')}\n"
    )
    queue = found.queue
    print_table(
        ("active", "being searched", "waiting", "cooling", "parked"),
        [(queue.active, queue.leased, queue.waiting, queue.cooling, queue.parked)],
        title="Search queue",
    )
    if found.ledger.ledger:
        print_ledger(found.ledger)
    else:
        print_text("No API key is configured: set YOUTUBE_API_KEY_POOL_JSON, or try maia demo\n")
    _print_feeds(found.feeds, found.now)
    _print_tracking(found.tracking)
    for agent, cycles in found.cycles.items():
        _print_cycles(agent, cycles)
    _print_calls(found.calls)
    _print_suggestions(found.suggestions)
    waiting = found.vault.waiting
    stored = (
        f"{counted(waiting, 'object is', 'objects are')} still in the database"
        if waiting
        else "everything is stored"
    )
    print_text(f"Vault ({found.vault.provider}): {stored}")


def _print_suggestions(suggestions: Sequence[Suggestion]) -> None:
    for each in suggestions[:_MOST_SUGGESTIONS]:
        print_text(f"Suggestion ({each.category}): {each.text}")
        if each.command:
            print_text(f"    {each.command}")
    if (left := len(suggestions) - _MOST_SUGGESTIONS) > 0:
        print_text(f"{left:,} more: maia status --json")
    if suggestions:
        print_text()


def _print_feeds(feeds: FeedsState, now: datetime) -> None:
    if not feeds.enabled:
        print_text("Feeds: switched off by PLEIADES_DISCOVERY__OFF\n")
        return
    text = f"Feeds: {feeds.looks_today:,} of {counted(feeds.looks_per_day, 'look')} today"
    if feeds.paused_until is not None:
        text += f"; paused until {as_text(feeds.paused_until)}, as YouTube refused: {feeds.reason}"
    elif feeds.next_look_at is not None:
        is_due = feeds.next_look_at <= now
        text += f"; {'due since' if is_due else 'the next is due at'} {as_text(feeds.next_look_at)}"
    print_text(f"{text}\n")


def _print_calls(calls: Calibration) -> None:
    if calls.succeeded is None:
        return
    text = f"Calls in the last 24 h: {100 * calls.succeeded:.1f} % of {calls.calls:,} succeeded"
    if calls.expected is not None:
        text += f", {100 * calls.expected:.1f} % were expected to"
    if calls.likeliest_failure is not None:
        text += f"; most failures are of class {calls.likeliest_failure}"
    print_text(f"{text}\n")


def _print_tracking(tracking: Tracking) -> None:
    columns = (
        "zone", "videos", "due", "in work", "waiting too long", "lag in h", "samples/h", "slowed by",
    )  # fmt: skip
    rows = [
        (
            zone.zone, zone.live, zone.due, zone.leased, zone.starving, zone.lag_h, zone.demand_per_h,
            zone.slowed,
        )
        for zone in tracking.zones
    ]  # fmt: skip
    if not rows:
        return
    print_table(columns, rows, title=f"Sampling schedule (velocity is {ATTRIBUTION})")
    print_text(
        f"The quota pays for {counted(round(tracking.paid_per_h), 'sample')} an hour; the schedule needs "
        f"{tracking.demand_per_h:,.0f}."
    )
    if tracking.paid_per_h < tracking.demand_per_h:
        print_text(
            "Hot videos are sampled first, then the most informative others, which are sampled less often."
        )
    if tracking.short_per_h:
        print_text(
            f"Even then the quota is short by {counted(round(tracking.short_per_h), 'sample')} an hour, so "
            "some videos wait too long: track fewer, or raise PLEIADES_TRACKER__HOT_INTERVAL_H."
        )
    print_text()


def _print_cycles(agent: str, cycles: Sequence[Mapping[str, Any]]) -> None:
    """Print the cycles with the counts of the newest one, as far as there is room."""
    if not cycles:
        return
    figures = [
        name
        for name, value in cycles[0].items()
        if isinstance(value, int) and name not in _OTHER_COLUMNS and any(cycle.get(name) for cycle in cycles)
    ]
    names = ("at", "node", "outcome", *figures, "seconds", "detail")
    columns: tuple[str | Column, ...] = (
        "at", Column("node", 8, rank=2), "outcome",
        *(
            Column(name.replace("_", " "), rank=10 + place + (0 if name in _MAIN_COUNTS else len(figures)))
            for place, name in enumerate(figures)
        ),
        Column("seconds", rank=9), Column("detail", 16, wraps=True, rank=1),
    )  # fmt: skip
    print_table(
        columns, [tuple(cycle.get(name) for name in names) for cycle in cycles], title=f"Last {agent} cycles"
    )
