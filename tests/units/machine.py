"""A Debian with systemd in a container, in which Pleiades is installed as docs/deployment.md says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import packages
from tests.waiting import until

ROOT = Path(__file__).resolve().parent.parent.parent
INCLUDED = (
    "systemd,systemd-sysv,dbus,libpam-systemd,polkitd,python3,python3-venv,ca-certificates,postgresql,procps"
)
MAIA = "/opt/pleiades/bin/maia"
# The newest whose systemd also boots where control groups are of the old kind.
RELEASE = "bookworm"
SETTINGS = {
    "PLEIADES_YOUTUBE__BASE_URL": "http://127.0.0.1:8780",
    "PLEIADES_QUOTA__PACING": "false",
    "PLEIADES_QUOTA__COOL_DOWN_S": "1",
}
SECRETS = {
    "database_url": "postgresql://pleiades:practice@127.0.0.1/pleiades",
    "youtube_api_key_pool_json": '[{"key": "demo-1", "project": "demo"}]',
}


@dataclass
class Machine:
    """Its root, and the process that boots it once it does."""

    root: Path
    process: subprocess.Popen[bytes] | None = None

    def install(self, folder: Path) -> None:
        """Everything but starting it."""
        bootstrap = ["debootstrap", "--variant=minbase", f"--include={INCLUDED}", RELEASE, str(self.root)]
        subprocess.run(bootstrap, check=True, stdout=subprocess.DEVNULL)
        source = self.root / "srv"
        wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*wheel, "--wheel-dir", str(source), str(ROOT)], check=True)
        (source / "constraints.txt").write_bytes((ROOT / "constraints.txt").read_bytes())
        mounts = [f"--bind-ro={path}:{place}" for path, place in packages.mounts(folder).items()]
        script = "python3 -m venv /opt/pleiades && /opt/pleiades/bin/pip install -q -c constraints.txt *.whl"
        command = [
            "systemd-nspawn",
            "--quiet",
            "--pipe",
            "--register=no",
            "--keep-unit",
            "-D",
            str(self.root),
        ]
        subprocess.run([*command, *mounts, "--chdir=/srv", "sh", "-c", script], check=True)
        self._configure()

    def _configure(self) -> None:
        etc = self.root / "etc"
        (etc / "pleiades").mkdir(mode=0o700)
        for name, value in SECRETS.items():
            secret = etc / "pleiades" / name
            secret.write_text(value)
            secret.chmod(0o600)
        self.set(SETTINGS)

    def set(self, settings: dict[str, str]) -> None:
        text = "".join(f"{name}={value}\n" for name, value in settings.items())
        (self.root / "etc/pleiades/pleiades.env").write_text(text)

    def boot(self) -> None:
        command = ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--private-network"]
        self.process = subprocess.Popen(
            [*command, "--machine=pleiades-units", "-D", str(self.root)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )
        until("a first process", self._leader, 60)
        until("a booted system", self._is_up, 120)

    def _leader(self) -> str | None:
        assert self.process is not None
        assert self.process.poll() is None, "systemd-nspawn ended"
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return children[0] if children else None

    def _is_up(self) -> bool:
        return self.run("systemctl", "is-system-running", check=False).strip() in {"running", "degraded"}

    def run(self, *command: str, check: bool = True) -> str:
        """Run something within, as root; returns what it printed."""
        answer = self.attempt(*command)
        assert not check or answer.returncode == 0, (
            f"{command}: {answer.stdout[-2000:]}{answer.stderr[-2000:]}"
        )
        return answer.stdout

    def attempt(self, *command: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run something within, as root or as another user, whatever comes of it."""
        leader = self._leader()
        assert leader is not None
        as_user = ["runuser", "-u", user, "--"] if user else []
        return subprocess.run(
            ["nsenter", "-t", leader, "-a", *as_user, *command], capture_output=True, text=True
        )

    def maia(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of maia within, as root, without the services' settings."""
        return self.attempt(MAIA, *words)

    @contextmanager
    def changed(self, unit: str, *lines: str) -> Iterator[None]:
        """A block in which further lines apply to a unit."""
        self.run("mkdir", "-p", f"/run/systemd/system/{unit}.d")
        self.run(
            "sh",
            "-c",
            f"cat > '/run/systemd/system/{unit}.d/test.conf' <<'END'\n" + "\n".join(lines) + "\nEND",
        )
        self.run("systemctl", "daemon-reload")
        try:
            yield
        finally:
            self.run("rm", "-r", f"/run/systemd/system/{unit}.d")
            self.run("systemctl", "daemon-reload")

    def show(self, unit: str) -> dict[str, str]:
        """A unit's properties."""
        lines = self.run("systemctl", "show", unit).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}")

    def python(self, script: str, *arguments: str) -> str:
        return self.run("/opt/pleiades/bin/python", "-c", script, *arguments)

    def power_off(self) -> None:
        if self.process is None:
            return
        self.run("systemctl", "--force", "poweroff", check=False)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
