"""Asks Podman or Docker how a container is, and lets them restart it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from maia.errors import MaiaError
from maia.maintenance.programs import Finished
from maia.maintenance.systemctl import run_program

ENGINES: Final = ("podman", "docker")
STOP_TIMEOUT_S: Final = 10
"""How long a container may take to end before the engine kills it."""

_ASK_TIMEOUT_S: Final = 30.0
_PASSED: Final = ("PATH", "HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "TMPDIR")
_PREFIXES: Final = ("DOCKER_", "CONTAINER_", "CONTAINERS_", "PODMAN_")
_STATUS_BY_PEOPLE: Final = frozenset({0, 130, 137, 143})
"""Exit statuses of a container that did its work, or that somebody stopped."""


class EngineFailed(MaiaError):
    """Podman or Docker refused or failed what was asked of it."""


class Runs(Protocol):
    """Runs a program by its arguments, with an environment."""

    async def __call__(
        self, command: Sequence[str], timeout_s: float, environment: Mapping[str, str] | None = None
    ) -> Finished: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerState:
    """What the engine says about a container: its status, such as running, and its health, if it has one."""

    name: str
    engine: str
    status: str
    health: str | None
    exit_status: int
    out_of_memory: bool
    says: str
    """What its last health check printed, or the engine's error."""

    @property
    def is_running(self) -> bool:
        return self.status == "running"

    @property
    def was_stopped(self) -> bool:
        """Whether it ended by itself without an error, or somebody stopped or paused it."""
        if self.status in {"exited", "stopped"}:
            return self.exit_status in _STATUS_BY_PEOPLE and not self.out_of_memory
        return self.status in {"created", "configured", "paused", "removing"}


def engines() -> tuple[str, ...]:
    """The engines that are installed, in the order in which they are asked."""
    return tuple(name for name in ENGINES if shutil.which(name))


async def container_state(name: str, *, run: Runs = run_program) -> ContainerState:
    """How a container is, by the first engine that knows it; EngineFailed if none does."""
    reasons = []
    for engine in engines():
        command = [engine, "inspect", "--type=container", "--format={{json .State}}", name]
        answer = await run(command, _ASK_TIMEOUT_S, _environment())
        if answer.status == 0:
            return _parsed(name, engine, answer.out)
        reasons.append(f"{engine}: {answer.reason}")
    raise EngineFailed("; ".join(reasons) or f"neither {' nor '.join(ENGINES)} is installed here")


def restart_command(state: ContainerState) -> list[str]:
    """The command that restarts the container."""
    return [state.engine, "restart", "-t", str(STOP_TIMEOUT_S), state.name]


async def restart(state: ContainerState, timeout_s: float, *, run: Runs = run_program) -> None:
    """Restart the container; EngineFailed if the engine could not."""
    answer = await run(restart_command(state), timeout_s, _environment())
    if answer.status:
        raise EngineFailed(f"{' '.join(restart_command(state))} failed: {answer.reason}")


def _parsed(name: str, engine: str, text: str) -> ContainerState:
    try:
        told: Mapping[str, Any] = json.loads(text)
        # Podman called it Healthcheck before version 4.
        health: Mapping[str, Any] = told.get("Health") or told.get("Healthcheck") or {}
        status = health.get("Status") or None
        return ContainerState(
            name=name,
            engine=engine,
            status=str(told["Status"]).lower(),
            health=None if status in (None, "none") else str(status).lower(),
            exit_status=int(told.get("ExitCode") or 0),
            out_of_memory=bool(told.get("OOMKilled")),
            says=_says(health, str(told.get("Error") or "")),
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise EngineFailed(f"{engine} describes {name} in a form that is not understood: {error}") from error


def _says(health: Mapping[str, Any], error: str) -> str:
    checks = health.get("Log") or []
    printed = str(checks[-1].get("Output") or "") if checks else ""
    return " ".join((printed or error).split())


def _environment() -> dict[str, str]:
    passed = {
        name: value for name, value in os.environ.items() if name in _PASSED or name.startswith(_PREFIXES)
    }
    return {**passed, "LC_ALL": "C.UTF-8"}
