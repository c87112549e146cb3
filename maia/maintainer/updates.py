"""The duties `updates` and `upgrade`: look for updates of the system and of Pleiades, and install them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

from atlas.adapters.patterns import PatternsDAO
from atlas.composition import Atlas
from atlas.wording import counted
from maia.errors import MaiaError
from maia.maintainer.actions import Action, ActionFailed, ActionState, Plan
from maia.maintainer.duties import DutyContext, DutyReport
from maia.maintainer.update_surroundings import LiveSurroundings
from maia.maintenance.updating.building import PLEIADES, Builder, find_uv
from maia.maintenance.updating.environments import EnvironmentFolder
from maia.maintenance.updating.looking import EVERY_PART, Part, Updates, look
from maia.maintenance.updating.packages import install, install_command, without_strangers
from maia.maintenance.updating.procedure import Patience, Procedure, Target
from maia.maintenance.updating.versions import this_python
from maia.views.words import plain

KEY_PREFIX: Final = "updates."
_REFRESH: Final = "pleiades-privileged@packages-refresh.service"
_INSTALL: Final = "pleiades-privileged@packages.service"
PRIVILEGED: Final = (_REFRESH, _INSTALL)
"""The units by which root updates packages for us, by its own list of what may be updated."""

_T = TypeVar("_T")

OnStep = Callable[[str, str], None]


async def check_updates(context: DutyContext) -> DutyReport:
    """Look for updates and suggest them to people; finish an update that was interrupted."""
    atlas = context.atlas
    await finish_update(context)
    context.progress("looking for updates", 0, 1)
    found = await look(atlas.settings.maintainer.updates, atlas.clock.now())
    await _suggest(atlas, found)
    context.progress("looking for updates", 1, 1)
    said = found.sentences()
    return DutyReport(summary=" ".join(said.values()) or "Everything is up to date.", details=as_dict(found))


async def upgrade(context: DutyContext) -> DutyReport:
    """Install what is allowed: first system packages, then our release into an environment of its own."""
    await upgrade_parts(context, EVERY_PART)
    states = {each.kind: each.state.value for each in context.taken}
    results = [f"{each.result}." for each in context.taken if each.state is not ActionState.PLANNED]
    planned = [
        f"{each.plan.text} (only planned)." for each in context.taken if each.state is ActionState.PLANNED
    ]
    return DutyReport(
        summary=" ".join([*results, *planned]) or "There was nothing to install.",
        details={"actions": states},
        failed=any(each.state is ActionState.FAILED for each in context.taken),
    )


async def upgrade_parts(context: DutyContext, parts: Collection[Part], on_step: OnStep | None = None) -> None:
    """Take the actions that update these parts."""
    atlas = context.atlas
    await finish_update(context, on_step)
    actions = actions_for(atlas, parts, on_step)
    for done, action in enumerate(actions):
        context.progress(action.about, done, len(actions))
        await context.take(action)
    context.progress("done", len(actions), len(actions))


def actions_for(atlas: Atlas, parts: Collection[Part], on_step: OnStep | None = None) -> list[Action]:
    """The actions that update these parts, in order."""
    actions: list[Action] = [InstallPackages(atlas)] if Part.SYSTEM in parts else []
    if {Part.ENVIRONMENT, Part.RELEASE} & set(parts):
        actions.append(InstallRelease(atlas, parts, on_step))
    return actions


async def finish_update(context: DutyContext, on_step: OnStep | None = None) -> None:
    """Finish an update that was interrupted, such as by the restart that was part of it."""
    if context.atlas.settings.maintainer.updates.root is not None:
        await context.take(FinishUpdate(context.atlas, on_step))


def as_dict(found: Updates) -> dict[str, Any]:
    """What was found, as plain values; of the environment only its Python and the version of ours."""
    values: dict[str, Any] = _with_texts(plain(replace(found, environment=None)))
    if found.system is not None:
        for value, each in zip(values["system"]["packages"], found.system.packages, strict=True):
            value["security"] = each.is_security
    del values["environment"]
    return values | {
        "installed": found.installed,
        "python": None if found.environment is None else str(found.environment.python),
        "in_words": {part.value: text for part, text in found.sentences().items()},
    }


def _with_texts(value: Any) -> Any:
    """The same with paths as text, which JSON can hold."""
    if isinstance(value, dict):
        return {name: _with_texts(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_with_texts(each) for each in value]
    return str(value) if isinstance(value, Path) else value


async def _suggest(atlas: Atlas, found: Updates) -> None:
    """Renew this host's suggestions, and withdraw those that no longer hold."""
    dao = PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    node, said = atlas.settings.node_id, found.sentences()
    async with dao.transaction() as joined:
        for part in Part:
            key = f"{KEY_PREFIX}{part}.{node}"
            if part not in said:
                await joined.withdraw_suggestion(key)
                continue
            await joined.suggest(
                key,
                "updates",
                f"On {node}: {said[part]}"[:2000],
                command=f"maia system update --only {part} --apply",
                evidence=_evidence(found, part),
            )


def _evidence(found: Updates, part: Part) -> dict[str, Any]:
    match part:
        case Part.SYSTEM:
            packages = () if found.system is None else found.system.packages
            return {
                "packages": {each.name: [each.old, each.new, each.verdict.value] for each in packages},
                "security": [each.name for each in packages if each.is_security],
            }
        case Part.ENVIRONMENT:
            return {each.name: [each.installed, each.wanted, each.kind] for each in found.differences}
        case Part.RELEASE:
            return {
                "installed": found.installed,
                "available": None if found.release is None else found.release.version,
            }


# Actions


class InstallPackages(Action):
    """Updates the system packages that the settings permit: as root directly, or by root's own units."""

    kind: ClassVar[str] = "packages"
    about: ClassVar[str] = "Update system packages of permitted origins."
    disturbs: ClassVar[bool] = True

    def __init__(self, atlas: Atlas) -> None:
        self.target = "system packages"
        self._atlas = atlas
        self._settings = atlas.settings.maintainer.updates

    async def plan(self) -> Plan | None:
        found = await look(self._settings, self._atlas.clock.now(), parts={Part.SYSTEM})
        if found.system is None or not found.system.permitted:
            return None
        refused = () if os.geteuid() == 0 else found.system.refused_by_root
        permitted = await without_strangers(
            [each for each in found.system.permitted if each.name not in refused],
            timeout_s=self._settings.timeout_s,
        )
        if not permitted:
            return None
        self._permitted = permitted
        security = sum(each.is_security for each in permitted)
        direct = (shlex.join(install_command(permitted)),)
        return Plan(
            text=f"update {counted(len(permitted), 'system package')}, {security} of them for security",
            commands=direct if os.geteuid() == 0 else tuple(f"systemctl start {unit}" for unit in PRIVILEGED),
            details={each.name: f"{each.old} → {each.new}" for each in permitted},
        )

    async def apply(self, plan: Plan) -> str:
        if os.geteuid() == 0:
            return await _as_action(install(self._permitted, timeout_s=self._settings.timeout_s))
        from maia.maintenance.systemctl import Systemd
        from maia.maintenance.unit_files import Scope

        systemd = Systemd(Scope.SYSTEM)
        states = await systemd.states(PRIVILEGED)
        if not all(state.loaded for state in states):
            raise ActionFailed(
                "only root may update system packages: run maia daemon install --system as root, which lets "
                "this service do it, or run maia system update --only system --apply as root"
            )
        await systemd.change("start", _REFRESH)
        await self._check_policy()
        await systemd.change("start", _INSTALL)
        left = await look(self._settings, self._atlas.clock.now(), parts={Part.SYSTEM})
        remaining = 0 if left.system is None else len(left.system.permitted)
        return f"root updated system packages by /etc/apt/pleiades.preferences; {remaining} are left"

    async def _check_policy(self) -> None:
        """ActionFailed if root's units would update what the settings don't permit, by the lists of now."""
        found = await look(self._settings, self._atlas.clock.now(), parts={Part.SYSTEM})
        if found.system is None:
            raise ActionFailed(f"nobody knows what root's units would update: {'; '.join(found.notes)}")
        if uninvited := found.system.only_by_root:
            raise ActionFailed(
                f"root's units would also update {', '.join(uninvited)}, which the settings do not permit: "
                "block them in /etc/apt/pleiades.preferences as well, or permit them in "
                "PLEIADES_MAINTAINER__UPDATES__ORIGINS and …__BLOCK"
            )


class _ReleaseAction(Action):
    """What installs a release into its own environment, or finishes that."""

    kind: ClassVar[str] = "update"
    disturbs: ClassVar[bool] = True
    is_restart: ClassVar[bool] = True

    def __init__(self, atlas: Atlas, on_step: OnStep | None = None) -> None:
        self._atlas, self._on_step = atlas, on_step
        self._settings = atlas.settings.maintainer.updates
        self.target = str(self._settings.root or "environment")

    def _procedure(self) -> Procedure:
        assert self._settings.root is not None
        return procedure_of(self._atlas, self._on_step)


class InstallRelease(_ReleaseAction):
    """Installs the newest release with the versions of the constraints, and goes back if it is not well."""

    about: ClassVar[str] = "Install our release into a new environment and switch to it."

    def __init__(
        self, atlas: Atlas, parts: Collection[Part] = EVERY_PART, on_step: OnStep | None = None
    ) -> None:
        super().__init__(atlas, on_step)
        self._parts = set(parts) - {Part.SYSTEM}

    async def plan(self) -> Plan | None:
        found = await look(self._settings, self._atlas.clock.now(), parts=self._parts)
        if found.target is None or found.environment is None:
            return None
        self._target, self._builder = found.target, self._builder_of(found)
        environment = EnvironmentFolder(Path(self.target)).new(self._atlas.clock.now())
        requirements = found.target.requirements(PLEIADES.distribution)
        built = [
            shlex.join(command)
            for command in self._builder.commands(environment, requirements, Path(self.target) / "work/cache")
        ]
        return Plan(
            text=_plan_in_words(found, found.target),
            commands=(*built, f"ln -s {environment.path} current.next && mv -T current.next current"),
            details=as_dict(found),
        )

    def _builder_of(self, found: Updates) -> Builder:
        assert self._settings.wheelhouse is not None
        assert found.environment is not None
        return Builder(
            wheelhouse=self._settings.wheelhouse.absolute(),
            constraints=None if self._settings.constraints is None else self._settings.constraints.absolute(),
            base_python=found.environment.base_python,
            timeout_s=self._settings.timeout_s,
            uv=find_uv(found.environment.python, this_python()),
        )

    async def apply(self, plan: Plan) -> str:
        procedure = self._procedure()
        surroundings = procedure.surroundings
        if self._target.migrates and isinstance(surroundings, LiveSurroundings):
            await surroundings.check_can_stop()
        return await _as_action(procedure.install(self._target, self._builder, self._atlas.clock.now()))


def _plan_in_words(found: Updates, target: Target) -> str:
    again = " again" if target.version == found.installed else f" over {found.installed}"
    text = f"install release {target.version}{again} into a new environment beside the one in use"
    if found.is_first:
        text = f"install release {target.version} into the first environment"
    if found.differences:
        text += f", with {counted(len(found.differences), 'package')} at another version"
    if target.migrates:
        return (
            f"{text}; it has migrations: stop everything, back up, switch, migrate and start. From the first "
            "migration on, only the backup leads back"
        )
    return f"{text}: back up, build, test, switch, restart and check, and go back if anything fails"


class FinishUpdate(_ReleaseAction):
    """Finishes an update that was interrupted: checks what is in use now, or goes back."""

    about: ClassVar[str] = "Finish an update that was interrupted."
    # It can't wait for a window: nobody knows whether what is in use works, and services may be stopped.
    disturbs: ClassVar[bool] = False

    def __init__(self, atlas: Atlas, on_step: OnStep | None = None) -> None:
        super().__init__(atlas, on_step)
        # A thing of its own, as the attempt that was interrupted must not hold it back.
        self.target = f"unfinished update in {self._settings.root}"

    async def plan(self) -> Plan | None:
        if self._settings.root is None:
            return None
        journal = EnvironmentFolder(self._settings.root).journal()
        if journal is None:
            return None
        return Plan(
            text=f"finish the update to {journal.version}, which was interrupted while {journal.phase}"
        )

    async def apply(self, plan: Plan) -> str:
        return await _as_action(self._procedure().finish()) or "it was finished already"


def procedure_of(atlas: Atlas, on_step: OnStep | None = None) -> Procedure:
    """The procedure in the folder that the settings name."""
    settings = atlas.settings.maintainer.updates
    if settings.root is None:
        raise ActionFailed(
            "there is no folder of environments: set PLEIADES_MAINTAINER__UPDATES__ROOT to one, such as "
            "/var/lib/pleiades/environments"
        )
    return Procedure(
        folder=EnvironmentFolder(settings.root),
        product=PLEIADES,
        surroundings=LiveSurroundings(atlas, on_step),
        keep=settings.keep,
        patience=Patience(settle_s=settings.settle_s),
    )


async def _as_action(work: Awaitable[_T]) -> _T:
    """The result of the work; what it can't do is the action's failure."""
    try:
        return await work
    except MaiaError as error:
        raise ActionFailed(str(error)) from error
