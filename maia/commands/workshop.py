"""Temporary folders of demos, removed at the end, or by the next demo if the process was killed."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "pleiades-demo-"

_LOCK = "in-use.lock"
_FOREIGN_NAMES = ("DATABASE_URL", "YOUTUBE_API_KEY_POOL_JSON", "VAULT_PROVIDER", "HF_DATASET_ID", "HF_TOKEN",
                  "REDIS_URL", "NODE_ID", "HOST", "PORT")  # fmt: skip


@contextmanager
def workshop() -> Iterator[Path]:
    """A temporary working folder, with an environment that uses nothing of the user's Pleiades or Prefect."""
    before, place = dict(os.environ), Path.cwd()
    level = os.environ.get("PLEIADES_LOG__LEVEL", "WARNING")
    clear_abandoned()
    with _folder() as folder:
        try:
            for name in before:
                if name in _FOREIGN_NAMES or name.startswith(("PLEIADES_", "PREFECT_")):
                    del os.environ[name]
            os.environ |= {
                "NODE_ID": "demo",
                "PLEIADES_DATA_DIR": str(folder / "data"),
                "PLEIADES_LOG__LEVEL": level,
                "PLEIADES_SECRETS_DIR": str(folder / "secrets"),
                "PREFECT_HOME": str(folder / "prefect"),
            }
            os.chdir(folder)
            yield folder
        finally:
            os.chdir(place)
            os.environ.clear()
            os.environ.update(before)


@contextmanager
def _folder() -> Iterator[Path]:
    """A new folder with a lock on it, which the kernel releases however this process ends."""
    folder, lock = _new_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _new_folder() -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        # Started by root, the embedded server runs as an ordinary user, who must reach its folder.
        folder.chmod(0o711)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Another demo that is starting may just have removed it.
        if os.fstat(lock).st_nlink > 0:
            return folder, lock
        os.close(lock)


def clear_abandoned() -> None:
    """Remove the folders of this user's demos that were killed, and stop the servers left in them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        # Another process may be clearing up too, and be faster.
        with suppress(FileNotFoundError):
            _clear(folder)


def _clear(folder: Path) -> None:
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        return
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _destroy_server(folder / "data"):
            shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)


def _destroy_server(data: Path) -> bool:
    """Stop the embedded server, and say whether it is gone; a demo killed just now may still be using it."""
    from atlas.config import DatabaseSettings
    from atlas.embedded import EmbeddedServer

    if not (data / "postgres").exists():
        return True
    return asyncio.run(EmbeddedServer(data, DatabaseSettings()).destroy())
