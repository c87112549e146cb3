"""One contract for every store, against a folder, a fake of the hub's HTTP API, and moto's S3."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import urllib.request
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import stamina
from aiohttp import web
from pydantic import SecretStr

from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.db import Database
from atlas.errors import ConfigError, ObjectNotFound, VaultError, VaultUnavailable
from atlas.hub import HubStore
from atlas.stores import FileStore, S3Store, Store, store_of
from atlas.testing import SettingsFactory

pytestmark = pytest.mark.integration

DATASET = "pleiades/answers"
TOKEN = "hf_notARealToken"


class FakeHub:
    """What the Hugging Face hub answers for one dataset, kept in memory; each fault is answered once."""

    def __init__(self) -> None:
        self.url = ""
        self.files: dict[str, bytes] = {}
        self.commits: list[list[str]] = []
        self.requests: list[str] = []
        self.unexpected: list[str] = []
        self.faults: list[tuple[int, dict[str, str]]] = []
        self.lost_answers = 0
        self.ignored: set[str] = set()
        self.vanished: set[str] = set()
        self.page_size = 2

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._gate], client_max_size=1 << 26)
        api = "/api/datasets/{owner}/{name}"
        app.router.add_get(api, self._info)
        app.router.add_get(api + "/revision/main", self._info)
        app.router.add_post(api + "/preupload/main", self._preupload)
        app.router.add_post(api + "/commit/main", self._commit)
        app.router.add_post(api + "/paths-info/main", self._paths_info)
        app.router.add_get(api + "/tree/main{folder:.*}", self._tree)
        app.router.add_get("/datasets/{owner}/{name}/resolve/main/{path:.+}", self._resolve)
        app.router.add_route("*", "/{anything:.*}", self._unexpected)
        return app

    @web.middleware
    async def _gate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            headers = {"X-Error-Message": "Invalid credentials in Authorization header"}
            return web.json_response({"error": "Unauthorized"}, status=401, headers=headers)
        if request.match_info.get("name", "answers") != "answers":
            return self._missing("RepoNotFound", "Repository not found")
        if self.faults:
            status, headers = self.faults.pop(0)
            return web.json_response({"error": "out of order"}, status=status, headers=headers)
        answer: web.StreamResponse = await handler(request)
        return answer

    def _missing(self, code: str, message: str) -> web.Response:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        return web.json_response({"error": message}, status=404, headers=headers)

    async def _info(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"id": DATASET, "sha": "0" * 40, "siblings": [], "tags": [], "private": True}
        )

    async def _preupload(self, request: web.Request) -> web.Response:
        files = [
            {
                "path": file["path"],
                "uploadMode": "regular",
                "shouldIgnore": file["path"] in self.ignored,
                "oid": _git_oid(self.files[file["path"]]) if file["path"] in self.files else None,
            }
            for file in (await request.json())["files"]
        ]
        return web.json_response({"files": files})

    async def _commit(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/x-ndjson"
        header, *operations = [json.loads(line) for line in (await request.text()).splitlines()]
        assert header["key"] == "header"
        assert header["value"]["summary"]
        staged = dict(self.files)
        for operation in operations:
            path = operation["value"]["path"]
            if operation["key"] == "file":
                assert operation["value"]["encoding"] == "base64"
                staged[path] = b64decode(operation["value"]["content"])
            elif operation["key"] == "deletedFile" and path in staged:
                del staged[path]
            elif operation["key"] == "deletedFolder" and any(name.startswith(f"{path}/") for name in staged):
                staged = {name: body for name, body in staged.items() if not name.startswith(f"{path}/")}
            else:
                return self._missing("EntryNotFound", f"A file with this name doesn't exist: {path}")
        self.files = staged
        self.commits.append([operation["value"]["path"] for operation in operations])
        if self.lost_answers:
            self.lost_answers -= 1
            return web.Response(status=504)
        oid = f"{len(self.commits):040x}"
        return web.json_response(
            {"success": True, "commitOid": oid, "commitUrl": f"{self.url}/datasets/{DATASET}/commit/{oid}"}
        )

    async def _paths_info(self, request: web.Request) -> web.Response:
        paths = (await request.post()).getall("paths", [])
        known = [self._file(str(path)) for path in paths if path in self.files]
        vanished = [{"type": "file", "path": path, "oid": "2" * 40, "size": 1} for path in self.vanished]
        self.vanished = set()
        return web.json_response(known + vanished)

    async def _tree(self, request: web.Request) -> web.Response:
        folder = request.match_info["folder"].strip("/")
        beneath = f"{folder}/" if folder else ""
        inside = sorted(path for path in self.files if path.startswith(beneath))
        if folder and not inside:
            return self._missing("EntryNotFound", f"{folder} does not exist on main")
        entries = {}
        for path in inside:
            parts = path.removeprefix(beneath).split("/")
            for depth in range(1, len(parts)):
                directory = beneath + "/".join(parts[:depth])
                if depth == 1 or request.query.get("recursive", "").lower() == "true":
                    entries[directory] = {"type": "directory", "path": directory, "oid": "1" * 40, "size": 0}
            if len(parts) == 1 or request.query.get("recursive", "").lower() == "true":
                entries[path] = self._file(path)
                if request.query.get("expand", "").lower() == "true":
                    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                    entries[path]["lastCommit"] = {"id": "1" * 40, "title": "Store", "date": at}
        start = int(request.query.get("cursor", 0))
        page = list(entries.values())[start : start + self.page_size]
        headers = {}
        if start + self.page_size < len(entries):
            following = request.url.update_query(cursor=str(start + self.page_size))
            headers["Link"] = f'<{following}>; rel="next"'
        return web.json_response(page, headers=headers)

    async def _resolve(self, request: web.Request) -> web.Response:
        path = request.match_info["path"]
        if path not in self.files:
            return self._missing("EntryNotFound", "Entry not found")
        return web.Response(body=self.files[path])

    async def _unexpected(self, request: web.Request) -> web.Response:
        self.unexpected.append(f"{request.method} {request.path}")
        raise web.HTTPNotFound

    def _file(self, path: str) -> dict[str, Any]:
        return {
            "type": "file",
            "path": path,
            "oid": _git_oid(self.files[path]),
            "size": len(self.files[path]),
        }


def _git_oid(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


@pytest_asyncio.fixture
async def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[FakeHub]:
    """A fake hub, and a network that ends at this machine."""
    resolve = socket.getaddrinfo
    sought: list[str] = []

    def resolve_here(host: Any, *args: Any, **options: Any) -> Any:
        sought.append(str(host))
        return resolve(host if host in {"127.0.0.1", "localhost"} else "127.0.0.1", *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve_here)
    fake = FakeHub()
    runner = web.AppRunner(fake.application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    fake.url = "http://{}:{}".format(*runner.addresses[0][:2])
    yield fake
    await runner.cleanup()
    assert fake.unexpected == []
    assert set(sought) <= {"127.0.0.1", "localhost"}


@pytest.fixture
def hub_store(hub: FakeHub, database: Database) -> HubStore:
    return HubStore(DATASET, TOKEN, database, hub.url, 1000)


@pytest.fixture
def file_store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "data" / "vault")


@pytest.fixture
def s3_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The endpoint of an S3 that has a bucket named `bucket`."""
    pytest.importorskip("s3fs", reason="the extra pleiades[s3] is not installed")
    moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    s3 = boto3.client("s3", endpoint_url=url)
    # moto keeps what earlier servers of this process were given.
    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST")).close()
    s3.create_bucket(Bucket="bucket")
    yield url
    s3.close()
    server.stop()


@pytest.fixture
def s3_store(s3_url: str) -> S3Store:
    return S3Store("s3://bucket/some/prefix", s3_url)


@pytest.fixture(params=["file", "hub", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    built: Store = request.getfixturevalue(f"{request.param}_store")
    return built


def is_json(file: str) -> bool:
    return file.endswith(".json")


async def cleared(store: Store, folder: str) -> list[str]:
    return [name async for names in store.clear(folder, is_json) for name in names]


class TestEveryStore:
    async def test_reads_what_was_written(self, store: Store) -> None:
        await store.write({"metadata/2026-11-02/a.json": b"{}", "metadata/2026-11-02/-b_.json": "é".encode()})

        assert await store.read("metadata/2026-11-02/a.json") == b"{}"
        assert await store.read("metadata/2026-11-02/-b_.json") == "é".encode()

    async def test_replaces(self, store: Store) -> None:
        await store.write({"a.json": b"a longer first body"})
        await store.write({"a.json": b"second"})

        assert await store.read("a.json") == b"second"

    async def test_knows_what_it_has_not(self, store: Store) -> None:
        await store.write({"metadata/a.json": b"1"})

        for name in ("b.json", "metadata", "metadata/b.json", "metadata/a.json/b.json"):
            with pytest.raises(ObjectNotFound):
                await store.read(name)

    async def test_lists_beneath_a_folder(self, store: Store) -> None:
        names = [f"metadata/2026-11-0{day}/{video}.json" for day in (1, 2) for video in "abc"]
        await store.write(dict.fromkeys([*names, "other/x.json"], b"1"))

        assert sorted(await store.list("metadata/2026-11-02")) == names[3:]
        assert sorted(await store.list("metadata")) == names
        assert sorted(await store.list("")) == [*names, "other/x.json"]
        assert await store.list("metadata/2026-11-03") == []

    async def test_lists_folders(self, store: Store) -> None:
        await store.write(dict.fromkeys(["metadata/1/a.json", "metadata/2/b.json", "metadata/c.json"], b"1"))

        assert sorted(await store.folders("metadata")) == ["1", "2"]
        assert await store.folders("nothing") == []

    async def test_tells_when_objects_were_written(self, store: Store) -> None:
        began = datetime.now(UTC) - timedelta(seconds=2)
        await store.write(dict.fromkeys(["exports/a.csv", "exports/deep/b.csv", "other/c.csv"], b"1"))

        written = await store.modified("exports")
        assert sorted(written) == ["exports/a.csv", "exports/deep/b.csv"]
        for at in written.values():
            assert began <= at <= datetime.now(UTC) + timedelta(seconds=2)
        assert dict(await store.modified("nothing")) == {}

    async def test_an_empty_store_lists_nothing(self, store: Store) -> None:
        assert await store.list("") == []
        assert await store.folders("metadata") == []

    async def test_deletes_and_stores_at_once(self, store: Store) -> None:
        await store.write({"d/a.json": b"1", "d/b.json": b"2"})
        await store.write({"d/a.json": None, "never/was.json": None, "d/c.json": b"3"})

        assert sorted(await store.list("")) == ["d/b.json", "d/c.json"]

    async def test_deletes_many(self, store: Store) -> None:
        names = [f"metadata/2026-11-02/{number}.json" for number in range(1050)]
        await store.write(dict.fromkeys(names[:60], b"1"))
        await store.write(dict.fromkeys(names))

        assert await store.list("") == []
        assert await store.folders("metadata") == []

    async def test_clears_a_folder_of_what_is_ours(self, store: Store) -> None:
        ours = [f"metadata/1/{number}.json" for number in range(5)]
        theirs = ["metadata/1/notes.txt", "metadata/1/deep/a.json", "metadata/10/a.json", "metadata/a.json"]
        await store.write(dict.fromkeys([*ours, *theirs], b"1"))

        assert sorted(await cleared(store, "metadata/1")) == ours
        assert sorted(await store.list("")) == sorted(theirs)
        assert await cleared(store, "metadata/1") == await cleared(store, "metadata/2") == []

    async def test_a_folder_that_is_all_ours_goes_too(self, store: Store) -> None:
        ours = [f"metadata/1/{number}.json" for number in range(5)]
        await store.write(dict.fromkeys([*ours, "metadata/10/a.json"], b"1"))

        assert sorted(await cleared(store, "metadata/1")) == ours
        assert await store.list("") == ["metadata/10/a.json"]
        assert await store.folders("metadata") == ["10"]

    async def test_a_clearing_that_is_ended_early_goes_on_with_the_next(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("stores._DELETED_AT_ONCE", "stores._KEYS_PER_DELETION", "hub._DELETIONS_A_COMMIT"):
            monkeypatch.setattr(f"atlas.{name}", 1)
        ours = [f"metadata/1/{number}.json" for number in range(9)]
        await store.write(dict.fromkeys([*ours, "metadata/1/notes.txt"], b"1"))
        steps = store.clear("metadata/1", is_json)
        first = await anext(steps)
        await steps.aclose()

        assert 0 < len(first) < 9
        assert sorted([*first, *await cleared(store, "metadata/1")]) == ours
        assert await store.list("") == ["metadata/1/notes.txt"]

    async def test_a_file_becomes_the_object_when_it_is_written(self, store: Store) -> None:
        await store.write({"exports/a.bin": b"old"})
        body = bytes(range(256)) * 40_000
        async with store.writing("exports/a.bin") as file:
            for start in range(0, len(body), 1 << 20):
                file.write(body[start : start + (1 << 20)])
                file.flush()
            assert await store.read("exports/a.bin") == b"old"

        assert await store.read("exports/a.bin") == body
        assert await store.list("") == ["exports/a.bin"]

    @pytest.mark.parametrize("size", [0, 1, 6_000_000])
    async def test_a_file_that_ends_early_leaves_what_was_there(self, store: Store, size: int) -> None:
        await store.write({"exports/a.bin": b"old"})
        for name in ("exports/a.bin", "exports/b.bin"):
            with pytest.raises(ZeroDivisionError):
                async with store.writing(name) as file:
                    file.write(b"new" * size)
                    raise ZeroDivisionError

        assert await store.list("") == ["exports/a.bin"]
        assert await store.read("exports/a.bin") == b"old"

    async def test_an_empty_file_is_an_object_too(self, store: Store) -> None:
        async with store.writing("empty"):
            pass

        assert await store.read("empty") == b""

    async def test_a_file_that_cannot_be_written_is_the_stores_error(self, store: Store) -> None:
        with pytest.raises(VaultError, match="No space left"):
            async with store.writing("a.bin"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        assert await store.list("") == []

    async def test_answers_when_checked(self, store: Store) -> None:
        await store.check()

    async def test_a_probe_leaves_nothing(self, store: Store) -> None:
        await store.probe("metadata/.probe")
        assert await store.list("") == []


class TestFileStore:
    @pytest.mark.parametrize("how", ["clear", "write"])
    async def test_files_are_deleted_side_by_side(
        self, file_store: FileStore, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        """Each waits until another one is being deleted too, as a slow disk makes it wait."""
        names = [f"d/{number}.json" for number in range(8)]
        await file_store.write(dict.fromkeys(names, b"1"))
        unlink, met = os.unlink, threading.Barrier(8)

        def unlink_together(path: str) -> None:
            met.wait(20)
            unlink(path)

        monkeypatch.setattr(os, "unlink", unlink_together)
        if how == "clear":
            assert sorted(await cleared(file_store, "d")) == names
        else:
            await file_store.write(dict.fromkeys(names))
        assert not (file_store.root / "d").exists()

    async def test_a_file_that_cannot_be_deleted_holds_up_no_other(
        self, file_store: FileStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await file_store.write(dict.fromkeys([f"d/{number}.json" for number in range(9)], b"1"))
        monkeypatch.setattr("atlas.stores._DELETED_AT_ONCE", 4)
        unlink, told = os.unlink, list[str]()

        def refuse_one(path: str) -> None:
            if path.endswith("/5.json"):
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
            unlink(path)

        monkeypatch.setattr(os, "unlink", refuse_one)
        with pytest.raises(VaultError, match=r"cannot delete in the vault: Operation not .*/5\.json"):
            async for names in file_store.clear("d", is_json):
                told += names
        assert await file_store.list("") == ["d/5.json"]
        assert sorted(told) == [f"d/{number}.json" for number in range(9) if number != 5]

    async def test_a_link_to_a_folder_is_not_cleared(self, file_store: FileStore) -> None:
        await file_store.write({"theirs/a.json": b"1", "d/b.json": b"1"})
        (file_store.root / "link").symlink_to(file_store.root / "theirs")
        (file_store.root / "d/folder.json").symlink_to(file_store.root / "theirs")

        assert await cleared(file_store, "link") == []
        assert await cleared(file_store, "d") == ["d/b.json"]
        assert await file_store.list("theirs") == ["theirs/a.json"]

    async def test_a_file_is_whole_or_absent_after_kill_9(self, tmp_path: Path) -> None:
        """A writer overwrites a hundred files again and again, and is killed at any moment."""
        writer = textwrap.dedent("""
            import asyncio, itertools, sys
            from pathlib import Path
            from atlas.stores import FileStore

            async def write() -> None:
                store = FileStore(Path(sys.argv[1]))
                for turn in itertools.count():
                    body = (b"%08d" % turn) * 3000
                    await store.write({f"metadata/2026-11-02/{n}.json": body for n in range(100)})
                    if turn == 0:
                        print("writing", flush=True)

            asyncio.run(write())
        """)
        chance = random.Random(1)
        for _ in range(8):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", writer, tmp_path, stdout=asyncio.subprocess.PIPE
            )
            assert process.stdout is not None
            assert await process.stdout.readline() == b"writing\n"
            await asyncio.sleep(chance.uniform(0, 0.08))
            process.kill()
            assert await process.wait() == -signal.SIGKILL
            files = list((tmp_path / "metadata" / "2026-11-02").iterdir())
            assert len(files) == 100
            for file in files:
                body = file.read_bytes()
                assert len(body) == 24_000
                assert body == body[:8] * 3000
        assert len(await FileStore(tmp_path).list("")) == 100

    async def test_a_write_that_is_cancelled_as_it_begins_leaves_nothing(
        self, file_store: FileStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stage, entered, go_on = file_store._stage, threading.Event(), threading.Event()

        def slow(path: str) -> int:
            entered.set()
            go_on.wait()
            return stage(path)

        monkeypatch.setattr(file_store, "_stage", slow)

        async def write() -> None:
            async with file_store.writing("a.csv"):
                pytest.fail("it was cancelled before")

        writing = asyncio.create_task(write())
        await asyncio.to_thread(entered.wait)
        writing.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert list(file_store.root.rglob("*.*")) == []
        assert not (file_store.root / ".incoming").exists()

    async def test_leftovers_of_the_dead_are_swept_after_an_hour(self, file_store: FileStore) -> None:
        await file_store.check()
        incoming = file_store.root / ".incoming"
        old, new = "0" * 32, f"{'1' * 32}-7"
        for name, age_s in ((old, 3700), (new, 60), ("theirs", 3700)):
            (incoming / name).write_bytes(b"half")
            instant = incoming.stat().st_mtime - age_s
            os.utime(incoming / name, (instant, instant))

        await file_store.write({"a.json": b"1"})

        assert {path.name for path in incoming.iterdir()} == {new, "theirs"}
        assert await file_store.list("") == ["a.json"]

    async def test_a_swept_stage_fails_the_write_and_nothing_else(
        self, file_store: FileStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sync = os.fsync

        def sync_and_lose(descriptor: int) -> None:
            sync(descriptor)
            for path in (file_store.root / ".incoming").iterdir():
                path.unlink()

        await file_store.write({"a.json": b"1"})
        monkeypatch.setattr(os, "fsync", sync_and_lose)

        with pytest.raises(VaultError, match="cannot write in the vault: No such file"):
            await file_store.write({"a.json": b"2"})
        assert await file_store.read("a.json") == b"1"

    async def test_nothing_is_left_beside_a_written_file(self, file_store: FileStore) -> None:
        async with file_store.writing("a.bin") as file:
            file.write(b"1")
            assert len(list((file_store.root / ".incoming").iterdir())) == 1

        assert [path.name for path in file_store.root.iterdir()] == ["a.bin"]

    async def test_files_are_written_side_by_side(self, file_store: FileStore) -> None:
        async def write(number: int) -> None:
            async with file_store.writing(f"{number % 5}/{number}.bin") as file:
                file.write(str(number).encode())

        await asyncio.gather(*(write(number) for number in range(100)))

        assert len(await file_store.list("")) == 100
        assert [path.name for path in file_store.root.iterdir() if path.name.startswith(".")] == []

    def test_a_full_disk_tears_nothing(self, tmp_path: Path) -> None:
        """The limit on a file's size fails a write half-way, as a full disk does."""
        writer = textwrap.dedent("""
            import asyncio, resource, sys
            from pathlib import Path
            from atlas.errors import VaultError
            from atlas.stores import FileStore

            async def write() -> None:
                store = FileStore(Path(sys.argv[1]))
                await store.write({"a.json": b"old" * 1000, "b.json": b"old"})
                resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
                try:
                    await store.write({"b.json": b"new", "a.json": b"new" * 50_000})
                except VaultError as error:
                    print(error)

            asyncio.run(write())
        """)
        told = subprocess.run([sys.executable, "-c", writer, str(tmp_path)], capture_output=True, text=True)

        assert told.stdout.startswith("cannot write in the vault: File too large"), told.stderr
        assert (tmp_path / "a.json").read_bytes() == b"old" * 1000
        assert (tmp_path / "b.json").read_bytes() == b"old"
        assert list((tmp_path / ".incoming").iterdir()) == []

    def test_a_disk_without_space_tears_nothing(self, tmp_path: Path) -> None:
        writer = textwrap.dedent("""
            import asyncio, sys
            from pathlib import Path
            from atlas.errors import VaultError
            from atlas.stores import FileStore

            async def write() -> None:
                store = FileStore(Path(sys.argv[1]))
                await store.write({"a.json": b"old" * 1000})
                try:
                    await store.write({f"{n}.json": b"new" * 10_000 for n in range(100)} | {"a.json": b"new"})
                except VaultError as error:
                    print(error)
                print(sorted(await store.list("")), await store.read("a.json") == b"old" * 1000)
                print(list((store.root / ".incoming").iterdir()))

            asyncio.run(write())
        """)
        script = 'mount -t tmpfs -o size=256k none "$1" 2>/dev/null || exit 77; exec "$2" -c "$3" "$1"'
        unshared = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
        told = subprocess.run([*unshared, tmp_path, sys.executable, writer], capture_output=True, text=True)
        if told.returncode in {1, 77} and not told.stdout:
            pytest.skip("a small file system cannot be mounted here (unshare, mount)")

        assert told.stdout.splitlines()[0].startswith("cannot write in the vault: No space left"), told.stderr
        assert told.stdout.splitlines()[1:] == ["['a.json'] True", "[]"]

    async def test_a_day_is_emptied_while_others_write_into_it(self, file_store: FileStore) -> None:
        """Emptying a folder removes it, under the hands of those who are about to put a file there."""
        other = FileStore(file_store.root)

        async def write(number: int) -> None:
            for turn in range(40):
                await other.write({f"metadata/day/{number}-{turn}.json": b"1"})

        async def delete(number: int) -> None:
            for turn in range(40):
                await file_store.write({f"metadata/day/{number}-{turn}.json": None})

        await asyncio.gather(
            *(write(number) for number in range(4)), *(delete(number) for number in range(4))
        )
        await asyncio.gather(*(delete(number) for number in range(4)))

        assert await file_store.list("") == []

    async def test_a_file_in_the_way_is_an_error_that_names_it(self, file_store: FileStore) -> None:
        file_store.root.parent.mkdir(parents=True)
        file_store.root.write_bytes(b"")

        for action in (
            file_store.write({"a.json": b"1"}),
            file_store.check(),
            file_store.list("metadata"),
            file_store.folders("metadata"),
        ):
            with pytest.raises(VaultError, match=r"cannot .* in the vault: .*/data/vault"):
                await action


class TestHubStore:
    @pytest.fixture(autouse=True)
    def _no_waiting(self) -> Iterator[None]:
        with stamina.set_testing(True, attempts=4, cap=True):
            yield

    async def test_one_commit_a_batch(self, hub: FakeHub, hub_store: HubStore) -> None:
        names = [f"metadata/2026-11-02/{number}.json" for number in range(50)]

        await hub_store.write(dict.fromkeys(names, b"1"))

        assert [sorted(commit) for commit in hub.commits] == [sorted(names)]

    async def test_a_folder_that_is_all_ours_goes_in_one_commit(
        self, hub: FakeHub, hub_store: HubStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("atlas.hub._DELETIONS_A_COMMIT", 1)
        names = [f"metadata/1/{number}.json" for number in range(9)]
        await hub_store.write(dict.fromkeys(names, b"1"))
        hub.commits.clear()
        hub.lost_answers = 1

        assert sorted(await cleared(hub_store, "metadata/1")) == names
        assert hub.commits == [["metadata/1"]]

    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
    async def test_passing_faults_are_tried_again(
        self, hub: FakeHub, hub_store: HubStore, status: int
    ) -> None:
        hub.faults = [(status, {})] * 3

        await hub_store.write({"a.json": b"1"})

        assert hub.files == {"a.json": b"1"}

    async def test_so_is_reading_and_listing(self, hub: FakeHub, hub_store: HubStore) -> None:
        await hub_store.write({"a.json": b"1"})
        hub.faults = [(503, {})]
        assert await hub_store.read("a.json") == b"1"
        hub.faults = [(429, {})]
        assert await hub_store.list("") == ["a.json"]

    @pytest.mark.parametrize("status", [409, 412])
    async def test_another_commit_in_progress_passes(
        self, hub: FakeHub, hub_store: HubStore, status: int
    ) -> None:
        hub.faults = [(status, {})]

        await hub_store.write({"a.json": b"1"})

        assert hub.files == {"a.json": b"1"}

    async def test_a_commit_whose_answer_was_lost_is_not_done_twice(
        self, hub: FakeHub, hub_store: HubStore
    ) -> None:
        hub.lost_answers = 1

        await hub_store.write({"a.json": b"1"})

        assert hub.commits == [["a.json"]]

    async def test_a_fault_that_stays_is_told(self, hub: FakeHub, hub_store: HubStore) -> None:
        hub.faults = [(503, {})] * 9

        with pytest.raises(VaultUnavailable, match=r"127\.0\.0\.1: HTTP 503"):
            await hub_store.write({"a.json": b"1"})
        assert len(hub.faults) == 5

    @pytest.mark.parametrize(
        "headers",
        [
            {"Retry-After": "2580"},
            {"RateLimit": '"api";r=0;t=2580', "RateLimit-Policy": '"fixed window";"api";q=500;w=3600'},
        ],
    )
    async def test_a_long_rest_is_told_and_not_waited_for(
        self, hub: FakeHub, hub_store: HubStore, headers: dict[str, str]
    ) -> None:
        hub.faults = [(429, headers)]

        with pytest.raises(VaultUnavailable, match="HTTP 429") as refusal:
            await hub_store.write({"a.json": b"1"})

        assert refusal.value.retry_after_s == 2580
        assert len(hub.requests) == 1

    async def test_a_short_rest_is_kept(self, hub: FakeHub, hub_store: HubStore) -> None:
        pauses: list[float] = []
        hub.faults = [(429, {"Retry-After": "1"})]
        stamina.instrumentation.set_on_retry_hooks([lambda details: pauses.append(details.wait_for)])
        try:
            with stamina.set_testing(False):
                await hub_store.write({"a.json": b"1"})
        finally:
            stamina.instrumentation.set_on_retry_hooks(None)

        assert pauses == [1]
        assert hub.files == {"a.json": b"1"}

    async def test_a_refusal_is_told_at_once(self, hub: FakeHub, hub_store: HubStore) -> None:
        hub.faults = [(403, {"X-Error-Message": "You have no write access"})]

        with pytest.raises(VaultError, match=r"HTTP 403: .*You have no write access") as refusal:
            await hub_store.write({"a.json": b"1"})

        assert not isinstance(refusal.value, VaultUnavailable)
        assert len(hub.requests) == 1

    async def test_a_missing_dataset_says_what_to_set(self, hub: FakeHub, database: Database) -> None:
        store = HubStore("pleiades/nothing", TOKEN, database, hub.url, 1000)

        for action in (store.write({"a.json": b"1"}), store.read("a.json"), store.list(""), store.check()):
            with pytest.raises(VaultError, match=r"this token may not use it.*HF_DATASET_ID"):
                await action

    async def test_a_wrong_token_is_told_and_never_shown(self, hub: FakeHub, database: Database) -> None:
        store = HubStore(DATASET, "hf_wrong", database, hub.url, 1000)

        with pytest.raises(VaultError, match="HTTP 401") as refusal:
            await store.write({"a.json": b"1"})

        assert "hf_wrong" not in str(refusal.value)

    async def test_a_hub_out_of_reach_is_told(
        self, hub: FakeHub, database: Database, unused_port: int
    ) -> None:
        store = HubStore(DATASET, TOKEN, database, f"http://127.0.0.1:{unused_port}", 1000)

        with pytest.raises(VaultUnavailable, match=r"127\.0\.0\.1: ConnectError"):
            await store.write({"a.json": b"1"})

    async def test_ignored_files_are_not_taken_for_stored(self, hub: FakeHub, hub_store: HubStore) -> None:
        hub.ignored = {"a.json"}

        with pytest.raises(VaultError, match=r"\.gitignore"):
            await hub_store.write({"a.json": b"1", "b.json": b"2"})

    async def test_deleting_what_is_not_there_is_no_commit(self, hub: FakeHub, hub_store: HubStore) -> None:
        await hub_store.write({"a.json": None, "b.json": None})

        assert hub.commits == []

    async def test_a_file_that_somebody_else_deletes_meanwhile_passes(
        self, hub: FakeHub, hub_store: HubStore
    ) -> None:
        hub.vanished = {"gone.json"}

        await hub_store.write({"gone.json": None, "a.json": b"1"})

        assert hub.commits == [["a.json"]]

    async def test_a_name_that_no_dataset_can_have_is_told(self, hub: FakeHub, database: Database) -> None:
        with pytest.raises(VaultError, match=r"dataset no\.\.such/name: "):
            await HubStore("no..such/name", TOKEN, database, hub.url, 5).write({"a.json": b"1"})

    async def test_all_processes_share_the_hours_commits(self, hub: FakeHub, database: Database) -> None:
        stores = [HubStore(DATASET, TOKEN, database, hub.url, 5) for _ in range(4)]
        writes = [stores[n % 4].write({f"{n}.json": b"1"}) for n in range(12)]

        outcomes = await asyncio.gather(*writes, return_exceptions=True)

        refusals = [outcome for outcome in outcomes if isinstance(outcome, VaultUnavailable)]
        assert len(hub.commits) == len(hub.files) == 5
        assert len(refusals) == 7
        for refusal in refusals:
            assert "PLEIADES_VAULT__COMMITS_PER_HOUR" in str(refusal)
            assert refusal.retry_after_s is not None
            assert 3500 < refusal.retry_after_s <= 3600

    async def test_an_hour_later_commits_are_granted_again(
        self, hub: FakeHub, database: Database, sql: Any
    ) -> None:
        store = HubStore(DATASET, TOKEN, database, hub.url, 3)
        for number in range(3):
            await store.write({f"{number}.json": b"1"})
        await sql.execute(
            "UPDATE vault_commits SET granted[1] = granted[1] - interval '61 min', "
            "granted[2] = granted[2] - interval '59 min'"
        )

        await store.write({"3.json": b"1"})
        with pytest.raises(VaultUnavailable) as refusal:
            await store.write({"4.json": b"1"})

        assert refusal.value.retry_after_s is not None
        assert 50 < refusal.value.retry_after_s <= 60
        assert await sql.fetchval("SELECT cardinality(granted) FROM vault_commits") == 3

    async def test_datasets_have_budgets_of_their_own(
        self, hub: FakeHub, database: Database, sql: Any
    ) -> None:
        await HubStore(DATASET, TOKEN, database, hub.url, 1).write({"a.json": b"1"})
        with pytest.raises(VaultError, match="does not exist"):
            await HubStore("pleiades/nothing", TOKEN, database, hub.url, 1).write({"a.json": b"1"})

        assert await sql.fetchval("SELECT count(*) FROM vault_commits") == 2


async def test_objects_wait_for_the_hours_commits_and_then_share_one(
    hub: FakeHub, settings_factory: SettingsFactory, clock: FixedClock, sql: Any
) -> None:
    settings = settings_factory(
        vault_provider="huggingface",
        hf_dataset_id=DATASET,
        hf_token=SecretStr(TOKEN),
        vault={"endpoint_url": hub.url, "commits_per_hour": 2},
    )
    async with Atlas.open(settings, clock=clock) as atlas:
        for page in range(4):
            async with atlas.vault.batch() as batch:
                names = [batch.store_metadata(f"page{page}-{n}", {"n": n}) for n in range(20)]
        assert [len(commit) for commit in hub.commits] == [20, 20]
        assert await atlas.vault.waiting() == 40
        assert await atlas.vault.fetch(names[3]) == {"n": 3}
        assert len(await atlas.vault.list("metadata/")) == 80

    await sql.execute("UPDATE vault_commits SET granted = ARRAY[clock_timestamp() - interval '2 hours']")
    await sql.execute("UPDATE vault_refused SET retry_at = clock_timestamp() - interval '1 s'")
    async with Atlas.open(settings, clock=clock) as atlas:
        assert await atlas.vault.retry_refused() == 40
        assert [len(commit) for commit in hub.commits] == [20, 20, 40]
        assert await atlas.vault.fetch(names[3]) == {"n": 3}
        assert await atlas.ping() == {"database": "ok", "vault": "ok"}


class TestS3Store:
    async def test_a_bucket_out_of_reach_is_told(self, s3_url: str) -> None:
        store = S3Store("s3://no-such-bucket/x", s3_url)

        with pytest.raises(VaultError, match="s3://no-such-bucket/x: "):
            await store.write({"a.json": b"1"})
        with pytest.raises(VaultError, match="'no-such-bucket' does not exist: create it"):
            await store.check()

    async def test_a_service_out_of_reach_is_told(self, s3_url: str, unused_port: int) -> None:
        store = S3Store("s3://bucket", f"http://127.0.0.1:{unused_port}")

        with pytest.raises(VaultUnavailable, match=r"s3://bucket: .*Could not connect"):
            await store.check()

    async def test_keys_that_cannot_be_deleted_are_told(
        self, s3_store: S3Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await s3_store.write({"a.json": b"1"})
        monkeypatch.setattr(
            s3_store._opened, "call_s3", lambda *args, **options: {"Errors": [{"Message": "Access Denied"}]}
        )

        with pytest.raises(VaultError, match="1 object could not be deleted: Access Denied"):
            await s3_store.write({"a.json": None})

    async def test_the_bucket_may_be_the_root(self, s3_url: str) -> None:
        store = S3Store("s3://bucket/", s3_url)
        await store.write({"d/a.json": b"1"})
        await store.write({"d/a.json": None, "d/b.json": b"2"})

        assert await store.list("") == ["d/b.json"]
        assert await store.folders("") == ["d"]


def test_the_settings_choose_the_store(settings_factory: SettingsFactory, tmp_path: Path) -> None:
    database: Any = None
    default = store_of(settings_factory(database_url=None), database)
    other = store_of(settings_factory(database_url=None, vault={"path": tmp_path / "x"}), database)

    assert isinstance(default, FileStore)
    assert default.root == tmp_path / "data" / "vault"
    assert isinstance(other, FileStore)
    assert other.root == tmp_path / "x"


def test_every_provider_has_its_store(settings_factory: SettingsFactory) -> None:
    pytest.importorskip("s3fs", reason="the extra pleiades[s3] is not installed")
    database: Any = None
    hub = settings_factory(
        database_url=None, vault_provider="huggingface", hf_dataset_id=DATASET, hf_token=SecretStr(TOKEN)
    )
    s3 = settings_factory(database_url=None, vault_provider="s3", vault={"url": "s3://bucket/x"})

    assert isinstance(store_of(hub, database), HubStore)
    assert isinstance(store_of(s3, database), S3Store)


@pytest.mark.parametrize("url", ["bucket", "gs://bucket", "s3://"])
def test_s3_needs_an_s3_url(url: str) -> None:
    pytest.importorskip("s3fs", reason="the extra pleiades[s3] is not installed")
    with pytest.raises(ConfigError, match=r"PLEIADES_VAULT__URL.*s3://bucket/prefix"):
        S3Store(url, None)


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("below", ["", "a", "a/b"])
async def test_a_dangling_link_is_an_error_at_once(tmp_path: Path, below: str) -> None:
    link = tmp_path / "vault"
    link.symlink_to(tmp_path / "nowhere")
    store = FileStore(link / below)
    async with asyncio.timeout(10):
        for action in (store.check(), store.write({"a/b.json": b"1"}), store.probe("a/.probe")):
            with pytest.raises(VaultError, match=r"it is a link to .*nowhere, which is no folder"):
                await action


async def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "vault").symlink_to(tmp_path / "folder")
    await FileStore(tmp_path / "vault").write({"a/b.json": b"1"})
    assert (tmp_path / "folder" / "a" / "b.json").read_bytes() == b"1"


async def test_a_folder_that_vanishes_for_ever_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(path: Path, *_: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(Path, "mkdir", vanish)
    async with asyncio.timeout(10):
        with pytest.raises(VaultError, match="vanishes"):
            await FileStore(tmp_path / "vault").check()
