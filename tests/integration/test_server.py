"""The Prefect server that `maia hunter` starts for itself, in processes of their own."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

STARTED = """
import sys
from flows import environment
environment.prepare()
from flows import temporary
from maia.errors import MaiaError
try:
    with temporary.reachable():
        print("started")
except MaiaError as error:
    sys.exit(str(error))
"""


def run(home: Path, program: str = STARTED, **environment: str) -> subprocess.CompletedProcess[str]:
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.run(
        [sys.executable, "-c", program],
        env=surroundings | {"PREFECT_HOME": str(home)} | environment,
        capture_output=True,
        text=True,
    )


def test_one_that_cannot_start_says_why_at_once(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/no/such/folder/prefect.db"
    finished = run(tmp_path, PREFECT_API_DATABASE_CONNECTION_URL=url)

    assert finished.returncode == 1
    [line] = finished.stderr.splitlines()
    assert line.startswith("Prefect's server did not start: ")
    assert "unable to open database file" in line
    assert line.endswith("maia hunter --direct")


def test_one_that_takes_too_long_is_given_up(prefect_home: Path) -> None:
    finished = run(prefect_home, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="0")

    assert finished.returncode == 1
    assert "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS" in finished.stderr


LOST = """
from flows import temporary
start = temporary._start
def started(listener, log):
    process = start(listener, log)
    process.kill()
    process.wait()
    return process
temporary._start = started
"""


def test_one_that_is_killed_while_it_starts_is_reported(tmp_path: Path) -> None:
    finished = run(tmp_path, LOST + STARTED)

    assert finished.returncode == 1
    [line] = finished.stderr.splitlines()
    assert line.startswith("Prefect's server did not start: ")


STOPPED = """
import signal, socket, sys, tempfile, time
from pathlib import Path
from flows import environment, temporary
environment.prepare()
with tempfile.TemporaryFile() as log, socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    process = temporary._start(listener, log)
    status = Path(f"/proc/{process.pid}/status")
    caught = 0
    while not caught & 1 << signal.SIGTERM - 1:
        time.sleep(0.02)
        [line] = [line for line in status.read_text().splitlines() if line.startswith("SigCgt:")]
        caught = int(line.split()[1], 16)
    temporary._stop(process)
    sys.exit(process.returncode)
"""


def test_one_that_never_serves_ends_by_itself(tmp_path: Path) -> None:
    finished = run(tmp_path, STOPPED)

    assert finished.returncode == 0, finished.stderr


TERMINATED = """
import signal
from flows import environment
environment.prepare()
from flows import temporary
with temporary.reachable():
    from prefect.exceptions import TerminationSignal
    raise TerminationSignal(signal=signal.SIGTERM)
"""


def test_sigterm_while_prefect_handles_it_ends_the_command_quietly(prefect_home: Path) -> None:
    finished = run(prefect_home, TERMINATED)

    assert (finished.returncode, finished.stderr) == (143, "")


class Stranger(http.server.BaseHTTPRequestHandler):
    """Any web server, as it is found at a PREFECT_API_URL that lacks /api."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<!doctype html>")

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def test_another_server_at_the_url_is_named(tmp_path: Path) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{stranger.server_port}"
        finished = run(tmp_path, PREFECT_API_URL=url)
        stranger.shutdown()

    assert finished.returncode == 1
    [line] = finished.stderr.splitlines()
    assert line.startswith(f"PREFECT_API_URL: what answers at {url} is not the API of a Prefect server: ")


def test_an_impossible_url_is_named(tmp_path: Path) -> None:
    finished = run(tmp_path, PREFECT_API_URL="http://a\x1bb/api")

    assert finished.returncode == 1
    [line] = finished.stderr.splitlines()
    assert line.startswith("PREFECT_API_URL: http://a\x1bb/api does not answer ")


VISITED = """
import asyncio, json
from flows import environment
environment.prepare()
from flows import temporary
import httpx, websockets

async def connect(url, **headers):
    try:
        async with websockets.connect(url, additional_headers=headers) as connection:
            return "open"
    except websockets.InvalidStatus as refused:
        return refused.response.status_code

with temporary.reachable() as url:
    from prefect.settings import PREFECT_API_URL
    used = PREFECT_API_URL.value() == url
    health = httpx.get(url + "/health").status_code
    port = httpx.URL(url).port
    answers = []
    for headers in (
        {}, {"Origin": f"http://127.0.0.1:{port}"}, {"Host": "prefect.example"},
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"},
    ):
        answer = httpx.post(f"{url}/flows/filter", json={}, headers=headers)
        stream = f"ws://127.0.0.1:{port}/api/events/in"
        stream = None if "Host" in headers else asyncio.run(connect(stream, **headers))
        answers.append([answer.status_code, answer.headers.get("access-control-allow-origin"), stream])
try:
    httpx.get(url + "/health")
    gone = False
except httpx.ConnectError:
    gone = True
print(json.dumps(
    {"url": url, "used": used, "health": health, "gone": gone, "answers": answers, "reason": answer.text}
))
"""


def test_it_answers_while_it_is_needed_but_not_to_other_sites_pages_and_is_gone_then(
    prefect_home: Path,
) -> None:
    finished = run(prefect_home, VISITED, PLEIADES_PREFECT__ALLOWED_HOSTS="prefect.example")

    assert finished.returncode == 0, finished.stderr
    seen = json.loads(finished.stdout)
    assert seen["url"].endswith("/api")
    assert (seen["used"], seen["health"], seen["gone"]) == (True, 200, True)
    assert seen["answers"] == [
        [200, None, "open"], [200, None, "open"], [200, None, None],
        [403, None, 403], [403, None, 403], [403, None, None],
    ]  # fmt: skip
    assert seen["reason"].startswith("the Host 'evil.example' is not one of this server's names")
    assert "PLEIADES_PREFECT__ALLOWED_HOSTS" in seen["reason"]


KILLED = """
import os, signal
from flows import environment
environment.prepare()
from flows import temporary
import psutil

with temporary.reachable():
    [server] = psutil.Process().children()
    print(server.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_ends_with_the_process_that_needed_it_even_if_that_is_killed(
    prefect_home: Path,
) -> None:
    killed = run(prefect_home, KILLED)

    assert killed.returncode == -signal.SIGKILL
    with suppress(psutil.NoSuchProcess):
        server = psutil.Process(int(killed.stdout))
        # By its identity: another process may get its id, and a container's init may leave it a zombie.
        while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.05)


def test_the_server_of_the_profile_is_used_and_no_other_runs(tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text(
        'active = "ours"\n[profiles.ours]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n'
    )
    finished = run(tmp_path)

    assert finished.returncode == 1
    assert "http://127.0.0.1:9/api does not answer" in finished.stderr
    # A server would have made its database.
    assert not list(tmp_path.glob("*.db"))
