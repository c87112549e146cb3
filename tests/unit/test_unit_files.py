"""The files of the services: one source, what is installed of them, and what people changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.maintenance.unit_files import (
    PROGRAM_OF_SYSTEM,
    PROGRAM_OF_USER,
    FileState,
    Layout,
    NotInstallable,
    Record,
    Scope,
    UnitFile,
    difference,
    digest_of,
    files_of,
    remove_files,
    state_of,
    write_file,
)

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCE = ROOT / "deployments/systemd"
PROGRAM = Path("/srv/pleiades/bin/maia")
HOME = {"HOME": "/home/analyst"}


def layout_below(root: Path, scope: Scope = Scope.SYSTEM) -> Layout:
    return Layout.of(scope, {"HOME": str(root)}, root)


def test_without_a_home_it_says_what_to_do() -> None:
    with pytest.raises(NotInstallable, match=r"HOME is not set.*: set it, or install as root"):
        Layout.of(Scope.USER, {})


@pytest.mark.parametrize(("scope", "program"), [("system", PROGRAM_OF_SYSTEM), ("user", PROGRAM_OF_USER)])
def test_what_is_installed_is_what_the_repository_shows(scope: str, program: str) -> None:
    layout = Layout.of(Scope(scope), HOME)
    shown = {
        layout.units / path.relative_to(SOURCE / scope): path.read_text("utf-8")
        for path in (SOURCE / scope).rglob("*")
        if path.is_file()
    }
    files = {file.path: file.text for file in files_of(layout, PROGRAM)}
    assert len(shown) >= 7
    assert {path: files[path] for path in shown} == {
        path: text.replace(program, str(PROGRAM)) for path, text in shown.items()
    }


def test_root_s_part_is_installed_for_the_machine_alone() -> None:
    of_machine = {str(file.path): file for file in files_of(Layout.of(Scope.SYSTEM, {}), PROGRAM)}
    program = of_machine["/usr/local/libexec/pleiades-privileged"]
    assert program.mode == 0o755
    assert program.text.startswith("#!/usr/bin/python3 -IS\n")
    assert {"/etc/pleiades/privileged", "/etc/polkit-1/rules.d/49-pleiades.rules"} <= set(of_machine)
    of_user = [str(file.path) for file in files_of(Layout.of(Scope.USER, HOME), PROGRAM)]
    folders = ("/home/analyst/.config/systemd/user/", "/home/analyst/.config/pleiades/")
    assert all(path.startswith(folders) for path in of_user)


@pytest.mark.parametrize("scope", list(Scope))
def test_the_script_that_undoes_an_update_is_where_the_units_look_for_it(scope: Scope) -> None:
    """It belongs to no release, and learns from the program's path where environments are."""
    layout = Layout.of(scope, HOME)
    files = {str(file.path): file for file in files_of(layout, PROGRAM)}
    unit = files[str(layout.units / "pleiades.service")].text
    [line] = [line for line in unit.splitlines() if line.startswith("ExecStartPre=")]
    script, program = line.removeprefix("ExecStartPre=-").split()
    assert program == str(PROGRAM)
    assert files[script.replace("%E", "/home/analyst/.config")].mode == 0o755
    of_failures = files[str(layout.units / "pleiades-rollback.service")].text
    assert f"ExecStart={script} --failed {PROGRAM}\n" in of_failures


def test_a_user_s_folders_are_where_the_environment_says() -> None:
    given_folders = {"XDG_CONFIG_HOME": "/x/config", "XDG_DATA_HOME": "/x/data"}
    layout = Layout.of(Scope.USER, HOME | given_folders)
    assert (layout.units, layout.data) == (Path("/x/config/systemd/user"), Path("/x/data/pleiades"))
    with pytest.raises(NotInstallable, match="HOME"):
        Layout.of(Scope.USER, {})


def test_a_path_that_systemd_would_read_otherwise_is_written_so_that_it_does_not() -> None:
    [unit] = [
        file
        for file in files_of(Layout.of(Scope.USER, HOME), Path("/my 100%/$x/maia"))
        if file.path.name == "pleiades.service"
    ]
    assert 'ExecStart="/my 100%%/$$x/maia" up\n' in unit.text
    with pytest.raises(NotInstallable, match="plainer"):
        files_of(Layout.of(Scope.USER, HOME), Path('/my "home"/maia'))


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=80)


@given(installed=TEXTS, now=TEXTS, new=TEXTS)
def test_a_file_is_only_ours_to_overwrite_if_nobody_changed_it(installed: str, now: str, new: str) -> None:
    file = UnitFile(Path("/nowhere/unit"), new)
    record = Record("maia", (), {"/nowhere/unit": digest_of(installed)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maia.maintenance.unit_files.is_there", lambda path: True)
        patch.setattr("maia.maintenance.unit_files._content", lambda path: now)
        state = state_of(file, record)
        assert (state is FileState.SAME) == (now == new)
        assert (state is FileState.OUTDATED) == (now == installed != new)
        assert (state is FileState.CHANGED) == (now not in (installed, new))
        assert state_of(file, Record()) in {FileState.SAME, FileState.CHANGED}


def test_a_missing_file_and_a_link_in_its_place(tmp_path: Path) -> None:
    file = UnitFile(tmp_path / "unit", "text\n")
    assert state_of(file, Record()) is FileState.MISSING
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("text\n")
    file.path.symlink_to(elsewhere)
    assert state_of(file, Record()) is FileState.CHANGED
    write_file(file)
    assert not file.path.is_symlink()
    assert elsewhere.read_text() == "text\n"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = UnitFile(tmp_path / "folder/program", "new", 0o755)
    write_file(file)
    assert file.path.stat().st_mode & 0o777 == 0o755

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_file(UnitFile(file.path, "newer"))
    assert [path.read_text() for path in file.path.parent.iterdir()] == ["new"]


def test_what_somebody_changed_is_shown_as_a_diff(tmp_path: Path) -> None:
    file = UnitFile(tmp_path / "unit", "[Service]\nMemoryMax=4G\n")
    file.path.write_text("[Service]\nMemoryMax=9G\n")
    assert difference(file).splitlines()[-2:] == ["-MemoryMax=9G", "+MemoryMax=4G"]


def test_a_record_is_kept_and_a_broken_one_is_named(tmp_path: Path) -> None:
    layout = layout_below(tmp_path)
    assert Record.read(layout) == Record()
    record = Record("/opt/maia", ("pleiades.service",), {"/etc/x": "12"})
    record.write(layout)
    assert Record.read(layout) == record
    for broken in ('{"units": ', "[]", '{"program": 1}'):
        layout.record.write_text(broken)
        with pytest.raises(NotInstallable, match=r"installed\.json can't be read"):
            Record.read(layout)


def test_folders_of_ours_go_with_their_last_file(tmp_path: Path) -> None:
    drop_in = tmp_path / "pleiades-agent@x.service.d/limits.conf"
    foreign = tmp_path / "multi-user.target.wants/pleiades.service"
    for path in (drop_in, foreign):
        path.parent.mkdir()
        path.write_text("")
    remove_files([drop_in, foreign, tmp_path / "missing"])
    assert [path.name for path in tmp_path.iterdir()] == ["multi-user.target.wants"]
