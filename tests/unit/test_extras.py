"""What an error message recommends to install must work where it is read."""

from __future__ import annotations

import json
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from atlas import extras

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


class Installed:
    """A distribution as pip leaves it behind."""

    requires = (
        "aiohttp<4,>=3.12",
        'matplotlib<4,>=3.10; extra == "plots"',
        'pillow>=11; extra == "plots"',
        "s3fs>=2025.3; extra == 's3'",
    )

    def __init__(self, origin: dict[str, Any] | None) -> None:
        self.origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return json.dumps(self.origin) if self.origin else None


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a virtual environment that has pip."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "pip").touch()
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def installed(monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any] | None) -> None:
    monkeypatch.setattr(extras, "distribution", lambda name: Installed(origin))


def test_a_clone_is_installed_again_with_the_extra(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, {"url": f"file://{environment}", "dir_info": {"editable": True}})
    assert extras.how_to_install("plots") == ".venv/bin/pip install -e '.[plots]'"


def test_a_clone_elsewhere_is_named_by_its_path(
    environment: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed(monkeypatch, {"url": "file:///srv/my%20clone", "dir_info": {"editable": True}})
    assert extras.how_to_install("s3") == ".venv/bin/pip install -e '/srv/my clone[s3]'"


@pytest.mark.parametrize("origin", [None, {"url": "file:///dist/a.whl", "archive_info": {}}])
def test_a_wheel_gets_the_packages_of_the_extra_and_never_our_name_from_an_index(
    environment: Path, monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any] | None
) -> None:
    installed(monkeypatch, origin)
    assert extras.how_to_install("plots") == ".venv/bin/pip install 'matplotlib<4,>=3.10' 'pillow>=11'"
    assert extras.how_to_install("s3") == ".venv/bin/pip install 's3fs>=2025.3'"


def test_an_environment_without_pip_is_named_to_another_pip(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (environment / ".venv/bin/pip").unlink()
    installed(monkeypatch, None)
    assert extras.how_to_install("s3") == (
        f"pip --python {environment}/.venv/bin/python install 's3fs>=2025.3'"
    )


@pytest.mark.parametrize("extra", ["parquet", "plots", "s3"])
def test_every_extra_of_this_very_installation_can_be_named(extra: str) -> None:
    assert extras.DISTRIBUTION + "[" not in extras.how_to_install(extra)


def test_the_distribution_has_its_own_name() -> None:
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    assert project["name"] == extras.DISTRIBUTION == "pleiades-agents"
    assert version(extras.DISTRIBUTION) == project["version"]
