"""`maia schedule`: shows and changes when the maintainer does what, and runs a duty now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from maia.commands.arguments import ListsByDefault
from maia.commands.tables import Column, print_table
from maia.commands.terminal import AsJson, load_settings, print_json, print_text, with_atlas

if TYPE_CHECKING:
    from datetime import datetime

    from atlas.composition import Atlas
    from maia.cycle.outcome import Progress
    from maia.maintainer.rota import Turn


app = typer.Typer(cls=ListsByDefault, rich_markup_mode="markdown", add_completion=False)

Duty = Annotated[str, typer.Argument(metavar="DUTY", help="A duty, as maia schedule list names it.")]


@app.callback()
def schedule() -> None:
    """Show and change when the maintainer does what, and run a duty now.

    A run that was missed, as while everything was off, is caught up once.
    """


@app.command("list")
def list_schedules(
    as_yaml: Annotated[
        bool,
        typer.Option("--yaml", help="Print the schedules as a file for PLEIADES_MAINTAINER__SCHEDULES."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List every duty: when it runs, how its last run on this host ended, and when it is due next.

    `maia schedule` alone means this.
    """
    turns, now = with_atlas(_turns)
    if as_json:
        print_json([_as_dict(turn, now) for turn in turns])
    elif as_yaml:
        print_text("\n".join(_yaml_line(turn) for turn in turns))
    else:
        _print(turns, now)


def _print(turns: list[Turn], now: datetime) -> None:
    columns = (
        "duty", Column("when", 14, wraps=True), Column("set by", rank=5), Column("last done", rank=1),
        "state", Column("next", rank=2), Column("what came of it", 30, wraps=True, rank=4),
    )  # fmt: skip
    print_table(columns, [_row(turn, now) for turn in turns])
    for turn in turns:
        _explain(turn)
    print_text(
        "To change a schedule: maia schedule set DUTY 'MINUTE HOUR DAY MONTH WEEKDAY'\n"
        "To run a duty now:    maia schedule run DUTY\n"
        "What duties may change by themselves is set by PLEIADES_MAINTAINER__APPLY."
    )


def _explain(turn: Turn) -> None:
    """What the table has no room for in a narrow terminal: why the last run was not done."""
    last = turn.last
    if last is not None and last.state == "failed":
        print_text(f"{turn.duty.name} failed: {last.summary}")
    elif last is not None and last.state == "interrupted":
        print_text(
            f"{turn.duty.name} was interrupted: the process that began it at "
            f"{last.started_at:%Y-%m-%d %H:%M} UTC is gone. "
            f"To run it again now: maia schedule run {turn.duty.name}"
        )


@app.command("set")
def set_schedule(
    duty: Duty,
    cron: Annotated[
        str | None,
        typer.Argument(
            metavar="[CRON]",
            help="Five fields: minute, hour, day of the month, month, day of the week.",
            show_default=False,
        ),
    ] = None,
    time_zone: Annotated[
        str | None, typer.Option(help="Time zone of these times, such as Europe/Berlin. [default: as it is]")
    ] = None,
    on: Annotated[bool | None, typer.Option("--on/--off", help="Switch the duty on or off.")] = None,
    default: Annotated[
        bool, typer.Option("--default", help="Let the file, or the shipped schedule, decide again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Change when a duty runs, from now on and on every host.

    For example:

    - `maia schedule set backup '0 4 * * *'` backs up at 04:00 every day.
    - `maia schedule set report '0 7 * * mon' --time-zone Europe/Berlin` reports on Monday at 07:00.
    - `maia schedule set updates --off` looks for no updates.
    - `maia schedule set backup --default` goes back to what the file says.
    """
    if default and (cron or time_zone or on is not None):
        raise typer.BadParameter("takes no other value", param_hint="--default")
    if not default and cron is None and time_zone is None and on is None:
        raise typer.BadParameter("say what to change: CRON, --time-zone, --on, --off or --default")

    async def change(atlas: Atlas) -> tuple[Turn, datetime]:
        from atlas.adapters.duties import ChangedSchedule, DutiesDAO

        dao = DutiesDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        before = (await _turn_of(atlas, duty)).schedule
        if default:
            await dao.reset_schedule(duty)
        else:
            after = _changed(before, cron, time_zone, on)
            await dao.set_schedule(ChangedSchedule(duty, after.cron, after.time_zone, after.enabled))
        return await _turn_of(atlas, duty), atlas.clock.now()

    turn, now = with_atlas(change)
    if as_json:
        print_json(_as_dict(turn, now))
        return
    following = turn.next_at(now)
    when = "never: it is off" if following is None else f"next at {following:%Y-%m-%d %H:%M} UTC"
    print_text(f"{duty}: {turn.schedule.in_words()} ({turn.schedule.time_zone}), {when}")


def _changed(before: Any, cron: str | None, time_zone: str | None, on: bool | None) -> Any:
    from atlas.errors import ConfigError
    from maia.maintenance.schedules import Schedule

    try:
        return Schedule(
            " ".join((cron or before.cron).split()),
            time_zone or before.time_zone,
            # A new time is of no use to a duty that stays off.
            on if on is not None else before.enabled or cron is not None,
        )
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error


@app.command("run")
def run_duty(
    duty: Duty,
    apply: Annotated[
        bool, typer.Option("--apply", help="Take the actions that are planned, of every kind.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a duty now, whether or not it is due; without Prefect, like `maia maintainer --direct --only DUTY`.

    For example:

    - `maia schedule run cleanup` shows what a clean-up would delete.
    - `maia schedule run cleanup --apply` deletes it.
    """
    from maia.agents import agent_named
    from maia.commands.running import conclude, cycle_progress, run_agent

    agent = agent_named("maintainer")
    options = [f"only={duty}", *(["apply"] if apply else [])]
    settings = load_settings()
    _check(duty)
    with cycle_progress(_text) as on_progress:
        statistics = run_agent(
            agent, settings, None, 1, direct=True, on_progress=on_progress, options=options
        )
    conclude(agent, statistics, as_json=as_json)


def _text(progress: Progress) -> str:
    return progress.text


async def _turns(atlas: Atlas) -> tuple[list[Turn], datetime]:
    from maia.maintainer.rota import rota

    return await rota(atlas), atlas.clock.now()


async def _turn_of(atlas: Atlas, duty: str) -> Turn:
    _check(duty)
    turns, _ = await _turns(atlas)
    found = [turn for turn in turns if turn.duty.name == duty]
    if not found:
        raise typer.BadParameter(f"{duty} is switched off by PLEIADES_MAINTAINER__OFF: take it out there")
    return found[0]


def _check(duty: str) -> None:
    from atlas.errors import ConfigError
    from maia.maintainer.duties import check_duties

    try:
        check_duties([duty])
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error


def _as_dict(turn: Turn, now: datetime) -> dict[str, Any]:
    from maia.views.words import plain

    described: dict[str, Any] = plain(
        {
            "duty": turn.duty.name,
            "about": turn.duty.about,
            "cron": turn.schedule.cron,
            "time_zone": turn.schedule.time_zone,
            "enabled": turn.schedule.enabled,
            "in_words": turn.schedule.in_words(),
            "set_by": turn.origin,
            "of_host": turn.duty.of_host,
            "next_at": turn.next_at(now),
            "last": turn.last,
        }
    )
    return described


def _row(turn: Turn, now: datetime) -> tuple[object, ...]:
    last, following = turn.last, turn.next_at(now)
    when = turn.schedule.in_words() if turn.schedule.enabled else "off"
    zone = turn.schedule.time_zone
    return (
        turn.duty.name, when if zone == "UTC" else f"{when} ({zone})", turn.origin,
        last and last.done_at, "never ran" if last is None else last.state, following, last and last.summary,
    )  # fmt: skip


def _yaml_line(turn: Turn) -> str:
    import json

    schedule = turn.schedule
    if not schedule.enabled:
        return f"{turn.duty.name}: off"
    return f"{turn.duty.name}: {{cron: {json.dumps(schedule.cron)}, time_zone: {schedule.time_zone}}}"
