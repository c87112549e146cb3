"""What an update needs of the running system: its backup, its services, its health, its record."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from atlas.composition import Atlas
from atlas.errors import AtlasError
from maia.errors import MaiaError
from maia.maintainer.actions import ActionState
from maia.maintenance.findings import Component
from maia.maintenance.programs import ProgramFailed, plain_environment, run
from maia.maintenance.updating.errors import LeftToPeople, UpdateFailed
from maia.maintenance.updating.procedure import Condition

if TYPE_CHECKING:
    from maia.maintenance.systemctl import Systemd

logger = logging.getLogger(__name__)

EVENT: Final = "maintainer.update"
_MIGRATE_TIMEOUT_S: Final = 3600.0
_CHECK_TIMEOUT_S: Final = 120.0
_PRIVILEGED: Final = "pleiades-privileged@restart-{}.service"
_CYCLE: Final = "pleiades-agent@maintainer.service"
_END_S: Final = 60.0
_BY_HAND: Final = (
    "run as root: maia daemon stop, then maia system update --only release --apply, then maia daemon start"
)


class LiveSurroundings:
    """The running system. Its services are the units that the settings name for restarts.

    Whatever else runs the product, such as timers and cron, starts from the new environment by itself.
    """

    def __init__(self, atlas: Atlas, on_step: Callable[[str, str], None] | None = None) -> None:
        self._atlas, self._on_step = atlas, on_step
        self._units = atlas.settings.maintainer.actions.units
        self._left_alone: set[str] | None = None
        """Units that people had stopped before the update, and that it doesn't start."""

    async def back_up(self) -> str:
        from atlas.backups.shelf import Shelf
        from maia.maintainer.backups import CreateBackup
        from maia.maintainer.taking import Taker

        shelf = Shelf.of(self._atlas.settings, self._atlas.db)
        creation = CreateBackup(self._atlas, shelf, lambda *_: None)
        taken = await Taker(self._atlas, [creation.kind], asked=True).take(creation)
        if taken is None or taken.state is not ActionState.APPLIED or creation.made is None:
            raise UpdateFailed("no backup was made" if taken is None else taken.result)
        return creation.made.manifest.name

    async def check_can_stop(self) -> None:
        """LeftToPeople unless this process may stop every service, and is not part of one."""
        for unit in self._units:
            if _is_within(unit):
                raise LeftToPeople(f"{unit} must stop to migrate, but this process is part of it: {_BY_HAND}")
            if os.geteuid() != 0 and _is_of_system(await self._systemd_of(unit)):
                raise LeftToPeople(f"only root may stop {unit} for the migration: {_BY_HAND}")

    async def stop(self) -> None:
        await self.check_can_stop()
        for unit in self._units:
            await (await self._systemd_of(unit)).change("stop", unit)

    async def start(self) -> None:
        for unit in self._wanted():
            if await self._state_of(unit) not in ("active", "activating", "reloading"):
                await self._change(await self._systemd_of(unit), "start", unit)

    async def restart(self) -> None:
        # The own unit comes last, as its restart ends this process.
        for unit in sorted(self._wanted(), key=_is_within):
            await self._change(await self._systemd_of(unit), "restart", unit)
        if self._is_old_cycle():
            # The next one runs from the environment in use now, and shows by that whether its release starts.
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(_END_S)

    def _is_old_cycle(self) -> bool:
        """Whether a timer started this process, from another environment than the one in use now."""
        from maia.maintenance.updating.environments import EnvironmentFolder

        root = self._atlas.settings.maintainer.updates.root
        current = None if root is None else EnvironmentFolder(root).current()
        return current is not None and _is_within(_CYCLE) and Path(sys.prefix) != current.path.resolve()

    def _wanted(self) -> list[str]:
        return [unit for unit in self._units if unit not in (self._left_alone or ())]

    async def _change(self, systemd: Systemd, verb: str, unit: str) -> None:
        """Start or restart a unit, by root's verb for that if only root may."""
        if os.geteuid() != 0 and _is_of_system(systemd):
            privileged = _PRIVILEGED.format(unit.removesuffix(".service"))
            [state] = await systemd.states([privileged])
            if state.loaded:
                await systemd.change("start", privileged)
                return
        await systemd.change(verb, unit)

    async def _systemd_of(self, unit: str) -> Systemd:
        from maia.maintenance.systemctl import Systemd
        from maia.maintenance.unit_files import Scope

        scopes = [Scope.SYSTEM] if os.geteuid() == 0 else [Scope.SYSTEM, Scope.USER]
        for scope in scopes:
            systemd = Systemd(scope)
            try:
                [state] = await systemd.states([unit])
            except ProgramFailed:
                continue
            if state.loaded:
                return systemd
        raise UpdateFailed(
            f"there is no unit {unit}: correct PLEIADES_MAINTAINER__ACTIONS__UNITS, or run "
            "maia daemon install"
        )

    async def condition(self) -> Condition:
        from maia.maintainer.health import look

        try:
            health = await look(self._atlas, besides=("maintainer",))
        except (AtlasError, MaiaError, OSError) as error:
            return Condition(score=0.0, problems={"health": f"the health can't be judged: {error}"})
        problems = {
            finding.key: finding.text
            for finding in health.judgement.findings
            if finding.component is Component.SERVICES
        }
        states = {unit: await self._state_of(unit) for unit in self._units}
        if self._left_alone is None:
            self._left_alone = {unit for unit, state in states.items() if state == "inactive"}
        down = {unit: f"{unit} is {state}" for unit, state in states.items() if state != "active"}
        return Condition(score=health.score, problems=problems | down)

    async def _state_of(self, unit: str) -> str:
        [state] = await (await self._systemd_of(unit)).states([unit])
        return state.active

    async def pending_migrations(self, python: Path) -> Sequence[str]:
        argv = (str(python), "-I", "-m", "maia", "migrate", "--check", "--json")
        finished = await run(
            argv, timeout_s=_CHECK_TIMEOUT_S, environment=plain_environment(with_settings=True)
        )
        try:
            pending: list[str] = json.loads(finished.out)["pending"]
        except (ValueError, KeyError, TypeError) as error:
            # Its error is on stdout, too, as JSON.
            why = finished.err.strip() or finished.last_words
            raise UpdateFailed(f"maia migrate --check of {python} failed: {why}") from error
        return pending

    async def migrate(self, python: Path) -> None:
        argv = (str(python), "-I", "-m", "maia", "migrate")
        environment = plain_environment(with_settings=True)
        (await run(argv, timeout_s=_MIGRATE_TIMEOUT_S, environment=environment)).check()
        if pending := await self.pending_migrations(python):
            raise UpdateFailed(f"these migrations are still pending: {', '.join(pending)}")

    async def record(self, step: str, text: str) -> None:
        if self._on_step is not None:
            self._on_step(step, text)
        try:
            await self._atlas.events.append(EVENT, {"step": step, "text": text}, agent="maintainer")
        except AtlasError as error:
            logger.error("the update's step is not recorded: %s", error, extra={"action": "step_lost"})

    async def alert(self, text: str) -> None:
        node = self._atlas.settings.node_id
        await self._atlas.notifier.notify(f"Update failed on {node}", text, level="error")


def _is_of_system(systemd: Systemd) -> bool:
    return systemd.scope.value == "system"


def _is_within(unit: str) -> bool:
    """Whether this process belongs to a unit, so that it ends with it."""
    try:
        groups = Path("/proc/self/cgroup").read_text("ascii", errors="replace")
    except OSError:
        return False
    return any(unit in line.split("/") for line in groups.splitlines())
