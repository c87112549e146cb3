"""Processes of the service over one database, behind a real nginx that is set up as in deployments/nginx."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ADVICE: Final = "this needs nginx; on Debian: apt-get install nginx-light"
_CONFIGURED: Final = Path(__file__).resolve().parent.parent / "deployments/nginx/nginx.conf"
_SERVICE: Final = (sys.executable, "-m", "maia", "api", "--port", "0", "--json")
_STOPPED_WITHIN_S: Final = 30


@dataclass(frozen=True, slots=True)
class Balancer:
    """A running nginx."""

    url: str
    pid: int


def has_nginx() -> bool:
    return shutil.which("nginx") is not None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def balancer(ports: Sequence[int], workers: str = "auto") -> AsyncIterator[Balancer]:
    """nginx before processes at these ports of this machine."""
    folder, port = Path(tempfile.mkdtemp(prefix="pleiades-nginx-")), free_port()
    # Its workers run as another user, and keep there what doesn't fit into their memory.
    folder.chmod(0o755)
    text = _CONFIGURED.read_text("utf-8")
    for ours, here in (
        ("listen 8080;", f"listen 127.0.0.1:{port};"),
        ("worker_processes auto;", f"worker_processes {workers};"),
    ):
        assert text.count(ours) == 1, ours
        text = text.replace(ours, here)
    (folder / "nginx.conf").write_text(text)
    nodes = [f"server 127.0.0.1:{each} max_fails=1 fail_timeout=5s;\n" for each in ports]
    (folder / "nodes.conf").write_text("".join(nodes))
    command = ("nginx", "-p", f"{folder}/", "-c", str(folder / "nginx.conf"), "-e", "stderr")
    process = subprocess.Popen([*command, "-g", "daemon off;"])
    try:
        await _until_it_listens(process, port)
        yield Balancer(f"http://127.0.0.1:{port}", process.pid)
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)
        shutil.rmtree(folder)


async def _until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    while process.poll() is None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise RuntimeError(f"nginx ended with status {process.returncode}")


@asynccontextmanager
async def processes(
    environment: Mapping[str, str], count: int, command: Sequence[str] = _SERVICE
) -> AsyncIterator[dict[int, int]]:
    """Processes of the service over one database; yields the id of each by its port."""
    started = [
        await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
        for _ in range(count)
    ]
    try:
        found = {}
        for process in started:
            assert process.stdout is not None
            line = await process.stdout.readline()
            if not line:
                raise RuntimeError(f"{' '.join(command)} ended with status {await process.wait()}")
            serving = json.loads(line)
            found[int(serving["url"].rpartition(":")[2])] = serving["pid"]
        yield found
    finally:
        for process in started:
            if process.returncode is None:
                process.terminate()
        for process in started:
            try:
                await asyncio.wait_for(process.wait(), _STOPPED_WITHIN_S)
            except TimeoutError:
                process.kill()
                await process.wait()
