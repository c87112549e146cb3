"""Podman, the image and the stack, made once for all tests; what registries hold is stood in for."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.stack import PROJECT, Engine, Stack
from tests.waiting import until

HERE = Path(__file__).resolve().parent
BASE = "docker.io/library/python:3.13-slim-trixie"
IMAGE = "localhost/pleiades:test"
STANDINS = ("nginx", "postgres", "prometheus", "redis")
NEEDED = {
    "podman": "podman",
    "runc": "runc",
    "debootstrap": "debootstrap",
    "netavark": "netavark",
    "iptables": "iptables",
    "kubectl": "kubernetes-client",
}


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    missing = [
        package
        for program, package in NEEDED.items()
        if not shutil.which(program) and not Path(f"/usr/lib/podman/{program}").exists()
    ]
    if missing or os.geteuid():
        pytest.fail(f"this needs root and, on Debian: apt-get install podman buildah {' '.join(missing)}")
    return Engine(tmp_path_factory.mktemp("podman"))


@pytest.fixture(scope="session")
def base(engine: Engine) -> str:
    if engine.podman("image", "exists", BASE, check=False).returncode:
        subprocess.run([HERE / "standins/base", BASE], check=True, env=engine.environment)
    return BASE


@pytest.fixture(scope="session")
def image(engine: Engine, base: str) -> str:
    engine.build(IMAGE, "--file", "docker/Dockerfile", "--build-arg", "REVISION=0123abc", ".")
    return IMAGE


@pytest.fixture(scope="session")
def service(engine: Engine) -> Iterator[None]:
    """Docker's interface to podman, and the health checks that systemd's timers run elsewhere."""
    url = f"unix://{engine.socket}"
    process = subprocess.Popen(["podman", "system", "service", "--time=0", url], env=engine.environment)
    over = threading.Event()

    def check() -> None:
        while not over.wait(1):
            for name in engine.podman("ps", "--format", "{{.Names}}", check=False).stdout.split():
                engine.podman("healthcheck", "run", name, check=False)

    checking = threading.Thread(target=check)
    checking.start()
    until("podman listens", engine.socket.exists, 30)
    yield
    over.set()
    checking.join()
    process.terminate()
    process.wait()


@pytest.fixture(scope="session")
def stack(engine: Engine, image: str, service: None) -> Iterator[Stack]:
    """Database, emulator and some topics; the tests bring up more."""
    for name in STANDINS:
        engine.build(f"localhost/{PROJECT}-{name}", str(HERE / "standins" / name))
    env_file = engine.folder / "env"
    settings = {"POSTGRES_PASSWORD": "practice", "GRAFANA_PASSWORD": "practice", "PLEIADES_IMAGE": image}
    settings |= {f"{name.upper()}_IMAGE": f"localhost/{PROJECT}-{name}" for name in STANDINS}
    settings |= {"HUNTER_SECONDS": "5", "TRACKER_SECONDS": "5"}
    env_file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    running = Stack(engine, env_file)
    down = ("--profile", "*", "down", "--volumes", "--timeout", "20")
    # What a run left behind that was killed.
    running.compose(*down)
    try:
        running.compose("up", "--detach", "--no-build", "postgres", "emulator", "migrate", "seed")
        until("topics are seeded", lambda: "ExitCode" in running.container("seed")["State"])
        yield running
    finally:
        running.compose(*down)
