"""A real container of Podman: how it is, and restarting it once its health check fails."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from maia.maintainer import restarts
from maia.maintainer.restarts import RestartContainer
from maia.maintenance.health_terms import ServiceCondition

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not shutil.which("podman") or not shutil.which("cc"), reason="needs podman and cc"),
]

NAME = "pleiades-test"
PROGRAM = """
#include <string.h>
#include <unistd.h>

/* It is ill as long as there is a file that says so, which a start removes. */
int main(int count, char **words) {
    if (count > 1 && !strcmp(words[1], "check")) return access("/state/ill", F_OK) == 0;
    unlink("/state/ill");
    for (;;) pause();
}
"""
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")


def podman(*words: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["podman", *words], check=True, capture_output=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a running container sees as /state; it, its image and its store are gone afterwards."""
    store, state, image = tmp_path / "store", tmp_path / "state", tmp_path / "image"
    state.mkdir()
    (image / "bin").mkdir(parents=True)
    (tmp_path / "service.c").write_text(PROGRAM)
    subprocess.run(["cc", "-static", "-o", image / "bin/service", tmp_path / "service.c"], check=True)
    (tmp_path / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{store}"\nrunroot = "{store}-run"\n'
    )
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(tmp_path / "storage.conf"))
    archive = subprocess.run(["tar", "-c", "-C", image, "."], check=True, capture_output=True).stdout
    podman("import", "-", NAME, input=archive)
    try:
        podman(
            "run", "--detach", "--network=none", "--name", NAME, "--volume", f"{state}:/state", *LIMITS,
            "--health-cmd", '["/bin/service", "check"]', "--health-interval=disable", "--health-retries=2",
            "--stop-timeout=1", NAME, "/bin/service",
        )  # fmt: skip
        yield state
    finally:
        podman("rm", "--force", "--time=0", NAME)
        podman("rmi", "--force", NAME)


@pytest_asyncio.fixture
async def checking(state: Path) -> AsyncIterator[None]:
    """Runs the health check again and again, as systemd would."""

    async def check() -> None:
        while True:
            await asyncio.to_thread(
                subprocess.run, ["podman", "healthcheck", "run", NAME], capture_output=True
            )
            await asyncio.sleep(0.2)

    task = asyncio.create_task(check())
    yield
    task.cancel()
    await asyncio.wait({task})


async def condition() -> ServiceCondition:
    [state] = await restarts.container_states([NAME])
    return state.condition


@pytest.mark.usefixtures("checking")
async def test_one_whose_check_fails_is_restarted_and_well_again(state: Path) -> None:
    action = RestartContainer(NAME, 60)
    assert await action.plan() is None
    (state / "ill").touch()
    while await condition() is not ServiceCondition.UNHEALTHY:
        await asyncio.sleep(0.2)
    plan = await action.plan()
    assert plan is not None
    assert plan.text.startswith(f"restart the container {NAME}, which is running (unhealthy")
    assert await action.apply(plan) == f"container {NAME} is running (healthy)"
    assert not (state / "ill").exists()
    assert await action.plan() is None


async def test_one_that_somebody_stopped_is_left_alone(state: Path) -> None:
    podman("stop", "--time=0", NAME)
    assert await condition() is ServiceCondition.STOPPED
    assert await RestartContainer(NAME, 60).plan() is None


async def test_one_that_does_not_exist_has_failed(state: Path) -> None:
    [found] = await restarts.container_states(["pleiades-nowhere"])
    assert found.condition is ServiceCondition.FAILED
    assert "pleiades-nowhere" in found.text
