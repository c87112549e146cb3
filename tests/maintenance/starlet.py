"""A tiny product that is updated in tests: a service with releases that work, that break, and that migrate.

Run as a program, it makes one step of the procedure in a process of its own, which can be killed at any
record: `python starlet.py '{"root": …, "act": "install", …}'`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from maia.maintenance.programs import ProgramFailed, run
from maia.maintenance.updating.building import Builder, Product
from maia.maintenance.updating.environments import EnvironmentFolder
from maia.maintenance.updating.errors import UpdateFailed
from maia.maintenance.updating.procedure import Condition, Patience, Procedure, Target
from tests.wheels import write_wheel

NAME = "starlet-agents"
PRODUCT = Product(distribution=NAME, packages=("starlet",), commands=(("-I", "-m", "starlet", "--version"),))

_MAIN = """
import sys
from starlet import service
service.main()
"""
_SERVICE = """
import os, signal, sys, time
from pathlib import Path
from starlet import VERSION

def tell(*_):
    from starlet import late
    Path(os.environ["STARLET_HEART"] + ".late").write_text(late.VERSION)

def main():
    if "--version" in sys.argv:
        print(VERSION)
        return
    {fault}
    signal.signal(signal.SIGUSR1, tell)
    while True:
        beat = Path(os.environ["STARLET_HEART"])
        written = beat.with_suffix(f".{{os.getpid()}}")
        written.write_text(f"{{VERSION}} {{sys.prefix}}")
        written.replace(beat)
        time.sleep(0.05)
"""
_SCHEMA = """
import sys
from pathlib import Path
NEEDS = {schema}
database = Path(sys.argv[2])
has = int(database.read_text())
if has > NEEDS:
    sys.exit(f"the database has migration {{has}}, which this version does not know")
if sys.argv[1] == "check":
    print(*range(has + 1, NEEDS + 1))
else:
    for number in range(has + 1, NEEDS + 1):
        {fault}
        database.write_text(str(number))
"""


def write_releases(wheelhouse: Path) -> None:
    """1.0 and 2.0 work; 3.0 has a broken import; 4.0 passes the tests, but its service ends at once.

    5.0 works, but needs schema 3; 6.0 as well, and fails before its first migration, 7.0 after it.
    """
    faults = {"4.0": "sys.exit('no')"}
    migrating = {
        "5.0": "pass",
        "6.0": "sys.exit('no space left')",
        "7.0": "if number == 3: sys.exit('no space left')",
    }
    for version in ("1.0", "2.0", "3.0", "4.0", *migrating):
        files = {
            "starlet/__init__.py": f"VERSION = {version!r}\n",
            "starlet/__main__.py": _MAIN,
            "starlet/late.py": f"VERSION = {version!r}\n",
            "starlet/service.py": _SERVICE.format(fault=faults.get(version, "pass")),
            "starlet/schema.py": "def main():\n"
            + "".join(
                f"    {line}\n"
                for line in _SCHEMA.format(
                    schema=3 if version in migrating else 1, fault=migrating.get(version, "pass")
                ).splitlines()
            )
            + "if __name__ == '__main__':\n    main()\n",
        }
        if version == "3.0":
            files["starlet/broken.py"] = "import a_module_that_nobody_has\n"
        # The units' script only goes back to an environment with a program of this name.
        scripts = dict.fromkeys(("starlet", "maia"), "starlet.service:main")
        write_wheel(wheelhouse, NAME, version, files, scripts=scripts)


@dataclass
class Machine:
    """A machine with the service, its database's schema and a record of what happened, in a folder."""

    home: Path
    kill_at: str = ""

    @property
    def root(self) -> Path:
        return self.home / "environments"

    @property
    def heart(self) -> Path:
        return self.home / "heart"

    @property
    def database(self) -> Path:
        return self.home / "schema"

    # What the procedure asks for

    async def back_up(self) -> str:
        if (self.home / "no-backups").exists():
            raise UpdateFailed("the vault is full")
        (self.home / "backup").write_text(self.database.read_text())
        return "backup-1"

    async def stop(self) -> None:
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while self.pids():
            await asyncio.sleep(0.01)
        self.heart.unlink(missing_ok=True)

    async def start(self) -> None:
        if self.pids() or not (self.root / "current").exists():
            return
        program = str(self.root / "current" / "bin" / "starlet")
        silent = [(os.POSIX_SPAWN_OPEN, each, os.devnull, os.O_RDWR, 0) for each in range(3)]
        environment = os.environ | {"STARLET_HEART": str(self.heart)}
        os.posix_spawn(program, [program], environment, setsid=True, file_actions=silent)

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def condition(self) -> Condition:
        alive = bool(self.pids()) and self.beats()
        return Condition(problems={} if alive else {"service": "the service does not run"})

    async def pending_migrations(self, python: Path) -> Sequence[str]:
        return (await self._schema(python, "check")).split()

    async def migrate(self, python: Path) -> None:
        await self._schema(python, "migrate")

    async def _schema(self, python: Path, verb: str) -> str:
        argv = (str(python), "-I", "-m", "starlet.schema", verb, str(self.database))
        return (await run(argv, timeout_s=30)).check().out

    async def record(self, step: str, text: str) -> None:
        with (self.home / "steps").open("a") as steps:
            steps.write(f"{step}: {text}\n")
        if step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    async def alert(self, text: str) -> None:
        with (self.home / "alerts").open("a") as alerts:
            alerts.write(f"{text}\n")

    # What a test looks at

    def beats(self) -> bool:
        with suppress(FileNotFoundError):
            return time.time() - self.heart.stat().st_mtime < 1
        return False

    def pids(self) -> list[int]:
        """The service's processes, of whatever release."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if str(self.root / "current" / "bin" / "starlet") in process.cmdline():
                    found.append(process.pid)
        return found

    def steps(self) -> list[str]:
        with suppress(FileNotFoundError):
            return [line.partition(":")[0] for line in (self.home / "steps").read_text().splitlines()]
        return []

    def alerts(self) -> str:
        with suppress(FileNotFoundError):
            return (self.home / "alerts").read_text()
        return ""

    def version(self) -> str:
        """What `current` runs, asked of its Python."""
        python = Path(os.path.realpath(self.root / "current")) / "bin" / "python"
        answer = subprocess.run(
            [python, "-I", "-m", "starlet", "--version"], capture_output=True, text=True, check=True
        )
        return answer.stdout.strip()

    def procedure(self, settle_s: float = 5) -> Procedure:
        return Procedure(
            folder=EnvironmentFolder(self.root),
            product=PRODUCT,
            surroundings=self,
            keep=1,
            patience=Patience(settle_s=settle_s, pause_s=0.1, times=3),
        )

    def builder(self, uv: str | None) -> Builder:
        return Builder(
            wheelhouse=self.home / "wheelhouse",
            constraints=None,
            base_python=Path(getattr(sys, "_base_executable", sys.executable)),
            timeout_s=120,
            uv=None if uv is None else Path(uv),
        )

    async def install(
        self, version: str, uv: str | None, *, migrates: bool = False, settle_s: float = 5
    ) -> str:
        target = Target(version=version, migrates=migrates)
        return await self.procedure(settle_s).install(target, self.builder(uv), datetime.now(UTC))


def kill_between_link_and_replacing(name: str) -> None:
    """Let this process be killed when the new link is there, but not yet in the place of that name."""
    replace = Path.replace

    def replace_or_die(self: Path, target: Any) -> Path:
        if self.name == ".current.next" and Path(target).name == name:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = replace_or_die  # type: ignore[method-assign,assignment]


async def main(asked: dict[str, Any]) -> None:
    machine = Machine(Path(asked["home"]), asked.get("kill_at", ""))
    if machine.kill_at in ("current", "fallback"):
        kill_between_link_and_replacing(machine.kill_at)
    if asked["act"] == "finish":
        print(await machine.procedure().finish())
    elif asked["act"] == "roll back":
        print(await machine.procedure().roll_back())
    else:
        print(await machine.install(asked["version"], asked.get("uv"), migrates=asked.get("migrates", False)))


if __name__ == "__main__":
    try:
        asyncio.run(main(json.loads(sys.argv[1])))
    except (UpdateFailed, ProgramFailed) as error:
        sys.exit(str(error))
