"""A tree of real processes: how it is kept, and that nothing of it remains."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from maia.stack.supervisor import _REAP_S, Child, ChildError, Policy, Supervisor

pytestmark = pytest.mark.integration

POLICY = Policy(max_restarts=2, restart_s=0.01, stable_s=60, start_timeout_s=30, stop_timeout_s=1)

READY = "print('ready', flush=True)\n"
SLEEP = "import time\nwhile True: time.sleep(1)\n"
DEAF = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


class Told:
    """What a supervisor reported."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, kind: str, told: Mapping[str, Any]) -> None:
        self.events.append((kind, dict(told)))

    def of(self, name: str) -> list[str]:
        return [kind for kind, told in self.events if told["name"] == name]


@pytest.fixture
def told() -> Told:
    return Told()


def program(text: str, name: str = "child", **options: Any) -> Child:
    return Child(name, (sys.executable, "-c", text), dict(os.environ), **options)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest_asyncio.fixture
async def supervisor(told: Told) -> AsyncIterator[Supervisor]:
    async with Supervisor.open(POLICY, told) as opened:
        yield opened


class TestKeeping:
    async def test_a_child_is_ready_with_its_first_line_which_is_kept(
        self, supervisor: Supervisor, told: Told
    ) -> None:
        await supervisor.start(program(READY + SLEEP))
        assert supervisor.announcement("child") == b"ready"
        assert told.of("child") == ["started", "ready"]

    async def test_a_child_that_prints_an_error_is_not_ready(self, supervisor: Supervisor) -> None:
        text = """print('{"error": "no key", "exit_status": 78}', flush=True)\nraise SystemExit(78)\n"""
        with pytest.raises(ChildError, match="ended before it was ready"):
            await supervisor.start(program(text, restarts=False))

    async def test_whatever_else_it_prints_goes_to_stderr(
        self, supervisor: Supervisor, capsys: pytest.CaptureFixture[str]
    ) -> None:
        await supervisor.start(program(READY + "print('x' * 1_000_000, flush=True)\n" + SLEEP))
        written = ""
        while not written.endswith("\n"):
            await asyncio.sleep(0.02)
            written += capsys.readouterr().err
        assert written == "x" * 1_000_000 + "\n"

    async def test_a_child_is_ready_when_its_probe_says_so(
        self, supervisor: Supervisor, tmp_path: Path
    ) -> None:
        sign = tmp_path / "sign"

        async def ready() -> bool:
            return await asyncio.to_thread(sign.exists)

        await supervisor.start(program(f"open({str(sign)!r}, 'w')\n" + SLEEP, ready=ready))
        assert sign.exists()

    async def test_one_that_dies_is_started_again(self, supervisor: Supervisor, told: Told) -> None:
        await supervisor.start(program(READY + SLEEP))
        first = supervisor.pids()["child"]
        os.kill(first, signal.SIGKILL)
        await until(lambda: told.of("child").count("ready") == 2)
        assert supervisor.pids()["child"] != first
        [restarting] = [details for kind, details in told.events if kind == "restarting"]
        assert restarting == {"name": "child", "restart": 1, "in_s": 0.01, "reason": "by SIGKILL"}

    async def test_how_a_child_died_is_known_however_late_it_is_noticed(
        self, supervisor: Supervisor, told: Told, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waitpid = os.waitpid

        def late(pid: int, options: int) -> tuple[int, int]:
            if not options & os.WNOHANG:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
                time.sleep(3 * _REAP_S)
            return waitpid(pid, options)

        monkeypatch.setattr("os.waitpid", late)
        await supervisor.start(program(READY + SLEEP))
        os.kill(supervisor.pids()["child"], signal.SIGKILL)
        await until(lambda: "restarting" in told.of("child"))
        [restarting] = [details for kind, details in told.events if kind == "restarting"]
        assert restarting["reason"] == "by SIGKILL"

    async def test_one_that_keeps_dying_is_given_up(self, supervisor: Supervisor, told: Told) -> None:
        await supervisor.start(program(READY + "raise SystemExit(3)"))
        with pytest.raises(
            ChildError, match=r"gave up on child after 2 restarts in a row: it ended with status 3"
        ):
            await supervisor.watch()
        pauses = [details["in_s"] for kind, details in told.events if kind == "restarting"]
        assert pauses == [0.01, 0.02]
        assert told.of("child").count("given_up") == 1

    async def test_one_that_ran_stably_counts_its_restarts_anew(self, told: Told) -> None:
        policy = Policy(max_restarts=1, restart_s=0.01, stable_s=0, start_timeout_s=30, stop_timeout_s=1)
        async with Supervisor.open(policy, told) as supervisor:
            await supervisor.start(program(READY + SLEEP))
            for times in (2, 3, 4):
                os.kill(supervisor.pids()["child"], signal.SIGKILL)
                await until(lambda times=times: told.of("child").count("ready") == times)  # type: ignore[misc]
        assert {details["restart"] for kind, details in told.events if kind == "restarting"} == {1}

    async def test_one_that_may_not_restart_is_given_up_at_once(
        self, supervisor: Supervisor, told: Told
    ) -> None:
        await supervisor.start(program(READY + SLEEP, restarts=False))
        os.kill(supervisor.pids()["child"], signal.SIGKILL)
        with pytest.raises(ChildError, match="gave up on child"):
            await supervisor.watch()
        assert "restarting" not in told.of("child")

    async def test_one_that_ends_before_it_is_ready_fails_the_start(self, supervisor: Supervisor) -> None:
        with pytest.raises(ChildError, match="child ended before it was ready, with status 4"):
            await supervisor.start(program(READY + SLEEP, name="other"), program("raise SystemExit(4)"))

    async def test_one_that_never_is_ready_is_killed(self, told: Told) -> None:
        policy = Policy(max_restarts=2, restart_s=0.01, stable_s=60, start_timeout_s=0.5, stop_timeout_s=1)
        async with Supervisor.open(policy, told) as supervisor:
            with pytest.raises(ChildError, match="ended before it was ready, by SIGKILL"):
                await supervisor.start(program(SLEEP))

    async def test_what_a_dead_child_started_goes_before_its_successor_comes(
        self, supervisor: Supervisor, told: Told, tmp_path: Path
    ) -> None:
        pids = tmp_path / "pids"
        text = (
            "import subprocess, sys\n"
            f"helper = subprocess.Popen([sys.executable, '-c', {DEAF + SLEEP!r}])\n"
            f"open({str(pids)!r}, 'a').write(f'{{helper.pid}}\\n')\n"
        )
        await supervisor.start(program(text + READY + SLEEP))
        [helper] = pids.read_text().split()
        os.kill(supervisor.pids()["child"], signal.SIGKILL)
        await until(lambda: told.of("child").count("ready") == 2)
        assert gone(int(helper))


class TestEnding:
    async def test_all_are_asked_to_end_first_those_of_the_higher_tier(
        self, told: Told, tmp_path: Path
    ) -> None:
        journal = tmp_path / "journal"
        polite = (
            "import signal, sys\n"
            "def leave(*_):\n"
            f"    open({str(journal)!r}, 'a').write(sys.argv[1] + '\\n'); sys.exit()\n"
            "signal.signal(signal.SIGTERM, leave)\n"
        )
        children = [
            Child(name, (sys.executable, "-c", polite + READY + SLEEP, name), dict(os.environ), tier=tier)
            for name, tier in (("base", 0), ("worker", 1), ("other", 1))
        ]
        async with Supervisor.open(POLICY, told) as supervisor:
            await supervisor.start(*children)
        written = journal.read_text().split()
        assert sorted(written) == ["base", "other", "worker"]
        assert written[-1] == "base"
        assert told.of("base")[-1] == "stopped"

    async def test_one_that_ignores_sigterm_is_killed(self, told: Told) -> None:
        async with Supervisor.open(POLICY, told) as supervisor:
            await supervisor.start(program(DEAF + READY + SLEEP))
            pid = supervisor.pids()["child"]
        assert gone(pid)

    async def test_descendants_that_left_their_group_are_found(self, told: Told, tmp_path: Path) -> None:
        pids = tmp_path / "pids"
        daemon = f"import os\nopen({str(pids)!r}, 'w').write(str(os.getpid()))\n" + DEAF + SLEEP
        text = (
            "import subprocess, sys, time\n"
            # Twice removed, in a session of its own: its parent is gone.
            "import os\n"
            "if os.fork() == 0:\n"
            f"    subprocess.Popen([sys.executable, '-c', {daemon!r}], start_new_session=True); os._exit(0)\n"
            f"while not os.path.exists({str(pids)!r}) or not open({str(pids)!r}).read(): time.sleep(0.01)\n"
        )
        async with Supervisor.open(POLICY, told) as supervisor:
            await supervisor.start(program(text + READY + SLEEP))
            daemon_pid = int(pids.read_text())
            assert not gone(daemon_pid)
        assert gone(daemon_pid)

    async def test_one_that_waits_for_its_restart_is_not_started_any_more(self, told: Told) -> None:
        policy = Policy(max_restarts=2, restart_s=30, stable_s=60, start_timeout_s=30, stop_timeout_s=1)
        async with Supervisor.open(policy, told) as supervisor:
            await supervisor.start(program(READY + SLEEP))
            os.kill(supervisor.pids()["child"], signal.SIGKILL)
            await until(lambda: "restarting" in told.of("child"))
        assert told.of("child") == ["started", "ready", "restarting", "stopped"]

    async def test_a_further_cancellation_hurries(self, told: Told) -> None:
        patient = Policy(max_restarts=0, restart_s=1, stable_s=60, start_timeout_s=30, stop_timeout_s=600)
        pids: dict[str, int] = {}

        async def live() -> None:
            async with Supervisor.open(patient, told) as supervisor:
                await supervisor.start(program(DEAF + READY + SLEEP))
                pids.update(supervisor.pids())
                await supervisor.watch()

        living = asyncio.create_task(live())
        await until(lambda: bool(pids))
        living.cancel()
        await asyncio.sleep(0.2)
        assert not gone(pids["child"])
        living.cancel()
        await asyncio.wait([living])
        assert gone(pids["child"])

    async def test_children_end_with_a_supervisor_that_is_killed(self, tmp_path: Path) -> None:
        pids = tmp_path / "pids"
        text = f"""
import asyncio, json, os, sys
from maia.stack.supervisor import _REAP_S, Child, Policy, Supervisor
async def main():
    policy = Policy(max_restarts=2, restart_s=0.01, start_timeout_s=30, stop_timeout_s=1)
    child = Child("child", (sys.executable, "-c", {READY + SLEEP!r}), dict(os.environ))
    async with Supervisor.open(policy, lambda *_: None) as supervisor:
        await supervisor.start(child)
        print(json.dumps(supervisor.pids()), flush=True)
        await supervisor.watch()
asyncio.run(main())
"""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", text, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        child = json.loads(await process.stdout.readline())["child"]
        assert not gone(child), pids
        process.kill()
        await process.wait()
        await until(lambda: gone(child))

    async def test_adopted_orphans_leave_no_zombies(self, supervisor: Supervisor, tmp_path: Path) -> None:
        pids = tmp_path / "pids"
        text = (
            "import os, subprocess, sys, time\n"
            "if os.fork() == 0:\n"
            "    orphan = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(0.3)'])\n"
            f"    open({str(pids)!r}, 'w').write(str(orphan.pid)); os._exit(0)\n"
            f"while not os.path.exists({str(pids)!r}) or not open({str(pids)!r}).read(): time.sleep(0.01)\n"
        )
        await supervisor.start(program(text + READY + SLEEP))
        orphan = int(pids.read_text())
        await until(lambda: not psutil.pid_exists(orphan))
