"""Services of this host, and restarting those that fail: units, containers, and processes of maia up.

A service that somebody stopped is left alone. A restart has succeeded once the service is well and stays so
for some seconds.
"""

from __future__ import annotations

import asyncio
import os
import time
from abc import abstractmethod
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import replace
from typing import ClassVar, Final, Protocol

from atlas.composition import Atlas
from atlas.config import Settings
from maia.errors import MaiaError
from maia.maintainer.actions import Action, ActionFailed, Plan
from maia.maintainer.duties import DutyContext
from maia.maintainer.taking import Taker
from maia.maintenance import children, engines
from maia.maintenance.children import ChildProcess, failure_of
from maia.maintenance.engines import ContainerState
from maia.maintenance.findings import Finding
from maia.maintenance.health_terms import ServiceCondition, ServiceState
from maia.maintenance.programs import ProgramFailed
from maia.maintenance.systemctl import Runs, Systemd, UnitState, check_systemd, run_program
from maia.maintenance.unit_files import Scope

KIND: Final = "restart"
PRIVILEGED: Final = "pleiades-privileged@restart-{}.service"
"""The unit that restarts a service as root, for a user whom root lets start it."""
SETTLE_S: Final = 3.0
"""How long a service must stay well after a restart."""

_CONTAINER: Final = "container "
_CHILD: Final = "process "
_POLL_S: Final = 0.5
_START_LIMIT: Final = "start-limit-hit"
_FAILING: Final = frozenset({ServiceCondition.FAILED, ServiceCondition.UNHEALTHY})


class Check(Protocol):
    """Says why a URL does not answer; None if it does."""

    async def __call__(self, url: str, *, tries: int = ...) -> str | None: ...


async def service_states(atlas: Atlas) -> list[ServiceState]:
    """How the services are that the settings name, and the children of maia up; changes nothing.

    They are named after this host, such as node-1/pleiades.service, as other hosts may have the same.
    """
    actions = atlas.settings.maintainer.actions
    probes: list[Awaitable[Sequence[ServiceState]]] = [
        *(unit_states([name]) for name in actions.units),
        *(container_states([name]) for name in actions.containers),
    ]
    if actions.children:
        probes.append(child_states(atlas.settings))
    found = await asyncio.gather(*probes)
    node = atlas.settings.node_id
    return [replace(state, name=f"{node}/{state.name}") for states in found for state in states]


def restart_for(atlas: Atlas, finding: Finding) -> Action | None:
    """The restart of the service that the finding is about; None if it is none of this host's."""
    actions, node = atlas.settings.maintainer.actions, f"{atlas.settings.node_id}/"
    if not finding.subject.startswith(node):
        return None
    name = finding.subject.removeprefix(node)
    if name in actions.units:
        return RestartUnit(name, actions.timeout_s)
    if name.startswith(_CONTAINER) and name.removeprefix(_CONTAINER) in actions.containers:
        return RestartContainer(name.removeprefix(_CONTAINER), actions.timeout_s)
    if name.startswith(_CHILD) and actions.children:
        return EndChild(name.removeprefix(_CHILD), atlas.settings)
    return None


async def note_well(context: DutyContext, states: Iterable[ServiceState]) -> None:
    """Note which services are well, so that what was given up is tried again once that has lasted."""
    node = f"{context.atlas.settings.node_id}/"
    well = [each.name.removeprefix(node) for each in states if each.condition is ServiceCondition.RUNNING]
    if isinstance(context.taker, Taker):
        await context.taker.note_well(KIND, well)


class _Restart(Action):
    """Restarts a service of this host that fails, and sees whether it is well then."""

    kind: ClassVar[str] = KIND
    is_restart: ClassVar[bool] = True

    timeout_s: float
    settle_s: float = SETTLE_S

    async def apply(self, plan: Plan) -> str:
        async with asyncio.timeout(self.timeout_s):
            told = await self._restart()
        return f"{told}{await self._verified()}"

    async def _verified(self) -> str:
        """Wait until the service is well and stays so; ActionFailed if it doesn't in time."""
        deadline_s = time.monotonic() + self.timeout_s
        well_since_s: float | None = None
        while True:
            is_well, text = await self._look()
            now_s = time.monotonic()
            well_since_s = (well_since_s or now_s) if is_well else None
            if well_since_s is not None and now_s - well_since_s >= self.settle_s:
                return text
            if now_s >= deadline_s:
                raise ActionFailed(f"it is not well {self.timeout_s:g} s after the restart: {text}")
            await asyncio.sleep(min(_POLL_S, self.settle_s or _POLL_S))

    @abstractmethod
    async def _restart(self) -> str:
        """Restart it; returns what must be told besides, or nothing."""

    @abstractmethod
    async def _look(self) -> tuple[bool, str]:
        """Whether it is well now, and how it is in words."""


# Units of systemd


class RestartUnit(_Restart):
    """Restarts a unit that has failed: as root directly, or else by root's verb for that, if it has one."""

    about = "Restart a systemd unit that has failed."

    def __init__(self, unit: str, timeout_s: float, *, run: Runs = run_program) -> None:
        self.target, self.timeout_s, self._run = unit, timeout_s, run
        self._commands: list[tuple[Systemd, str, str]] = []
        self._systemd = Systemd(Scope.SYSTEM, run)

    async def plan(self) -> Plan | None:
        self._systemd, state = await _unit(self.target, self._run)
        if not state.loaded:
            raise ActionFailed(_NO_UNIT.format(self.target))
        if state.active != "failed":
            return None
        verb, unit = await self._by_whom()
        self._commands = [(self._systemd, verb, unit)]
        if state.result == _START_LIMIT and unit == self.target:
            # Otherwise systemd refuses to start it.
            self._commands.insert(0, (self._systemd, "reset-failed", unit))
        commands = tuple(" ".join(systemd.command(verb, unit)) for systemd, verb, unit in self._commands)
        return Plan(text=f"restart {self.target}, which {_told(state)}", commands=commands)

    async def _by_whom(self) -> tuple[str, str]:
        """The verb and the unit to ask systemd for."""
        if os.geteuid() == 0 or self._systemd.scope is Scope.USER:
            return "restart", self.target
        privileged = PRIVILEGED.format(self.target.removesuffix(".service"))
        [state] = await self._systemd.states([privileged])
        return ("start", privileged) if state.loaded else ("restart", self.target)

    async def _restart(self) -> str:
        for systemd, verb, unit in self._commands:
            await systemd.change(verb, unit)
        return ""

    async def _look(self) -> tuple[bool, str]:
        [state] = await self._systemd.states([self.target])
        # A service of the type oneshot is done, and not active any more, as soon as it has succeeded.
        is_well = state.active == "active" or (state.active == "inactive" and state.result == "success")
        return is_well, f"{self.target} {_told(state)}"


async def unit_states(units: Sequence[str], *, run: Runs = run_program) -> list[ServiceState]:
    """How units are, in their order."""
    return [await _unit_state(unit, run) for unit in units]


async def _unit_state(name: str, run: Runs) -> ServiceState:
    try:
        systemd, state = await _unit(name, run)
    except MaiaError as error:
        return ServiceState(name, ServiceCondition.FAILED, str(error), "maia doctor")
    if not state.loaded:
        return ServiceState(name, ServiceCondition.FAILED, _NO_UNIT.format(name), f"systemctl status {name}")
    condition = {"failed": ServiceCondition.FAILED, "inactive": ServiceCondition.STOPPED}.get(state.active)
    command = " ".join(systemd.command("status", name))
    return ServiceState(name, condition or ServiceCondition.RUNNING, _told(state), command)


_NO_UNIT = "there is no unit {}: correct PLEIADES_MAINTAINER__ACTIONS__UNITS, or run maia daemon install"


async def _unit(name: str, run: Runs) -> tuple[Systemd, UnitState]:
    """A unit's state, and the systemd that has it: the machine's, or else this user's own."""
    check_systemd(Scope.SYSTEM)
    systemd = Systemd(Scope.SYSTEM, run)
    [state] = await systemd.states([name])
    if state.loaded or os.geteuid() == 0:
        return systemd, state
    try:
        of_user = Systemd(Scope.USER, run)
        [state_of_user] = await of_user.states([name])
    except ProgramFailed:
        # This user has no systemd of its own.
        return systemd, state
    return (of_user, state_of_user) if state_of_user.loaded else (systemd, state)


def _told(state: UnitState) -> str:
    """A unit's state in words, such as "is failed (exit-code, status 3, restarted 5 times)"."""
    details = [
        "" if state.result in ("", "success") else state.result,
        f"status {state.last_status}" if state.last_status else "",
        f"restarted {state.restarts} times" if state.restarts > 1 else "",
    ]
    text = ", ".join(detail for detail in details if detail)
    return f"is {state.active}" + (f" ({text})" if text else "")


# Containers


class RestartContainer(_Restart):
    """Restarts a container that has died, or whose health check fails."""

    about = "Restart a container that has died, or that fails its health check."

    def __init__(self, container: str, timeout_s: float, *, run: engines.Runs = run_program) -> None:
        self.container, self.timeout_s, self._run = container, timeout_s, run
        self.target = f"{_CONTAINER}{container}"
        self._state: ContainerState | None = None

    async def plan(self) -> Plan | None:
        self._state = state = await engines.container_state(self.container, run=self._run)
        if _container_condition(state) not in _FAILING:
            return None
        return Plan(
            text=f"restart the {self.target}, which {_container_told(state)}",
            commands=(" ".join(engines.restart_command(state)),),
        )

    async def _restart(self) -> str:
        assert self._state is not None
        await engines.restart(self._state, self.timeout_s, run=self._run)
        return ""

    async def _look(self) -> tuple[bool, str]:
        state = await engines.container_state(self.container, run=self._run)
        is_well = state.is_running and state.health in (None, "healthy")
        return is_well, f"{self.target} {_container_told(state)}"


async def container_states(
    containers: Sequence[str], *, run: engines.Runs = run_program
) -> list[ServiceState]:
    """How containers are, in their order."""
    return [await _state_of_container(name, run) for name in containers]


async def _state_of_container(name: str, run: engines.Runs) -> ServiceState:
    try:
        state = await engines.container_state(name, run=run)
    except MaiaError as error:
        return ServiceState(f"{_CONTAINER}{name}", ServiceCondition.FAILED, str(error), "maia doctor")
    command = f"{state.engine} logs --tail 50 {name}"
    return ServiceState(f"{_CONTAINER}{name}", _container_condition(state), _container_told(state), command)


def _container_condition(state: ContainerState) -> ServiceCondition:
    if state.is_running:
        return ServiceCondition.UNHEALTHY if state.health == "unhealthy" else ServiceCondition.RUNNING
    if state.status == "restarting":
        return ServiceCondition.RUNNING
    return ServiceCondition.STOPPED if state.was_stopped else ServiceCondition.FAILED


def _container_told(state: ContainerState) -> str:
    details = [
        state.health or "",
        f"status {state.exit_status}" if not state.is_running and state.exit_status else "",
        "out of memory" if state.out_of_memory else "",
        state.says if state.health != "healthy" else "",
    ]
    text = ", ".join(detail for detail in details if detail)
    return f"is {state.status}" + (f" ({text})" if text else "")


# Children of maia up


class EndChild(_Restart):
    """Ends a process of maia up that runs but fails its check; maia up starts it again."""

    about = "End a process of maia up that runs but fails its check, so that it is started again."

    def __init__(self, name: str, settings: Settings, *, check: Check = failure_of) -> None:
        self.name, self.target, self._check = name, f"{_CHILD}{name}", check
        self.timeout_s = settings.maintainer.actions.timeout_s + settings.up.start_timeout_s
        self._grace_s, self._start_timeout_s = settings.up.stop_timeout_s, settings.up.start_timeout_s
        self._child: ChildProcess | None = None

    async def plan(self) -> Plan | None:
        for child in await _children(self.name):
            condition, text = await _child_condition(child, self._start_timeout_s, self._check)
            if condition is ServiceCondition.UNHEALTHY:
                self._child = child
                return Plan(
                    text=f"end {self.name} (process {child.process.pid}), which fails its check: {text}; "
                    "maia up starts it again",
                    commands=(f"kill -TERM {child.process.pid}",),
                )
        return None

    async def _restart(self) -> str:
        assert self._child is not None
        killed = await children.end(self._child, self._grace_s)
        return f"it had to be killed, as it did not end within {self._grace_s:g} s; " if killed else ""

    async def _look(self) -> tuple[bool, str]:
        assert self._child is not None
        old = self._child
        for child in await _children(self.name):
            if child.mark == old.mark and child.process != old.process:
                failure = await self._check(child.check, tries=1) if child.check else None
                return failure is None, failure or f"{self.name} runs as process {child.process.pid}"
        return False, f"maia up has not started {self.name} again"


async def child_states(settings: Settings, *, check: Check = failure_of) -> list[ServiceState]:
    """How the processes of maia up are that run on this host."""
    found = await _children()
    conditions = await asyncio.gather(
        *(_child_condition(child, settings.up.start_timeout_s, check) for child in found)
    )
    return [
        ServiceState(f"{_CHILD}{child.name}", condition, text, f"ps -fp {child.process.pid}")
        for child, (condition, text) in zip(found, conditions, strict=True)
    ]


async def _children(name: str | None = None) -> list[ChildProcess]:
    found = await asyncio.to_thread(children.running_children, os.environ)
    return [child for child in found if name is None or child.name == name]


async def _child_condition(
    child: ChildProcess, start_timeout_s: float, check: Check
) -> tuple[ServiceCondition, str]:
    failure = await check(child.check) if child.check else None
    if failure is None:
        return ServiceCondition.RUNNING, f"process {child.process.pid} runs"
    if child.age_s < start_timeout_s:
        return ServiceCondition.RUNNING, f"process {child.process.pid} is starting"
    return ServiceCondition.UNHEALTHY, failure
