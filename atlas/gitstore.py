"""Keeps files under version control: commits a folder of them to a bare Git repository, without a work tree.

Objects are written straight into the repository with dulwich, all new ones of a commit as one pack. The rest
of the tree isn't touched, so that the repository may hold other files, and other programs may commit to it at
the same time: a branch only moves by compare-and-swap.
"""

from __future__ import annotations

import asyncio
import errno
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit
from uuid import uuid4

from atlas.errors import AtlasError

if TYPE_CHECKING:
    from dulwich.config import StackedConfig
    from dulwich.objects import Commit, ObjectID, ShaFile, Tree
    from dulwich.pack import Pack, UnpackedObject
    from dulwich.refs import Ref
    from dulwich.repo import Repo

_MAX_ATTEMPTS: Final = 60
_LONGEST_WAIT_S: Final = 0.1
_HTTP_TIMEOUT_S: Final = 60
# As git's gc.autoPackLimit: each pack costs a look-up for every object that is sought.
_MAX_PACKS: Final = 50
_SMALL_PACK_BYTES: Final = 1 << 20
_ABANDONED_AFTER_S: Final = 3600
_FILE_MODE: Final = stat.S_IFREG | 0o644
_USER_INFO: Final = re.compile(r"(?<=://)[^/@\s]+@")
_AUTHOR: Final = re.compile(r"[^<>\0\n]+ <[^<>\0\n]+>")

T = TypeVar("T")


class GitError(AtlasError):
    """The Git repository could not be read, written or pushed."""


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What a commit brought: the branch's commit now, and whether it is new."""

    commit: str | None
    """Its hash in hexadecimal digits; None if there is none yet."""
    created: bool
    changed: int
    """How many files were added, changed or removed."""
    pushed: bool = False


@dataclass(slots=True)
class _Folder:
    """A folder to be written: its files' hashes and its subfolders."""

    files: dict[bytes, ObjectID] = field(default_factory=dict)
    folders: dict[bytes, _Folder] = field(default_factory=dict)


class GitStore:
    """One folder on branches of one bare repository, which is created with the first commit.

    Calls may be made from several processes at once. `folder` is its path in the repository ("" for all of
    it); `remote` is where `push` sends a branch, by its own credentials or those in the URL, which no error
    repeats. With `auto_push` every commit pushes, also one without changes in case an earlier push failed.
    """

    def __init__(
        self, path: Path, folder: str = "patterns", *, remote: str | None = None, auto_push: bool = False
    ) -> None:
        if auto_push and not remote:
            raise ValueError("auto_push needs a remote")
        self.path, self._remote, self._auto_push = path, remote, auto_push
        self._folder = [name.encode() for name in folder.split("/")] if folder else []
        for name in self._folder:
            _check_name(name, folder)

    async def commit(
        self, files: Mapping[str, bytes], message: str, author: str, branch: str, at: datetime
    ) -> CommitResult:
        """Make the folder hold exactly these files, by their paths in it; commit nothing if it does already.

        `author` is such as "Maia <maia@example.org>". GitError says what is wrong; if it is the push, the
        commit has been made and the next push sends it.
        """
        result = await self._call("commit to", self._commit, files, message, author, branch, at)
        if not self._auto_push or result.commit is None:
            return result
        await self.push(branch)
        return CommitResult(result.commit, result.created, result.changed, pushed=True)

    async def push(self, branch: str) -> None:
        """Send a branch to the remote, only forward: GitError if the remote has commits that we lack."""
        if not self._remote:
            raise GitError("no Git remote is configured to push to")
        await self._call("push from", self._push, self._remote, branch)

    async def read(self, branch: str) -> dict[str, bytes]:
        """The folder's files by their paths in it; none if the branch or folder doesn't exist."""
        return await self._call("read", self._read, branch)

    async def _call(self, action: str, function: Callable[..., T], *arguments: object) -> T:
        with self._wrapped_errors(action):
            return await asyncio.to_thread(function, *arguments)

    @contextmanager
    def _wrapped_errors(self, action: str) -> Iterator[None]:
        from dulwich.errors import NotGitRepository

        try:
            yield
        except GitError:
            raise
        except NotGitRepository as error:
            raise GitError(
                f"{self.path} is not empty and no bare Git repository: name another folder"
            ) from error
        except OSError as error:
            raise GitError(f"cannot {action} the Git repository {self.path}: {error}") from error
        except Exception as error:
            # Of a damaged repository dulwich raises anything, from AssertionError to zlib.error.
            reason = f"{type(error).__name__}: {error}; it may be damaged: git fsck says more"
            raise GitError(f"cannot {action} the Git repository {self.path}: {reason}") from error

    # In a thread

    def _commit(
        self, files: Mapping[str, bytes], message: str, author: str, branch: str, at: datetime
    ) -> CommitResult:
        ref = _ref_of(branch)
        if not _AUTHOR.fullmatch(author):
            raise GitError(f"the author must be such as “Maia <maia@example.org>”, not {author!r}")
        wanted, bodies = _planned(files)

        def attempt(repo: Repo) -> CommitResult | None:
            result = self._attempt(repo, ref, wanted, bodies, message, author, at)
            if result is not None:
                _tidy(repo)
            return result

        result = self._patiently(branch, attempt)
        if result is None:
            raise GitError(
                f"others keep moving or locking the branch {branch} of {self.path}: if none runs, remove "
                f"{ref.decode()}.lock there"
            )
        return result

    def _patiently(self, branch: str, work: Callable[[Repo], T | None]) -> T | None:
        """Do something with the repository until it gives a result; None if it never does.

        Others may write at the same time: dulwich lists a pack whose index isn't there yet, or any more.
        """
        from dulwich.pack import PackFileDisappeared

        for attempt in range(_MAX_ATTEMPTS):
            with suppress(PackFileDisappeared), self._opened(branch) as repo:
                result = work(repo)
                if result is not None:
                    return result
            time.sleep(min(0.001 * 2**attempt, _LONGEST_WAIT_S))
        return None

    def _attempt(
        self,
        repo: Repo,
        ref: Ref,
        wanted: _Folder,
        bodies: Mapping[ObjectID, bytes],
        message: str,
        author: str,
        at: datetime,
    ) -> CommitResult | None:
        """Commit on top of the branch as it is now; None if it moved in between."""
        from dulwich.file import FileLocked
        from dulwich.objects import ZERO_SHA, Blob, Tree

        head = _head(repo, ref)
        root = repo.get_object(_as_commit(repo, head).tree) if head else Tree()
        assert isinstance(root, Tree)
        old = dict(_listed(repo, _descend(repo, root, self._folder)))
        new = dict(_flat(wanted))
        changed = sum(old.get(path) != id_ for path, id_ in new.items()) + len(old.keys() - new.keys())
        if not changed:
            return CommitResult(head.decode() if head else None, created=False, changed=0)
        present = {*old.values()}
        fresh: dict[ObjectID, ShaFile] = {
            id_: Blob.from_string(body)
            for id_, body in bodies.items()
            if id_ not in present and id_ not in repo.object_store
        }
        tree = self._replaced(repo, root, wanted, fresh)
        commit = _commit_of(tree, head, message, author, at)
        fresh[commit.id] = commit
        repo.object_store.add_objects([(each, None) for each in fresh.values()])
        try:
            if not repo.refs.set_if_equals(ref, head or ZERO_SHA, commit.id):
                return None
        except FileLocked:
            return None
        return CommitResult(commit.id.decode(), created=True, changed=changed)

    def _replaced(self, repo: Repo, root: Tree, wanted: _Folder, fresh: dict[ObjectID, ShaFile]) -> Tree:
        """The root with our folder replaced; new trees are added to `fresh`."""
        from dulwich.objects import Tree

        above = [root]
        for name in self._folder[:-1]:
            found = _child(repo, above[-1], name)
            above.append(Tree() if found is None else found)
        tree = _tree_of(wanted, fresh)
        for parent, name in zip(reversed(above), reversed(self._folder), strict=False):
            copy = parent.copy()
            assert isinstance(copy, Tree)
            if len(tree):
                fresh[tree.id] = tree
                copy[name] = (stat.S_IFDIR, tree.id)
            elif name in copy:
                # Git has no empty folders.
                del copy[name]
            tree = copy
        fresh[tree.id] = tree
        return tree

    def _push(self, remote: str, branch: str) -> None:
        from dulwich.client import get_transport_and_path
        from dulwich.graph import can_fast_forward

        ref = _ref_of(branch)
        with self._opened(branch) as repo:
            head = _head(repo, ref)
            if head is None:
                raise GitError(f"there is no branch {branch} in {self.path} to push")

            def updated(refs: Mapping[Ref, ObjectID]) -> dict[Ref, ObjectID]:
                theirs = refs.get(ref)
                if theirs is not None and (
                    theirs not in repo.object_store or not can_fast_forward(repo, theirs, head)
                ):
                    raise _Diverged
                return {ref: head}

            def packed(
                have: AbstractSet[ObjectID],
                want: AbstractSet[ObjectID],
                *,
                ofs_delta: bool = True,
                **_: object,
            ) -> tuple[int, Iterator[UnpackedObject]]:
                return repo.generate_pack_data(set(have), set(want), ofs_delta=ofs_delta)

            try:
                client, path = get_transport_and_path(remote, config=_with_timeout(repo))
                result = client.send_pack(path.encode(), updated, packed)
                refused = "; ".join(filter(None, (result.ref_status or {}).values()))
            except _Diverged:
                reason = (
                    f"its branch {branch} has commits that are not in {self.path}: fetch them, or use another"
                )
                raise GitError(f"cannot push to {without_credentials(remote)}: {reason}") from None
            except Exception as error:  # noqa: BLE001 - transports raise anything, with the URL in it
                refused = str(error) or type(error).__name__
            if refused:
                # Not chained: the cause may hold the password.
                reason = _scrubbed(refused, remote)
                raise GitError(f"cannot push to {without_credentials(remote)}: {reason}") from None

    def _read(self, branch: str) -> dict[str, bytes]:
        if not self.path.exists():
            return {}
        found = self._patiently(branch, lambda repo: self._files(repo, _ref_of(branch)))
        if found is None:
            raise GitError(f"{self.path} has a pack without an index: git fsck says more")
        return found

    def _files(self, repo: Repo, ref: Ref) -> dict[str, bytes]:
        head = _head(repo, ref)
        if head is None:
            return {}
        tree = _descend(repo, _as_tree(repo, _as_commit(repo, head).tree), self._folder)
        return {path.decode(): _body(repo, id_) for path, id_ in _listed(repo, tree)}

    @contextmanager
    def _opened(self, branch: str) -> Iterator[Repo]:
        """The repository, created if there is none."""
        from dulwich.repo import Repo

        if not self.path.exists() or not any(self.path.iterdir()):
            self._create(branch)
        with Repo(self.path) as repo:
            # A branch must not point to what a power cut has lost.
            repo.object_store.fsync_object_files = True
            if not repo.bare:
                raise GitError(
                    f"{self.path} has a work tree, which would fall behind: name a bare repository"
                )
            yield repo

    def _create(self, branch: str) -> None:
        """Create the repository in one step, because another process may be doing the same."""
        from dulwich.repo import Repo

        self.path.parent.mkdir(parents=True, exist_ok=True)
        staged = self.path.with_name(f".{self.path.name}.{uuid4().hex}")
        try:
            Repo.init_bare(staged, mkdir=True, default_branch=branch.encode()).close()
            staged.replace(self.path)
        except OSError as error:
            # Or each try on a full disk would leave one.
            shutil.rmtree(staged, ignore_errors=True)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


class _Diverged(Exception):
    """The remote's branch isn't an ancestor of ours."""


def _with_timeout(repo: Repo) -> StackedConfig:
    """The repository's, the user's and the machine's Git configuration, with a time limit if it has none."""
    from dulwich.config import ConfigFile, StackedConfig

    defaults = ConfigFile()
    defaults.set((b"http",), b"timeout", b"%d" % _HTTP_TIMEOUT_S)
    return StackedConfig([*repo.get_config_stack().backends, defaults])


def _tidy(repo: Repo) -> None:
    """Merge small packs if there are many; the commit has been made, so that a failure doesn't matter."""
    from dulwich.pack import PackFileDisappeared

    with suppress(OSError, PackFileDisappeared):
        store = repo.object_store
        _sweep(Path(store.path))
        folder = Path(store.pack_dir)
        if len(list(folder.glob("pack-*.pack"))) <= _MAX_PACKS:
            return
        small = _small_packs(repo, folder)
        if len(small) <= _MAX_PACKS:
            return
        objects = {each.id: each for pack in small for each in pack.iterobjects()}
        merged = store.add_objects([(each, None) for each in objects.values()])
        for pack in small:
            if merged is not None and pack.name() != merged.name():
                store._remove_pack(pack)


def _sweep(objects: Path) -> None:
    """Delete packs that processes began to write long ago and gave up or died over."""
    before_s = time.time() - _ABANDONED_AFTER_S
    for each in objects.glob("tmp_pack_*"):
        if each.stat().st_mtime < before_s:
            each.unlink(missing_ok=True)


def _small_packs(repo: Repo, folder: Path) -> list[Pack]:
    """Packs written by commits like ours: git's own have files beside them, such as .rev or .keep."""
    small = []
    for pack in repo.object_store.packs:
        path = folder / f"pack-{pack.name().decode()}.pack"
        beside = {each.suffix for each in folder.glob(f"{path.stem}.*")}
        if beside == {".pack", ".idx"} and path.stat().st_size <= _SMALL_PACK_BYTES:
            small.append(pack)
    return small


def without_credentials(url: str) -> str:
    """The URL of a remote without user, password and query."""
    parts = urlsplit(url)
    if not parts.scheme or not parts.netloc:
        host, slash, path = url.partition("/")
        return host.rpartition("@")[2] + slash + path
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _scrubbed(text: str, remote: str) -> str:
    """A reason without anything secret of the remote's URL in it."""
    parts = urlsplit(remote)
    text = text.replace(remote, without_credentials(remote))
    secrets = {secret for secret in (parts.password, parts.query, parts.username) if secret}
    if parts.scheme not in {"http", "https"}:
        secrets.discard(parts.username or "")
    for secret in sorted(secrets | {unquote(each) for each in secrets}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return _USER_INFO.sub("", text)


def _ref_of(branch: str) -> Ref:
    from dulwich.refs import Ref, check_ref_format

    ref = Ref(b"refs/heads/" + branch.encode())
    if not check_ref_format(ref) or branch.startswith("-"):
        raise GitError(f"{branch!r} is no name of a Git branch")
    return ref


def _check_name(name: bytes, path: str) -> None:
    if not name or name in {b".", b".."} or name.lower() == b".git" or b"\0" in name or b"\\" in name:
        raise GitError(f"{path!r} is no path of a file in a Git repository")


def _planned(files: Mapping[str, bytes]) -> tuple[_Folder, dict[ObjectID, bytes]]:
    """The folder to write, and the bodies by their hashes."""
    from dulwich.objects import ObjectID

    root = _Folder()
    bodies: dict[ObjectID, bytes] = {}
    for path, body in files.items():
        *above, name = (part.encode() for part in path.split("/"))
        folder = root
        for part in above:
            _check_name(part, path)
            folder = folder.folders.setdefault(part, _Folder())
        _check_name(name, path)
        # Git's hash of a blob, without making an object for each that is stored already.
        header = b"blob %d\0" % len(body)
        id_ = ObjectID(sha1(header + body, usedforsecurity=False).hexdigest().encode())
        folder.files[name] = id_
        bodies[id_] = body
    _check_folders(root, "")
    return root, bodies


def _check_folders(folder: _Folder, above: str) -> None:
    for name, inner in folder.folders.items():
        path = above + name.decode()
        if name in folder.files:
            raise GitError(f"{path} cannot be a file and a folder at once")
        _check_folders(inner, f"{path}/")


def _flat(folder: _Folder, above: bytes = b"") -> Iterator[tuple[bytes, ObjectID]]:
    for name, id_ in folder.files.items():
        yield above + name, id_
    for name, inner in folder.folders.items():
        yield from _flat(inner, above + name + b"/")


def _tree_of(folder: _Folder, fresh: dict[ObjectID, ShaFile]) -> Tree:
    """The folder's tree, after those of its subfolders have been added to `fresh`."""
    from dulwich.objects import Tree

    tree = Tree()
    for name, id_ in folder.files.items():
        tree.add(name, _FILE_MODE, id_)
    for name, inner in folder.folders.items():
        child = _tree_of(inner, fresh)
        fresh[child.id] = child
        tree.add(name, stat.S_IFDIR, child.id)
    return tree


def _listed(repo: Repo, tree: Tree | None, above: bytes = b"") -> Iterator[tuple[bytes, ObjectID]]:
    """Everything below a tree that isn't a folder itself."""
    if tree is None:
        return
    for name, mode, id_ in tree.iteritems():
        if stat.S_ISDIR(mode):
            yield from _listed(repo, _as_tree(repo, id_), above + name + b"/")
        else:
            yield above + name, id_


def _descend(repo: Repo, tree: Tree, names: list[bytes]) -> Tree | None:
    found: Tree | None = tree
    for name in names:
        if found is None:
            return None
        found = _child(repo, found, name)
    return found


def _child(repo: Repo, tree: Tree, name: bytes) -> Tree | None:
    """The folder of that name; None if there is none, or a file."""
    if name not in tree:
        return None
    mode, id_ = tree[name]
    return _as_tree(repo, id_) if stat.S_ISDIR(mode) else None


def _head(repo: Repo, ref: Ref) -> ObjectID | None:
    try:
        return repo.refs[ref]
    except KeyError:
        return None


def _as_commit(repo: Repo, id_: ObjectID) -> Commit:
    from dulwich.objects import Commit

    found = repo.get_object(id_)
    assert isinstance(found, Commit)
    return found


def _as_tree(repo: Repo, id_: ObjectID) -> Tree:
    from dulwich.objects import Tree

    found = repo.get_object(id_)
    assert isinstance(found, Tree)
    return found


def _body(repo: Repo, id_: ObjectID) -> bytes:
    from dulwich.objects import Blob

    found = repo.get_object(id_)
    assert isinstance(found, Blob)
    return found.data


def _commit_of(tree: Tree, parent: ObjectID | None, message: str, author: str, at: datetime) -> Commit:
    from dulwich.objects import Commit

    commit = Commit()
    commit.tree = tree.id
    commit.parents = [parent] if parent else []
    commit.author = commit.committer = author.encode()
    commit.author_time = commit.commit_time = int(at.timestamp())
    commit.author_timezone = commit.commit_timezone = 0
    commit.encoding = b"UTF-8"
    commit.message = message.rstrip().encode() + b"\n"
    return commit
