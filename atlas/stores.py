"""Object stores for the vault: a local folder, a Hugging Face dataset, an S3 bucket."""

from __future__ import annotations

import asyncio
import builtins
import errno
import os
import re
import stat
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, assert_never
from uuid import uuid4

from atlas.config import Settings
from atlas.db import Database
from atlas.errors import ConfigError, ObjectNotFound, VaultError, VaultUnavailable
from atlas.extras import how_to_install
from atlas.hub import HubStore
from atlas.wording import counted

Changes = Mapping[str, bytes | None]
T = TypeVar("T")
A = TypeVar("A")

_INCOMING = ".incoming"
_STAGED = re.compile(r"[0-9a-f]{32}(-\d+)?")
_ABANDONED_AFTER_S = 3600
_BUFFER_BYTES = 1 << 20
_FILES_AT_ONCE = 100
_SYNCS_AT_ONCE = 8
_DELETED_AT_ONCE = 1000
# A disk that is told of each freed file, or is far away, makes each deletion wait; they wait better together.
_UNLINKS_AT_ONCE = 32
_MAX_ATTEMPTS = 1000
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_KEYS_PER_DELETION = 1000
_CALLS_AT_ONCE = 4
# The size of a small API answer, because a nearly full disk may still have room for less.
_PROBE = bytes(4096)


class Destination(Protocol):
    """Where an export is written to."""

    def writing(self, name: str) -> AbstractAsyncContextManager[BinaryIO]:
        """Yield a file to write from a thread; it becomes the object when the body ends without an error.

        It takes any amount of data in constant memory. OSErrors raised in the body become VaultErrors.
        """
        ...


class Store(Destination, Protocol):
    """Stores objects by name. The vault validates names; every failure is a VaultError."""

    async def write(self, changes: Changes) -> None:
        """Store each body, or delete the object if the body is None; in one commit if the service has those.

        After an error, some changes may have been made; repeating all of them is harmless.
        """
        ...

    async def read(self, name: str) -> bytes: ...

    async def list(self, folder: str) -> builtins.list[str]:
        """Names of all objects below a folder ("" for the root), unsorted; a missing folder has none."""
        ...

    def clear(self, folder: str, is_ours: Callable[[str], bool]) -> AsyncGenerator[builtins.list[str], None]:
        """Delete the objects directly in a folder whose file names are ours; yields the names step by step.

        Ended anywhere, the next call goes on. The folder goes too once nothing else is in it. VaultError if
        something could not be deleted.
        """
        ...

    async def folders(self, folder: str) -> builtins.list[str]:
        """Names of the folders directly inside a folder, without its path."""
        ...

    async def modified(self, folder: str) -> Mapping[str, datetime]:
        """When each object below a folder was last written, by the store's own clock."""
        ...

    async def check(self) -> None:
        """Raise VaultError if the store can't be reached."""
        ...

    async def probe(self, name: str) -> None:
        """Raise VaultError unless objects can be stored now; if that is cheap, store and delete one."""
        ...


def store_of(settings: Settings, db: Database, *, mode: int = 0o666) -> Store:
    """The store that the settings choose, without connecting to it; `mode` is that of files in a folder."""
    vault = settings.vault
    match settings.vault_provider:
        case "file":
            return FileStore(vault.path or settings.data_folder / "vault", mode=mode)
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

    def __init__(self, root: Path, label: str = "the vault", *, mode: int = 0o666) -> None:
        """`mode` is the one of new files, of which the umask takes away."""
        self.root, self._label, self._mode = root, label, mode
        self._swept = False
        self._threads = ThreadPoolExecutor(_UNLINKS_AT_ONCE, "vault")

    async def write(self, changes: Changes) -> None:
        await self._call("write", self._write, changes)

    @asynccontextmanager
    async def writing(self, name: str) -> AsyncIterator[BinaryIO]:
        path = f"{self.root}/{_INCOMING}/{uuid4().hex}"
        file = await self._begun(path)
        try:
            with self._wrapped_errors("write"):
                yield file
            await self._call("write", self._finish, file, path, name)
        finally:
            await asyncio.to_thread(self._discard, file, path)

    async def read(self, name: str) -> bytes:
        return await self._call("read", self._read, name)

    async def list(self, folder: str) -> builtins.list[str]:
        return await self._call("list", self._list, folder)

    async def clear(
        self, folder: str, is_ours: Callable[[str], bool]
    ) -> AsyncGenerator[builtins.list[str], None]:
        path, failures = f"{self.root}/{folder}", builtins.list[OSError]()
        ours = await self._call("list", _files_in, path, is_ours)
        for start in range(0, len(ours), _DELETED_AT_ONCE):
            files = ours[start : start + _DELETED_AT_ONCE]
            failed = await self._call("delete", self._unlink, [f"{path}/{file}" for file in files])
            failures += failed.values()
            yield [f"{folder}/{file}" for file in files if f"{path}/{file}" not in failed]
        if failures:
            with self._wrapped_errors("delete"):
                raise failures[0]
        await asyncio.to_thread(_remove_if_empty, Path(path))

    async def folders(self, folder: str) -> builtins.list[str]:
        return await self._call("list", self._folders, folder)

    async def modified(self, folder: str) -> Mapping[str, datetime]:
        return await self._call("list", self._modified, folder)

    async def check(self) -> None:
        await self._call("write", self._check)

    async def probe(self, name: str) -> None:
        await self.write({name: _PROBE})
        await self.write({name: None})

    async def _call(self, action: str, function: Callable[..., T], *args: Any) -> T:
        with self._wrapped_errors(action):
            return await asyncio.to_thread(function, *args)

    @contextmanager
    def _wrapped_errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = error.filename or self.root
            reason = error.strerror or error
            raise VaultError(f"cannot {action} in {self._label}: {reason}: {where}") from error

    async def _begun(self, path: str) -> BinaryIO:
        """Create a new staged file; if that is cancelled, none is left."""
        beginning = asyncio.ensure_future(self._call("write", self._begin, path))
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            # Its thread cannot be cancelled: wait for the file, then remove it.
            with suppress(VaultError):
                self._discard(await beginning, path)
            raise

    def _begin(self, path: str) -> BinaryIO:
        self._sweep()
        return os.fdopen(self._stage(path), "wb", _BUFFER_BYTES)

    def _finish(self, file: BinaryIO, path: str, name: str) -> None:
        """Turn the staged file into the object, durably."""
        file.flush()
        os.fsync(file.fileno())
        self._publish(path, f"{self.root}/{name}")
        _sync_folder((self.root / name).parent)

    def _discard(self, file: BinaryIO, path: str) -> None:
        """Remove the staged file if it wasn't published, and the staging folder if it is empty."""
        # On a full disk, closing fails again with the error of the last write.
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
        self._delete([name for name, body in changes.items() if body is None])

    def _replace(self, bodies: Sequence[tuple[str, bytes]]) -> None:
        """Stage all, sync all, then rename all, so that the file system commits its journal only once."""
        # Strings, because creating a Path for each file would take longer than writing the files.
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
                # Closing may repeat the error of the sync, which is the one to report.
                with suppress(OSError):
                    os.close(descriptor)
            for _, path in staged[published:]:
                Path(path).unlink(missing_ok=True)

    def _sync(self, descriptors: Sequence[int]) -> None:
        """Sync several files at a time, because the disk can flush them together."""
        self._together(_SYNCS_AT_ONCE, _sync_each, descriptors)

    def _unlink(self, paths: Sequence[str]) -> dict[str, OSError]:
        """Delete several files at a time; returns which could not be deleted, and why."""
        failed: dict[str, OSError] = {}
        for part in self._together(_UNLINKS_AT_ONCE, _unlink_each, paths):
            failed |= part
        return failed

    def _together(
        self, at_once: int, work: Callable[[Sequence[A]], T], items: Sequence[A]
    ) -> builtins.list[T]:
        """Do something with shares of the items, each in a thread; returns what came of each share."""
        shares = [items[nth::at_once] for nth in range(at_once)]
        parts = [self._threads.submit(work, share) for share in shares if share]
        wait(parts)
        return [part.result() for part in parts]

    def _stage(self, path: str) -> int:
        for _ in range(_MAX_ATTEMPTS):
            try:
                return os.open(path, _CREATE, self._mode)
            except FileNotFoundError:
                # The folder doesn't exist yet, or the process with the last staged file has removed it.
                _make_folder(Path(path).parent)
        raise _vanishing(Path(path).parent)

    def _publish(self, staged: str, target: str) -> None:
        for _ in range(_MAX_ATTEMPTS):
            try:
                os.replace(staged, target)  # noqa: PTH105
                return
            except FileNotFoundError:
                # The folder doesn't exist yet, or a process that emptied it has removed it.
                if not Path(staged).exists():
                    raise
                _make_folder(Path(target).parent)
        raise _vanishing(Path(target).parent)

    def _delete(self, names: Sequence[str]) -> None:
        failed = self._unlink([f"{self.root}/{name}" for name in names])
        for folder in {name.rpartition("/")[0] for name in names} - {""}:
            _remove_if_empty(self.root / folder)
        if failed:
            raise next(iter(failed.values()))

    def _sweep(self) -> None:
        """Once per process, remove abandoned staged files: those an hour old, as staging is much faster."""
        if self._swept:
            return
        self._swept = True
        # A file that can't be removed only takes up space.
        folder = self.root / _INCOMING
        with suppress(OSError):
            for entry in [] if folder.is_symlink() else os.scandir(folder):
                with suppress(OSError):
                    age_s = time.time() - entry.stat(follow_symlinks=False).st_mtime
                    if _STAGED.fullmatch(entry.name) and age_s > _ABANDONED_AFTER_S:
                        Path(entry.path).unlink()

    def _read(self, name: str) -> bytes:
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ObjectNotFound(f"the vault has no {name!r}") from None

    def _list(self, folder: str) -> builtins.list[str]:
        names: builtins.list[str] = []
        for parent, folders, files in os.walk(self.root / folder, onerror=_raise_unless_missing):
            folders[:] = [name for name in folders if not name.startswith(".")]
            within = Path(parent).relative_to(self.root)
            # Strings, because a folder may hold hundreds of thousands of files.
            prefix = "" if within == Path() else f"{within}/"
            names += [prefix + name for name in files]
        return names

    def _modified(self, folder: str) -> Mapping[str, datetime]:
        found = {}
        for name in self._list(folder):
            # It may be deleted meanwhile.
            with suppress(FileNotFoundError):
                found[name] = datetime.fromtimestamp((self.root / name).stat().st_mtime, UTC)
        return found

    def _folders(self, folder: str) -> builtins.list[str]:
        try:
            entries = list(os.scandir(self.root / folder))
        except FileNotFoundError:
            return []
        # What a link leads to is somebody else's.
        return [
            entry.name
            for entry in entries
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
        ]

    def _check(self) -> None:
        path = self.root / _INCOMING / uuid4().hex
        os.close(self._stage(str(path)))
        path.unlink()


def _write_out(descriptor: int, body: bytes) -> None:
    """Write all of it and start writing it back to the disk, so that the later sync is short."""
    rest = memoryview(body)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _sync_each(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.fsync(descriptor)


def _unlink_each(paths: Sequence[str]) -> dict[str, OSError]:
    """Delete files, unless they are gone already; returns which could not be deleted, and why."""
    failed = {}
    for path in paths:
        try:
            os.unlink(path)  # noqa: PTH108
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            failed[path] = error
    return failed


def _files_in(folder: str, is_ours: Callable[[str], bool]) -> builtins.list[str]:
    """Names of the files directly in a folder that are ours; what a link to a folder leads to never is."""
    try:
        if Path(folder).is_symlink():
            return []
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if is_ours(entry.name) and not entry.is_dir()]
    except FileNotFoundError:
        return []


def _remove_if_empty(folder: Path) -> None:
    # It may hold something, or already be gone.
    with suppress(OSError):
        folder.rmdir()


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _make_folder(path: Path) -> None:
    """Create a folder and its parents durably, even while other processes remove them; or raise OSError."""
    for _ in range(_MAX_ATTEMPTS):
        if path.is_dir():
            return
        if path.is_symlink():
            raise OSError(errno.ENOENT, f"it is a link to {path.readlink()}, which is no folder", str(path))
        _make_folder(path.parent)
        try:
            path.mkdir()
        except FileNotFoundError:
            # Another process removed the parent; but /proc, for example, always answers like this.
            continue
        except FileExistsError:
            if _is_not_a_folder(path):
                raise
        else:
            _sync_folder(path.parent)
    raise _vanishing(path)


def _vanishing(path: Path) -> OSError:
    return OSError(errno.ENOENT, "the folder cannot be created, or vanishes at once", str(path))


def _is_not_a_folder(path: Path) -> bool:
    try:
        return not stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return False


def _sync_folder(path: Path) -> None:
    # If the folder is gone, a deletion emptied it and there is nothing to sync.
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class S3Store:
    """Objects below a prefix of an S3 bucket, through s3fs, which finds credentials as AWS's own tools do."""

    def __init__(self, url: str, endpoint: str | None) -> None:
        if find_spec("s3fs") is None:
            raise ConfigError(f"S3 needs s3fs; install it: {how_to_install('s3')}")
        scheme, _, self.root = url.rstrip("/").partition("://")
        if scheme != "s3" or not self.root:
            raise ConfigError(f"PLEIADES_VAULT__URL is {url!r}: write it like s3://bucket/prefix")
        self._endpoint = endpoint
        self._opened: Any = None

    async def write(self, changes: Changes) -> None:
        await self._call(self._write, changes)

    @asynccontextmanager
    async def writing(self, name: str) -> AsyncIterator[BinaryIO]:
        # Parts uploaded by a process that was killed stay invisible until a lifecycle rule removes them.
        file = await self._call(lambda: self._fs().open(f"{self.root}/{name}", "wb", autocommit=False))
        try:
            with self._wrapped_errors():
                yield file
            await self._call(file.close)
            await self._call(file.commit)
        except BaseException:
            with suppress(VaultError):
                await self._call(file.discard)
            # Otherwise garbage collection would close the file, which uploads it.
            file.closed = True
            raise

    async def read(self, name: str) -> bytes:
        return await self._call(self._read, name)

    async def list(self, folder: str) -> builtins.list[str]:
        return await self._call(self._list, folder)

    async def clear(
        self, folder: str, is_ours: Callable[[str], bool]
    ) -> AsyncGenerator[builtins.list[str], None]:
        named = {name: name.rpartition("/") for name in await self.list(folder)}
        ours = [name for name, (within, _, file) in named.items() if within == folder and is_ours(file)]
        keys = _KEYS_PER_DELETION
        calls = [ours[first : first + keys] for first in range(0, len(ours), keys)]
        for nth in range(0, len(calls), _CALLS_AT_ONCE):
            step = calls[nth : nth + _CALLS_AT_ONCE]
            await asyncio.gather(*(self._call(self._delete, names) for names in step))
            yield [name for names in step for name in names]

    async def folders(self, folder: str) -> builtins.list[str]:
        return await self._call(self._folders, folder)

    async def modified(self, folder: str) -> Mapping[str, datetime]:
        return await self._call(self._modified, folder)

    async def check(self) -> None:
        await self._call(self._check)

    async def probe(self, name: str) -> None:
        await self.write({name: _PROBE})
        await self.write({name: None})

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.to_thread(self._run_wrapped, function, *args)

    def _run_wrapped(self, function: Callable[..., T], *args: Any) -> T:
        with self._wrapped_errors():
            return function(*args)

    @contextmanager
    def _wrapped_errors(self) -> Iterator[None]:
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
            self._delete(deleted[start : start + _KEYS_PER_DELETION])

    def _delete(self, names: Sequence[str]) -> None:
        """Delete in one call; s3fs's own method looks up each object first and hides failed deletions."""
        bucket, _, prefix = self.root.partition("/")
        keys = [{"Key": f"{prefix}/{name}" if prefix else name} for name in names]
        answer = self._fs().call_s3("delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
        if errors := answer.get("Errors"):
            raise OSError(
                f"{counted(len(errors), 'object')} could not be deleted: {errors[0].get('Message')}"
            )

    def _read(self, name: str) -> bytes:
        try:
            body: bytes = self._fs().cat_file(f"{self.root}/{name}")
            return body
        except FileNotFoundError as error:
            raise ObjectNotFound(f"the vault has no {name!r}") from error

    def _list(self, folder: str) -> builtins.list[str]:
        paths = self._fs().find(f"{self.root}/{folder}".rstrip("/"))
        return [path.removeprefix(f"{self.root}/") for path in paths]

    def _modified(self, folder: str) -> Mapping[str, datetime]:
        found = self._fs().find(f"{self.root}/{folder}".rstrip("/"), detail=True)
        return {path.removeprefix(f"{self.root}/"): info["LastModified"] for path, info in found.items()}

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
