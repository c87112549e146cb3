"""Programs that play systemctl, podman and docker, and what they say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from maia.maintainer.actions import Action, Plan
from maia.maintainer.restarts import RestartUnit
from maia.maintenance.health_terms import ServiceCondition

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


async def plan_of(action: Action) -> Plan:
    plan = await action.plan()
    assert plan is not None
    return plan


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


def restart_a(timeout_s: float = 10) -> RestartUnit:
    action = RestartUnit("a.service", timeout_s)
    action.settle_s = 0
    return action


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
