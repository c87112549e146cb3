"""A folder kept in a bare Git repository, read back with dulwich, and checked by git if there is one."""

from __future__ import annotations

import asyncio
import gc
import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dulwich.object_store import DiskObjectStore
from dulwich.objects import Blob, Commit, Tree
from dulwich.pack import PackFileDisappeared
from dulwich.repo import Repo
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas import gitstore
from atlas.gitstore import CommitResult, GitError, GitStore, without_credentials

AT = datetime(2026, 11, 29, 12, tzinfo=UTC)
AUTHOR = "Maia <maia@example.org>"
FILES = {"tool_usage/a.json": b"{}\n", "tool_usage/b.json": b"[]\n", "anomaly/c.json": b"1\n", "top": b""}


async def commit(
    store: GitStore, files: Mapping[str, bytes], message: str = "Learn", branch: str = "main"
) -> CommitResult:
    return await store.commit(files, message, AUTHOR, branch, AT)


def tree_of(path: Path, branch: str = "main") -> dict[str, bytes]:
    """All files of a branch, walked with dulwich alone."""
    with Repo(path) as repo:
        head = repo[repo.refs[b"refs/heads/" + branch.encode()]]
        return dict(walk(repo, head.tree))


def walk(repo: Repo, tree: bytes, above: str = "") -> Iterator[tuple[str, bytes]]:
    for entry in repo[tree].items():
        found = repo[entry.sha]
        name = above + entry.path.decode()
        if isinstance(found, Tree):
            yield from walk(repo, entry.sha, f"{name}/")
        else:
            yield name, found.data


def fsck(path: Path) -> None:
    """Let git check every object, if there is a git."""
    if git := shutil.which("git"):
        command = [git, "-C", str(path), "fsck", "--full", "--strict", "--no-dangling"]
        checked = subprocess.run(command, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
        assert "missing" not in checked.stdout + checked.stderr


def history(path: Path, branch: str = "main") -> list[Commit]:
    with Repo(path) as repo:
        return [each.commit for each in repo.get_walker([repo.refs[b"refs/heads/" + branch.encode()]])]


async def test_a_first_commit_makes_a_bare_repository(tmp_path: Path) -> None:
    path = tmp_path / "new" / "patterns.git"
    result = await commit(GitStore(path), FILES)
    assert result.created
    assert result.changed == len(FILES)
    assert tree_of(path) == {f"patterns/{name}": body for name, body in FILES.items()}
    with Repo(path) as repo:
        assert repo.bare
        assert repo.head().decode() == result.commit
        made = repo[repo.head()]
    assert (made.author, made.message, made.commit_time) == (AUTHOR.encode(), b"Learn\n", int(AT.timestamp()))
    assert [each.name for each in path.parent.iterdir()] == ["patterns.git"]
    fsck(path)


async def test_nothing_is_committed_without_a_change(tmp_path: Path) -> None:
    store = GitStore(tmp_path / "repo")
    first = await commit(store, FILES)
    packs = list((tmp_path / "repo" / "objects" / "pack").iterdir())
    again = await commit(store, dict(reversed(FILES.items())), "Again")
    assert again == CommitResult(first.commit, created=False, changed=0)
    assert list((tmp_path / "repo" / "objects" / "pack").iterdir()) == packs
    assert len(history(tmp_path / "repo")) == 1


async def test_only_what_changed_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "repo"
    store = GitStore(path)
    many = {f"anomaly/{n}.json": b"%d" % n for n in range(50)}
    await commit(store, many)
    before = set(stored(path))
    changed = {**many, "anomaly/7.json": b"seven", "anomaly/new.json": b"51"}
    del changed["anomaly/3.json"]
    result = await commit(store, changed)
    assert result.changed == 3
    assert await store.read("main") == changed
    # Two blobs, the folders of anomalies and of patterns, the root, and the commit.
    assert len(set(stored(path)) - before) == 6
    fsck(path)


def stored(path: Path) -> list[bytes]:
    with Repo(path) as repo:
        return list(repo.object_store)


async def test_files_of_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "repo"
    others = GitStore(path, "")
    await commit(others, {"README": b"mine", "data/patterns/x": b"old", "data/other": b"kept"})
    await commit(GitStore(path, "data/patterns"), FILES)
    assert tree_of(path) == {
        "README": b"mine",
        "data/other": b"kept",
        **{f"data/patterns/{name}": body for name, body in FILES.items()},
    }
    await commit(GitStore(path, "data/patterns"), {})
    assert tree_of(path) == {"README": b"mine", "data/other": b"kept"}
    assert await GitStore(path, "data/patterns").read("main") == {}
    fsck(path)


async def test_an_executable_of_git_reads_what_was_written(tmp_path: Path) -> None:
    git = shutil.which("git")
    if git is None:
        pytest.skip("there is no git to read it with")
    await commit(GitStore(tmp_path / "repo"), FILES)
    command = [git, "-C", str(tmp_path / "repo"), "show", "main:patterns/tool_usage/b.json"]
    shown = subprocess.run(command, capture_output=True)
    assert shown.stdout == FILES["tool_usage/b.json"]


async def test_branches_are_independent(tmp_path: Path) -> None:
    store = GitStore(tmp_path / "repo")
    await commit(store, {"a": b"1"})
    await commit(store, {"b": b"2"}, branch="lab/night")
    assert await store.read("main") == {"a": b"1"}
    assert await store.read("lab/night") == {"b": b"2"}
    assert await store.read("none") == {}
    assert await GitStore(tmp_path / "nothing").read("main") == {}


async def test_no_files_and_no_branch_make_no_commit(tmp_path: Path) -> None:
    assert await commit(GitStore(tmp_path / "repo"), {}) == CommitResult(None, created=False, changed=0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    """Each has a folder of its own on one branch: all are there in the end, whoever came first.

    A pack that goes while dulwich looks through its list of them is opened again, and left to the collector.
    """
    path = tmp_path / "repo"
    folders = [f"site{n}" for n in range(6)]

    async def three_times(folder: str) -> None:
        for n in range(3):
            await commit(GitStore(path, folder), {"n": b"%d" % n}, f"{folder} {n}")

    await asyncio.gather(*map(three_times, folders))
    assert tree_of(path) == {f"{folder}/n": b"2" for folder in folders}
    assert len(history(path)) == 3 * len(folders)
    fsck(path)
    # Here, not in whatever test comes next.
    gc.collect()


async def test_a_branch_that_moves_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "repo"
    await commit(GitStore(path), {"a": b"1"})
    original = gitstore._commit_of
    intruded = []

    def intruding(*arguments: object) -> Commit:
        if not intruded:
            intruded.append(True)
            other = GitStore(path, "other")
            other._commit({"b": b"2"}, "In between", AUTHOR, "main", AT)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(gitstore, "_commit_of", intruding)
    await commit(GitStore(path), {"a": b"3"})
    assert tree_of(path) == {"patterns/a": b"3", "other/b": b"2"}
    assert len(history(path)) == 3


async def test_a_pack_whose_index_comes_later_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process moves its pack into place first and then writes the index; dulwich stumbles over it."""
    path = tmp_path / "repo"
    await commit(GitStore(path), {"a": b"1"})
    waits: list[float] = []
    monkeypatch.setattr(gitstore.time, "sleep", waits.append)
    add = DiskObjectStore.add_objects

    def meeting_it(store: DiskObjectStore, *arguments: Any, **options: Any) -> Any:
        if not waits:
            raise PackFileDisappeared(next(iter(store.packs)))
        return add(store, *arguments, **options)

    monkeypatch.setattr(DiskObjectStore, "add_objects", meeting_it)
    assert (await commit(GitStore(path), {"a": b"2"})).created
    assert len(waits) == 1
    assert tree_of(path) == {"patterns/a": b"2"}
    assert len(history(path)) == 2
    fsck(path)


async def test_packs_that_were_begun_long_ago_are_deleted(tmp_path: Path) -> None:
    path = tmp_path / "repo"
    await commit(GitStore(path), {"a": b"1"})
    old, new = path / "objects" / "tmp_pack_old", path / "objects" / "tmp_pack_new"
    for each in (old, new):
        each.write_bytes(b"PACK")
    os.utime(old, (0, 0))
    await commit(GitStore(path), {"a": b"2"})
    assert (old.exists(), new.exists()) == (False, True)


async def test_a_lock_that_stays_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "repo"
    await commit(GitStore(path), {"a": b"1"})
    monkeypatch.setattr(gitstore, "_MAX_ATTEMPTS", 3)
    (path / "refs" / "heads" / "main.lock").touch()
    with pytest.raises(GitError, match=r"refs/heads/main\.lock"):
        await commit(GitStore(path), {"a": b"2"})
    assert await GitStore(path).read("main") == {"a": b"1"}


async def test_small_packs_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "repo"
    monkeypatch.setattr(gitstore, "_MAX_PACKS", 4)
    store = GitStore(path)
    for n in range(12):
        await commit(store, {"n": b"%d" % n, "same": b"always"}, f"{n}")
        assert len(list((path / "objects" / "pack").glob("*.pack"))) <= 5
    assert [each.message for each in history(path)] == [b"%d\n" % n for n in reversed(range(12))]
    fsck(path)


async def test_packs_that_are_kept_are_not_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "repo"
    monkeypatch.setattr(gitstore, "_MAX_PACKS", 1)
    await commit(GitStore(path), {"n": b"0"})
    (pack,) = (path / "objects" / "pack").glob("*.pack")
    pack.with_suffix(".keep").touch()
    for n in range(1, 5):
        await commit(GitStore(path), {"n": b"%d" % n})
    assert pack.exists()
    fsck(path)


@pytest.mark.parametrize(
    "path", ["", "/a", "a//b", "../a", "a/./b", ".git/config", "x/.GIT/hooks", "a/", "a\\b", "nul\0"]
)
async def test_paths_that_git_cannot_hold_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(GitError, match="no path of a file"):
        await commit(GitStore(tmp_path / "repo"), {path: b""})
    assert not (tmp_path / "repo").exists()


async def test_other_mistakes_are_refused(tmp_path: Path) -> None:
    store = GitStore(tmp_path / "repo")
    with pytest.raises(GitError, match="a file and a folder at once"):
        await commit(store, {"a": b"", "a/b": b""})
    with pytest.raises(GitError, match="no name of a Git branch"):
        await commit(store, FILES, branch="a..b")
    with pytest.raises(GitError, match="author"):
        await store.commit(FILES, "m", "nobody", "main", AT)
    with pytest.raises(GitError, match="author"):
        await store.commit(FILES, "m", "a <b>\nparent 0", "main", AT)
    with pytest.raises(ValueError, match="needs a remote"):
        GitStore(tmp_path, auto_push=True)
    with pytest.raises(GitError, match="no path of a file"):
        GitStore(tmp_path, "../elsewhere")


async def test_a_folder_that_is_no_bare_repository_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(GitError, match="no bare Git repository"):
        await commit(GitStore(tmp_path), FILES)
    work = tmp_path / "work"
    Repo.init(work, mkdir=True).close()
    with pytest.raises(GitError, match="work tree"):
        await commit(GitStore(work), FILES)
    assert (tmp_path / "letter").read_text() == "dear"


async def test_a_damaged_repository_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "repo"
    await commit(GitStore(path), FILES)
    for each in (path / "objects" / "pack").iterdir():
        each.unlink()
    with pytest.raises(GitError, match="cannot commit to the Git repository"):
        await commit(GitStore(path), {"a": b"1"})


async def test_pushing_moves_the_remote_forward_only(tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    ours = GitStore(tmp_path / "ours", remote=str(remote), auto_push=True)
    with pytest.raises(GitError, match="cannot push to"):
        await commit(ours, {"a": b"1"})
    Repo.init_bare(remote, mkdir=True).close()
    caught_up = await commit(ours, {"a": b"1"})
    assert (caught_up.created, caught_up.pushed) == (False, True)
    assert tree_of(remote) == {"patterns/a": b"1"}
    await commit(GitStore(remote, "theirs"), {"b": b"2"})
    with pytest.raises(GitError, match="has commits that are not in"):
        await commit(ours, {"a": b"3"})
    assert tree_of(remote) == {"patterns/a": b"1", "theirs/b": b"2"}
    assert await ours.read("main") == {"a": b"3"}
    fsck(remote)


async def test_pushing_without_remote_or_branch_says_so(tmp_path: Path) -> None:
    with pytest.raises(GitError, match="no Git remote"):
        await GitStore(tmp_path / "ours").push("main")
    with pytest.raises(GitError, match="no branch main"):
        await GitStore(tmp_path / "ours", remote=str(tmp_path / "remote")).push("main")


@pytest.fixture
def refusing() -> Iterator[str]:
    """The address of a server that refuses everything and repeats what it was asked."""

    class Refusal(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403, "go away")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_no_error_repeats_credentials(tmp_path: Path, refusing: str) -> None:
    remote = f"http://someone:s%40cret@{refusing}/repo.git?token=tok123"
    store = GitStore(tmp_path / "repo", remote=remote)
    await commit(store, FILES)
    with pytest.raises(GitError) as caught:
        await store.push("main")
    assert f"cannot push to http://{refusing}/repo.git" in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    for secret in ("someone", "s%40cret", "s@cret", "tok123"):
        assert secret not in str(caught.value)


async def test_a_closed_port_is_reported_without_credentials(tmp_path: Path, refusing: str) -> None:
    store = GitStore(tmp_path / "repo", remote="http://user:hunter2@127.0.0.1:1/x.git")
    await commit(store, FILES)
    with pytest.raises(GitError, match=r"cannot push to http://127\.0\.0\.1:1/x\.git") as caught:
        await store.push("main")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://a:b@host.example/x.git?y#z", "https://host.example/x.git"),
        ("https://token@host.example/x", "https://host.example/x"),
        ("git@host.example:x/y@z.git", "host.example:x/y@z.git"),
        ("/srv/a@b/repo", "/srv/a@b/repo"),
        ("ssh://git@host.example:22/x", "ssh://host.example:22/x"),
    ],
)
def test_credentials_are_cut_from_urls(url: str, clean: str) -> None:
    assert without_credentials(url) == clean


names = st.sampled_from(["a", "b", "c.json", "d-e"])
trees = st.dictionaries(
    st.lists(names, min_size=1, max_size=3).map("/".join), st.binary(max_size=9), max_size=6
)


def conflicting(files: Mapping[str, bytes]) -> bool:
    return any(other.startswith(f"{path}/") for path in files for other in files)


@settings(max_examples=25, deadline=None)
@given(st.lists(trees.filter(lambda files: not conflicting(files)), min_size=1, max_size=4))
def test_the_last_commit_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, states: list[dict[str, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("git") / "repo"
    store = GitStore(path)
    previous: dict[str, bytes] = {}
    for n, files in enumerate(states):
        result = store._commit(files, f"{n}", AUTHOR, "main", AT + timedelta(minutes=n))
        assert result.created == (files != previous)
        assert store._read("main") == files
        previous = files
    shutil.rmtree(path, ignore_errors=True)


def test_hashes_are_those_of_git() -> None:
    for body in (b"", b"hello\n", bytes(1000)):
        _, bodies = gitstore._planned({"x": body})
        assert list(bodies) == [Blob.from_string(body).id]


@pytest.mark.parametrize("pattern", ["*.pack", "*.idx", "main", "config"])
@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, b"7f" * 20])
async def test_of_a_damaged_repository_no_other_error_comes(
    tmp_path: Path, pattern: str, damage: bytes
) -> None:
    store = GitStore(tmp_path / "a.git")
    for number in range(3):
        await commit(store, FILES | {"top": b"%d" % number})
    for each in store.path.rglob(pattern):
        each.chmod(0o644)
        each.write_bytes(damage)
    refused = []
    for work in (lambda: store.read("main"), lambda: commit(store, {"new": b"1"})):
        try:
            await work()
        except GitError as error:
            refused.append(str(error))
    assert all(str(store.path) in each for each in refused)
    # An empty configuration is one, too.
    assert refused or (pattern, damage) == ("config", b"")


async def test_a_repository_that_cannot_be_created_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, **options: Any) -> Repo:
        path.mkdir()
        (path / "HEAD.lock").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Repo, "init_bare", full)
    with pytest.raises(GitError, match="No space left"):
        await commit(GitStore(tmp_path / "a.git"), FILES)
    assert list(tmp_path.iterdir()) == []
