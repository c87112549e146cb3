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
from maia.commands import up as commands_up
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


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


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
        # The other ports are any free ones: a stack may be running on the machine.
        ports = {"PORT": "0", "PLEIADES_PREFECT__PORT": port, "PLEIADES_METRICS__PORT": "0"}
        status, line = up(environment | KEY | ports)
    assert status == 1
    expected = f"127.0.0.1:{port} (PLEIADES_PREFECT__PORT): Address already in use: stop the program that"
    assert expected in line


def test_the_first_line_is_where_the_dashboard_will_be(environment: dict[str, str]) -> None:
    port = free_port()
    ports = {"PORT": port, "PLEIADES_PREFECT__PORT": free_port(), "PLEIADES_METRICS__PORT": "0"}
    command = [sys.executable, "-m", "maia", "up"]
    with subprocess.Popen(
        command, env=environment | KEY | ports, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"Dashboard: http://127.0.0.1:{port} (in a moment)\n"
        process.terminate()


@pytest.mark.parametrize(
    ("settings", "is_demo", "line"),
    [
        ({"HOST": "::", "PORT": "8999"}, True, "Dashboard: http://[::1]:8999 (in a moment)\n"),
        # A key may be missing, without which nothing listens there.
        ({"HOST": "0.0.0.0", "PORT": "8999"}, False, ""),
        # Nobody knows yet which port it will be.
        ({"PORT": "0"}, False, ""),
    ],
)
def test_no_url_is_promised_that_may_not_come(
    settings: dict[str, str],
    is_demo: bool,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(preflight, "_why_unusable", lambda host, port: None)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    commands_up._greet(is_demo=is_demo, as_json=False)
    assert capsys.readouterr().out == line


@pytest.mark.parametrize("other", ["PLEIADES_PREFECT__PORT", "PLEIADES_METRICS__PORT"])
def test_a_port_for_two_is_named(environment: dict[str, str], other: str) -> None:
    ports = {"PLEIADES_PREFECT__PORT": free_port(), "PLEIADES_METRICS__PORT": "0"}
    ports |= {"PORT": "8999", other: "8999"}
    status, line = up(environment | KEY | ports)
    assert status == 1
    assert f"PORT and {other} are the same, 8999: set one to another port" in line


def test_where_others_can_call_a_key_is_needed_first(environment: dict[str, str]) -> None:
    anywhere = {"HOST": "0.0.0.0", "PORT": "0"}
    anywhere |= {"PLEIADES_PREFECT__PORT": free_port(), "PLEIADES_METRICS__PORT": "0"}
    command = [sys.executable, "-m", "maia", "up", "--json"]
    finished = subprocess.run(
        command, env=environment | KEY | anywhere, capture_output=True, text=True, timeout=60
    )
    started, error = map(json.loads, finished.stdout.splitlines())
    assert (started["event"], started["name"]) == ("started", "database")
    assert (finished.returncode, error["exit_status"]) == (78, 78)
    assert "maia keys api add NAME" in error["error"]


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
