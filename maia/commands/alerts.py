"""`maia alerts`: lists incidents, acknowledges them, and tests where alerts go."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from maia.commands.arguments import ListsByDefault
from maia.commands.tables import Column, print_table
from maia.commands.terminal import (
    AsJson,
    ExitStatus,
    load_settings,
    print_json,
    print_text,
    run,
    span_between,
    with_atlas,
)
from maia.views.words import plain

if TYPE_CHECKING:
    from datetime import datetime

    from atlas.adapters.incidents import Incident, IncidentsDAO
    from atlas.composition import Atlas
    from atlas.notifier import UrlTest


app = typer.Typer(cls=ListsByDefault, rich_markup_mode="markdown", add_completion=False)

_COLUMNS: Final = (
    Column("id", rank=1), "", Column("incident", 20, wraps=True), "state",
    Column("opened", rank=2), "lasts", Column("told", rank=3), Column("what", 20, wraps=True),
)  # fmt: skip
_MARKS: Final = {"warning": "!", "error": "✗"}


@app.callback()
def alerts() -> None:
    """List incidents, acknowledge them, and test where alerts go.

    An incident is something that is wrong. The maintainer opens it, tells people of it, and tells them again
    when it is over (`maia maintainer`). Of what another incident explains they are not told: its state is
    `explained`.
    """


@app.command("list")
def list_incidents(
    everything: Annotated[
        bool, typer.Option("--all", help="Also list incidents that are over, as long as they are kept.")
    ] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many to list at most.")
    ] = 100,
    as_json: AsJson = False,
) -> None:
    """List what is wrong now, that which began last first: warnings (!) and errors (✗).

    For example:

    - `maia alerts` lists the open incidents.
    - `maia alerts --all --json | jq '.[] | select(.severity == "error") | .key'`
    """

    async def look(atlas: Atlas) -> tuple[list[Incident], datetime | None, datetime]:
        found = await _dao(atlas).incidents(closed=everything, limit=limit)
        return found, None if found else await _looked_at(atlas), atlas.clock.now()

    found, looked_at, now = with_atlas(look)
    if as_json:
        print_json([plain(each) for each in found])
        return
    if not found:
        print_text(_nothing(looked_at, everything=everything))
        return
    print_table(_COLUMNS, [_row(each, now) for each in found], title="Incidents")
    if len(found) == limit:
        print_text(f"These are the last {limit:,}; -n lists more.")
    if any(_state(each) == "open" for each in found):
        print_text("To keep one silent until it is over or worse: maia alerts ack INCIDENT")


def _nothing(looked_at: datetime | None, *, everything: bool) -> str:
    if looked_at is None:
        return "The maintainer has not looked yet: maia maintainer --direct --only health does it now."
    last = f"The maintainer last looked at {looked_at:%Y-%m-%d %H:%M} UTC."
    return f"{'There was no incident yet.' if everything else 'Nothing was wrong.'} {last}"


async def _looked_at(atlas: Atlas) -> datetime | None:
    """When health was last judged, on any host."""
    from atlas.adapters.duties import DutiesDAO

    return await DutiesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings).last_done("health")


@app.command()
def ack(
    incident: Annotated[
        str, typer.Argument(metavar="KEY|ID", help="An open incident, as maia alerts lists it.")
    ],
    note: Annotated[
        str | None,
        typer.Option(help="What you know of it, for others to read.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Acknowledge an open incident: it is silent until it is over or becomes more severe.

    For example:

    - `maia alerts ack host.disk:node-1 --note "a larger disk comes on Friday"`
    """
    from atlas.adapters.incidents import LONGEST_NOTE
    from maia import acts
    from maia.errors import MaiaError

    if note is not None and len(note) > LONGEST_NOTE:
        raise typer.BadParameter(f"a note has at most {LONGEST_NOTE:,} characters", param_hint="--note")
    found = with_atlas(lambda atlas: acts.acknowledge(atlas, incident, note))
    if found is None:
        raise MaiaError(f"there is no open incident {incident!r}; maia alerts lists those that are open")
    if as_json:
        print_json(plain(found))
        return
    print_text(f"{found.key} is silent from now on, until it is over or becomes more severe")


@app.command("test")
def try_urls(as_json: AsJson = False) -> None:
    """Send a test message to every URL of PLEIADES_NOTIFIER__URLS, and tell which of them accepted it.

    It needs no database. URLs are shown by their position, as they may contain secrets. The exit status is 1
    if one did not accept the message, and 78 if there is no URL.

    For example:

    - `PLEIADES_NOTIFIER__URLS=mailto://user:password@example.org maia alerts test`
    """
    from atlas.errors import ConfigError
    from atlas.notifier import Notifier

    settings = load_settings()
    if not settings.notifier.urls:
        raise ConfigError(
            "alerts go nowhere, and are only logged: set PLEIADES_NOTIFIER__URLS to URLs as "
            "https://appriseit.com/services/ describes them"
        )
    tests = run(
        Notifier(None, settings.notifier).test(
            "Test of Pleiades's alerts", f"Alerts of {settings.node_id} arrive here. Nothing is wrong."
        )
    )
    if as_json:
        print_json([asdict(each) for each in tests])
    else:
        _print_tests(tests)
    if not all(each.reached for each in tests):
        raise typer.Exit(ExitStatus.FAILED)


def _print_tests(tests: list[UrlTest]) -> None:
    columns = (
        Column("URL", right=True),
        "service",
        "result",
        Column("reason", 20, wraps=True),
    )
    rows = [
        (each.number, each.service or "unknown", "accepted" if each.reached else "failed", each.reason)
        for each in tests
    ]
    print_table(columns, rows)


def _dao(atlas: Atlas) -> IncidentsDAO:
    from atlas.adapters.incidents import IncidentsDAO

    return IncidentsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


def _row(incident: Incident, now: datetime) -> tuple[object, ...]:
    end = incident.well_since or incident.recovered_at or now
    return (
        str(incident.id), _MARKS.get(incident.severity, ""), incident.key, _state(incident),
        incident.opened_at, span_between(incident.opened_at, end), incident.announced_at,
        incident.text if incident.note is None else f"{incident.text} (Note: {incident.note})",
    )  # fmt: skip


def _state(incident: Incident) -> str:
    if incident.status != "open":
        return "over"
    if incident.well_since is not None:
        return "ending"
    if incident.acknowledged_at is not None:
        return "acknowledged"
    return "open" if incident.cause is None else "explained"
