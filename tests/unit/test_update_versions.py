"""Versions: environments against constraints, the newest release of a wheelhouse, and what a wheel holds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.maintenance.updating.errors import UpdateFailed
from maia.maintenance.updating.versions import (
    Difference,
    Installed,
    ask_environment,
    compare,
    extras_in_use,
    has_wheel,
    is_newer,
    kind_of_change,
    newest_on_index,
    newest_release,
    read_constraints,
    unpacked_bytes,
)
from tests.wheels import write_wheel

NAME = "pleiades-agents"


def installed(**packages: str) -> Installed:
    python = Path(sys.executable)
    return Installed(python=python, base_python=python, python_version="3.11.7", packages=packages)


def constraints(folder: Path, text: str) -> Path:
    path = folder / "constraints.txt"
    path.write_text(text)
    return path


class TestConstraints:
    def test_are_read_as_pip_does(self, tmp_path: Path) -> None:
        path = constraints(
            tmp_path, "# ours\nNumPy==2.3.1\n\nurllib3<3,>=2  # a range\nold==1 ; python_version < '3.9'\n"
        )
        assert [str(each) for each in read_constraints(path)] == [
            "NumPy==2.3.1", "urllib3<3,>=2", 'old==1; python_version < "3.9"',
        ]  # fmt: skip

    def test_hashes_are_read_over(self, tmp_path: Path) -> None:
        path = constraints(tmp_path, "six==1.17.0 \\\n    --hash=sha256:aaaa\nidna==3 --hash=sha256:bb\n")
        assert [str(each) for each in read_constraints(path)] == ["six==1.17.0", "idna==3"]

    def test_a_wrong_line_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UpdateFailed, match=r"line 2 of .* is no constraint"):
            read_constraints(constraints(tmp_path, "six==1\n-r other.txt\n"))

    def test_a_missing_file_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(UpdateFailed, match="can't be read"):
            read_constraints(tmp_path / "none.txt")


class TestComparing:
    def differences(self, text: str, tmp_path: Path, **packages: str) -> list[Difference]:
        return compare(installed(**packages), read_constraints(constraints(tmp_path, text)))

    def test_names_what_differs_and_how(self, tmp_path: Path) -> None:
        found = self.differences(
            "a==2.0\nb==1.3\nc==1.2.4\nd==1.0\ne<3\nf==1\n",
            tmp_path, a="1.9", b="1.2.9", c="1.2.3", d="1.1", e="3.1", f="1.0.0",
        )  # fmt: skip
        assert [str(each) for each in found] == [
            "a 1.9 → 2.0 (major)",
            "b 1.2.9 → 1.3 (minor)",
            "c 1.2.3 → 1.2.4 (patch)",
            "d 1.1 → 1.0 (a downgrade)",
            "e 3.1 → <3 (outside its range)",
        ]

    def test_what_is_not_installed_or_of_another_python_does_not_matter(self, tmp_path: Path) -> None:
        text = "missing==2\nold==2 ; python_version < '3.11'\nnew==2 ; python_full_version >= '3.11.8'\n"
        assert self.differences(text, tmp_path, old="1", new="1") == []

    def test_names_are_compared_in_their_canonical_form(self, tmp_path: Path) -> None:
        found = compare(
            installed(**{"typing-extensions": "4.0"}),
            read_constraints(constraints(tmp_path, "Typing_Extensions==4.1\n")),
        )
        assert [each.name for each in found] == ["typing-extensions"]

    @given(st.tuples(*[st.integers(0, 3)] * 6))
    def test_the_kind_is_the_first_part_that_differs(self, parts: tuple[int, ...]) -> None:
        old, new = parts[:3], parts[3:]
        kind, is_downgrade = kind_of_change(*(".".join(map(str, each)) for each in (old, new)))
        first = next((place for place in range(3) if old[place] != new[place]), 2)
        assert kind == ("major", "minor", "patch")[first]
        assert is_downgrade == (new < old)

    def test_whatever_is_no_version_is_other(self) -> None:
        assert kind_of_change("1.0", "<3") == ("other", False)
        assert is_newer("1.0", None)
        assert is_newer("1.10", "1.9")
        assert not is_newer("1.9", "1.10")


class TestReleases:
    def test_the_newest_that_runs_here_with_its_migrations(self, tmp_path: Path) -> None:
        for version in ("0.9.0", "0.10.0", "0.11.0rc1"):
            write_wheel(tmp_path, NAME, version, {"atlas/sql/migrations/0001_first.sql": "SELECT 1;"})
        write_wheel(tmp_path, NAME, "2.0", {}, requires_python=">=3.12")
        write_wheel(tmp_path, "pleiades-other", "9.0", {})
        release, notes = newest_release(tmp_path, NAME, "3.11.7")
        assert release is not None
        assert (release.version, release.migrations) == ("0.10.0", ("0001_first",))
        assert release.wheel == tmp_path / "pleiades_agents-0.10.0-py3-none-any.whl"
        assert len(notes) == 1
        assert "needs Python >=3.12, not 3.11.7" in notes[0]

    def test_a_torn_wheel_is_left_out(self, tmp_path: Path) -> None:
        write_wheel(tmp_path, NAME, "1.0", {})
        whole = write_wheel(tmp_path, NAME, "1.1", {"maia/x.py": "x = 1\n" * 1000})
        whole.write_bytes(whole.read_bytes()[:-100])
        (tmp_path / "not-a-wheel.whl").touch()
        release, notes = newest_release(tmp_path, NAME, "3.11.7")
        assert release is not None
        assert release.version == "1.0"
        assert "can't be read" in notes[0]

    def test_an_empty_folder_has_none(self, tmp_path: Path) -> None:
        assert newest_release(tmp_path, NAME, "3.11.7") == (None, [])

    def test_extras_in_use_are_known_by_their_packages(self, tmp_path: Path) -> None:
        wheel = write_wheel(
            tmp_path, NAME, "1.0", {},
            requires=("aiohttp>=3", 's3fs>=1; extra == "s3"', 'matplotlib>=3; extra == "plots"'),
            extras=("plots", "s3"),
        )  # fmt: skip
        release, _ = newest_release(tmp_path, NAME, "3.11.7")
        assert release is not None
        assert wheel.exists()
        assert release.extras == {"plots": ("matplotlib",), "s3": ("s3fs",)}
        assert extras_in_use(release, installed(aiohttp="3", s3fs="2")) == ("s3",)
        assert extras_in_use(release, installed(aiohttp="3")) == ()

    def test_the_space_is_that_of_the_newest_wheels(self, tmp_path: Path) -> None:
        write_wheel(tmp_path, "big", "1.0", {"big/a.py": "#" * 100_000})
        write_wheel(tmp_path, "big", "1.1", {"big/a.py": "#" * 300_000})
        assert 300_000 < unpacked_bytes(tmp_path) < 310_000
        assert has_wheel(tmp_path, "big")
        assert not has_wheel(tmp_path, "bi")


async def test_an_environment_is_asked_itself() -> None:
    found = await ask_environment(Path(sys.executable))
    assert found.packages["pytest"] == pytest.__version__
    assert found.base_python.exists()
    assert found.python_version == ".".join(map(str, sys.version_info[:3]))


def stand_in(folder: Path, name: str, body: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


class TestIndex:
    async def test_pip_is_asked(self, tmp_path: Path) -> None:
        pip = stand_in(tmp_path, "python", f"echo '{NAME} (1.2.0)'; echo 'Available versions: 1.2.0, 1.1.0'")
        assert await newest_on_index(NAME, pip, None) == ("1.2.0", None)

    async def test_uv_is_asked_where_there_is_no_pip(self, tmp_path: Path) -> None:
        python = stand_in(tmp_path, "python", "echo 'python: No module named pip' >&2; exit 1")
        uv = stand_in(tmp_path, "uv", "read name; echo $name==1.3.0")
        assert await newest_on_index(NAME, python, uv) == ("1.3.0", None)

    async def test_an_index_that_does_not_answer_is_a_note(self, tmp_path: Path) -> None:
        python = stand_in(tmp_path, "python", "echo 'ERROR: No matching distribution' >&2; exit 1")
        version, note = await newest_on_index(NAME, python, None)
        assert version is None
        assert note is not None
        assert "can't be reached" in note
        slow = stand_in(tmp_path, "slow", "exec sleep 60")
        version, note = await newest_on_index(NAME, slow, None, timeout_s=0.2)
        assert version is None
        assert note is not None
        assert "took more than" in note
