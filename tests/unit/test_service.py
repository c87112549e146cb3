"""Pleiades as a service: what installing and removing write, keep and ask of systemd."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from maia.maintenance import service as services
from maia.maintenance.programs import Finished
from maia.maintenance.service import Service, program_of_this_installation, units_to_start
from maia.maintenance.unit_files import FileState, NotInstallable, Record, Scope

UNITS = ["pleiades.service"]


class Recorder:
    """Answers systemd's programs, and keeps what was asked of them."""

    def __init__(self, loaded: str = "") -> None:
        self.asked: list[str] = []
        self.loaded = loaded

    async def __call__(self, command: Sequence[str], timeout_s: float) -> Finished:
        text = " ".join(command).replace("--no-ask-password ", "")
        self.asked.append(text)
        return Finished(0, self.loaded if "list-units" in text else "", "")

    def take(self) -> list[str]:
        asked, self.asked = self.asked, []
        return asked


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine's root with what is needed."""
    monkeypatch.setattr(services, "_check_reach", lambda place: None)
    monkeypatch.setattr(services, "_check_source", lambda: None)
    for name in ("usr/bin/python3", "usr/lib/polkit-1/polkitd"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def service(root: Path, recorder: Recorder) -> Service:
    return Service(Scope.SYSTEM, root=root, run=recorder, uid=0)


def tree(root: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(root)): (path.read_text(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


async def installed(service: Service, program: str = "/opt/pleiades/bin/maia", **options: bool) -> list[str]:
    return await service.install(service.plan_installation(Path(program), UNITS), **options)


async def test_planning_changes_nothing(service: Service, root: Path, recorder: Recorder) -> None:
    before = tree(root)
    plan = service.plan_installation(Path("/opt/pleiades/bin/maia"), UNITS)
    assert {state for _, state in plan.files} == {FileState.MISSING}
    assert (tree(root), recorder.asked) == (before, [])


async def test_installing_writes_all_and_again_writes_nothing(
    service: Service, root: Path, recorder: Recorder
) -> None:
    commands = await installed(service, start=True)
    assert commands == recorder.take()
    assert commands == [
        "systemd-sysusers pleiades.conf",
        "systemctl daemon-reload",
        "systemctl enable pleiades.service",
        "systemctl restart pleiades.service",
    ]
    assert (root / "etc/systemd/system/pleiades.service").is_file()
    assert (root / "etc/pleiades").stat().st_mode & 0o777 == 0o700
    assert os.access(root / "usr/local/libexec/pleiades-privileged", os.X_OK)
    before = tree(root)
    assert (await installed(service, start=True))[-1] == "systemctl start pleiades.service"
    after = tree(root)
    record = "etc/pleiades/installed.json"
    assert before.pop(record)[0] == after.pop(record)[0]
    assert after == before


async def test_another_program_updates_what_nobody_changed(service: Service, root: Path) -> None:
    await installed(service)
    changed = root / "etc/systemd/system/pleiades-metrics.service"
    changed.write_text(changed.read_text() + "# Ours\n")
    plan = service.plan_installation(Path("/srv/new/bin/maia"), UNITS)
    assert [file.path for file in plan.changed] == [changed]
    await service.install(plan)
    assert "/srv/new/bin/maia up" in (root / "etc/systemd/system/pleiades.service").read_text()
    assert "# Ours" in changed.read_text()
    assert "/opt/pleiades/bin/maia" in changed.read_text()
    await service.install(service.plan_installation(Path("/srv/new/bin/maia"), UNITS), force=True)
    assert "# Ours" not in changed.read_text()


async def test_a_file_that_only_an_earlier_version_had_goes(service: Service, root: Path) -> None:
    await installed(service)
    record = Record.read(service.layout)
    for name, is_changed in (("old.service", False), ("changed.service", True)):
        path = root / "etc/systemd/system" / name
        path.write_text("[Unit]\n")
        digest = services.digest_of("[Unit]\n" if not is_changed else "")
        record = Record(record.program, record.units, {**record.digests, str(path): digest})
    record.write(service.layout)
    await installed(service)
    assert not (root / "etc/systemd/system/old.service").exists()
    assert (root / "etc/systemd/system/changed.service").exists()


async def test_timers_take_the_place_of_everything(service: Service, recorder: Recorder) -> None:
    await installed(service)
    recorder.take()
    timers = units_to_start(timers=True, agents=["hunter"], scope=Scope.SYSTEM)
    lasting = ["pleiades-metrics.service", "pleiades-api.service"]
    assert timers == ["pleiades-agent@hunter.timer", "pleiades-backup.timer", *lasting]
    plan = service.plan_installation(Path("/opt/pleiades/bin/maia"), timers)
    await service.install(plan)
    assert "systemctl disable --now pleiades.service" in recorder.asked
    assert recorder.asked[-1] == f"systemctl enable {' '.join(timers)}"
    assert service.started_units() == timers


async def test_removing_stops_all_keeps_the_data_and_what_somebody_changed(
    service: Service, root: Path, recorder: Recorder
) -> None:
    await installed(service)
    data = root / "var/lib/pleiades"
    data.mkdir(parents=True)
    (root / "etc/pleiades/database_url").write_text("secret")
    changed = root / "etc/apt/pleiades.preferences"
    changed.write_text("mine")
    recorder.take()
    recorder.loaded = (
        "pleiades.service loaded\npleiades-agent@hunter.timer x\npleiades-privileged@packages.service x\n"
    )
    plan = await service.plan_removal()
    assert plan.kept == (changed,)
    assert plan.units == ("pleiades.service", "pleiades-agent@hunter.timer")
    await service.uninstall(plan)
    assert recorder.take()[1:] == [
        "systemctl disable --now pleiades-agent@hunter.timer",
        "systemctl stop pleiades.service",
        "systemctl disable pleiades.service",
        "systemctl daemon-reload",
        "systemctl reset-failed pleiades*",
    ]
    assert changed.read_text() == "mine"
    assert not list((root / "etc/systemd/system").iterdir())
    assert not service.is_installed
    assert service.data_folders() == [data, root / "etc/pleiades"]
    service.purge()
    assert service.data_folders() == []


def test_rights_are_checked(root: Path) -> None:
    with pytest.raises(NotInstallable, match="run this as root"):
        Service(Scope.SYSTEM, root=root, uid=1000).check_rights()
    with pytest.raises(NotInstallable, match="without root"):
        Service(Scope.USER, root=root, environment={"HOME": "/root"}, uid=0).check_rights()
    Service(Scope.SYSTEM, root=root, uid=0).check_rights()


def test_root_installs_nothing_that_others_could_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "privileged.py"
    source.write_text("")
    source.chmod(0o666)
    monkeypatch.setattr(services.privileged, "__file__", str(source))
    with pytest.raises(NotInstallable, match="root must not install files that others can write"):
        Service(Scope.SYSTEM, root=tmp_path, uid=0).plan_installation(Path("/opt/pleiades/bin/maia"), UNITS)


def test_a_program_that_services_could_not_reach_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "_check_source", lambda: None)
    service = Service(Scope.SYSTEM, root=tmp_path, uid=0)
    with pytest.raises(NotInstallable, match="hidden from services"):
        service.plan_installation(Path("/home/me/venv/bin/maia"), UNITS)
    closed = tmp_path / "closed/bin/maia"
    closed.parent.mkdir(parents=True)
    closed.parent.parent.chmod(0o700)
    with pytest.raises(NotInstallable, match="could not enter"):
        service.plan_installation(closed, UNITS)


def test_root_s_part_needs_the_system_s_python(root: Path) -> None:
    (root / "usr/bin/python3").unlink()
    with pytest.raises(NotInstallable, match="apt-get install python3"):
        Service(Scope.SYSTEM, root=root, uid=0).plan_installation(Path("/opt/pleiades/bin/maia"), UNITS)


def test_units_run_this_maia_or_that_of_the_current_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = tmp_path / "envs/1"
    (release / "bin").mkdir(parents=True)
    (release / "bin/maia").touch()
    (tmp_path / "current").symlink_to("envs/1")
    monkeypatch.setattr(sys, "prefix", str(release))
    assert program_of_this_installation() == release / "bin/maia"
    assert program_of_this_installation(tmp_path) == tmp_path / "current/bin/maia"
    monkeypatch.setattr(sys, "prefix", str(tmp_path.parent / "elsewhere"))
    with pytest.raises(NotInstallable, match="virtual environment"):
        program_of_this_installation(tmp_path)


def test_settings_of_the_services_are_read_as_systemd_does(service: Service, root: Path) -> None:
    config = root / "etc/pleiades"
    config.mkdir(parents=True)
    (config / "pleiades.env").write_text(
        "# comment\n; too\nPLEIADES_HOST=::1\nA='x y'\n B=\"\"\nC=1=2\nno assignment\n"
    )
    (config / "database_url").write_text("postgresql://h/d\n")
    (config / "privileged").write_text("restart /bin/true")
    (config / "youtube_api_key_pool_json").write_text("key\n")
    assert service.environment() == {
        "DATABASE_URL": "postgresql://h/d",
        "YOUTUBE_API_KEY_POOL_JSON": "key",
        "HOME": str(root / "var/lib/pleiades"),
        "PLEIADES_DATA_DIR": str(root / "var/lib/pleiades"),
        "PLEIADES_HOST": "::1",
        "A": "x y",
        "C": "1=2",
    }
    Record("maia", tuple(UNITS)).write(service.layout)
    assert "DATABASE_URL" not in (service.environment() or {})
    for name in ("database_url", "youtube_api_key_pool_json"):
        (config / name).unlink()
    assert len(service.missing_secrets(["pleiades-agent@hunter.timer"])) == 2
    assert [path.name for path in service.missing_secrets(UNITS)] == ["youtube_api_key_pool_json"]


def test_what_else_is_needed_is_said(root: Path) -> None:
    assert Service(Scope.SYSTEM, root=root, uid=0).advice() == []
    (root / "usr/lib/polkit-1/polkitd").unlink()
    [advice] = Service(Scope.SYSTEM, root=root, uid=0).advice()
    assert "apt-get install polkitd" in advice
    [linger] = Service(Scope.USER, root=root, environment={"HOME": "/x"}, uid=os.geteuid()).advice()
    assert "loginctl enable-linger" in linger
