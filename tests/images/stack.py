"""The image and the stack of compose.yaml, made and run by podman; what registries hold is stood in for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import packages

ROOT = Path(__file__).resolve().parent.parent.parent
PROJECT = "pleiades-test"

# runc and these limits also work where a machine is itself confined.
CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=8192:8192"]
[engine]
runtime = "runc"
"""


@dataclass
class Engine:
    """Podman, set up so that it also runs in a confined machine."""

    folder: Path
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        conf = self.folder / "containers.conf"
        conf.write_text(CONTAINERS_CONF)
        self.socket = self.folder / "podman.sock"
        self.environment = os.environ | {"CONTAINERS_CONF": str(conf), "DOCKER_HOST": f"unix://{self.socket}"}

    def podman(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        answer = subprocess.run(
            ["podman", *arguments], env=self.environment, capture_output=True, text=True, cwd=ROOT
        )
        assert not check or answer.returncode == 0, f"podman {' '.join(arguments)}\n{answer.stderr[-3000:]}"
        return answer

    def inspect(self, name: str) -> dict[str, Any]:
        [found] = json.loads(self.podman("inspect", name).stdout)
        return dict(found)

    def build(self, tag: str, *arguments: str) -> None:
        command = ("build", "--format", "docker", "--network", "host", "--tag", tag)
        volumes = [f"{path}:{place}:ro" for path, place in packages.mounts(self.folder).items()]
        self.podman(*command, *(word for volume in volumes for word in ("--volume", volume)), *arguments)


@dataclass
class Stack:
    """The services of compose.yaml, with an emulator instead of YouTube."""

    engine: Engine
    env_file: Path

    def compose(self, *arguments: str) -> str:
        files = ("docker/compose.yaml", "tests/images/compose.practice.yaml")
        command = [str(Path(sys.executable).parent / "docker-compose"), "--project-name", PROJECT]
        command += ["--env-file", str(self.env_file), *(word for file in files for word in ("--file", file))]
        answer = subprocess.run(
            [*command, *arguments], env=self.engine.environment, capture_output=True, text=True, cwd=ROOT
        )
        assert answer.returncode == 0, (
            f"docker-compose {' '.join(arguments)}\n{answer.stderr[-3000:]}\n{self._last_words()}"
        )
        return answer.stdout

    def _last_words(self) -> str:
        """What services that failed wrote last."""
        exited = self.engine.podman(
            "ps",
            "--all",
            "--filter",
            f"name={PROJECT}",
            "--filter",
            "status=exited",
            "--format",
            "{{.Names}}",
        )
        told = []
        for name in exited.stdout.split():
            answer = self.engine.podman("logs", "--tail", "20", name)
            told.append(f"{name}:\n{answer.stdout}{answer.stderr}")
        return "\n".join(told)

    def container(self, service: str) -> dict[str, Any]:
        return self.engine.inspect(f"{PROJECT}-{service}-1")

    def execute(self, service: str, *command: str) -> str:
        return self.engine.podman("exec", f"{PROJECT}-{service}-1", *command).stdout

    def ask(self, service: str, url: str, body: object = None, **headers: str) -> str:
        """What answers within a service's container."""
        script = (
            "import json, sys, urllib.request\n"
            "data, headers = sys.argv[2].encode() or None, json.loads(sys.argv[3])\n"
            "print(urllib.request.urlopen(urllib.request.Request(sys.argv[1], data, "
            "{'Content-Type': 'application/json'} | headers), timeout=30).read().decode())"
        )
        sent = json.dumps(body) if body is not None else ""
        return self.execute(service, "python", "-c", script, url, sent, json.dumps(headers))

    def set_faults(self, *faults: str) -> None:
        self.ask("emulator", "http://127.0.0.1:8780/_emulator", {"faults": list(faults)})

    def logs(self, service: str) -> str:
        answer = self.engine.podman("logs", f"{PROJECT}-{service}-1")
        return answer.stdout + answer.stderr
