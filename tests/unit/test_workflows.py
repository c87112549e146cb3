"""The workflows of GitHub: what an agent's exit status becomes, and what they may."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from maia.agents import AGENTS

ROOT = Path(__file__).resolve().parent.parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))

workflows = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def workflow(path: Path) -> dict[Any, Any]:
    """The workflow as YAML 1.1 has it: `on` is True there."""
    content: dict[Any, Any] = yaml.safe_load(path.read_text("utf-8"))
    return content


def named(name: str) -> dict[Any, Any]:
    return workflow(ROOT / f".github/workflows/{name}.yml")


@pytest.fixture
def cycle(tmp_path: Path) -> Any:
    """Runs the step of agent.yml with a fake docker whose `docker run` ends as the test requires."""
    [step] = named("agent")["jobs"]["cycle"]["steps"]
    calls = tmp_path / "calls"
    docker = tmp_path / "docker"
    docker.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >> {calls}\n[ "$1" != login ] || cat > {tmp_path}/password\n'
        '[ "$1" != run ] || exit "$STATUS"\n'
    )
    docker.chmod(0o755)

    def run(status: int, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        surroundings = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "STATUS": str(status),
            "IMAGE": "ghcr.io/Owner/Pleiades:latest",
            "AGENT": "hunter",
            "REGISTRY_USER": "somebody",
            "REGISTRY_TOKEN": "token",
            "DATABASE_URL": "postgresql://there",
        }
        answer = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            env=surroundings | environment,
            capture_output=True,
            text=True,
        )
        return answer, calls.read_text().splitlines() if calls.exists() else []

    return run


def test_a_cycle_runs_the_image_without_rights(cycle: Any, tmp_path: Path) -> None:
    answer, (login, pull, run) = cycle(0)
    assert (answer.returncode, answer.stdout) == (0, "")
    assert login.startswith("login ghcr.io")
    assert (tmp_path / "password").read_text() == "token\n"
    assert pull == "pull --quiet ghcr.io/owner/pleiades:latest"
    assert {"--read-only", "--cap-drop", "no-new-privileges"} <= set(run.split())
    assert run.endswith(" ghcr.io/owner/pleiades:latest python -m maia hunter --direct")
    assert "postgresql://there" not in run


def test_secrets_reach_the_container_by_name(cycle: Any) -> None:
    _, (*_, run) = cycle(0)
    [step] = named("agent")["jobs"]["cycle"]["steps"]
    passed = set(re.findall(r"--env (\w+)", run))
    assert {"DATABASE_URL", "YOUTUBE_API_KEY_POOL_JSON", "HF_TOKEN"} <= passed <= set(step["env"])


def test_75_is_a_notice(cycle: Any) -> None:
    answer, _ = cycle(75)
    assert answer.returncode == 0
    assert answer.stdout.startswith("::notice title=Rate limited, rotated::")


@pytest.mark.parametrize("status", [1, 2, 69, 78, 125, 137, 143])
def test_any_other_status_fails(cycle: Any, status: int) -> None:
    answer, _ = cycle(status)
    assert answer.returncode == status
    assert answer.stdout.startswith("::error ")
    assert f"status {status}" in answer.stdout


def test_without_a_database_nothing_is_run(cycle: Any) -> None:
    answer, calls = cycle(0, DATABASE_URL="")
    assert (answer.returncode, calls) == (78, [])
    assert "DATABASE_URL" in answer.stdout


def test_an_image_from_elsewhere_needs_no_login(cycle: Any) -> None:
    _, (pull, _) = cycle(0, IMAGE="registry.example/pleiades:1")
    assert pull == "pull --quiet registry.example/pleiades:1"


def test_every_agent_runs_on_schedule_and_by_hand_never_twice_at_once() -> None:
    reused = named("agent")
    run: list[str] = []
    for name in ("agents", "learner", "maintainer"):
        described = named(name)
        assert {"schedule", "workflow_dispatch"} == set(described[True])
        [job] = described["jobs"].values()
        assert job["uses"] == "./.github/workflows/agent.yml"
        assert set(job["secrets"]) <= set(reused[True]["workflow_call"]["secrets"])
        if "strategy" in job:
            assert (job["strategy"]["fail-fast"], job["with"]) == (False, {"agent": "${{ matrix.agent }}"})
            run += job["strategy"]["matrix"]["agent"]
        else:
            run.append(job["with"]["agent"])
        calls_youtube = [agent.ring is not None for agent in AGENTS if agent.name in run[-1:]]
        assert all(calls_youtube) == ("YOUTUBE_API_KEY_POOL_JSON" in job["secrets"])
    assert run == [agent.name for agent in AGENTS]
    assert reused["jobs"]["cycle"]["concurrency"] == {
        "group": "agent-${{ inputs.agent }}", "cancel-in-progress": False,
    }  # fmt: skip


@workflows
def test_nothing_is_permitted_but_what_a_job_names(path: Path) -> None:
    described = workflow(path)
    assert described["permissions"] == {}
    writes = {
        permission
        for job in described["jobs"].values()
        for permission, right in job.get("permissions", {}).items()
        if right == "write"
    }
    assert not writes or path.stem == "release"


@workflows
def test_actions_are_fixed_to_a_commit(path: Path) -> None:
    used = re.findall(r"uses: (\S+)", path.read_text("utf-8"))
    assert [action for action in used if not re.fullmatch(r"\./\S+|\S+@[0-9a-f]{40}", action)] == []


@workflows
def test_jobs_end_by_themselves(path: Path) -> None:
    jobs = workflow(path)["jobs"].values()
    assert [job for job in jobs if "uses" not in job and "timeout-minutes" not in job] == []


def test_the_gate_waits_for_every_job() -> None:
    jobs = dict(named("ci")["jobs"])
    gate = jobs.pop("gate")
    assert set(gate["needs"]) == set(jobs)
    assert gate["if"] == "always()"


@pytest.mark.parametrize(
    ("results", "passes"),
    [("success success", True), ("success failure", False), ("cancelled success", False), ("skipped", False)],
)
def test_the_gate_passes_only_if_all_passed(results: str, passes: bool) -> None:
    [step] = named("ci")["jobs"]["gate"]["steps"]
    answer = subprocess.run(["bash", "-e", "-c", step["run"]], env={"RESULTS": results}, capture_output=True)
    assert (answer.returncode == 0) == passes


def test_the_matrix_is_what_the_package_supports() -> None:
    supported = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text("utf-8"))
    assert named("ci")["jobs"]["test"]["strategy"]["matrix"]["python"] == supported
