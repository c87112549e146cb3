"""What `maia up` refuses before it starts anything."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from atlas.errors import ConfigError
from atlas.testing import SettingsFactory
from maia.stack import preflight

pytestmark = pytest.mark.integration

KEY = {"YOUTUBE_API_KEY_POOL_JSON": "some-key"}


def up(environment: dict[str, str]) -> tuple[int, str]:
    """The status of `maia up`, and its one line."""
    command = [sys.executable, "-m", "maia", "up", "--json"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    [line] = finished.stderr.splitlines()
    told = {"error": line.removeprefix("maia: "), "exit_status": finished.returncode}
    assert json.loads(finished.stdout) == told
    return finished.returncode, line


def test_without_a_key_it_says_what_to_set_or_to_try(environment: dict[str, str]) -> None:
    status, line = up(environment)
    assert status == 78
    assert line.startswith(
        "maia: there is no API key for hunting and tracking: set YOUTUBE_API_KEY_POOL_JSON"
    )
    assert line.endswith("maia up --demo")


def test_only_the_keys_of_agents_that_run_are_needed(settings_factory: SettingsFactory) -> None:
    settings = settings_factory(
        database_url=None, youtube_api_key_pool_json='{"tracking": [{"key": "k", "project": "p"}]}'
    )
    preflight.check_keys(settings, ["tracking"])
    with pytest.raises(ConfigError, match="no API key for hunting:"):
        preflight.check_keys(settings, ["tracking", "hunting"])


def test_a_port_in_use_is_named(environment: dict[str, str]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        # The other port is any free one: a stack may be running on the machine.
        ports = {"PLEIADES_PREFECT__PORT": port, "PLEIADES_METRICS__PORT": "0"}
        status, line = up(environment | KEY | ports)
    assert status == 1
    expected = f"127.0.0.1:{port} (PLEIADES_PREFECT__PORT): Address already in use: stop the program that"
    assert expected in line


def test_an_agent_that_there_is_not_is_named(environment: dict[str, str]) -> None:
    status, line = up(environment | KEY | {"PLEIADES_PREFECT__AGENTS": "gatherer"})
    assert status == 78
    assert "there is no agent gatherer; the agents are hunter, tracker" in line


def test_a_full_disk_is_named_where_the_data_is_to_be(
    settings_factory: SettingsFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = settings_factory(database_url=None, data_dir=tmp_path / "data")
    preflight.check_disk(settings)
    monkeypatch.setattr(preflight, "TOO_LITTLE_DISK_BYTES", 1 << 62)
    with pytest.raises(preflight.DiskFull, match=f"MiB are free in {tmp_path}"):
        preflight.check_disk(settings)
    preflight.check_disk(settings_factory(database_url="postgresql://elsewhere/pleiades"))
