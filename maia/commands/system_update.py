"""`maia system update`: shows which updates there are, what installing them would do, and installs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from maia.commands.tables import Column, print_table
from maia.commands.terminal import (
    AsJson,
    ExitStatus,
    print_json,
    print_text,
    progress_bar,
    with_atlas,
)
from maia.maintenance.updating.looking import EVERY_PART, Part

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from maia.maintainer.actions import Action, Plan, Taken
    from maia.maintenance.updating.looking import Updates

_ROWS: Final = 20
_STEPS: Final = (
    "backed up", "building", "tested", "stopped", "switched", "migrated", "restarted", "healthy", "done",
)  # fmt: skip


def update(
    apply: Annotated[
        bool, typer.Option("--apply", help="Install what is shown, now. System packages need root.")
    ] = False,
    only: Annotated[
        list[Part] | None,
        typer.Option(
            metavar="PART",
            help="Only this part: system, environment or release; may be given several times.",
            show_default=False,
        ),
    ] = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Go back to the environment in use before, now.")
    ] = False,
    to: Annotated[
        str | None,
        typer.Option(metavar="STAMP", help="With --rollback: to this environment.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which updates there are, and what installing them would do; with --apply, install them.

    Looks at system packages (apt), at the Python packages that differ from the constraints, and at our own
    release. Nothing is changed without --apply or --rollback. A release is installed into a new environment
    beside the one in use: backed up, built, tested, switched to, and left again if the system is not as well
    as before. The settings are PLEIADES_MAINTAINER__UPDATES__… (see `maia config docs`).

    Exit statuses: 0 if it was done, or there is nothing to do; 1 if something failed or was held back.

    For example:

    - `maia system update --only release`
    - `maia system update --apply --only release --only environment`
    - `maia system update --rollback`
    - `maia system update --json | jq -r '.system.packages[] | select(.security).name'`
    """
    if rollback and (apply or only):
        raise typer.BadParameter("--rollback stands alone, or with --to", param_hint="--rollback")
    if to is not None and not rollback:
        raise typer.BadParameter("it says where --rollback goes, so give both", param_hint="--to")
    if rollback:
        _roll_back(to, as_json=as_json)
    elif apply:
        _apply(frozenset(only or EVERY_PART), as_json=as_json)
    else:
        _show(frozenset(only or EVERY_PART), as_json=as_json)


def _show(parts: frozenset[Part], *, as_json: bool) -> None:
    async def find(atlas: Atlas) -> tuple[Updates, list[tuple[Action, Plan]]]:
        from maia.maintainer.updates import actions_for
        from maia.maintenance.updating.looking import look

        with progress_bar("looking for updates", hidden=as_json):
            found = await look(atlas.settings.maintainer.updates, atlas.clock.now(), parts=parts)
            plans = [(action, await action.plan()) for action in actions_for(atlas, parts)]
        return found, [(action, plan) for action, plan in plans if plan is not None]

    found, plans = with_atlas(find)
    if as_json:
        from maia.maintainer.updates import as_dict

        print_json(as_dict(found) | {"plan": [_as_dict(action, plan) for action, plan in plans]})
        return
    _print_found(found)
    for _, plan in plans:
        print_text(f"\nIt would {plan.text}:")
        for command in plan.commands:
            print_text(f"  {command if len(command) <= 400 else command[:400] + ' …'}")
    if plans:
        print_text("\nTo do it now: maia system update --apply")


def _as_dict(action: Action, plan: Plan) -> dict[str, Any]:
    return {"kind": action.kind, "target": action.target, "text": plan.text, "commands": list(plan.commands)}


def _print_found(found: Updates) -> None:
    if found.system is not None and found.system.packages:
        packages = found.system.packages
        print_table(
            (
                "package", Column("from", 8, rank=2), Column("to", 8), Column("origin", 12, rank=3), "for",
                "verdict",
            ),
            [
                (each.name, each.old, each.new, each.origins[-1] if each.origins else "",
                 "security" if each.is_security else "", each.verdict.value)
                for each in packages[:_ROWS]
            ],
            title="System packages",
        )  # fmt: skip
        if len(packages) > _ROWS:
            print_text(f"{_ROWS} of {len(packages)} packages; --json shows all.")
    if found.differences:
        print_table(
            ("package", "installed", "constraints", "change"),
            [
                (each.name, each.installed, each.wanted, "downgrade" if each.is_downgrade else each.kind)
                for each in found.differences
            ],
            title="Python packages",
        )
    for text in found.sentences().values() or ("Everything is up to date.",):
        print_text(text)
    _print_environments(found)
    for note in found.notes:
        print_text(f"Note: {note}.")


def _print_environments(found: Updates) -> None:
    if not found.environments:
        return
    print_table(
        ("environment", "release", "state"),
        [
            (
                each.stamp,
                each.version,
                "in use" if found.current and each.stamp == found.current.stamp else "",
            )
            for each in found.environments
        ],
        title="Environments",
    )
    if found.unfinished is not None:
        print_text(
            f"An update to {found.unfinished.version} was interrupted while {found.unfinished.phase}; "
            "maia system update --apply finishes it."
        )


def _apply(parts: frozenset[Part], *, as_json: bool) -> None:
    async def install(atlas: Atlas) -> list[Taken]:
        from maia.maintainer.duties import DutyContext
        from maia.maintainer.taking import Taker
        from maia.maintainer.updates import upgrade_parts

        taker = Taker(atlas, ["update", "packages"], asked=True)
        context = DutyContext(atlas=atlas, taker=taker, asked=True)
        with _steps_shown(as_json=as_json) as on_step:
            await upgrade_parts(context, parts, on_step)
        return context.taken

    taken = with_atlas(install)
    if as_json:
        print_json({"actions": [each.as_dict() for each in taken]})
    elif not taken:
        print_text("There is nothing to install.")
    else:
        for each in taken:
            print_text(f"{each.kind}: {each.state.value.replace('_', ' ')}: {each.result}")
    _fail_unless_applied(taken)


def _fail_unless_applied(taken: Sequence[Taken]) -> None:
    from maia.maintainer.actions import ActionState

    if any(each.state is not ActionState.APPLIED for each in taken):
        raise typer.Exit(ExitStatus.FAILED)


def _roll_back(stamp: str | None, *, as_json: bool) -> None:
    async def go_back(atlas: Atlas) -> str:
        from maia.maintainer.updates import procedure_of

        with _steps_shown(as_json=as_json) as on_step:
            return await procedure_of(atlas, on_step).roll_back(stamp)

    result = with_atlas(go_back)
    if as_json:
        print_json({"result": result})
    else:
        print_text(result)


@contextmanager
def _steps_shown(*, as_json: bool) -> Iterator[Callable[[str, str], None]]:
    """Show each step of an update as it is done."""
    with progress_bar("updating", total=len(_STEPS), hidden=as_json) as show:

        def on_step(step: str, _text: str) -> None:
            if step in _STEPS:
                show(_STEPS.index(step) + 1, text=step)

        yield on_step
