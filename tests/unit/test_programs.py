"""Programs that are run to their end: what they are given, what they leave behind, how they fail."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import psutil
import pytest

from maia.maintenance.programs import Finished, ProgramFailed, plain_environment, run, run_to_its_end
from tests.waiting import until

LEAVES_ONE = "sleep 600 >/dev/null 2>&1 & echo $!"


def is_alive(pid: int) -> bool:
    """Whether it runs; one that has ended may still wait for whoever adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_what_is_written_and_given_goes_through() -> None:
    finished = await run(["/bin/cat"], timeout_s=30, text="Grüße")
    assert finished == Finished(0, "Grüße", "", "/bin/cat")


async def test_a_program_runs_without_any_room_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    # What tempfile does if every disk is full.
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null/full")
    assert (await run(["/bin/cat"], timeout_s=30, text="well")).out == "well"
    assert (await run_to_its_end(["/bin/echo", "well"], timeout_s=30, environment={})).out == "well\n"


@pytest.mark.parametrize("ends_all", [True, False])
async def test_what_stays_in_the_background_ends_with_it_only_if_asked(ends_all: bool) -> None:
    finished = await run(["/bin/sh", "-c", LEAVES_ONE], timeout_s=30, ends_all=ends_all)
    left = int(finished.out)
    if not ends_all:
        assert is_alive(left)
        os.kill(left, signal.SIGKILL)
    until("its end", lambda: not is_alive(left), 30)


@pytest.mark.parametrize("ends_all", [True, False])
async def test_one_that_hangs_is_ended(ends_all: bool) -> None:
    with pytest.raises(ProgramFailed, match=r"/bin/sleep took more than 0\.1 s"):
        await run(["/bin/sleep", "600"], timeout_s=0.1, ends_all=ends_all)
    assert [child.name() for child in psutil.Process().children() if child.name() == "sleep"] == []


async def test_a_missing_one_is_named() -> None:
    with pytest.raises(ProgramFailed, match=r"/nowhere/maia can't be started: No such file"):
        await run(["/nowhere/maia"], timeout_s=30)


async def test_a_failure_is_told_by_its_last_words() -> None:
    finished = await run(
        ["/bin/sh", "-c", "echo a; echo; echo b; echo c >&2; echo d >&2; exit 3"], timeout_s=30
    )
    assert finished.last_words == "a\nb\nc\nd"
    assert finished.reason == "b / c / d"
    with pytest.raises(ProgramFailed, match="sh ended with status 3: a\nb"):
        finished.check()
    assert Finished(1, "", "").reason == "status 1"


def test_secrets_are_passed_on_only_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLEIADES_X", "1")
    monkeypatch.setenv("PYTHONPATH", "/src")
    assert {"PLEIADES_X", "PYTHONPATH"}.isdisjoint(plain_environment())
    assert plain_environment(with_settings=True)["PLEIADES_X"] == "1"
