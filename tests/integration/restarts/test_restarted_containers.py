"""Containers and their restarts: programs play podman and docker."""

from __future__ import annotations

import pytest

from maia.maintainer import restarts
from maia.maintainer.actions import ActionFailed
from maia.maintainer.restarts import RestartContainer
from maia.maintenance.health_terms import ServiceCondition, ServiceState
from tests.service_programs import (
    DOCKER_STATE,
    ENGINE,
    FAILED,
    RUNNING,
    STOPPED,
    UNHEALTHY,
    Programs,
    plan_of,
    podman,
)

pytestmark = pytest.mark.integration


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
