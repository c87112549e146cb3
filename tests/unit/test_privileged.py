"""Root's verbs: only those of a list that root alone can write, with nothing from whoever asks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.maintenance import privileged
from maia.maintenance.privileged import Malformed, Refused, Unsafe, check_ownership, commands_of, main

OWNER = os.geteuid()
LIST = """
# What root does.
restart-pleiades  /bin/echo restart   pleiades.service
two               /bin/echo first
two               /bin/echo second
broken            /bin/false
broken            /bin/echo never
environment       /usr/bin/env
"""


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    path = tmp_path / "privileged"
    path.write_text(LIST)
    path.chmod(0o644)
    return path


def test_a_verb_is_a_command_by_its_words(allowed: Path) -> None:
    assert commands_of("restart-pleiades", allowed, OWNER) == [["/bin/echo", "restart", "pleiades.service"]]
    assert commands_of("two", allowed, OWNER) == [["/bin/echo", "first"], ["/bin/echo", "second"]]


@given(st.text(max_size=60))
def test_nothing_but_the_listed_verbs_is_carried_out(verb: str) -> None:
    lines = {line.split()[0] for line in LIST.splitlines() if line}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(privileged, "_safe_text", lambda path, owner: LIST)
        patch.setattr(privileged, "check_ownership", lambda path, owner=0: None)
        if verb in lines - {"#"}:
            assert commands_of(verb)
        else:
            with pytest.raises(Refused):
                commands_of(verb)


def test_commands_run_in_order_without_the_caller_s_environment(
    allowed: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD_LIKE", "x")
    assert main(["two"], allowed, OWNER) == 0
    assert main(["environment"], allowed, OWNER) == 0
    out = capfd.readouterr().out.splitlines()
    assert out[:2] == ["first", "second"]
    assert {line.partition("=")[0] for line in out[2:]} == set(privileged.ENVIRONMENT)


def test_the_first_command_that_fails_ends_the_verb(allowed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["broken"], allowed, OWNER) == 1
    assert "never" not in capfd.readouterr().out


def test_refusals_say_why(allowed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["reboot"], allowed, OWNER) == privileged.REFUSED
    assert main([], allowed, OWNER) == 2
    assert main(["two", "more"], allowed, OWNER) == 2
    allowed.chmod(0o666)
    assert main(["two"], allowed, OWNER) == privileged.CONFIGURATION
    told = capfd.readouterr().err
    assert "reboot is not among the verbs of" in told
    assert "nobody else may write it" in told


def test_a_list_below_a_folder_that_others_can_write_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    (folder / "privileged").write_text(LIST)
    folder.chmod(0o777)
    with pytest.raises(Unsafe, match="open must belong to root"):
        commands_of("two", folder / "privileged", OWNER)


def test_a_link_in_a_folder_that_others_can_write_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    (folder / "program").symlink_to("/bin/true")
    folder.chmod(0o777)
    with pytest.raises(Unsafe):
        check_ownership(folder / "program", OWNER)


def test_a_program_that_is_missing_or_no_file_is_not_run(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(Unsafe):
            check_ownership(path, OWNER)


@pytest.mark.parametrize("line", ["verb", "verb relative/program", "Verb /bin/true", "../x /bin/true"])
def test_a_line_that_is_no_verb_with_a_program_is_named(allowed: Path, line: str) -> None:
    allowed.write_text(f"{LIST}{line}\n")
    with pytest.raises(Malformed, match=rf"line {len(LIST.splitlines()) + 1}"):
        commands_of("two", allowed, OWNER)
