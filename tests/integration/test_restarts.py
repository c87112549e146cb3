"""Services and their restarts: programs that play systemctl and podman, and a supervisor's real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.testing import SettingsFactory
from maia.maintainer import restarts
from maia.maintainer.actions import Action, ActionFailed, ActionState, Plan
from maia.maintainer.duties import DutyContext
from maia.maintainer.restarts import EndChild, RestartContainer, RestartUnit
from maia.maintainer.taking import Taker
from maia.maintenance import children
from maia.maintenance.children import running_children
from maia.maintenance.findings import Component, Finding, Severity
from maia.maintenance.health_terms import ServiceCondition, ServiceState
from maia.maintenance.systemctl import SystemdFailed
from maia.stack import leash
from maia.stack.supervisor import Child, Policy, Supervisor

pytestmark = pytest.mark.integration

RUNNING, STOPPED = ServiceCondition.RUNNING, ServiceCondition.STOPPED
FAILED, UNHEALTHY = ServiceCondition.FAILED, ServiceCondition.UNHEALTHY


class Programs:
    """Programs on the PATH that write down how they were called, and answer from files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"

    def add(self, name: str, text: str) -> None:
        """A program in Python; `words` are its arguments, and `folder` is ours."""
        program = self.folder / name
        program.write_text(
            f"#!{sys.executable} -IS\nimport json, pathlib, sys\nwords = sys.argv[1:]\n"
            f"folder = pathlib.Path({str(self.folder)!r})\n"
            f"with open(folder / 'log', 'a') as log: log.write(json.dumps([{name!r}, *words]) + '\\n')\n"
            f"{text}"
        )
        program.chmod(0o755)

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    @property
    def changes(self) -> list[list[str]]:
        """The calls that were no questions."""
        return [call for call in self.calls if not {"show", "inspect"} & set(call)]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    folder = tmp_path / "programs"
    folder.mkdir()
    # Neither systemd nor an engine of this machine is asked.
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(restarts, "SETTLE_S", 0.0)
    return Programs(folder)


async def plan_of(action: Action) -> Plan:
    plan = await action.plan()
    assert plan is not None
    return plan


# Units

SYSTEMCTL = """
if "show" in words:
    for unit in words[words.index("--") + 1:]:
        file = folder / (("user-" if "--user" in words else "") + unit)
        missing = f"Id={unit}\\nLoadState=not-found\\nActiveState=inactive\\n"
        print(file.read_text() if file.exists() else missing)
elif folder.joinpath("refused").exists():
    print(folder.joinpath("refused").read_text(), file=sys.stderr)
    raise SystemExit(1)
elif words[-2] in ("restart", "start"):
    after = folder / "after"
    if after.exists():
        (folder / "a.service").write_text(after.read_text())
"""


def unit(active: str, result: str = "success", **properties: object) -> str:
    told = {
        "Id": "a.service",
        "LoadState": "loaded",
        "ActiveState": active,
        "SubState": "x",
        "Result": result,
    }
    return "".join(f"{name}={value}\n" for name, value in (told | properties).items())


@pytest.fixture
def systemctl(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> Programs:
    programs.add("systemctl", SYSTEMCTL)
    monkeypatch.setattr(restarts, "check_systemd", lambda _: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return programs


def restart_a(timeout_s: float = 10) -> RestartUnit:
    action = RestartUnit("a.service", timeout_s)
    action.settle_s = 0
    return action


class TestUnits:
    @pytest.mark.parametrize(
        ("told", "condition", "text"),
        [
            (unit("active"), RUNNING, "is active"),
            (unit("activating"), RUNNING, "is activating"),
            (unit("inactive"), STOPPED, "is inactive"),
            (
                unit("failed", "exit-code", NRestarts=5, ExecMainStatus=3),
                FAILED,
                "is failed (exit-code, status 3, restarted 5 times)",
            ),
            (unit("failed", "oom-kill"), FAILED, "is failed (oom-kill)"),
        ],
    )
    async def test_how_they_are(
        self, systemctl: Programs, told: str, condition: ServiceCondition, text: str
    ) -> None:
        (systemctl.folder / "a.service").write_text(told)
        assert await restarts.unit_states(["a.service"]) == [
            ServiceState("a.service", condition, text, "systemctl status a.service")
        ]

    async def test_one_that_is_not_installed_has_failed(self, systemctl: Programs) -> None:
        [state] = await restarts.unit_states(["a.service"])
        assert state.condition is FAILED
        assert "PLEIADES_MAINTAINER__ACTIONS__UNITS" in state.text
        with pytest.raises(ActionFailed, match=r"there is no unit a\.service"):
            await restart_a().plan()

    async def test_without_systemd_that_is_what_is_wrong(self, programs: Programs) -> None:
        [state] = await restarts.unit_states(["a.service"])
        assert state.condition is FAILED
        assert "systemd does not run this machine" in state.text

    async def test_root_restarts_one_that_failed(self, systemctl: Programs) -> None:
        (systemctl.folder / "a.service").write_text(unit("failed", "exit-code", ExecMainStatus=1))
        (systemctl.folder / "after").write_text(unit("active"))
        action = restart_a()
        plan = await plan_of(action)
        assert plan.text == "restart a.service, which is failed (exit-code, status 1)"
        assert plan.commands == ("systemctl restart a.service",)
        assert systemctl.changes == []
        assert await action.apply(plan) == "a.service is active"
        assert systemctl.changes == [["systemctl", "--no-ask-password", "restart", "a.service"]]

    async def test_one_that_failed_too_often_is_reset_before(self, systemctl: Programs) -> None:
        (systemctl.folder / "a.service").write_text(unit("failed", "start-limit-hit"))
        (systemctl.folder / "after").write_text(unit("active"))
        action = restart_a()
        await action.apply(await plan_of(action))
        assert [call[2] for call in systemctl.changes] == ["reset-failed", "restart"]

    async def test_others_ask_the_unit_that_does_it_as_root(
        self, systemctl: Programs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        (systemctl.folder / "a.service").write_text(unit("failed", "signal"))
        (systemctl.folder / "pleiades-privileged@restart-a.service").write_text(unit("inactive"))
        (systemctl.folder / "after").write_text(unit("active"))
        action = restart_a()
        plan = await plan_of(action)
        assert plan.commands == ("systemctl start pleiades-privileged@restart-a.service",)
        await action.apply(plan)
        assert systemctl.changes == [
            ["systemctl", "--no-ask-password", "start", "pleiades-privileged@restart-a.service"]
        ]

    async def test_a_users_own_unit_needs_no_root(
        self, systemctl: Programs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        (systemctl.folder / "user-a.service").write_text(unit("failed", "signal"))
        plan = await plan_of(restart_a())
        assert plan.commands == ("systemctl --user restart a.service",)

    @pytest.mark.parametrize("active", ["active", "activating", "inactive"])
    async def test_one_that_is_well_or_was_stopped_is_left_alone(
        self, systemctl: Programs, active: str
    ) -> None:
        (systemctl.folder / "a.service").write_text(unit(active))
        assert await restart_a().plan() is None

    async def test_one_that_is_not_well_afterwards_was_restarted_in_vain(self, systemctl: Programs) -> None:
        (systemctl.folder / "a.service").write_text(unit("failed", "exit-code"))
        action = restart_a(timeout_s=0.3)
        with pytest.raises(ActionFailed, match=r"not well 0.3 s after the restart: a.service is failed"):
            await action.apply(await plan_of(action))

    async def test_a_refusal_is_the_reason(self, systemctl: Programs) -> None:
        (systemctl.folder / "a.service").write_text(unit("failed", "exit-code"))
        (systemctl.folder / "refused").write_text("Interactive authentication required.")
        action = restart_a()
        with pytest.raises(SystemdFailed, match=r"systemd lets only root restart a\.service"):
            await action.apply(await plan_of(action))


# Containers

ENGINE = """
state = folder / words[-1]
if "inspect" in words:
    if not state.exists():
        print(f"Error: no such container {words[-1]}", file=sys.stderr)
        raise SystemExit(125)
    print(state.read_text())
elif (folder / "after").exists():
    state.write_text((folder / "after").read_text())
"""

# As Podman 4.3.1 and Docker 28.2 print it, shortened.
PODMAN_STATE = (
    '{"OciVersion":"1.0.2-dev","Status":"%s","Running":true,"Paused":false,"Restarting":false,"OOMKilled":%s,'
    '"Dead":false,"Pid":77,"ExitCode":%d,"Error":"","StartedAt":"2026-11-29T16:00:00.1Z",'
    '"Health":{"Status":"%s","FailingStreak":0,"Log":null}}'
)
DOCKER_STATE = (
    '{"Status":"running","Running":true,"Paused":false,"Restarting":false,"OOMKilled":false,"Dead":false,'
    '"Pid":77,"ExitCode":0,"Error":"","Health":{"Status":"unhealthy","FailingStreak":9,"Log":[{"Start":"s",'
    '"End":"e","ExitCode":1,"Output":"connection\\n refused\\n"}]}}'
)


def podman(status: str, health: str = "", exit_status: int = 0, out_of_memory: bool = False) -> str:
    return PODMAN_STATE % (status, str(out_of_memory).lower(), exit_status, health)


class TestContainers:
    @pytest.fixture(autouse=True)
    def engine(self, programs: Programs) -> None:
        programs.add("podman", ENGINE)

    @pytest.mark.parametrize(
        ("told", "condition", "text"),
        [
            (podman("running"), RUNNING, "is running"),
            (podman("running", "healthy"), RUNNING, "is running (healthy)"),
            (podman("running", "starting"), RUNNING, "is running (starting)"),
            (podman("running", "unhealthy"), UNHEALTHY, "is running (unhealthy)"),
            (DOCKER_STATE, UNHEALTHY, "is running (unhealthy, connection refused)"),
            (podman("exited", exit_status=1), FAILED, "is exited (status 1)"),
            (podman("exited", "", 137, True), FAILED, "is exited (status 137, out of memory)"),
            (podman("exited", exit_status=137), STOPPED, "is exited (status 137)"),
            (podman("exited"), STOPPED, "is exited"),
            (podman("paused"), STOPPED, "is paused"),
            ('{"Status": "dead", "ExitCode": 0}', FAILED, "is dead"),
        ],
    )
    async def test_how_they_are(
        self, programs: Programs, told: str, condition: ServiceCondition, text: str
    ) -> None:
        (programs.folder / "api").write_text(told)
        assert await restarts.container_states(["api"]) == [
            ServiceState("container api", condition, text, "podman logs --tail 50 api")
        ]

    @pytest.mark.parametrize("told", ["", "[]", '{"ExitCode": 0}', '{"Status": "exited", "ExitCode": "x"}'])
    async def test_an_answer_that_is_not_understood_is_a_failure(self, programs: Programs, told: str) -> None:
        (programs.folder / "api").write_text(told)
        [state] = await restarts.container_states(["api"])
        assert state.condition is FAILED
        assert "podman describes api in a form that is not understood" in state.text

    async def test_the_engine_that_knows_it_is_asked(self, programs: Programs) -> None:
        programs.add("docker", ENGINE.replace("folder / words[-1]", "folder / ('docker-' + words[-1])"))
        (programs.folder / "docker-api").write_text(DOCKER_STATE)
        action = RestartContainer("api", 10)
        plan = await plan_of(action)
        assert plan.commands == ("docker restart -t 10 api",)
        assert plan.text == ("restart the container api, which is running (unhealthy, connection refused)")

    async def test_one_that_no_engine_knows_has_failed(self, programs: Programs) -> None:
        [state] = await restarts.container_states(["api"])
        assert (state.condition, state.text) == (FAILED, "podman: Error: no such container api")

    async def test_without_an_engine_that_is_what_is_wrong(self, programs: Programs) -> None:
        (programs.folder / "podman").unlink()
        [state] = await restarts.container_states(["api"])
        assert state.text == "neither podman nor docker is installed here"

    async def test_one_whose_check_fails_is_restarted(self, programs: Programs) -> None:
        (programs.folder / "api").write_text(podman("running", "unhealthy"))
        (programs.folder / "after").write_text(podman("running", "healthy"))
        action = RestartContainer("api", 10)
        action.settle_s = 0
        plan = await plan_of(action)
        assert programs.changes == []
        assert await action.apply(plan) == "container api is running (healthy)"
        assert programs.changes == [["podman", "restart", "-t", "10", "api"]]

    async def test_one_that_stays_ill_was_restarted_in_vain(self, programs: Programs) -> None:
        (programs.folder / "api").write_text(podman("running", "unhealthy"))
        action = RestartContainer("api", 0.3)
        with pytest.raises(ActionFailed, match="container api is running \\(unhealthy\\)"):
            await action.apply(await plan_of(action))

    async def test_one_that_is_well_is_left_alone(self, programs: Programs) -> None:
        (programs.folder / "api").write_text(podman("running", "healthy"))
        assert await RestartContainer("api", 10).plan() is None


# Processes of maia up

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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def settings(settings_factory: SettingsFactory, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    # Other tests' processes belong to other installations.
    monkeypatch.setenv("PLEIADES_DATA_DIR", str(folder))
    monkeypatch.delenv(children.MARK, raising=False)
    monkeypatch.setattr(restarts, "SETTLE_S", 0.0)
    return settings_factory(
        up={"start_timeout_s": 0.01, "stop_timeout_s": 0.3}, maintainer={"actions": {"timeout_s": 20}}
    )


@pytest_asyncio.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    policy = Policy(max_restarts=5, restart_s=0.01, start_timeout_s=30, stop_timeout_s=1)
    async with Supervisor.open(policy, _silent) as opened:
        yield opened


def _silent(kind: str, details: Mapping[str, Any]) -> None:
    pass


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


# All of them


class TestDuty:
    @pytest.fixture
    def atlas_settings(self, settings: Settings, systemctl: Programs) -> Settings:
        systemctl.add("podman", ENGINE)
        actions = settings.maintainer.actions.model_copy(
            update={"units": ("a.service",), "containers": ("api",)}
        )
        maintainer = settings.maintainer.model_copy(update={"actions": actions})
        return settings.model_copy(update={"maintainer": maintainer})

    async def test_every_service_is_told_of(
        self, atlas: Atlas, systemctl: Programs, supervisor: Supervisor
    ) -> None:
        (systemctl.folder / "a.service").write_text(unit("active"))
        (systemctl.folder / "api").write_text(podman("running", "unhealthy"))
        sleep = (sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(60)")
        await supervisor.start(Child("agents", sleep, dict(os.environ)))
        states = await restarts.service_states(atlas)
        assert [(state.name, state.condition) for state in states] == [
            ("test/a.service", RUNNING),
            ("test/container api", UNHEALTHY),
            ("test/process agents", RUNNING),
        ]

    @pytest.mark.parametrize(
        ("subject", "restarted"),
        [
            ("test/a.service", RestartUnit),
            ("test/container api", RestartContainer),
            ("test/process prefect", EndChild),
            ("test/b.service", None),
            ("test/container b", None),
            ("there/a.service", None),
            ("a.service", None),
        ],
    )
    async def test_only_what_is_ours_to_restart_is_restarted(
        self, atlas: Atlas, subject: str, restarted: type[Action] | None
    ) -> None:
        finding = Finding(
            component=Component.SERVICES, check="failed", subject=subject, severity=Severity.ERROR, text="x"
        )
        action = restarts.restart_for(atlas, finding)
        assert (None if action is None else type(action)) is restarted
        assert action is None or f"test/{action.target}" == subject

    async def test_what_is_well_again_for_long_may_be_restarted_again(
        self, atlas: Atlas, systemctl: Programs, clock: FixedClock
    ) -> None:
        context = DutyContext(atlas, Taker(atlas, ("restart",)))
        (systemctl.folder / "a.service").write_text(unit("failed", "exit-code"))
        (systemctl.folder / "refused").write_text("masked")
        for _ in range(6):
            await context.take(restart_a())
            clock.advance(timedelta(minutes=21))
        assert [taken.state for taken in context.taken[-2:]] == [ActionState.FAILED, ActionState.HELD_BACK]
        (systemctl.folder / "a.service").write_text(unit("active"))
        for _ in range(2):
            await restarts.note_well(context, await restarts.service_states(atlas))
            clock.advance(timedelta(hours=1))
        (systemctl.folder / "a.service").write_text(unit("failed", "exit-code"))
        taken = await context.take(restart_a())
        assert taken is not None
        assert taken.state is ActionState.FAILED

    async def test_it_is_taken_once_and_then_cools_down(self, atlas: Atlas, systemctl: Programs) -> None:
        (systemctl.folder / "a.service").write_text(unit("failed", "exit-code"))
        (systemctl.folder / "after").write_text(unit("active"))
        taker = Taker(atlas, ("restart",))
        taken = await taker.take(restart_a())
        assert taken is not None
        assert (taken.state, taken.result) == (ActionState.APPLIED, "a.service is active")
        (systemctl.folder / "a.service").write_text(unit("failed", "exit-code"))
        taken = await taker.take(restart_a())
        assert taken is not None
        assert taken.state is ActionState.HELD_BACK
        assert len(systemctl.changes) == 1
