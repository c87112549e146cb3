"""`maia up`: runs everything on one machine, as one tree of processes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maia.commands.terminal import AsJson, explain_long_wait, load_settings, print_line, print_text
from maia.stack.watchdog import Questions, ServiceManager, keep_alive

if TYPE_CHECKING:
    from atlas.composition import Atlas
    from atlas.config import Settings
    from maia.commands.practice import Practice
    from maia.stack.supervisor import Child, Supervisor

logger = logging.getLogger(__name__)

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)

DATABASE_CHECK_S = 5.0
LONGEST_ANSWER_S = 900.0
"""How long the database may take to answer: an embedded server recovers before it does."""
LONGEST_FAILURE_S = 120.0
"""How long an embedded server may fail to start before everything is started anew."""


@app.command()
def up(
    demo: Annotated[
        bool,
        typer.Option("--demo", help="Use made-up videos, fast virtual time and temporary data; no API key."),
    ] = False,
    federate: Annotated[
        bool | None,
        typer.Option(
            "--federate/--no-federate",
            help="Exchange what is learnt with other sites. [default: PLEIADES_FEDERATION__ENABLED]",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run everything on this machine until Ctrl-C or SIGTERM.

    Runs PostgreSQL (an embedded one unless DATABASE_URL is set), the dashboard and the rest of the HTTP
    service, a Prefect server with its UI that uses the same PostgreSQL, every agent on its schedule, the
    metrics and, with --federate, the exchange with other sites. The dashboard's URL comes first. A process
    that dies is restarted; if it keeps dying, everything stops with status 1. With --json, each line of
    stdout is an event, and a last line an error if one ends it. To run it as a service: maia daemon install.
    """
    with ExitStack() as stack:
        practice = None
        if demo:
            from maia.commands.practice import open_practice

            practice = stack.enter_context(open_practice(lambda: _greet(is_demo=True, as_json=as_json)))
        _run(_Stack(practice, as_json=as_json, federates=federate).run())


def _greet(*, is_demo: bool, as_json: bool) -> None:
    """Print where the dashboard is going to be, before anything that takes time."""
    from atlas.network import is_loopback
    from maia.stack import preflight

    settings = load_settings()
    preflight.check_ports(settings)
    # Port 0 becomes a free one, which nobody knows yet; and others may need a key, which may be missing.
    is_certain = settings.port and (is_demo or is_loopback(settings.host))
    if is_certain and not as_json:
        print_text(f"Dashboard: {_dashboard_url(settings)} (in a moment)")


def _dashboard_url(settings: Settings) -> str:
    scheme = "https" if settings.api.tls_certificate else "http"
    return f"{scheme}://{_place(settings)}:{settings.port}"


def _place(settings: Settings) -> str:
    """Where programs of this machine find what listens on HOST."""
    from atlas.network import address_from_here

    host = address_from_here(settings.host)
    return f"[{host}]" if ":" in host else host


class _Stack:
    """Everything that `maia up` runs, from the first check to the last process."""

    def __init__(self, practice: Practice | None, *, as_json: bool, federates: bool | None = None) -> None:
        self.practice, self.as_json = practice, as_json
        self.settings = load_settings()
        self.federates = self.settings.federation.enabled if federates is None else federates
        self.key: str | None = None
        """The demonstration's key for the service, if others than this machine may call it."""
        self.began_s = time.monotonic()
        self.manager = ServiceManager.of(os.environ)
        place = _place(self.settings)
        self.ui_url = f"http://{place}:{self.settings.prefect.port}"
        self.metrics_url = f"http://{place}:{self.settings.metrics.port}/metrics"
        self.dashboard_url = _dashboard_url(self.settings)

    async def run(self) -> None:
        from atlas.composition import Atlas, check_clock
        from flows.registry import chosen
        from maia.agents import agent_named
        from maia.log_keeping import kept_log
        from maia.stack import preflight
        from maia.stack.supervisor import ChildError

        prefect = self.settings.prefect
        agents = chosen(prefect.agents, self.settings.agents.intervals_s)
        if self.practice is None:
            rings = [agent_named(flow.name).ring for flow in agents]
            preflight.check_keys(self.settings, [ring for ring in rings if ring is not None])
        preflight.check_disk(self.settings)
        if self.federates:
            preflight.check_federation(self.settings)
        if self.practice is None:
            _greet(is_demo=False, as_json=self.as_json)
        async with AsyncExitStack() as stack:
            watched = []
            if self.practice is not None:
                # Has a supervisor of its own, as it must start before the database and end after it.
                outer = await stack.enter_async_context(self._supervisor())
                self.settings = await self.practice.serve(outer)
                watched.append(outer)
            self.manager.say("Opening the database")
            with explain_long_wait("Opening the database"):
                atlas = await stack.enter_async_context(Atlas.open(self.settings))
            await check_clock(atlas, preflight.LARGEST_CLOCK_SKEW)
            self._report("started", name="database", kind=repr(atlas.db))
            await self._check_exposure(atlas)
            await stack.enter_async_context(kept_log(atlas))
            try:
                async with self._supervisor() as inner:
                    await self._start_all(inner, atlas)
                    self._announce([flow.deployment for flow in agents])
                    try:
                        await _watch([*watched, inner], atlas, self.manager)
                    finally:
                        self.manager.tell(STOPPING=1, STATUS="Stopping")
            except ChildError as error:
                await atlas.notifier.notify("maia up stopped", str(error), level="error")
                raise
        self._report("stopped")

    async def _check_exposure(self, atlas: Atlas) -> None:
        """ConfigError if others than this machine could call the service without a key.

        A demonstration begins without keys, so it gets one.
        """
        from atlas.network import is_loopback

        if is_loopback(self.settings.host):
            return
        from atlas.adapters.access import AccessDAO
        from atlas.errors import ConfigError
        from atlas.scopes import Scope
        from maia.api.serving import CannotListen, check_exposure

        dao = AccessDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
        if self.practice is not None:
            self.key = (await dao.add("demo", Scope.WRITE)).get_secret_value()
        try:
            check_exposure(self.settings.host, has_keys=bool(await dao.keys()))
        except CannotListen as error:
            raise ConfigError(str(error)) from None

    async def _start_all(self, supervisor: Supervisor, atlas: Atlas) -> None:
        """Start the dashboard, so that there is something to look at, and then everything else."""
        variables = self._variables()
        self.manager.say("Starting the dashboard")
        await supervisor.start(self._service(variables))
        self.dashboard_url = json.loads(supervisor.announcement("api"))["url"]
        if not self.as_json:
            key = f", with the key {self.key}" if self.key else ""
            print_text(f"The dashboard is ready at {self.dashboard_url}{key}.")
        if self.practice is not None:
            await self.practice.prepare(atlas, f"{self.ui_url}/api")
        starting = "Starting Prefect (the first start sets up its database)"
        self.manager.say(starting)
        with explain_long_wait(starting):
            await supervisor.start(*self._children(variables, await _prefect_database(atlas)))

    @asynccontextmanager
    async def _supervisor(self) -> AsyncIterator[Supervisor]:
        from maia.stack.supervisor import Policy, Supervisor

        up = self.settings.up
        policy = Policy(
            max_restarts=up.max_restarts,
            start_timeout_s=up.start_timeout_s,
            stop_timeout_s=up.stop_timeout_s,
        )
        async with Supervisor.open(policy, lambda kind, data: self._report(kind, **data)) as supervisor:
            yield supervisor

    def _variables(self) -> dict[str, str]:
        """What the children's environments have in common."""
        from flows import environment

        # One sampler is enough for a host, and this process is it.
        variables = dict(os.environ) | {"PLEIADES_MONITORING__AFTER_CYCLES": "false"}
        environment.prepare(variables)
        return variables

    def _service(self, variables: Mapping[str, str]) -> Child:
        from maia.stack.supervisor import Child

        settings = self.settings
        # A check can't know a port before it is chosen, nor trust a certificate of the user's own.
        is_checked = settings.port and settings.api.tls_certificate is None
        return Child(
            "api",
            (sys.executable, "-m", "maia", "api", "--json"),
            {**variables, "PREFECT_API_URL": f"{self.ui_url}/api"},
            tier=1,
            check=f"{self.dashboard_url}/healthz" if is_checked else None,
        )

    def _children(self, variables: dict[str, str], database: Mapping[str, str]) -> tuple[Child, ...]:
        from flows import environment
        from maia.stack.supervisor import Child

        for_clients = variables | {"PREFECT_API_URL": f"{self.ui_url}/api"}
        maia = (sys.executable, "-m", "maia")
        for_server = environment.for_server(variables) | dict(database)
        address = ("--host", self.settings.host, "--port", str(self.settings.prefect.port))
        federation = Child("federation", (*maia, "federation", "run", "--json"), for_clients, tier=1)
        return (
            *([federation] if self.federates else []),
            Child(
                "prefect",
                (sys.executable, "-m", *environment.server_command(), *address),
                for_server,
                ready=self._answering(f"{self.ui_url}/api/health"),
                check=f"{self.ui_url}/api/health",
            ),
            Child("agents", (*maia, "serve", "--json"), for_clients, tier=1),
            Child("metrics", (*maia, "metrics", "--json"), for_clients, tier=1, check=self._metrics_check()),
        )

    def _metrics_check(self) -> str | None:
        """The URL at which the metrics say that they are served; None on a port that nobody knows before."""
        return self.metrics_url.removesuffix("/metrics") + "/health" if self.settings.metrics.port else None

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
        self.manager.tell(READY=1, STATUS=f"Ready, with the dashboard at {self.dashboard_url}")
        urls = {
            "dashboard": self.dashboard_url,
            "ui": self.ui_url,
            "api": f"{self.ui_url}/api",
            "metrics": self.metrics_url,
        }
        if self.as_json:
            demo = {"environment_file": str(self.practice.environment_file)} if self.practice else {}
            demo |= {"key": self.key} if self.key else {}
            self._report("up", seconds=round(took_s, 1), **urls, deployments=deployments, **demo)
            return
        lines = [f"Ready after {took_s:.1f} s: {', '.join(deployments)} run on their schedules."]
        lines += [
            f"  Prefect  {self.ui_url} (PREFECT_API_URL={self.ui_url}/api)",
            f"  metrics  {self.metrics_url}",
        ]
        if self.practice:
            lines += ["In another terminal:", *(f"  {line}" for line in self.practice.advice())]
        print_text("\n".join([*lines, "Press Ctrl-C to stop."]))

    def _report(self, event: str, **data: Any) -> None:
        if self.as_json:
            print_line({"event": event, "at_s": round(time.monotonic() - self.began_s, 2), **data})
        elif event in {"restarting", "given_up"}:
            logger.warning("%s: %s", event.replace("_", " "), ", ".join(f"{k} {v}" for k, v in data.items()))
        else:
            logger.debug("%s %s", event, data)


async def _prefect_database(atlas: Atlas) -> dict[str, str]:
    """The variables with which Prefect finds its database: ours, unless the environment names another."""
    from atlas import dsn, prefect_database

    if given := os.environ.get("PREFECT_API_DATABASE_CONNECTION_URL"):
        return {"PREFECT_API_DATABASE_CONNECTION_URL": given}
    url = await prefect_database.ensure(atlas.db, atlas.settings.prefect.database, ["pg_trgm"])
    return {"PREFECT_API_DATABASE_CONNECTION_URL": dsn.sqlalchemy_url(url), **dsn.libpq_environment(url)}


async def _watch(supervisors: Sequence[Supervisor], atlas: Atlas, manager: ServiceManager) -> None:
    """Wait until a child keeps dying (ChildError), keep the database running, and sample the host.

    As long as all of that goes on, the service manager hears that this process is alive.
    """
    from maia.maintenance.monitor import keep_sampling

    # Starting anew would bring back an embedded server, but no other one.
    failure_limit_s = LONGEST_FAILURE_S if atlas.settings.database_url is None else None
    database = Questions("the database", LONGEST_ANSWER_S, failure_limit_s)
    signs = [database.wrong, *(supervisor.pulse.wrong for supervisor in supervisors)]
    tasks = [asyncio.create_task(supervisor.watch()) for supervisor in supervisors]
    tasks.append(asyncio.create_task(_keep_database_running(atlas, database)))
    tasks.append(asyncio.create_task(keep_alive(manager, signs)))
    if atlas.settings.monitoring.enabled:
        tasks.append(asyncio.create_task(keep_sampling(atlas)))
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _keep_database_running(atlas: Atlas, questions: Questions) -> None:
    """Ping the database regularly, as that restarts an embedded server that has died."""
    from atlas.errors import DatabaseError

    while True:
        await asyncio.sleep(DATABASE_CHECK_S)
        try:
            with questions.question():
                await atlas.db.ping()
        except DatabaseError as error:
            logger.warning("the database does not answer: %s", error)


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run until a signal; a second one ends it faster. The exit status is 128 plus the signal's number."""

    async def guarded() -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        received: list[int] = []

        def stop(number: int) -> None:
            if not received and sys.stderr.isatty():
                print_text("Stopping; runs in progress release their claims first …", stderr=True)
            received.append(number)
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Under nohup, SIGHUP stays ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, stop, number)
        try:
            await work
        except asyncio.CancelledError:
            if received:
                raise SystemExit(128 + received[0]) from None
            raise

    asyncio.run(guarded())
