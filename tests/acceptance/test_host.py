"""Every command on hosts as they are: odd encodings, closed and full outputs, no home, no user, SIGTERM."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from atlas.testing import NOON
from maia import cli
from tests.acceptance.forks import STDERR, Ended, run_each
from tests.growth import HOUR, store_samples, store_video

pytestmark = pytest.mark.acceptance

TITLE = "日本語 … “ünï” 😀 \ud7ff"
# What prints something at once, and needs no more than a database; all others print their help.
PRINTING: Mapping[str, tuple[str, ...]] = {
    "catalogue": ("catalogue", "synthesize", "-o", "x.catalogue", "--videos", "20", "--channels", "2"),
    "config": ("config", "docs"),
    "export": ("export", "--to", "-", "--table", "videos"),
    "keys": ("keys",),
    "metrics": ("metrics", "--once"),
    "migrate": ("migrate",),
    "patterns": ("patterns", "list"),
    "queue": ("queue", "list"),
    "seed": ("seed", "lofi …"),
    "status": ("status",),
    "top": ("top",),
    "video": ("video", "plainAAAAAA"),
    "watch": ("watch", "list"),
}
COMMANDS = [PRINTING.get(name, (name, "--help")) for name in cli.COMMANDS]


@pytest_asyncio.fixture
async def stocked(environment: dict[str, str], sql: Any, tmp_path: Path) -> dict[str, str]:
    """The environment of a database with a video and a topic in letters that few encodings have."""
    await store_video(sql, "plainAAAAAA", title=TITLE, tags=[TITLE], clock_velocity=100.0)
    await store_samples(sql, "plainAAAAAA", [(NOON - hour * HOUR, 1000 - hour) for hour in range(4)])
    return environment | {"YOUTUBE_API_KEY_POOL_JSON": '["lab-key"]'}


def run(
    environment: Mapping[str, str], *arguments: str, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | options
    command = [sys.executable, "-m", "maia", *arguments]
    return subprocess.run(command, env={**environment}, check=False, timeout=100, **options)


ENCODINGS = [
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=[" ".join(encoding) for encoding in ENCODINGS])
def test_an_encoding_that_lacks_a_character(
    stocked: dict[str, str], tmp_path: Path, encoding: dict[str, str]
) -> None:
    finished = run_each(stocked | encoding, COMMANDS, cwd=tmp_path)
    assert {name: ended.stderr for name, ended in finished.items() if ended.status} == {}
    assert [name for name, ended in finished.items() if not ended.stdout] == []
    assert [name for name, ended in finished.items() if b"Traceback" in ended.stderr] == []


def test_json_is_whole_in_any_encoding(stocked: dict[str, str]) -> None:
    finished = run(stocked | {"PYTHONIOENCODING": "ascii"}, "queue", "list", "--json")
    assert finished.stdout.isascii()
    assert run(stocked, "top", "--csv").stdout == run(stocked | ENCODINGS[0], "top", "--csv").stdout
    assert TITLE in run(stocked, "top", "--csv").stdout.decode()


def test_a_full_output_is_a_line(stocked: dict[str, str], tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        finished = run_each(stocked, COMMANDS, captured=[STDERR], cwd=tmp_path, stdout=full)
        unheard = run_each(stocked, COMMANDS, captured=[], cwd=tmp_path, stdout=full, stderr=full)
    for name, ended in finished.items():
        lines = ended.stderr.decode().splitlines()
        assert ended.status == 1, name
        assert [line for line in lines if "No space left on device" in line] == lines[-1:], name
        assert lines[-1].startswith("maia: cannot write"), name
    assert [name for name, ended in unheard.items() if ended.status != 1] == []


def test_a_reader_that_has_gone_ends_it_quietly(stocked: dict[str, str], tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "wb") as gone:
        finished = run_each(stocked, COMMANDS, captured=[STDERR], cwd=tmp_path, stdout=gone)
    for name, ended in finished.items():
        assert ended.status == 0, (name, ended.stderr)
        assert b"Traceback" not in ended.stderr, name
        assert b"Broken pipe" not in ended.stderr, name


@pytest.mark.parametrize(("closed", "captured"), [(">&-", [STDERR]), (">&- 2>&- <&-", [])])
def test_closed_streams_are_no_trouble(
    stocked: dict[str, str], tmp_path: Path, closed: str, captured: list[int]
) -> None:
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    finished = run_each(stocked, COMMANDS, captured=captured, launcher=shell, cwd=tmp_path)
    for name, ended in finished.items():
        assert ended.status == 0, (name, ended.stderr)
        assert b"Traceback" not in ended.stderr, name


AS_NOBODY = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
TAKES_ROOT = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="takes root")


def run_as_nobody(
    environment: Mapping[str, str], commands: Sequence[Sequence[str]], cwd: Path | str = "/"
) -> dict[str, Ended]:
    """Run them as a user without a name; whatever they meet, they say so in a line."""
    finished = run_each(environment, commands, launcher=AS_NOBODY, cwd=cwd)
    for name, ended in finished.items():
        assert b"Traceback" not in ended.stderr, (name, ended.stderr.decode())
        assert ended.status in (0, 1, 2, 69, 78), name
    return finished


@TAKES_ROOT
def test_a_user_without_name_and_home(stocked: dict[str, str]) -> None:
    homeless = {key: value for key, value in stocked.items() if key not in ("HOME", "USER", "LOGNAME")}
    for name, ended in run_as_nobody(homeless, COMMANDS).items():
        assert not ended.status or ended.stderr.startswith(b"maia: "), (name, ended.stderr)


@TAKES_ROOT
def test_without_a_home_it_says_which_folder_to_name(stocked: dict[str, str]) -> None:
    names = ("HOME", "USER", "LOGNAME", "PLEIADES_DATA_DIR", "XDG_DATA_HOME", "DATABASE_URL")
    homeless = {key: value for key, value in stocked.items() if key not in names}
    commands = [("status",), ("up",), ("hunter", "--direct"), ("export", "--to", "x.csv")]
    for name, ended in run_as_nobody(homeless, commands).items():
        assert ended.status == 78, name
        assert b"set PLEIADES_DATA_DIR" in ended.stderr.splitlines()[-1], name


@pytest.fixture
def closed_folder(tmp_path: Path) -> Path:
    """A folder that nobody but its owner may look into."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700)
    return folder


@TAKES_ROOT
def test_the_folder_and_the_home_of_somebody_else(stocked: dict[str, str], closed_folder: Path) -> None:
    theirs = stocked | {"HOME": str(closed_folder)}
    for name, ended in run_as_nobody(theirs, COMMANDS, cwd=closed_folder).items():
        assert not ended.status or b"maia: " in ended.stderr, (name, ended.stderr)


@TAKES_ROOT
def test_files_that_may_not_be_seen_are_a_line(stocked: dict[str, str], closed_folder: Path) -> None:
    commands = [
        ("catalogue", "synthesize", "-o", "x.catalogue"),
        ("emulator", "--catalogue", "x.catalogue"),
        ("export", "--to", "x.csv", "--table", "videos"),
        ("seed", "--file", "x"),
        ("up",),
    ]
    theirs = stocked | {"HOME": str(closed_folder), "PLEIADES_DATA_DIR": str(closed_folder / "data")}
    for name, ended in run_as_nobody(theirs, commands, cwd=closed_folder).items():
        assert ended.status != 0, name
        assert ended.stderr, name


# SIGTERM


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The URL of a database server that takes connections and never says a word."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=50)) as server:
        yield f"postgresql://maia:maia@127.0.0.1:{server.getsockname()[1]}/maia"


SETTLED_S = 8
"""When a command that waits for something has come to wait for it."""


def start(environment: Mapping[str, str], cwd: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "maia", *arguments], env={**environment}, cwd=cwd,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def handles_sigterm(process: subprocess.Popen[bytes]) -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) & 1 << signal.SIGTERM - 1)


def settle(waiting: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """Wait until each has ended or handles SIGTERM, which on a busy machine takes a while."""
    deadline_s = time.monotonic() + 60
    while not all(process.poll() is not None or handles_sigterm(process) for process in waiting.values()):
        assert time.monotonic() < deadline_s, "some never handled SIGTERM"
        time.sleep(0.1)


def end(waiting: Mapping[str, subprocess.Popen[bytes]], within_s: float) -> None:
    """End all of them by SIGTERM at once."""
    try:
        settle(waiting)
        ended_early = {
            name: process.communicate() for name, process in waiting.items() if process.poll() is not None
        }
        assert ended_early == {}
        for process in waiting.values():
            process.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + within_s
        for name, process in waiting.items():
            _, stderr = process.communicate(timeout=max(0.1, deadline_s - time.monotonic()))
            assert (process.returncode, b"Traceback" in stderr) == (143, False), (name, stderr.decode())
    finally:
        for process in waiting.values():
            process.kill()
            process.communicate()


WAITING: Mapping[str, tuple[str, ...]] = {
    **{name: (name,) for name in cli.COMMANDS},
    "backup": ("backup", "list"),
    "catalogue": ("catalogue", "import", "fifo", "-o", "x"),
    "channel": ("channel", "UC" + "a" * 22),
    "config": ("config", "show"),
    "daemon": ("daemon", "comments"),
    "demo": ("demo", "--cycles", "100"),
    "emulator": ("emulator", "--catalogue", "x.catalogue", "--port", "0"),
    "export": ("export", "--to", "out.csv"),
    "federation": ("federation", "peers"),
    "graph": ("graph", "stats"),
    "hunter": ("hunter", "--direct"),
    "learn": ("learn", "--from", "x.jsonl"),
    "learner": ("learner", "--direct"),
    "maintainer": ("maintainer", "--direct"),
    "patterns": ("patterns", "list"),
    "queue": ("queue", "list"),
    "seed": ("seed", "--file", "fifo"),
    "system": ("system", "actions"),
    "tracker": ("tracker", "--direct"),
    "video": ("video", "plainAAAAAA"),
    "watch": ("watch", "list"),
}


def test_sigterm_ends_whatever_waits(environment: dict[str, str], silent_server: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    ours = environment | {
        "DATABASE_URL": silent_server, "YOUTUBE_API_KEY_POOL_JSON": '["lab-key"]',
        "PLEIADES_DATABASE__CONNECT_TIMEOUT_S": "300", "PREFECT_API_URL": "http://127.0.0.1:1/api",
        "PREFECT_HOME": str(tmp_path / "prefect"),
    }  # fmt: skip
    # They don't wait for the database, or not before they have taken long for other things.
    blocked = {"PLEIADES_CONFIG": str(tmp_path / "fifo")}
    theirs = dict.fromkeys(("backup", "config", "serve", "provision", "up", "doctor"), blocked)
    made = run(ours, *PRINTING["catalogue"], cwd=tmp_path)
    assert made.returncode == 0
    waiting = {
        name: start(ours | theirs.get(name, {}), tmp_path, *arguments) for name, arguments in WAITING.items()
    }
    time.sleep(SETTLED_S)
    end(waiting, within_s=40)


def test_an_export_waits_for_a_reader_until_sigterm(stocked: dict[str, str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.csv")
    waiting = start(stocked, tmp_path, "export", "--to", "fifo.csv", "--table", "videos")
    time.sleep(SETTLED_S / 2)
    end({"export": waiting}, within_s=20)


@pytest.mark.parametrize("arguments", [("doctor",), ("export", "--to", "vault:a.csv")])
def test_a_dangling_vault_ends_at_once(
    stocked: dict[str, str], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    link = tmp_path / "vault"
    link.symlink_to(tmp_path / "nowhere")
    finished = run(stocked | {"PLEIADES_VAULT__PATH": str(link)}, *arguments)
    assert b"Traceback" not in finished.stderr
    assert b"which is no folder" in finished.stdout + finished.stderr
