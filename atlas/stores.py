"""Where the vault's objects lie: a local folder, a Hugging Face dataset, an S3 bucket."""

from __future__ import annotations

import asyncio
import builtins
import os
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, assert_never
from uuid import uuid4

from atlas.config import Settings
from atlas.db import Database
from atlas.errors import ConfigError, ObjectNotFound, VaultError, VaultUnavailable
from atlas.hub import HubStore

Changes = Mapping[str, bytes | None]
T = TypeVar("T")

_INCOMING = ".incoming"
_ABANDONED_AFTER_S = 3600
_BUFFER_BYTES = 1 << 20
_FILES_AT_ONCE = 100
_SYNCS_AT_ONCE = 8
_MOST_VANISHED = 1000
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_KEYS_PER_DELETION = 1000


class Store(Protocol):
    """Holds objects by name. Names are validated by the vault; every failure is a VaultError."""

    async def write(self, changes: Changes) -> None:
        """Store every body and delete where it is None, in one commit where the service has commits.

        After an error some changes may stand; doing them all again is harmless.
        """
        ...

    def writing(self, name: str) -> AbstractAsyncContextManager[BinaryIO]:
        """A file, for a thread to write, that becomes the object when the body ends; none does if it raises.

        It takes as much as there is in constant memory. The body's own OSErrors become the store's.
        """
        ...

    async def read(self, name: str) -> bytes: ...

    async def list(self, folder: str) -> builtins.list[str]:
        """Names of all objects beneath a folder ("" for all), unsorted; none if there is no such folder."""
        ...

    async def folders(self, folder: str) -> builtins.list[str]:
        """Names of the folders directly within a folder, without its own."""
        ...

    async def check(self) -> None:
        """Touch the store."""
        ...


def store_of(settings: Settings, db: Database) -> Store:
    """The store that the settings name; nothing is touched yet."""
    vault = settings.vault
    match settings.vault_provider:
        case "file":
            return FileStore(vault.path or settings.data_folder / "vault")
        case "huggingface":
            assert settings.hf_dataset_id is not None
            assert settings.hf_token is not None
            token = settings.hf_token.get_secret_value()
            return HubStore(settings.hf_dataset_id, token, db, vault.endpoint_url, vault.commits_per_hour)
        case "s3":
            assert vault.url is not None
            return S3Store(vault.url, vault.endpoint_url)
        case provider:
            assert_never(provider)


class FileStore:
    """Objects as files of a folder, each replaced atomically and durable when `write` returns.

    fsspec's local file system is not used: it neither syncs nor stages beside the target, so that a crash
    could tear a file. Bodies are staged in `.incoming`, whose leftovers later processes clear away.
    """

    def __init__(self, root: Path, label: str = "the vault") -> None:
        self.root, self._label = root, label
        self._swept = False
        self._syncers = ThreadPoolExecutor(_SYNCS_AT_ONCE, "vault-sync")

    async def write(self, changes: Changes) -> None:
        await self._call("write", self._write, changes)

    @asynccontextmanager
    async def writing(self, name: str) -> AsyncIterator[BinaryIO]:
        path, file = await self._call("write", self._begin)
        try:
            with self._ours("write"):
                yield file
            await self._call("write", self._finish, file, path, name)
        finally:
            await asyncio.to_thread(self._discard, file, path)

    async def read(self, name: str) -> bytes:
        return await self._call("read", self._read, name)

    async def list(self, folder: str) -> builtins.list[str]:
        return await self._call("list", self._list, folder)

    async def folders(self, folder: str) -> builtins.list[str]:
        return await self._call("list", self._folders, folder)

    async def check(self) -> None:
        await self._call("write", self._check)

    async def _call(self, action: str, function: Callable[..., T], *args: Any) -> T:
        with self._ours(action):
            return await asyncio.to_thread(function, *args)

    @contextmanager
    def _ours(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = error.filename or self.root
            told = error.strerror or error
            raise VaultError(f"cannot {action} in {self._label}: {told}: {where}") from error

    def _begin(self) -> tuple[str, BinaryIO]:
        """A new file among the staged ones."""
        self._sweep()
        path = f"{self.root}/{_INCOMING}/{uuid4().hex}"
        return path, os.fdopen(self._stage(path), "wb", _BUFFER_BYTES)

    def _finish(self, file: BinaryIO, path: str, name: str) -> None:
        """Make the staged file the object, for good."""
        file.flush()
        os.fsync(file.fileno())
        self._publish(path, f"{self.root}/{name}")
        _sync_folder((self.root / name).parent)

    def _discard(self, file: BinaryIO, path: str) -> None:
        """Leave nothing behind: neither the file, if it wasn't published, nor an empty folder."""
        # On a full disk closing fails as the last write did.
        with suppress(OSError):
            file.close()
        with suppress(OSError):
            Path(path).unlink(missing_ok=True)
            (self.root / _INCOMING).rmdir()

    def _write(self, changes: Changes) -> None:
        self._sweep()
        bodies = [(name, body) for name, body in changes.items() if body is not None]
        for start in range(0, len(bodies), _FILES_AT_ONCE):
            self._replace(bodies[start : start + _FILES_AT_ONCE])
        self._delete(name for name, body in changes.items() if body is None)

    def _replace(self, bodies: Sequence[tuple[str, bytes]]) -> None:
        """Stage all, sync all, then rename all: the file system commits its journal once for many files."""
        # Strings, as a Path for each of so many files would cost more than the files themselves.
        staged: list[tuple[int, str]] = []
        published = 0
        batch = f"{self.root}/{_INCOMING}/{uuid4().hex}"
        try:
            for nth, (_, body) in enumerate(bodies):
                path = f"{batch}-{nth}"
                staged.append((self._stage(path), path))
                _write_out(staged[-1][0], body)
            self._sync([descriptor for descriptor, _ in staged])
            for (_, path), (name, _) in zip(staged, bodies, strict=True):
                self._publish(path, f"{self.root}/{name}")
                published += 1
            for folder in {name.rpartition("/")[0] for name, _ in bodies}:
                _sync_folder(self.root / folder)
        finally:
            for descriptor, _ in staged:
                # Closing may repeat what syncing told; the first error is the one to tell.
                with suppress(OSError):
                    os.close(descriptor)
            for _, path in staged[published:]:
                Path(path).unlink(missing_ok=True)

    def _sync(self, descriptors: Sequence[int]) -> None:
        """Sync side by side: the disk flushes once for several, and each wait costs a turn on the CPU."""
        shares = [descriptors[nth::_SYNCS_AT_ONCE] for nth in range(_SYNCS_AT_ONCE)]
        syncs = [self._syncers.submit(_sync_each, share) for share in shares if share]
        wait(syncs)
        for sync in syncs:
            sync.result()

    def _stage(self, path: str) -> int:
        while True:
            try:
                return os.open(path, _CREATE, 0o666)
            except FileNotFoundError:
                # No such folder yet, or no more: whoever staged the last file removes it.
                _make_folder(Path(path).parent)

    def _publish(self, staged: str, target: str) -> None:
        while True:
            try:
                os.replace(staged, target)  # noqa: PTH105
                return
            except FileNotFoundError:
                # No such folder yet, or no more: whoever empties a folder removes it.
                if not Path(staged).exists():
                    raise
                _make_folder(Path(target).parent)

    def _delete(self, names: Iterable[str]) -> None:
        folders = set()
        for name in names:
            path = self.root / name
            with suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
            folders.add(path.parent)
        for folder in folders - {self.root}:
            # Not empty, or not there: as good.
            with suppress(OSError):
                folder.rmdir()

    def _sweep(self) -> None:
        """Remove staged files that were left behind, once; nobody stages for an hour."""
        if self._swept:
            return
        self._swept = True
        # What cannot be removed now takes up room, and harms nothing else.
        with suppress(OSError):
            for entry in os.scandir(self.root / _INCOMING):
                with suppress(OSError):
                    if entry.stat().st_mtime < time.time() - _ABANDONED_AFTER_S:
                        Path(entry.path).unlink()

    def _read(self, name: str) -> bytes:
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ObjectNotFound(f"the vault holds no {name!r}") from None

    def _list(self, folder: str) -> builtins.list[str]:
        names: builtins.list[str] = []
        for parent, folders, files in os.walk(self.root / folder, onerror=_raise_unless_missing):
            folders[:] = [name for name in folders if not name.startswith(".")]
            within = Path(parent).relative_to(self.root)
            names += [str(within / name) for name in files]
        return names

    def _folders(self, folder: str) -> builtins.list[str]:
        try:
            entries = list(os.scandir(self.root / folder))
        except FileNotFoundError:
            return []
        return [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]

    def _check(self) -> None:
        path = self.root / _INCOMING / uuid4().hex
        os.close(self._stage(str(path)))
        path.unlink()


def _write_out(descriptor: int, body: bytes) -> None:
    """Write everything, and have it brought to the disk already, which makes the sync to come short."""
    rest = memoryview(body)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _sync_each(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.fsync(descriptor)


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _make_folder(path: Path) -> None:
    """Make a folder and its parents, each durable, however often others remove it meanwhile."""
    vanished = 0
    while not path.is_dir():
        _make_folder(path.parent)
        try:
            path.mkdir()
        except FileNotFoundError:
            # There are file systems, such as /proc, that say so of every new folder.
            vanished += 1
            if vanished > _MOST_VANISHED:
                raise
            continue
        except FileExistsError:
            if _is_in_the_way(path):
                raise
            continue
        _sync_folder(path.parent)


def _is_in_the_way(path: Path) -> bool:
    try:
        return not stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return False


def _sync_folder(path: Path) -> None:
    # A folder that vanished was emptied by a deletion: there is nothing to keep.
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class S3Store:
    """Objects beneath a prefix of an S3 bucket, by s3fs; credentials are found the way AWS's own tools do."""

    def __init__(self, url: str, endpoint: str | None) -> None:
        if find_spec("s3fs") is None:
            raise ConfigError("S3 needs another package: pip install pleiades[s3]")
        scheme, _, self.root = url.rstrip("/").partition("://")
        if scheme != "s3" or not self.root:
            raise ConfigError(f"PLEIADES_VAULT__URL is {url!r}, not like s3://bucket/prefix")
        self._endpoint = endpoint
        self._opened: Any = None

    async def write(self, changes: Changes) -> None:
        await self._call(self._write, changes)

    @asynccontextmanager
    async def writing(self, name: str) -> AsyncIterator[BinaryIO]:
        # What a killed process has uploaded stays invisible, until a rule of the bucket clears it away.
        file = await self._call(lambda: self._fs().open(f"{self.root}/{name}", "wb", autocommit=False))
        try:
            with self._ours():
                yield file
            await self._call(file.close)
            await self._call(file.commit)
        except BaseException:
            with suppress(VaultError):
                await self._call(file.discard)
            # Or else it would be closed, and with that uploaded, when it is forgotten.
            file.closed = True
            raise

    async def read(self, name: str) -> bytes:
        return await self._call(self._read, name)

    async def list(self, folder: str) -> builtins.list[str]:
        return await self._call(self._list, folder)

    async def folders(self, folder: str) -> builtins.list[str]:
        return await self._call(self._folders, folder)

    async def check(self) -> None:
        await self._call(self._check)

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.to_thread(self._refined, function, *args)

    def _refined(self, function: Callable[..., T], *args: Any) -> T:
        with self._ours():
            return function(*args)

    @contextmanager
    def _ours(self) -> Iterator[None]:
        from botocore import exceptions as aws

        try:
            yield
        except (ConnectionError, TimeoutError, aws.ConnectionError, aws.HTTPClientError) as error:
            raise VaultUnavailable(f"s3://{self.root}: {error}") from error
        except (OSError, ValueError, aws.BotoCoreError, aws.ClientError) as error:
            raise VaultError(f"s3://{self.root}: {error}") from error

    def _fs(self) -> Any:
        if self._opened is None:
            import s3fs

            self._opened = s3fs.S3FileSystem(
                endpoint_url=self._endpoint,
                use_listings_cache=False,
                skip_instance_cache=True,
                config_kwargs={"connect_timeout": 10, "read_timeout": 30, "retries": {"mode": "standard"}},
            )
        return self._opened

    def _write(self, changes: Changes) -> None:
        fs = self._fs()
        bodies = {f"{self.root}/{name}": body for name, body in changes.items() if body is not None}
        if bodies:
            fs.pipe(bodies)
        deleted = [name for name, body in changes.items() if body is None]
        for start in range(0, len(deleted), _KEYS_PER_DELETION):
            self._delete(fs, deleted[start : start + _KEYS_PER_DELETION])

    def _delete(self, fs: Any, names: Sequence[str]) -> None:
        """Delete in one call; s3fs's own way looks each up first and hides what could not be deleted."""
        bucket, _, prefix = self.root.partition("/")
        keys = [{"Key": f"{prefix}/{name}" if prefix else name} for name in names]
        answer = fs.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
        if errors := answer.get("Errors"):
            raise OSError(f"{len(errors)} objects could not be deleted: {errors[0].get('Message')}")

    def _read(self, name: str) -> bytes:
        try:
            body: bytes = self._fs().cat_file(f"{self.root}/{name}")
            return body
        except FileNotFoundError as error:
            raise ObjectNotFound(f"the vault holds no {name!r}") from error

    def _list(self, folder: str) -> builtins.list[str]:
        paths = self._fs().find(f"{self.root}/{folder}".rstrip("/"))
        return [path.removeprefix(f"{self.root}/") for path in paths]

    def _folders(self, folder: str) -> builtins.list[str]:
        try:
            entries = self._fs().ls(f"{self.root}/{folder}".rstrip("/"), detail=True)
        except FileNotFoundError:
            return []
        return [entry["name"].rpartition("/")[2] for entry in entries if entry["type"] == "directory"]

    def _check(self) -> None:
        bucket = self.root.partition("/")[0]
        try:
            self._fs().call_s3("head_bucket", Bucket=bucket)
        except FileNotFoundError as error:
            raise VaultError(
                f"bucket {bucket!r} does not exist: create it, or set PLEIADES_VAULT__URL"
            ) from error
