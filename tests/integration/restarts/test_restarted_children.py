"""Processes of maia up and their restarts: real ones, kept by a real supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from atlas.config import Settings
from maia.maintainer import restarts
from maia.maintainer.actions import ActionFailed
from maia.maintainer.restarts import EndChild
from maia.maintenance import children
from maia.maintenance.children import running_children
from maia.stack import leash
from maia.stack.supervisor import Child, Supervisor
from tests.service_programs import RUNNING, UNHEALTHY, plan_of

pytestmark = pytest.mark.integration

SERVER = """
import http.server, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ill = folder / "ill"
        if ill.exists() and ill.read_text() == str(os.getpid()):
            self.send_response(500)
        else:
            self.send_response(503 if (folder / "away").exists() else 200)
        self.end_headers()

    def log_message(self, *_):
        pass

class Server(http.server.HTTPServer):
    allow_reuse_address = True

server = Server(("127.0.0.1", int(sys.argv[2])), Handler)
print("ready", flush=True)
server.serve_forever()
"""


def server(folder: Path, port: int, *words: str) -> Child:
    return Child(
        "prefect",
        (sys.executable, "-c", SERVER, str(folder), str(port), *words),
        dict(os.environ),
        check=f"http://127.0.0.1:{port}/health",
    )


async def quickly(url: str, *, tries: int = 1) -> str | None:
    """The check, but it doesn't wait between its tries."""
    return await children.failure_of(url, tries=tries, pause_s=0)


def end_prefect(settings: Settings) -> EndChild:
    action = EndChild("prefect", settings, check=quickly)
    action.settle_s = 0
    return action


class TestChildren:
    async def test_only_the_children_themselves_are_found(
        self, supervisor: Supervisor, settings: Settings, folder: Path
    ) -> None:
        family = (
            "import subprocess, sys; sleep = [sys.executable, '-c', 'import time; time.sleep(60)']; "
            "process = subprocess.Popen(sleep, start_new_session=True); "
            "print('ready', flush=True); process.wait()"
        )
        await supervisor.start(Child("agents", (sys.executable, "-c", family), dict(os.environ)))
        [found] = running_children(os.environ)
        assert (found.name, found.process.pid, found.check) == ("agents", supervisor.pids()["agents"], None)
        assert found.age_s < 60
        assert len(psutil.Process(found.process.pid).children()) == 1

    async def test_those_of_another_tree_or_installation_are_not(
        self, supervisor: Supervisor, settings: Settings
    ) -> None:
        sleep = (sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(60)")
        await supervisor.start(Child("agents", sleep, dict(os.environ)))
        [found] = running_children(os.environ)
        assert running_children({**os.environ, children.MARK: found.mark}) == [found]
        assert running_children({**os.environ, children.MARK: "another"}) == []
        assert running_children({**os.environ, "PLEIADES_DATA_DIR": "/another"}) == []

    async def test_neither_we_nor_our_parents_are(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = (
            "import os; from maia.maintenance.children import running_children; "
            "print(running_children(os.environ))"
        )
        process = await asyncio.create_subprocess_exec(
            *leash.leashed([sys.executable, "-c", program]),
            env={
                **os.environ,
                **children.marks("agents", "mark", None),
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        assert out.decode().strip() == "[]"

    def test_the_leash_marks_by_the_variable_that_is_looked_for(self) -> None:
        assert leash.PID == children.PID

    async def test_how_they_are(
        self, supervisor: Supervisor, settings: Settings, folder: Path, unused_tcp_port: int
    ) -> None:
        await supervisor.start(server(folder, unused_tcp_port))
        pid = supervisor.pids()["prefect"]
        [state] = await restarts.child_states(settings, check=quickly)
        assert (state.name, state.condition) == ("process prefect", RUNNING)
        (folder / "ill").write_text(str(pid))
        [state] = await restarts.child_states(settings, check=quickly)
        assert (state.condition, state.text) == (
            UNHEALTHY,
            f"http://127.0.0.1:{unused_tcp_port}/health answers with status 500",
        )
        starting = settings.model_copy(
            update={"up": settings.up.model_copy(update={"start_timeout_s": 60.0})}
        )
        [state] = await restarts.child_states(starting, check=quickly)
        assert state.condition is RUNNING

    async def test_that_something_else_is_away_is_not_its_fault(
        self, supervisor: Supervisor, settings: Settings, folder: Path, unused_tcp_port: int
    ) -> None:
        (folder / "away").touch()
        await supervisor.start(server(folder, unused_tcp_port))
        [state] = await restarts.child_states(settings, check=quickly)
        assert state.condition is RUNNING

    @pytest.mark.parametrize("words", [(), ("deaf",)])
    async def test_one_that_fails_its_check_is_ended_and_started_again(
        self,
        supervisor: Supervisor,
        settings: Settings,
        folder: Path,
        unused_tcp_port: int,
        words: tuple[str, ...],
    ) -> None:
        await supervisor.start(server(folder, unused_tcp_port, *words))
        pid = supervisor.pids()["prefect"]
        if not words:
            # On a busy machine, one that obeys may take a while, too.
            settings = settings.model_copy(
                update={"up": settings.up.model_copy(update={"stop_timeout_s": 10})}
            )
        action = end_prefect(settings)
        assert await action.plan() is None
        (folder / "ill").write_text(str(pid))
        plan = await plan_of(action)
        assert plan.commands == (f"kill -TERM {pid}",)
        assert supervisor.pids()["prefect"] == pid
        told = await action.apply(plan)
        assert told.endswith(f"prefect runs as process {supervisor.pids()['prefect']}")
        assert told.startswith("it had to be killed") == bool(words)
        assert supervisor.pids()["prefect"] != pid

    async def test_one_that_hangs_is_ended_too(
        self, supervisor: Supervisor, settings: Settings, folder: Path, unused_tcp_port: int
    ) -> None:
        async def impatient(url: str, *, tries: int = 1) -> str | None:
            return await children.failure_of(url, tries=tries, timeout_s=0.5, pause_s=0)

        await supervisor.start(server(folder, unused_tcp_port))
        pid = supervisor.pids()["prefect"]
        os.kill(pid, signal.SIGSTOP)
        action = EndChild("prefect", settings, check=impatient)
        action.settle_s = 0
        plan = await plan_of(action)
        assert "does not answer within 0.5 s" in plan.text
        # A stopped process gets SIGTERM only once it goes on, so that it takes SIGKILL.
        assert (await action.apply(plan)).startswith("it had to be killed")
        assert supervisor.pids()["prefect"] != pid

    async def test_if_nobody_starts_it_again_that_has_failed(
        self, settings: Settings, folder: Path, unused_tcp_port: int
    ) -> None:
        child = server(folder, unused_tcp_port)
        process = await asyncio.create_subprocess_exec(
            *leash.leashed(child.command),
            env={**child.environment, **children.marks("prefect", "mark", child.check)},
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        await process.stdout.readline()
        (folder / "ill").write_text(str(process.pid))
        action = end_prefect(settings)
        action.timeout_s = 1
        with pytest.raises(ActionFailed, match="maia up has not started prefect again"):
            await action.apply(await plan_of(action))
        assert await process.wait() == -signal.SIGTERM
