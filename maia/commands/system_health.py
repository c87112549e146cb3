"""`maia system health`: shows how well everything is, what is wrong, and what to run next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

from atlas.wording import counted
from maia.commands.terminal import (
    AsJson,
    ExitStatus,
    as_text,
    console,
    print_json,
    print_line,
    with_atlas,
)
from maia.maintenance.findings import Component, Severity

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from atlas.composition import Atlas
    from maia.maintenance.findings import Finding
    from maia.maintenance.health import ComponentHealth
    from maia.views.health import Health

_BAR: Final = 10
_SIGNS: Final = {
    Severity.ERROR: ("✗", "bold red"),
    Severity.WARNING: ("!", "yellow"),
    Severity.INFO: ("·", "dim"),
}
_NOT_JUDGED: Final = {
    Component.LEDGER: "no API key is set",
    Component.PREFECT: "PREFECT_API_URL is not set",
    Component.SERVICES: "nothing to watch here",
}


def health(
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it anew every few seconds, until Ctrl-C.")
    ] = False,
    every: Annotated[
        float, typer.Option(min=1, max=3600, metavar="SECONDS", help="With --watch: how often.")
    ] = 10,
    as_json: AsJson = False,
) -> None:
    """Show how well everything is: a score from 0 to 1 for each component, the reasons, and what to run next.

    Looks at PostgreSQL, every host, queues, quota, agents, Prefect, the vault, services, and the maintainer's
    own duties, and changes nothing. A warning (!) can wait for working hours, an error (✗) can't. What is not
    set up is not judged. The limits are settings: see PLEIADES_MAINTAINER__HEALTH in `maia config docs`.

    Exit statuses: 0 if there is no error, 1 if there is one, 69 if the database can't be reached.

    For example:

    - `maia system health --watch`
    - `maia system health --json | jq '.findings[].text'`
    - `maia system health > /dev/null || echo "something is wrong"`
    """

    async def show(atlas: Atlas) -> bool:
        from maia.maintainer.health import look

        with _display(watch=watch, as_json=as_json) as display:
            found = await look(atlas)
            display(found)
            while watch:
                await asyncio.sleep(every)
                found = await look(atlas)
                display(found)
        return found.healthy

    if not with_atlas(show):
        raise typer.Exit(ExitStatus.FAILED)


@contextmanager
def _display(*, watch: bool, as_json: bool) -> Iterator[Callable[[Health], None]]:
    """Yield what shows the health: in place of the last one on a terminal, or else below it."""
    out = console()
    if as_json:
        show = print_line if watch else print_json
        yield lambda found: show(found.as_dict())
    elif not (watch and out.is_terminal):
        yield lambda found: out.print(rendered(found))
    else:
        from rich.live import Live

        with Live(console=out, auto_refresh=False, vertical_overflow="visible") as live:
            yield lambda found: live.update(rendered(found), refresh=True)


def rendered(found: Health) -> RenderableType:
    """The health as a table: a line for each component, with its findings beside it."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(ratio=1)
    table.add_row(
        Text("everything", style="bold"), _bar(found.score), _figure(found.score), Text(_verdict(found))
    )
    for each in found.judgement.components:
        name = Text(each.component.value)
        if each.score is None:
            name.stylize("dim")
        table.add_row(name, _bar(each.score), _figure(each.score), _beside(each))
    title = Text(f"Health as seen from {found.node} at {as_text(found.now)}", style="bold")
    return Group(title, Text(), table)


def _bar(score: float | None) -> Text:
    from rich.text import Text

    if score is None:
        return Text("·" * _BAR, style="dim")
    # Only what is whole is full, and only nothing is empty.
    full = _BAR if score >= 1 else min(max(round(score * _BAR), score > 0), _BAR - 1)
    return Text.assemble(("█" * full, _colour(score)), ("░" * (_BAR - full), "dim"))


def _figure(score: float | None) -> Text:
    from rich.text import Text

    if score is None:
        return Text("–", style="dim")
    # 0.996 is not yet 1.
    return Text(f"{score if score >= 1 else min(score, 0.99):.2f}", style=_colour(score))


def _colour(score: float) -> str:
    return "green" if score >= 0.9 else "yellow" if score >= 0.6 else "red"


def _verdict(found: Health) -> str:
    counts = dict.fromkeys(Severity, 0)
    for finding in found.judgement.findings:
        counts[finding.severity] += 1
    told = [
        counted(counts[severity], severity)
        for severity in (Severity.ERROR, Severity.WARNING)
        if counts[severity]
    ]
    return ", ".join(told) or "all well"


def _beside(each: ComponentHealth) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    if each.score is None:
        return Text(
            f"not judged{f': {why}' if (why := _NOT_JUDGED.get(each.component)) else ''}", style="dim"
        )
    if not each.findings:
        return Text("✓", style="green")
    last = {finding.command: place for place, finding in enumerate(each.findings)}
    return Group(
        *(
            _told(finding, shows_command=last[finding.command] == place)
            for place, finding in enumerate(each.findings)
        )
    )


def _told(finding: Finding, *, shows_command: bool) -> RenderableType:
    """A finding, and the command that it has in common with those above; long lines hang under their text."""
    from rich.table import Table
    from rich.text import Text

    sign, style = _SIGNS[finding.severity]
    hanging = Table.grid(padding=(0, 1, 0, 0))
    hanging.add_row(Text(sign, style=style), Text(finding.text))
    if finding.command and shows_command:
        hanging.add_row("", Text(f"→ {finding.command}", style="cyan", overflow="fold"))
    return hanging
