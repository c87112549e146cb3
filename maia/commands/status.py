"""`maia status`: how everything stands, at a glance."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import typer

from maia.commands.keys import ledger, print_ledger
from maia.terminal import AsJson, print_json, print_table, with_atlas

if TYPE_CHECKING:
    from atlas.adapters.tracking import ZoneCounts
    from atlas.composition import Atlas
    from atlas.keyring import LedgerLine

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

CYCLES_SHOWN = 5


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show the queue, what was found, the clock and what its budget pays, quota, vault and last cycles."""
    report, lines = with_atlas(_report)
    if as_json:
        quota = [asdict(line) | {"keys": [key.fingerprint for key in line.keys]} for line in lines]
        print_json(report | {"quota": quota})
        return
    _print(report, lines)


async def _report(atlas: Atlas) -> tuple[dict[str, Any], list[LedgerLine]]:
    from atlas.adapters.maia import MaiaDAO
    from atlas.errors import EmptyKeyRing

    dao = MaiaDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    try:
        lines = await ledger(atlas)
    except EmptyKeyRing:
        lines = []
    cycles = {agent: await _last_cycles(atlas, agent) for agent in ("hunter", "tracker")}
    tracking = _tracking(await dao.clock_counts(), lines, atlas)
    report = {
        "now": atlas.clock.now(),
        "queue": asdict(await dao.queue_counts()),
        "found": asdict(await dao.discoveries()),
        "vault": {"provider": atlas.settings.vault_provider, "waiting": await atlas.vault.waiting()},
        "tracking": tracking,
        "cycles": cycles["hunter"],
        "tracker_cycles": cycles["tracker"],
    }
    return report, lines


async def _last_cycles(atlas: Atlas, agent: str) -> list[dict[str, Any]]:
    events = await atlas.events.latest(CYCLES_SHOWN, kinds=[f"{agent}.cycle"])
    return [{"at": event.at, "node": event.node, **event.payload} for event in events]


def _tracking(counts: list[ZoneCounts], lines: list[LedgerLine], atlas: Atlas) -> dict[str, Any]:
    """The zones with their lag, and whether the day's budget pays for their intervals."""
    from maia.budget import named, samples_per_h, slowing
    from maia.learning.zones import Zone

    now, ledger = atlas.clock.now(), [line for line in lines if line.ring == "tracking"]
    stretches = slowing(counts, ledger, atlas.settings.tracker)
    zones = []
    for count in counts:
        lag = now - count.oldest_due_at if count.oldest_due_at else timedelta()
        zones.append(asdict(count) | {
            "zone": next(iter(named({count.zone: 0}))),
            "lag_h": max(lag / timedelta(hours=1), 0.0),
            "slowed": stretches.factors[Zone(count.zone)],
        })  # fmt: skip
    return {
        "zones": zones,
        "demand_per_h": sum(count.demand_per_h for count in counts),
        "paid_per_h": samples_per_h(ledger),
        "short_per_h": stretches.shortfall_per_h,
        "starving": sum(count.starving for count in counts),
    }


def _print(report: dict[str, Any], lines: list[LedgerLine]) -> None:
    queue, found, vault = report["queue"], report["found"], report["vault"]
    print_table(("now", "videos", "channels", "topics", "pages stored"), [(report["now"], *found.values())])
    print_table(
        ("active", "of them held", "of them waiting", "cooling", "parked"),
        [(queue["active"], queue["leased"], queue["waiting"], queue["cooling"], queue["parked"])],
        title="Search queue",
    )
    if lines:
        print_ledger(lines)
    else:
        typer.echo("No API key is configured: set YOUTUBE_API_KEY_POOL_JSON, or practise with: maia demo\n")
    _print_tracking(report["tracking"])
    _print_cycles("hunter", report["cycles"], ("topics", "pages", "found", "new", "tags"))
    figures = ("videos", "samples", "missing", "breakouts", "channels", "degraded")
    _print_cycles("tracker", report["tracker_cycles"], figures)
    waiting = vault["waiting"]
    typer.echo(f"Vault ({vault['provider']}): {waiting:,} objects wait to be stored" if waiting else
               f"Vault ({vault['provider']}): nothing waits")  # fmt: skip


def _print_tracking(tracking: dict[str, Any]) -> None:
    columns = (
        "zone",
        "videos",
        "due",
        "held",
        "waiting too long",
        "lag in h",
        "samples an hour",
        "slowed by",
    )
    names = ("zone", "live", "due", "leased", "starving", "lag_h", "demand_per_h", "slowed")
    rows = [tuple(zone[name] for name in names) for zone in tracking["zones"]]
    if not rows:
        return
    print_table(columns, rows, title="Clock (velocities are computed by Pleiades, not by YouTube)")
    asked, paid, short = (tracking[name] for name in ("demand_per_h", "paid_per_h", "short_per_h"))
    typer.echo(f"The quota pays for {paid:,.0f} samples an hour; the clock asks for {asked:,.0f}.")
    if paid < asked:
        typer.echo("So those go first that tell most, hot ones before all, and the others slow down.")
    if short:
        typer.echo(
            f"Even at their slowest {short:,.0f} an hour are missing, so some wait too long: track fewer, or "
            "lengthen PLEIADES_TRACKER__HOT_INTERVAL_H."
        )
    typer.echo()


def _print_cycles(agent: str, cycles: list[dict[str, Any]], figures: tuple[str, ...]) -> None:
    columns = ("at", "node", "outcome", *figures, "seconds", "detail")
    rows = [tuple(cycle.get(column) for column in columns) for cycle in cycles]
    if rows:
        print_table(columns, rows, title=f"Last {agent} cycles")
