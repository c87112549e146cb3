"""`maia learn`: teaches the learner from a log of events that others recorded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from atlas.wording import counted
from maia.commands.tables import Column, print_table
from maia.commands.terminal import (
    AsJson,
    ExitStatus,
    as_text,
    print_json,
    print_text,
    progress_bar,
    with_atlas,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from atlas.composition import Atlas
    from maia.learner.teaching import Log, Preview, RefusedRow, Taught

_EXAMPLES = 3

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)


def _column(field: str, what: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        f"--{field}", metavar="COLUMN", help=f"The column with {what}.", show_default=False
    )
    return option


@app.command()
def learn(
    from_: Annotated[Path, typer.Option("--from", metavar="FILE", help="The log, plain or gzipped.")],
    format_: Annotated[
        Literal["jsonl", "csv", "xes"] | None,
        typer.Option("--format", help="The format. [default: by the name's ending]", show_default=False),
    ] = None,
    session: Annotated[str | None, _column("session", "what belongs together, such as a case")] = None,
    action: Annotated[str | None, _column("action", "what was done")] = None,
    at: Annotated[str | None, _column("at", "the instant; UTC unless it says its zone")] = None,
    resource: Annotated[str | None, _column("resource", "who did it")] = None,
    outcome: Annotated[
        str | None, _column("outcome", "how it ended; success if empty, and what is no success is a failure")
    ] = None,
    reward: Annotated[str | None, _column("reward", "what it brought, a number")] = None,
    cost: Annotated[str | None, _column("cost", "what it cost, a number")] = None,
    duration: Annotated[str | None, _column("duration", "how long it took, in seconds")] = None,
    agent: Annotated[
        str | None,
        typer.Option(
            "--agent",
            metavar="NAME",
            help="Whose actions these are. [default: what an XES log calls itself; otherwise imported]",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be read, and the first rows; learn nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Learn from a log of events: one JSON object a line, CSV with a header, or XES (IEEE 1849).

    Usual names of columns, such as case_id, activity and timestamp, are recognised; the options name others.
    What is recognised as an outcome counts only where it is a usual word, such as ok, failed or timeout.
    All other columns become the context. Addresses, keys and the like are replaced by pseudonyms before
    anything is stored. Each file teaches once, whatever its name: after an interruption, run the command
    again, and it goes on where it stopped. For example:

    - `maia learn --from helpdesk.xes.gz --dry-run`
    - `maia learn --from runs.jsonl`
    - `maia learn --from jobs.csv --session job --action step --at started --outcome state`

    Rows that can't be used are counted, and the first few shown. The exit status is 1 if none could be used.
    """
    chosen = {
        "session": session, "action": action, "at": at, "resource": resource, "outcome": outcome,
        "reward": reward, "cost": cost, "duration_s": duration,
    }  # fmt: skip
    columns = {field: column for field, column in chosen.items() if column is not None}
    standard = columns.keys() & {"session", "action", "at"}
    if standard and (format_ == "xes" or ".xes" in from_.suffixes):
        raise typer.BadParameter(
            "XES has session, action and instant where its standard says: "
            f"leave out {', '.join(f'--{name}' for name in sorted(standard))}"
        )
    if agent is not None and not agent.strip():
        raise typer.BadParameter("the agent's name is empty")

    def log() -> Log:
        from maia.learner.teaching import Log

        return Log.of(from_, format_, columns, agent)

    if dry_run:
        seen = _preview(from_, log)
        if as_json:
            print_json(seen)
        else:
            _print_preview(seen)
        _conclude(seen.observations, seen.refused, seen.refused_rows, quiet=as_json)
    else:
        taught = _teach(from_, log)
        if as_json:
            print_json(taught)
        else:
            _print_taught(taught)
        done = taught.observations or taught.skipped
        _conclude(done, taught.refused, taught.refused_rows, quiet=as_json)


def _preview(path: Path, log: Callable[[], Log]) -> Preview:
    async def read(atlas: Atlas) -> Preview:
        from maia.learner.teaching import preview

        with progress_bar(f"Reading {path.name}") as bar:
            return await preview(atlas, log(), _EXAMPLES, bar)

    return with_atlas(read)


def _teach(path: Path, log: Callable[[], Log]) -> Taught:
    async def read(atlas: Atlas) -> Taught:
        from maia.learner.teaching import teach

        with progress_bar(f"Learning from {path.name}") as bar:
            return await teach(atlas, log(), bar)

    return with_atlas(read)


def _print_preview(seen: Preview) -> None:
    if seen.first is not None:
        print_table(
            (
                "at", Column("session", 8, rank=2), Column("action", 12, wraps=True),
                Column("outcome", rank=1), Column("reward", rank=4), Column("cost", rank=5),
                Column("seconds", rank=3), Column("context", 20, wraps=True),
            ),
            [
                (
                    each.at, each.session, each.action, each.outcome, each.reward or None, each.cost or None,
                    each.duration_s, ", ".join(f"{name}={value}" for name, value in each.context.items()),
                )
                for each in seen.examples
            ],
            title="The first observations",
        )  # fmt: skip
        print_text(
            f"{counted(seen.rows, 'row')} would be read as {seen.format}, of which {seen.observations:,} can "
            f"be used: {as_text(seen.first)} to {as_text(seen.last)}. Nothing was learnt."
        )
        _print_unclear(seen.unclear_outcomes)


def _print_taught(taught: Taught) -> None:
    if taught.already_learnt:
        print_text(
            f"nothing new: what is in this file was learnt before, {counted(taught.skipped, 'row')} in all"
        )
        return
    if taught.skipped:
        print_text(f"went on after {counted(taught.skipped, 'row')} that an earlier run had learnt")
    if taught.observations:
        print_text(
            f"learnt from {counted(taught.observations, 'observation')} in {counted(taught.rows, 'row')}: "
            f"{counted(taught.new_patterns, 'new pattern')}, {taught.changed_patterns:,} changed, "
            f"{taught.forgotten_patterns:,} forgotten; {counted(taught.patterns, 'is', 'are')} known"
        )
        _print_unclear(taught.unclear_outcomes)


def _print_unclear(rows: int) -> None:
    if rows:
        print_text(
            f"{counted(rows, 'row has', 'rows have')} an outcome that is no usual word for success or "
            "failure, which counts as success: if whatever is no success is a failure, name the column "
            "with --outcome"
        )


def _conclude(usable: int, refused: int, first: Sequence[RefusedRow], *, quiet: bool) -> None:
    """Report the rows that were refused, and fail if none could be used."""
    if refused and not quiet:
        print_text(f"{counted(refused, 'row')} can't be used:", stderr=True)
        for row in first:
            print_text(f"  line {row.line:,}: {row.reason}", stderr=True)
        if refused > len(first):
            print_text(f"  … and {refused - len(first):,} more", stderr=True)
    if not usable:
        if not quiet:
            print_text("no row can be used, so nothing was learnt", stderr=True)
        raise typer.Exit(ExitStatus.FAILED)
