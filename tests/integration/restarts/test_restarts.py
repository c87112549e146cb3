"""Restarts of every kind of service, as the duty takes them."""

from __future__ import annotations

import os
import sys
from datetime import timedelta

import pytest

from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.config import Settings
from maia.maintainer import restarts
from maia.maintainer.actions import Action, ActionState
from maia.maintainer.duties import DutyContext
from maia.maintainer.restarts import EndChild, RestartContainer, RestartUnit
from maia.maintainer.taking import Taker
from maia.maintenance.findings import Component, Finding, Severity
from maia.stack.supervisor import Child, Supervisor
from tests.service_programs import ENGINE, RUNNING, UNHEALTHY, Programs, podman, restart_a, unit

pytestmark = pytest.mark.integration


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
