"""`maia system actions`: what the maintainer changed, and what it has given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from atlas.wording import counted
from maia.commands.arguments import parse_since
from maia.commands.tables import Column, print_table
from maia.commands.terminal import AsJson, Since, as_text, print_json, print_text, with_atlas

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from atlas.composition import Atlas
    from maia.views.actions import ActionLine, Actions

_LIMIT = 50


def actions(
    since: Since = "7d",
    node: Annotated[str | None, typer.Option(help="Only the actions of this host.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most actions to show.")] = _LIMIT,
    as_json: AsJson = False,
) -> None:
    """Show what the maintainer changed, newest first, and what it left to people after trying in vain.

    What it only planned is not here: `maia maintainer --direct` shows that.

    For example:

    - `maia system actions --since 24h`
    - `maia system actions --json | jq '.lines[] | select(.state == "failed")'`
    """
    begin = parse_since(since, "--since")
    found = with_atlas(lambda atlas: _read(atlas, begin, node, limit))
    if as_json:
        from maia.views.words import plain

        print_json(plain(found))
    else:
        _print(found)


async def _read(atlas: Atlas, begin: datetime | timedelta, node: str | None, limit: int) -> Actions:
    from datetime import datetime

    from maia.views.actions import actions

    since = begin if isinstance(begin, datetime) else atlas.clock.now() - begin
    return await actions(atlas, since, node=node, limit=limit)


def _row(line: ActionLine) -> tuple[object, ...]:
    came = line.result or line.plan
    return line.at, line.node, line.kind, line.target, line.state, came, f"{line.seconds:.1f}"


def _print(found: Actions) -> None:
    if found.lines:
        columns = (
            "at", Column("host", 8, rank=2), "kind", Column("what", 12, wraps=True), "state",
            Column("what came of it", 20, wraps=True, rank=1), Column("s", right=True, rank=3),
        )  # fmt: skip
        rows = [
            (
                line.at,
                line.node,
                line.kind,
                line.target,
                line.state,
                line.result or line.plan,
                f"{line.seconds:.1f}",
            )
            for line in found.lines
        ]
        print_table(columns, rows)
    else:
        print_text(f"The maintainer changed nothing since {as_text(found.since)}.")
    for each in found.given_up:
        print_text(
            f"Given up after {counted(each.attempts, 'attempt')}: {each.kind} of {each.target}"
            f"{'' if each.node is None else f' on {each.node}'}: {each.result}"
        )
