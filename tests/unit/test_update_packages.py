"""System packages: what apt-get -s writes, which updates are permitted, and how they are installed."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas.maintainer_settings import UpdateSettings
from atlas.testing import NOON
from maia.maintenance.programs import ProgramFailed
from maia.maintenance.updating.errors import UpdateFailed
from maia.maintenance.updating.packages import (
    PackageUpdate,
    Verdict,
    install,
    install_command,
    judge,
    look_for_packages,
    parse_simulation,
    without_strangers,
)

SETTINGS = UpdateSettings()

DEBIAN = """\
NOTE: This is only a simulation!
      apt-get needs root privileges for real execution.
Reading package lists...
Building dependency tree...
The following packages have been kept back:
  linux-image-amd64
The following packages will be upgraded:
  bash e2fsprogs libc6:i386 libgcrypt20 postgresql-15 tzdata
6 upgraded, 0 newly installed, 0 to remove and 1 not upgraded.
Inst bash [5.2.15-2+b8] (5.2.15-2+b13 Debian:12.15/oldstable [amd64])
Conf bash (5.2.15-2+b13 Debian:12.15/oldstable [amd64])
Inst libgcrypt20 [1.10.1-3] (1.10.1-3+deb12u1 Debian:12.15/oldstable, Debian-Security:12/oldstable-security [amd64]) []
Inst libc6:i386 [2.36-9+deb12u7] (2.36-9+deb12u8 Debian-Security:12/oldstable-security [i386])
Inst postgresql-15 [15.10-0+deb12u1] (15.14-0+deb12u1 Debian-Security:12/oldstable-security [amd64])
Inst tzdata [2024a-0+deb12u1] (2025b-0+deb12u1 Debian:12-updates/oldstable-updates [all])
Inst e2fsprogs [1.47.0-2] (1.47.0-2+b2 Debian:12.15/oldstable [amd64]) [e2fsprogs:amd64 on libext2fs2:amd64] [e2fsprogs:amd64 ]
Inst prefect-ui [1:2.0~rc1-1] (1:2.0-1 packages.example.org [all])
"""  # noqa: E501
FULL = (
    DEBIAN
    + """\
Remv libold1 [1.0-1]
Inst linux-image-6.1.0-40-amd64 (6.1.153-1 Debian-Security:12/oldstable-security [amd64])
Inst linux-image-amd64 [6.1.106-3] (6.1.153-1 Debian-Security:12/oldstable-security [amd64])
"""
)
UBUNTU = """\
Inst openssl [3.0.13-0ubuntu3.4] (3.0.13-0ubuntu3.6 Ubuntu:24.04/noble-updates, Ubuntu:24.04/noble-security [amd64])
Inst ubuntu-drivers-common [1:0.9.7.6] (1:0.9.7.7 Ubuntu:24.04/noble-proposed [amd64])
"""  # noqa: E501


def verdicts(upgrade: str, full: str, **settings: tuple[str, ...]) -> dict[str, Verdict]:
    chosen = {"origins": SETTINGS.origins, "block": SETTINGS.block} | settings
    return {each.name: each.verdict for each in judge(upgrade, full, **chosen)}


class TestParsing:
    def test_reads_names_versions_and_origins(self) -> None:
        updates, removed = parse_simulation(DEBIAN)
        by_name = {each.name: each for each in updates}
        assert by_name["libgcrypt20"] == PackageUpdate(
            name="libgcrypt20",
            old="1.10.1-3",
            new="1.10.1-3+deb12u1",
            origins=("Debian:12.15/oldstable", "Debian-Security:12/oldstable-security"),
            architecture="amd64",
        )
        assert by_name["prefect-ui"].new == "1:2.0-1"
        assert len(updates) == 7
        assert removed == []

    def test_security_is_told_by_the_origin(self) -> None:
        both = parse_simulation(DEBIAN + UBUNTU)[0]
        assert [each.name for each in both if each.is_security] == [
            "libgcrypt20", "libc6:i386", "postgresql-15", "openssl",
        ]  # fmt: skip

    def test_new_and_removed_packages(self) -> None:
        updates, removed = parse_simulation(FULL)
        assert removed == ["libold1"]
        assert [each.name for each in updates if each.old is None] == ["linux-image-6.1.0-40-amd64"]

    @pytest.mark.parametrize(
        "line",
        ["Inst", "Inst bash", "Inst bash [1] ()", "Inst -oAPT::x [1] (2 Debian:12/x [amd64])",
         "Inst bash [1] (--evil Debian:12/x [amd64])"],
    )  # fmt: skip
    def test_a_line_that_is_odd_is_no_package(self, line: str) -> None:
        if line == "Inst":
            assert parse_simulation(line) == ([], [])
        else:
            with pytest.raises(UpdateFailed, match="can't be read"):
                parse_simulation(line)

    @given(st.text(st.sampled_from("-ab1.:~+() [],/"), max_size=40))
    @settings(max_examples=50)
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        try:
            updates, _ = parse_simulation(f"Inst {text}")
        except UpdateFailed:
            return
        assert all(not each.name.startswith("-") and not each.new.startswith("-") for each in updates)


class TestJudging:
    def test_by_default_only_security_and_stable_updates(self) -> None:
        assert verdicts(DEBIAN, FULL) == {
            "bash": Verdict.OTHER_ORIGIN,
            "e2fsprogs": Verdict.OTHER_ORIGIN,
            "libc6:i386": Verdict.PERMITTED,
            "libgcrypt20": Verdict.PERMITTED,
            "linux-image-amd64": Verdict.CHANGES_OTHERS,
            "postgresql-15": Verdict.BLOCKED,
            "prefect-ui": Verdict.OTHER_ORIGIN,
            "tzdata": Verdict.PERMITTED,
        }
        assert verdicts(UBUNTU, UBUNTU) == {
            "openssl": Verdict.PERMITTED,
            "ubuntu-drivers-common": Verdict.OTHER_ORIGIN,
        }

    def test_the_block_list_wins_and_matches_foreign_architectures(self) -> None:
        found = verdicts(DEBIAN, DEBIAN, origins=("*",), block=("libc6", "bash*"))
        blocked = {name for name, verdict in found.items() if verdict is Verdict.BLOCKED}
        assert blocked == {"libc6:i386", "bash"}

    def test_security_comes_first(self) -> None:
        judged = judge(DEBIAN, DEBIAN, origins=(), block=())
        assert [each.is_security for each in judged] == sorted(
            (each.is_security for each in judged), reverse=True
        )

    @given(st.lists(st.sampled_from(DEBIAN.splitlines() + UBUNTU.splitlines()), max_size=12))
    def test_nothing_is_permitted_without_an_origin(self, lines: list[str]) -> None:
        text = "\n".join(lines)
        assert Verdict.PERMITTED not in verdicts(text, text, origins=()).values()


def test_the_command_names_exact_versions_and_removes_nothing() -> None:
    updates, _ = parse_simulation(UBUNTU)
    command = install_command(updates)
    assert command[:5] == ("apt-get", "install", "--only-upgrade", "--no-remove", "-y")
    assert "Dpkg::Options::=--force-confold" in command
    assert command[command.index("--") + 1 :] == (
        "openssl=3.0.13-0ubuntu3.6", "ubuntu-drivers-common=1:0.9.7.7",
    )  # fmt: skip


def fake_apt(folder: Path, body: str) -> str:
    """A program that stands for apt-get; it writes down how it was called."""
    path = folder / "apt-get"
    path.write_text(
        f"#!{sys.executable} -IS\nimport os, sys, time\nfrom pathlib import Path\n"
        f"here = Path({str(folder)!r})\n"
        "with (here / 'calls').open('a') as calls:\n"
        "    print(*sys.argv[1:], os.environ['LC_ALL'], file=calls)\n"
        f"{body}\n"
    )
    path.chmod(0o755)
    return str(path)


class TestLooking:
    async def test_asks_without_a_lock_and_in_english(self, tmp_path: Path) -> None:
        program = fake_apt(tmp_path, f"print({DEBIAN!r} if sys.argv[-1] == 'upgrade' else {FULL!r})")
        found = await look_for_packages(
            origins=SETTINGS.origins, block=SETTINGS.block, timeout_s=10, now=NOON, root=tmp_path,
            apt_get=program,
        )  # fmt: skip
        assert found is not None
        assert [each.name for each in found.permitted] == ["libc6:i386", "libgcrypt20", "tzdata"]
        assert found.notes == ("apt has no lists of packages: run apt-get update as root",)
        calls = (tmp_path / "calls").read_text().splitlines()
        assert len(calls) == 2
        assert all("-s -q -o Debug::NoLocking=true" in call and call.endswith(" C") for call in calls)

    async def test_old_lists_and_a_waiting_reboot_are_told(self, tmp_path: Path) -> None:
        lists = tmp_path / "var/lib/apt/lists"
        lists.mkdir(parents=True)
        old = (NOON - timedelta(days=9)).timestamp()
        os.utime(lists, (old, old))
        (tmp_path / "var/run").mkdir()
        (tmp_path / "var/run/reboot-required").touch()
        found = await look_for_packages(
            origins=(), block=(), timeout_s=10, now=NOON, root=tmp_path, apt_get=fake_apt(tmp_path, "")
        )
        assert found is not None
        assert found.packages == ()
        assert [note.split(":")[0] for note in found.notes] == [
            "apt's lists of packages are 9 days old",
            "an earlier update of the system takes effect after a reboot",
        ]

    async def test_how_root_s_policy_differs_from_the_settings_is_told(self, tmp_path: Path) -> None:
        """Root's list does not follow the settings: that must be seen, and nothing uninvited installed."""
        policy = tmp_path / "etc/apt/pleiades.preferences"
        policy.parent.mkdir(parents=True)
        policy.touch()
        by_root = [line for line in DEBIAN.splitlines() if "libgcrypt20" not in line or "Inst" not in line]
        by_root = [line for line in by_root if not line.startswith(("Inst e2fsprogs", "Inst prefect-ui"))]
        # An earlier version, which is permitted, of what apt would bring from elsewhere.
        by_root.append(
            "Inst prefect-ui [1:2.0~rc1-1] (1:2.0~rc2-1 Debian-Security:12/oldstable-security [all])"
        )
        is_root_s = f"'Dir::Etc::Preferences={policy}' in sys.argv"
        program = fake_apt(tmp_path, f"print({chr(10).join(by_root)!r} if {is_root_s} else {DEBIAN!r})")
        found = await look_for_packages(
            origins=SETTINGS.origins, block=SETTINGS.block, timeout_s=10, now=NOON, root=tmp_path,
            apt_get=program,
        )  # fmt: skip
        assert found is not None
        assert found.refused_by_root == ("libgcrypt20",)
        assert found.only_by_root == ("bash", "postgresql-15")
        _, refused, uninvited = found.notes
        assert "refuses what the settings permit" in refused
        assert refused.endswith("stays as it is: libgcrypt20")
        assert uninvited.endswith("until they agree: bash, postgresql-15")

    async def test_without_apt_there_is_nothing_to_say(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert await look_for_packages(origins=(), block=(), timeout_s=10, now=NOON) is None

    async def test_one_that_hangs_is_ended(self, tmp_path: Path) -> None:
        program = fake_apt(tmp_path, "time.sleep(60)")
        with pytest.raises(ProgramFailed, match="took more than"):
            await look_for_packages(origins=(), block=(), timeout_s=0.2, now=NOON, apt_get=program)

    async def test_its_errors_are_told(self, tmp_path: Path) -> None:
        program = fake_apt(tmp_path, "sys.exit('E: dpkg was interrupted')")
        with pytest.raises(ProgramFailed, match="dpkg was interrupted"):
            await look_for_packages(origins=(), block=(), timeout_s=10, now=NOON, apt_get=program)


BRINGS_BASH = """
names = [text.partition("=")[0] for text in sys.argv[sys.argv.index("--") + 1:]]
for name in names + (["bash"] if "libgcrypt20" in names else []):
    print(f"Inst {name} [1] (2 Debian:12/x [amd64])")
"""


class TestInstalling:
    async def test_what_would_bring_a_stranger_stays(self, tmp_path: Path) -> None:
        updates = [each for each in parse_simulation(DEBIAN)[0] if each.name != "bash"]
        kept = await without_strangers(updates, timeout_s=10, apt_get=fake_apt(tmp_path, BRINGS_BASH))
        assert [each.name for each in kept] == [each.name for each in updates if each.name != "libgcrypt20"]
        assert all(line.startswith("-s ") for line in (tmp_path / "calls").read_text().splitlines())

    async def test_of_many_the_one_of_a_strangers_version_is_found_at_once(self, tmp_path: Path) -> None:
        known = {each.name: each for each in parse_simulation(DEBIAN)[0]}
        culprit = replace(known["libgcrypt20"], new="2")
        updates = [*(replace(known["tzdata"], name=f"tz{n}") for n in range(40)), culprit]
        kept = await without_strangers(updates, timeout_s=10, apt_get=fake_apt(tmp_path, BRINGS_BASH))
        assert kept == updates[:-1]
        assert len((tmp_path / "calls").read_text().splitlines()) == 3

    async def test_a_failure_says_what_to_do_next(self, tmp_path: Path) -> None:
        program = fake_apt(tmp_path, "sys.exit('E: Could not get lock')")
        with pytest.raises(UpdateFailed, match=r"(?s)Could not get lock.*dpkg --configure -a"):
            await install(parse_simulation(UBUNTU)[0], timeout_s=10, apt_get=program)

    async def test_a_package_that_stays_behind_is_a_failure(self, tmp_path: Path) -> None:
        program = fake_apt(tmp_path, f"print({UBUNTU!r} if '-s' in sys.argv else '')")
        with pytest.raises(UpdateFailed, match="openssl, ubuntu-drivers-common"):
            await install(parse_simulation(UBUNTU)[0], timeout_s=10, apt_get=program)

    async def test_it_is_not_killed_at_the_time_out(self, tmp_path: Path) -> None:
        program = fake_apt(tmp_path, "time.sleep(0.6); print('done', flush=True); (here / 'done').touch()")
        with pytest.raises(ProgramFailed, match="and goes on"):
            await install(parse_simulation(UBUNTU)[0], timeout_s=0.1, apt_get=program)
        async with asyncio.timeout(10):
            while not (tmp_path / "done").exists():
                await asyncio.sleep(0.05)
