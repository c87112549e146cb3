"""`maia up`: everything on one machine, as one tree of processes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maia.errors import MaiaError
from maia.terminal import AsJson, load_settings, print_line

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from atlas.config import Settings
    from maia.commands.practice import Practice
    from maia.supervisor import Child, Supervisor

logger = logging.getLogger(__name__)

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

DATABASE_CHECK_S = 5.0

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - told from the rest, not listened on


class PortInUse(MaiaError):
    """Another program listens where one of ours has to."""


@app.command()
def up(
    demo: Annotated[
        bool,
        typer.Option("--demo", help="Practise: an emulator, a fast virtual clock, throw-away data, no key."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run everything on this machine until Ctrl-C or SIGTERM.

    PostgreSQL (embedded, unless DATABASE_URL names one), a Prefect server with its UI on the same PostgreSQL,
    every agent on its schedule, and the metrics. A process that dies is started again; one that keeps dying
    is given up, and all end with status 1. With --json each line of stdout is an event.
    """
    with ExitStack() as stack:
        practice = None
        if demo:
            from maia.commands.practice import practising

            practice = stack.enter_context(practising())
        _run(_Stack(practice, as_json=as_json).live())


class _Stack:
    """The whole of it, from the first port to the last process."""

    def __init__(self, practice: Practice | None, *, as_json: bool) -> None:
        self.practice, self.as_json = practice, as_json
        self.settings = load_settings()
        self.began_s = time.monotonic()
        host = _EVERYWHERE.get(self.settings.host, self.settings.host)
        place = f"[{host}]" if ":" in host else host
        self.ui_url = f"http://{place}:{self.settings.prefect.port}"
        self.metrics_url = f"http://{place}:{self.settings.metrics.port}/metrics"

    async def live(self) -> None:
        from atlas.composition import Atlas
        from flows.registry import chosen
        from maia.supervisor import ChildError

        # What is wrong with settings or ports is said before anything starts.
        prefect = self.settings.prefect
        agents = chosen(prefect.agents, prefect.intervals_s)
        _check_ports(self.settings)
        async with AsyncExitStack() as stack:
            watched = []
            if self.practice is not None:
                # A tree of its own: it has to be there before the database, and longer.
                outer = await stack.enter_async_context(self._supervisor())
                self.settings = await self.practice.serve(outer)
                watched.append(outer)
            atlas = await stack.enter_async_context(Atlas.open(self.settings))
            self._tell("started", name="database", kind=repr(atlas.db))
            if self.practice is not None:
                await self.practice.prepare(atlas, f"{self.ui_url}/api")
            try:
                async with self._supervisor() as inner:
                    await inner.start(*self._children(await _prefect_database(atlas)))
                    self._announce([flow.deployment for flow in agents])
                    await _watch([*watched, inner], atlas)
            except ChildError as error:
                await atlas.notifier.notify("maia up gives up", str(error), level="error")
                raise
        self._tell("stopped")

    @asynccontextmanager
    async def _supervisor(self) -> AsyncIterator[Supervisor]:
        from maia.supervisor import Policy, Supervisor

        up = self.settings.up
        policy = Policy(
            max_restarts=up.max_restarts,
            restart_s=up.restart_s,
            stable_s=up.stable_s,
            start_timeout_s=up.start_timeout_s,
            stop_timeout_s=up.stop_timeout_s,
        )
        async with Supervisor.open(policy, lambda kind, told: self._tell(kind, **told)) as supervisor:
            yield supervisor

    def _children(self, database_url: str) -> tuple[Child, ...]:
        from flows import environment
        from maia.supervisor import Child

        surroundings = dict(os.environ)
        environment.prepare(surroundings)
        ours = surroundings | {"PREFECT_API_URL": f"{self.ui_url}/api"}
        maia = (sys.executable, "-m", "maia")
        serves = environment.for_server(surroundings) | {"PREFECT_API_DATABASE_CONNECTION_URL": database_url}
        address = ("--host", self.settings.host, "--port", str(self.settings.prefect.port))
        program = ("uvicorn", "--factory", "prefect.server.api.server:create_app", "--lifespan", "on")
        return (
            Child(
                "prefect",
                (sys.executable, "-m", *program, "--log-level", "error", *address),
                serves,
                ready=self._answering(f"{self.ui_url}/api/health"),
            ),
            Child("agents", (*maia, "serve", "--json"), ours, tier=1),
            Child("metrics", (*maia, "metrics", "--json"), ours, tier=1),
        )

    def _answering(self, url: str) -> Callable[[], Awaitable[bool]]:
        async def answers() -> bool:
            import aiohttp

            timeout = aiohttp.ClientTimeout(total=5)
            try:
                async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
                    return answer.ok
            except (aiohttp.ClientError, TimeoutError, OSError):
                return False

        return answers

    def _announce(self, deployments: list[str]) -> None:
        took_s = time.monotonic() - self.began_s
        urls = {"ui": self.ui_url, "api": f"{self.ui_url}/api", "metrics": self.metrics_url}
        if self.as_json:
            look = {"environment_file": str(self.practice.environment_file)} if self.practice else {}
            self._tell("up", seconds=round(took_s, 1), **urls, deployments=deployments, **look)
            return
        lines = [f"Ready after {took_s:.1f} s: {', '.join(deployments)} run on their schedules."]
        lines += [f"  Prefect  {self.ui_url}", f"  metrics  {self.metrics_url}"]
        if self.practice:
            lines += ["In another terminal:", *(f"  {line}" for line in self.practice.advice())]
        typer.echo("\n".join([*lines, "Ctrl-C ends it."]))

    def _tell(self, event: str, **told: Any) -> None:
        if self.as_json:
            print_line({"event": event, "at_s": round(time.monotonic() - self.began_s, 2), **told})
        elif event in {"restarting", "given_up"}:
            logger.warning("%s: %s", event.replace("_", " "), ", ".join(f"{k} {v}" for k, v in told.items()))
        else:
            logger.debug("%s %s", event, told)


async def _prefect_database(atlas: Atlas) -> str:
    """The URL of Prefect's own database, unless the environment names another one."""
    from atlas import companion

    if given := os.environ.get("PREFECT_API_DATABASE_CONNECTION_URL"):
        return given
    return companion.sqlalchemy_url(
        await companion.ensure(atlas.db, atlas.settings.prefect.database, ["pg_trgm"])
    )


async def _watch(supervisors: Sequence[Supervisor], atlas: Atlas) -> None:
    """Wait for a child that is given up, and meanwhile keep the database up."""
    watching = [asyncio.create_task(supervisor.watch()) for supervisor in supervisors]
    guarding = asyncio.create_task(_keep_answering(atlas))
    try:
        done, _ = await asyncio.wait([*watching, guarding], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (*watching, guarding):
            task.cancel()
        await asyncio.wait([*watching, guarding])


async def _keep_answering(atlas: Atlas) -> None:
    """Touch the database now and then: an embedded server that died is started again by that."""
    from atlas.errors import DatabaseError

    while True:
        await asyncio.sleep(DATABASE_CHECK_S)
        try:
            await atlas.db.ping()
        except DatabaseError as error:
            logger.warning("the database does not answer: %s", error)


def _check_ports(settings: Settings) -> None:
    ports = {"PLEIADES_PREFECT__PORT": settings.prefect.port, "PLEIADES_METRICS__PORT": settings.metrics.port}
    if settings.prefect.port == settings.metrics.port:
        raise PortInUse(
            f"{' and '.join(ports)} are the same, {settings.prefect.port}: set one to another port"
        )
    hindered = [
        f"{settings.host}:{port} ({name}): {reason}"
        for name, port in ports.items()
        if (reason := _hindrance(settings.host, port))
    ]
    if hindered:
        raise PortInUse(f"{'; '.join(hindered)}: end what listens there, or set another port")


def _hindrance(host: str, port: int) -> str | None:
    """Why nobody can listen there now, if so."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run until a signal says to stop; a second one hurries. The exit status is the shells' 128 + number."""

    async def guarded() -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        heard: list[int] = []

        def stop(number: int) -> None:
            heard.append(number)
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # What nohup ignores stays ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, stop, number)
        try:
            await work
        except asyncio.CancelledError:
            if heard:
                raise SystemExit(128 + heard[0]) from None
            raise

    asyncio.run(guarded())
