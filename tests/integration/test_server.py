"""The Prefect server that `maia hunter` starts for itself, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PROGRAM = """
import asyncio, sys
from flows import environment
environment.prepare()
from flows import server
from maia.errors import MaiaError
try:
    with server.reachable() as url:
        import httpx
        from prefect.settings import PREFECT_API_URL
        assert PREFECT_API_URL.value() == url
        print(url, httpx.get(url + "/health").status_code)
    try:
        httpx.get(url + "/health")
    except httpx.ConnectError:
        print("gone")
except MaiaError as error:
    sys.exit(str(error))
"""


def run(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=surroundings | {"PREFECT_HOME": str(tmp_path)} | environment,
        capture_output=True,
        text=True,
    )


def test_it_answers_while_it_is_needed_and_is_gone_then(tmp_path: Path) -> None:
    finished = run(tmp_path)

    assert finished.returncode == 0, finished.stderr
    answered, gone = finished.stdout.splitlines()
    assert answered.endswith("/api 200")
    assert gone == "gone"


def test_one_that_cannot_start_says_why_at_once(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/no/such/folder/prefect.db"
    finished = run(tmp_path, PREFECT_API_DATABASE_CONNECTION_URL=url)

    assert finished.returncode == 1
    [line] = finished.stderr.splitlines()
    assert line.startswith("Prefect's server did not start: ")
    assert "unable to open database file" in line
    assert line.endswith("maia hunter --direct")


def test_one_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    finished = run(tmp_path, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="0")

    assert finished.returncode == 1
    assert "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS" in finished.stderr
