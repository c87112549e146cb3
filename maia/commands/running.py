"""The command of each agent: runs its cycles, as a Prefect flow or directly, and shows their progress."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, TypeVar, get_type_hints

import typer

from maia.agents import AgentRecord
from maia.commands.arguments import RunsByDefault
from maia.commands.terminal import (
    AsJson,
    console,
    explain_long_wait,
    load_settings,
    print_json,
    print_text,
    progress_bar,
)

if TYPE_CHECKING:
    from atlas.config import Settings
    from maia.cycle.outcome import Progress

_HELP: Final = """{about}

Runs as a Prefect flow, on the server at PREFECT_API_URL or, if that is unset, on a temporary one.
{statuses}
"""
_STATUSES: Final = """Exit statuses: 0 also if there is nothing to do; 1 if something failed; 69 if the
database can't be reached or can't store; 78 if a setting is wrong."""
_STATUSES_WITH_RING: Final = """Exit statuses: 0 also if there is nothing to do or the quota is used up for
now (it says until when); 69 if YouTube or the database can't be reached, or nothing can be stored; 75 if
YouTube answers 429; 78 if an API key or a setting is wrong."""

_ALSO: Final = "`maia {agent}` alone means this. `maia {agent} {name}` does something else: {about}"


def command_of(agent: AgentRecord) -> typer.Typer:
    """The command that runs an agent.

    If the agent has a module of commands of its own, it is the default of a group with those.
    """
    further = _further_commands(agent)
    group = RunsByDefault if further else None
    app = typer.Typer(cls=group, rich_markup_mode="markdown", add_completion=False)
    batch_option: Any = typer.Option(
        None,
        min=1,
        help=f"How many {agent.items} to process per cycle. [default: from the settings]",
        show_default=False,
    )

    def run(
        batch_size: int | None = batch_option,
        cycles: Annotated[
            int, typer.Option(min=1, help="How many cycles to run; stops early if there is nothing to do.")
        ] = 1,
        direct: Annotated[
            bool, typer.Option("--direct", help="Run without Prefect: faster, but no history.")
        ] = False,
        as_json: AsJson = False,
        **options: bool | str | None,
    ) -> None:
        with cycle_progress(_text) as on_progress:
            statistics = run_agent(
                agent,
                load_settings(),
                batch_size,
                cycles,
                direct=direct,
                on_progress=on_progress,
                options=[
                    name if value is True else f"{name}={value}" for name, value in options.items() if value
                ],
            )
        conclude(agent, statistics, as_json=as_json)

    also = (
        _ALSO.format(agent=agent.name, name=name, about=_first_line(command))
        for name, command in further.items()
    )
    about = "\n\n".join([agent.about, *also])
    name = "run" if further else agent.name
    statuses = _STATUSES_WITH_RING if agent.ring else _STATUSES
    app.command(name=name, help=_HELP.format(about=about, statuses=statuses))(_with_options(run, agent))
    for name, command in further.items():
        app.command(name=name)(command)
    return app


def _further_commands(agent: AgentRecord) -> dict[str, Callable[..., Any]]:
    """The commands of the module of `maia.commands` that is named like the agent, by name."""
    module = f"maia.commands.{agent.name}"
    if find_spec(module) is None:
        return {}
    own: typer.Typer = import_module(module).app
    called = (command.callback for command in own.registered_commands)
    return {function.__name__: function for function in called if function is not None}


def _first_line(command: Callable[..., Any]) -> str:
    """What a command does, for a sentence."""
    line = (inspect.getdoc(command) or "").partition("\n")[0]
    return line[:1].lower() + line[1:]


def _with_options(run: Callable[..., None], agent: AgentRecord) -> Callable[..., None]:
    """The function with a parameter for each of the agent's options in place of `**options`, for Typer."""
    flags: dict[str, Any] = {
        name: Annotated[bool, typer.Option(f"--{name}", help=help_)] for name, help_ in agent.options.items()
    }
    choices: dict[str, Any] = {
        name: Annotated[str | None, typer.Option(f"--{name}", metavar="NAME,…", help=help_)]
        for name, help_ in agent.choices.items()
    }
    hints = get_type_hints(run, include_extras=True) | flags | choices
    *own, _ = inspect.signature(run).parameters.values()
    defaults = [*dict.fromkeys(flags, False).items(), *dict.fromkeys(choices, None).items()]
    added = [inspect.Parameter(name, own[0].kind, default=default) for name, default in defaults]
    parameters = [each.replace(annotation=hints[each.name]) for each in (*own[:-1], *added, own[-1])]

    @wraps(run)
    def with_options(**given: Any) -> None:
        run(**given)

    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_options


def _text(progress: Progress) -> str:
    return progress.text


def run_agent(
    agent: AgentRecord,
    settings: Settings,
    batch_size: int | None,
    cycles: int,
    *,
    direct: bool,
    on_progress: Callable[[Any], None] | None = None,
    options: Collection[str] = (),
) -> dict[str, Any]:
    """Run an agent's cycles and return their statistics; raises what the agent raises."""
    import asyncio

    if direct:
        from maia.cycle.agent import run_directly
        from maia.log_keeping import kept_log

        work = run_directly(agent.load(), settings, batch_size, cycles, on_progress, options, around=kept_log)
        return asyncio.run(work)
    from flows import environment

    if agent.ring is not None:
        # Fail before a server is started for nothing.
        settings.ring_keys(agent.ring)
    environment.prepare()
    from flows import temporary

    starting = "Starting Prefect (to skip this: keep maia up running, or use --direct)"
    with explain_long_wait(starting) as done, temporary.reachable():
        from flows.agents import run_here

        done()
        return asyncio.run(run_here(agent, settings, batch_size, cycles, on_progress, options))


def conclude(agent: AgentRecord, statistics: dict[str, Any], *, as_json: bool) -> None:
    """Print what the cycles did, and exit with the status of their outcome."""
    from maia.cycle.outcome import EXIT_STATUSES, Outcome

    if as_json:
        print_json(statistics)
    else:
        print_text(agent.load().summary(statistics))
    if status := EXIT_STATUSES.get(Outcome(statistics["outcome"])):
        raise typer.Exit(status)


class HasProgress(Protocol):
    """How much of a cycle's claimed work is done."""

    @property
    def done(self) -> int: ...
    @property
    def claimed(self) -> int: ...


P = TypeVar("P", bound=HasProgress)


@contextmanager
def cycle_progress(describe: Callable[[P], str], *, lines: bool = False) -> Iterator[Callable[[P], None]]:
    """Show the progress of cycles: call what it yields with each. `lines` also prints each finished cycle."""
    with progress_bar("starting") as update:

        def show(progress: P) -> None:
            text = describe(progress)
            update(progress.done, progress.claimed, text)
            if lines and progress.done == progress.claimed:
                console(stderr=True).print(text)

        yield show
