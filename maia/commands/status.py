"""`maia status`: how everything stands, at a glance."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from maia.commands.keys import ledger, print_ledger
from maia.terminal import AsJson, print_json, print_table, with_atlas

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from atlas.keyring import LedgerLine

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

CYCLES_SHOWN = 5


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show the queue, what was found, today's quota, the vault's backlog and the last cycles."""
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
    cycles = await atlas.events.latest(CYCLES_SHOWN, kinds=["hunter.cycle"])
    report = {
        "now": atlas.clock.now(),
        "queue": asdict(await dao.queue_counts()),
        "found": asdict(await dao.discoveries()),
        "vault": {"provider": atlas.settings.vault_provider, "waiting": await atlas.vault.waiting()},
        "cycles": [{"at": event.at, "node": event.node, **event.payload} for event in cycles],
    }
    return report, lines


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
    columns = ("at", "node", "outcome", "topics", "pages", "found", "new", "tags", "seconds", "detail")
    rows = [tuple(cycle.get(column) for column in columns) for cycle in report["cycles"]]
    if rows:
        print_table(columns, rows, title="Last hunter cycles")
    waiting = vault["waiting"]
    typer.echo(f"Vault ({vault['provider']}): {waiting:,} objects wait to be stored" if waiting else
               f"Vault ({vault['provider']}): nothing waits")  # fmt: skip
