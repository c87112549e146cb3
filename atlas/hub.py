"""Store the vault's objects as files in a Hugging Face dataset."""

from __future__ import annotations

import asyncio
import builtins
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from atlas.db import Database
from atlas.errors import ObjectNotFound, VaultError, VaultUnavailable
from atlas.wording import counted

if TYPE_CHECKING:
    from atlas.stores import Changes

T = TypeVar("T")

_HUB_TIMEOUT_S = 30
_LONGEST_PAUSE_S = 15
_PATHS_PER_QUERY = 500
_DELETIONS_A_COMMIT = 1000


class _CommitsSpent(VaultUnavailable):
    """The hour's commits are used up."""


class HubStore:
    """Objects as files in a Hugging Face dataset, accessed through its official client.

    It uses HfApi instead of HfFileSystem, which makes one commit per file, caches listings that go stale and
    needs three requests for each read. All processes together make at most `commits_per_hour` commits, which
    the database counts. Git's history keeps deleted files until it is squashed (HfApi.super_squash_history).
    """

    def __init__(
        self, dataset: str, token: str, db: Database, endpoint: str | None, commits_per_hour: int
    ) -> None:
        self.dataset, self._token, self._db = dataset, token, db
        self._endpoint, self._commits_per_hour = endpoint, commits_per_hour

    async def write(self, changes: Changes) -> None:
        await self._with_commits(self._commit, changes)

    async def _with_commits(self, function: Callable[..., None], *args: Any) -> None:
        """Call what makes a commit, again if that is refused for now."""
        import stamina

        async for attempt in stamina.retry_context(
            on=_pause_s, attempts=4, timeout=60, wait_initial=0.5, wait_max=8, wait_jitter=1
        ):
            with attempt:
                await self._spend_commit()
                await self._call(function, *args)

    async def read(self, name: str) -> bytes:
        return await self._with_retries(self._read, name)

    async def list(self, folder: str) -> builtins.list[str]:
        return [path for path, is_file in await self._with_retries(self._tree, folder, True) if is_file]

    async def clear(
        self, folder: str, is_ours: Callable[[str], bool]
    ) -> AsyncGenerator[builtins.list[str], None]:
        tree = await self._with_retries(self._tree, folder, False)
        ours = [path for path, is_file in tree if is_file and is_ours(path.rpartition("/")[2])]
        if ours and len(ours) == len(tree):
            # One commit, where file by file they would use up the hour's.
            await self._with_commits(self._delete_folder, folder)
            yield ours
            return
        for start in range(0, len(ours), _DELETIONS_A_COMMIT):
            names = ours[start : start + _DELETIONS_A_COMMIT]
            await self.write(dict.fromkeys(names))
            yield names

    async def folders(self, folder: str) -> builtins.list[str]:
        tree = await self._with_retries(self._tree, folder, False)
        return [path.rpartition("/")[2] for path, is_file in tree if not is_file]

    async def modified(self, folder: str) -> Mapping[str, datetime]:
        return await self._with_retries(self._modified, folder)

    async def check(self) -> None:
        await self._with_retries(self._info)

    async def probe(self, name: str) -> None:
        # Stores nothing, because each commit counts against the hourly limit.
        wait_s = await self._db.fetchval("vault.commits_reopen", self._repository, self._commits_per_hour)
        if wait_s:
            raise self._commits_spent(wait_s)
        await self.check()

    @asynccontextmanager
    async def writing(self, name: str) -> AsyncIterator[BinaryIO]:
        # A commit needs the file's hash before its content, so the content goes to a temporary file first.
        with self._wrapped_errors(), NamedTemporaryFile(prefix="pleiades-") as file:
            yield cast(BinaryIO, file)
            await asyncio.to_thread(file.flush)
            await self._with_commits(self._commit, {name: file.name})

    async def _spend_commit(self) -> None:
        """Count a commit against the hourly limit; even an attempt that fails may have become one."""
        budget = self._repository, self._commits_per_hour
        if not await self._db.fetchval("vault.grant_commit", *budget):
            raise self._commits_spent(await self._db.fetchval("vault.commits_reopen", *budget))

    @property
    def _repository(self) -> str:
        return f"huggingface:{self.dataset}"

    def _commits_spent(self, wait_s: float) -> VaultUnavailable:
        return _CommitsSpent(
            f"this hour's {counted(self._commits_per_hour, 'commit')} to {self.dataset} are used up "
            "(PLEIADES_VAULT__COMMITS_PER_HOUR)",
            wait_s,
        )

    async def _with_retries(self, function: Callable[..., T], *args: Any) -> T:
        import stamina

        async for attempt in stamina.retry_context(
            on=_pause_s, attempts=4, timeout=60, wait_initial=0.5, wait_max=8, wait_jitter=1
        ):
            with attempt:
                answer = await self._call(function, *args)
        return answer

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.to_thread(self._run_wrapped, function, *args)

    def _run_wrapped(self, function: Callable[..., T], *args: Any) -> T:
        with self._wrapped_errors():
            return function(*args)

    @contextmanager
    def _wrapped_errors(self) -> Iterator[None]:
        """Wrap the client's errors in VaultErrors."""
        hub = _hub()
        try:
            yield
        except hub.errors.EntryNotFoundError as error:
            raise ObjectNotFound(f"dataset {self.dataset} has no such object") from error
        except hub.errors.RepositoryNotFoundError as error:
            raise VaultError(
                f"dataset {self.dataset} does not exist or this token may not use it: create it, or set "
                "HF_DATASET_ID and HF_TOKEN"
            ) from error
        except hub.errors.HfHubHTTPError as error:
            status, server_message = error.response.status_code, error.server_message or str(error).strip()
            message = f"dataset {self.dataset}: HTTP {status}: {server_message}"
            # Another process is committing or has just committed: a retry succeeds.
            raise (VaultUnavailable(message) if status in {409, 412} else VaultError(message)) from error
        except (ValueError, OSError) as error:
            raise VaultError(f"dataset {self.dataset}: {error}") from error

    def _api(self) -> Any:
        return _hub().HfApi(endpoint=self._endpoint, token=self._token, library_name="pleiades")

    def _delete_folder(self, folder: str) -> None:
        # An earlier attempt, or another process, may have deleted it.
        with suppress(_hub().errors.EntryNotFoundError):
            self._api().delete_folder(
                folder, self.dataset, repo_type="dataset", commit_message=f"Delete {folder}"
            )

    def _commit(self, changes: Mapping[str, bytes | str | None]) -> None:
        """Commit objects' new bodies, which may also be paths of files, and deletions (None)."""
        hub, api = _hub(), self._api()
        deleted = [name for name, body in changes.items() if body is None]
        added = [hub.CommitOperationAdd(name, body) for name, body in changes.items() if body is not None]
        operations = added + [hub.CommitOperationDelete(name) for name in self._present(api, deleted)]
        if not operations:
            return
        summary = f"Store {counted(len(added), 'object')}, delete {len(deleted)}"
        try:
            api.create_commit(self.dataset, operations, commit_message=summary, repo_type="dataset")
        except hub.errors.EntryNotFoundError as error:
            raise VaultUnavailable(f"dataset {self.dataset}: another process deleted a file") from error
        if any(operation._should_ignore for operation in added):
            raise VaultError(f"dataset {self.dataset}: its .gitignore excludes objects: remove those lines")

    def _present(self, api: Any, names: Sequence[str]) -> builtins.list[str]:
        """The names that exist; a commit that deletes a missing file fails as a whole."""
        present: builtins.list[str] = []
        for start in range(0, len(names), _PATHS_PER_QUERY):
            paths = list(names[start : start + _PATHS_PER_QUERY])
            present += [info.path for info in api.get_paths_info(self.dataset, paths, repo_type="dataset")]
        return present

    def _read(self, name: str) -> bytes:
        hub = _hub()
        url = hub.hf_hub_url(self.dataset, name, repo_type="dataset", endpoint=self._endpoint)
        response = hub.get_session().get(url, headers=hub.utils.build_hf_headers(token=self._token))
        hub.utils.hf_raise_for_status(response)
        content: bytes = response.content
        return content

    def _tree(self, folder: str, recursive: bool) -> builtins.list[tuple[str, bool]]:
        hub = _hub()
        try:
            entries = self._api().list_repo_tree(
                self.dataset, folder or None, recursive=recursive, repo_type="dataset"
            )
            return [(entry.path, isinstance(entry, hub.RepoFile)) for entry in entries]
        except hub.errors.EntryNotFoundError:
            return []

    def _modified(self, folder: str) -> Mapping[str, datetime]:
        hub = _hub()
        try:
            entries = self._api().list_repo_tree(
                self.dataset, folder or None, recursive=True, expand=True, repo_type="dataset"
            )
            return {
                entry.path: entry.last_commit.date for entry in entries if isinstance(entry, hub.RepoFile)
            }
        except hub.errors.EntryNotFoundError:
            return {}

    def _info(self) -> None:
        self._api().repo_info(self.dataset, repo_type="dataset")


def _pause_s(error: Exception) -> bool | float:
    """Whether to retry, or after how many seconds if the service said so; False if that is too long."""
    if not isinstance(error, VaultUnavailable) or isinstance(error, _CommitsSpent):
        return False
    if error.retry_after_s is None:
        return True
    return error.retry_after_s if error.retry_after_s <= _LONGEST_PAUSE_S else False


def _hub() -> Any:
    """The official client, configured on first use: no telemetry, no progress bars, no retries of its own."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import huggingface_hub
    from huggingface_hub.utils import _http

    if _http._GLOBAL_CLIENT_FACTORY is not _one_try_client:
        huggingface_hub.utils.disable_progress_bars()  # type: ignore[attr-defined]
        huggingface_hub.set_client_factory(_one_try_client)
    return huggingface_hub


def _one_try_client() -> Any:
    """An HTTP client that raises VaultUnavailable at once where the hub's own would retry for minutes.

    We retry without blocking a thread, and with a timeout, which the hub's client lacks.
    """
    from huggingface_hub.utils._http import default_client_factory

    client: Any = default_client_factory()
    client.timeout = _HUB_TIMEOUT_S
    send = client.send

    def send_once(request: Any, **options: Any) -> Any:
        try:
            response = send(request, **options)
        except Exception as error:
            # Transport errors of httpx or httpx2, depending on the client's version.
            raise VaultUnavailable(f"{request.url.host}: {type(error).__name__}: {error}") from error
        if response.status_code in {408, 429} or response.status_code >= 500:
            response.close()
            raise VaultUnavailable(
                f"{request.url.host}: HTTP {response.status_code}: {response.reason_phrase}",
                _retry_after_s(response.headers),
            )
        return response

    client.send = send_once
    return client


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    seconds = headers.get("retry-after", "").strip()
    if seconds.isdigit():
        return float(seconds)
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else None
