"""`maia system cleanup`: shows what is older than its retention, and deletes it with --apply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from maia.commands.tables import Column, print_table
from maia.commands.terminal import (
    AsJson,
    ExitStatus,
    load_settings,
    print_json,
    print_text,
    progress_bar,
    run,
)
from maia.maintenance.wording import size_text

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from atlas.config import Settings
    from maia.maintainer.actions import Taken
    from maia.maintainer.duties import DutyContext, DutyReport

_EMERGENCY = "emergency"


def cleanup(
    apply: Annotated[bool, typer.Option("--apply", help="Do it, rather than only show it.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="NAME",
            help='Only this: a name from the table, such as "events" or "raw answers", or a kind: cleanup, '
            "partitions, vacuum, reindex, emergency. May be given several times.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is older than its retention, or not in order; delete and mend it with `--apply`.

    Nothing changes without `--apply`. Deleting goes in small steps: interrupt it whenever you like, and the
    next clean-up goes on. The maintainer does the same every night, if its settings allow that.

    `--only emergency` frees space on a full disk, also if the database can't start.

    For example:

    - `maia system cleanup`
    - `maia system cleanup --apply`
    - `maia system cleanup --apply --only events --only "raw answers"`
    - `maia system cleanup --only vacuum --json | jq '.actions[].plan'`
    - `maia system cleanup --apply --only emergency`
    """
    settings = load_settings()
    wanted = tuple(only or ())
    taken, report = run(_clean(settings, wanted, apply=apply, hidden=as_json))
    if as_json:
        actions = [each.as_dict() | {"details": dict(each.plan.details)} for each in taken]
        print_json({"summary": report.summary, "failed": report.failed, "actions": actions})
    else:
        _print(taken, report, apply=apply, only=wanted)
    if report.failed or any(each.state == "failed" for each in taken):
        raise typer.Exit(ExitStatus.FAILED)


async def _clean(
    settings: Settings, only: Sequence[str], *, apply: bool, hidden: bool
) -> tuple[list[Taken], DutyReport]:
    from atlas.composition import Atlas
    from atlas.errors import DatabaseError
    from maia.maintainer.cleanup import names

    unknown = set(only) - {_EMERGENCY, *names()}
    if unknown:
        raise typer.BadParameter(
            f"there is no {min(unknown)!r}; there are {', '.join(sorted({_EMERGENCY, *names()}))}",
            param_hint="--only",
        )
    try:
        async with Atlas.open(settings) as atlas:
            return await _with_atlas(atlas, only, apply=apply, hidden=hidden)
    except DatabaseError:
        if _EMERGENCY not in only:
            raise
        return await _without_database(settings, apply=apply)


async def _with_atlas(
    atlas: Atlas, only: Sequence[str], *, apply: bool, hidden: bool
) -> tuple[list[Taken], DutyReport]:
    from atlas.maintainer_settings import ACTIONS
    from maia.maintainer.cleanup import clean_up
    from maia.maintainer.duties import DutyContext, DutyReport
    from maia.maintainer.emergency import emergency_action
    from maia.maintainer.taking import Taker
    from maia.maintainer.tidy import tidy_host

    taker = Taker(atlas if apply else _planning(atlas), ACTIONS if apply else (), asked=True)
    context = DutyContext(atlas, taker, asked=True)
    if _EMERGENCY in only:
        await context.take(emergency_action(atlas))
        if len(only) == 1:
            return context.taken, DutyReport(summary=_summary_of(context))
    with progress_bar("Cleaning up", 1, hidden=hidden) as update:
        context.on_progress = lambda what, done, of: update(done, of, what)
        report = await clean_up(context, only)
        if not only or "cleanup" in only:
            await tidy_host(context)
    return context.taken, report


def _planning(atlas: Atlas) -> Atlas:
    """The same Atlas with settings that allow no action: what the maintainer may do, a look must not."""
    from dataclasses import replace

    settings = atlas.settings
    maintainer = settings.maintainer.model_copy(update={"apply": ()})
    return replace(atlas, settings=settings.model_copy(update={"maintainer": maintainer}))


def _summary_of(context: DutyContext) -> str:
    return (
        context.taken[0].result or context.taken[0].plan.text
        if context.taken
        else "The disk has enough space."
    )


async def _without_database(settings: Settings, *, apply: bool) -> tuple[list[Taken], DutyReport]:
    from maia.maintainer.actions import ActionFailed, ActionState, Taken
    from maia.maintainer.duties import DutyReport
    from maia.maintainer.emergency import FreeSpace

    action = FreeSpace(settings)
    plan = await action.plan()
    if plan is None:
        return [], DutyReport(summary="The disk has enough space; the database fails for another reason.")
    state, result = ActionState.PLANNED, ""
    if apply:
        try:
            state, result = ActionState.APPLIED, await action.apply(plan)
        except ActionFailed as error:
            state, result = ActionState.FAILED, str(error)
    taken = Taken(kind=action.kind, target=action.target, state=state, plan=plan, result=result)
    return [taken], DutyReport(summary=result or plan.text)


def _print(taken: Sequence[Taken], report: DutyReport, *, apply: bool, only: Sequence[str]) -> None:
    if not taken:
        what = "There is nothing to clean up" if not only else f"There is nothing to do for {', '.join(only)}"
        print_text(
            f"{what} now: everything is in order, and younger than its retention or left for the next days, "
            "in case a clock is wrong."
        )
        return
    print_table(
        (
            Column("what", 12, wraps=True), Column("how many", right=True), Column("older than", 10),
            Column("size", right=True), Column("result" if apply else "how", 14, wraps=True),
        ),
        [_row(each, apply=apply) for each in taken],
        title="Clean-up" if apply else "What a clean-up would do",
    )  # fmt: skip
    if not apply:
        print_text("Nothing was changed: maia system cleanup --apply does it.")
    elif report.failed:
        print_text(report.summary, stderr=True)


def _row(taken: Taken, *, apply: bool) -> tuple[object, ...]:
    details = taken.plan.details
    size = details.get("bytes")
    how = f"{taken.state.replace('_', ' ')}: {taken.result}" if apply else details.get("how", taken.plan.text)
    return (
        taken.target,
        details.get("rows"),
        str(details.get("older_than") or "–")[:10],
        "–" if size is None else size_text(size),
        how,
    )
