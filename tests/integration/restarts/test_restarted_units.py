"""Units and their restarts: a program plays systemctl."""

from __future__ import annotations

import os

import pytest

from maia.maintainer import restarts
from maia.maintainer.actions import ActionFailed
from maia.maintenance.health_terms import ServiceCondition, ServiceState
from maia.maintenance.systemctl import SystemdFailed
from tests.service_programs import FAILED, RUNNING, STOPPED, Programs, plan_of, restart_a, unit

pytestmark = pytest.mark.integration


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
