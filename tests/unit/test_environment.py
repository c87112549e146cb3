"""What Prefect finds in the environment on machines of every kind."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from flows import environment


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home folder and a temporary folder of this test."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return folder


def prepared(**before: str) -> dict[str, str]:
    surroundings = dict(before)
    environment.prepare(surroundings)
    return surroundings


def test_defaults_fit_a_busy_machine_and_tell_nobody(home: Path) -> None:
    surroundings = prepared()
    assert surroundings["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] == "120"
    assert surroundings["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert surroundings["DO_NOT_TRACK"] == "1"


def test_what_is_set_stays(home: Path) -> None:
    chosen = {"PREFECT_SERVER_ANALYTICS_ENABLED": "true", "PREFECT_HOME": "/elsewhere"}
    surroundings = prepared(**chosen)
    assert {name: surroundings[name] for name in chosen} == chosen


def test_prefect_keeps_its_own_home_where_it_can_be_written(home: Path) -> None:
    assert "PREFECT_HOME" not in prepared()


@pytest.mark.parametrize("missing", [False, True])
def test_without_a_home_to_write_to_a_private_temporary_one_is_taken_again_and_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, missing: bool
) -> None:
    if missing:
        monkeypatch.setenv("HOME", "/dev/null/nobody")
    else:
        (home / ".prefect").write_text("a file, where a folder should be")
    first, second = prepared()["PREFECT_HOME"], prepared()["PREFECT_HOME"]

    assert first == second
    assert stat.S_IMODE(Path(first).stat().st_mode) == 0o700


def test_a_link_that_somebody_laid_there_is_not_followed(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", "/dev/null/nobody")
    trap = tmp_path / "trap"
    trap.mkdir()
    (tmp_path / f"pleiades-prefect-{os.geteuid()}").symlink_to(trap)

    chosen = Path(prepared()["PREFECT_HOME"])
    assert not chosen.is_symlink()
    assert chosen != trap


def test_whom_nobody_gave_a_home_gets_the_private_temporary_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home(_: type[Path]) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", classmethod(no_home))
    surroundings = prepared()
    assert surroundings["HOME"] == surroundings["PREFECT_HOME"]
    assert stat.S_IMODE(Path(surroundings["HOME"]).stat().st_mode) == 0o700
