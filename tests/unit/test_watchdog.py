"""What systemd is told: readiness, and signs of life as long as everything works."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from maia.stack import watchdog
from maia.stack.watchdog import Pulse, Questions, ServiceManager, keep_alive


@pytest.fixture(params=["file", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    address = str(tmp_path / "notify")
    if request.param == "abstract":
        address = f"@pleiades-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + address[1:] if address.startswith("@") else address)
        listening.setblocking(False)
        yield listening, address


def told(listening: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(listening.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_fields_go_to_the_socket(listener: tuple[socket.socket, str]) -> None:
    listening, address = listener
    manager = ServiceManager(address)
    manager.tell(READY=1, STATUS="Ready")
    manager.say("two\nlines")
    assert told(listening) == ["READY=1\nSTATUS=Ready", "STATUS=two lines"]


def test_without_systemd_nobody_is_told() -> None:
    manager = ServiceManager.of({})
    assert manager.limit_s is None
    manager.tell(READY=1)


def test_a_socket_that_is_gone_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ServiceManager(str(tmp_path / "gone")).tell(READY=1)
    assert "systemd can't be told READY=1" in caplog.text


@pytest.mark.parametrize(
    ("pid", "limit", "expected"),
    [
        ("ours", "3000000", 3.0),
        ("", "500000", 0.5),
        ("1", "3000000", None),
        ("", "0", None),
        ("", "soon", None),
    ],
)
def test_the_environment_is_not_for_child_processes(pid: str, limit: str, expected: float | None) -> None:
    # The same in every worker that collects the tests.
    pid = pid.replace("ours", str(os.getpid()))
    environment = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": limit, "WATCHDOG_PID": pid, "PATH": "/bin"}
    assert ServiceManager.of(environment).limit_s == expected
    assert environment == {"PATH": "/bin"}


async def test_signs_of_life_stop_when_something_is_wrong_and_come_again(
    listener: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watchdog, "_LEAST_PAUSE_S", 0)
    listening, address = listener
    wrong: list[str | None] = [None, None, "the database has failed for 200 s", "still", None]
    rounds = iter(wrong)
    over = asyncio.Event()

    def sign() -> str | None:
        try:
            return next(rounds)
        except StopIteration:
            over.set()
            return "the test is over"

    task = asyncio.create_task(keep_alive(ServiceManager(address, 0.001), [lambda: None, sign]))
    await over.wait()
    task.cancel()
    assert told(listening) == ["WATCHDOG=1"] * 3
    assert caplog.text.count("the watchdog hears nothing more from here, as the database has failed") == 1


class Time:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr("maia.stack.watchdog.time.monotonic", lambda: self.now_s)


def test_a_pulse_is_missed_after_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time(monkeypatch)
    pulse = Pulse("the supervision", 60)
    time.now_s += 60
    assert pulse.wrong() is None
    time.now_s += 1
    assert pulse.wrong() == "the supervision stands still for 61 s"
    pulse.beat()
    assert pulse.wrong() is None


def test_an_embedded_server_may_recover_for_long_but_not_fail_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time = Time(monkeypatch)
    database = Questions("the database", 900, 120)
    with database.question():
        time.now_s += 899
        assert database.wrong() is None
        time.now_s += 2
        assert database.wrong() == "the database has not answered for 901 s"
    assert database.wrong() is None
    for _ in range(3):
        with pytest.raises(OSError, match="away"), database.question():
            time.now_s += 50
            raise OSError("away")
    assert database.wrong() == "the database has failed for 150 s"
    with database.question():
        pass
    assert database.wrong() is None


def test_a_foreign_server_may_be_away_for_as_long_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time(monkeypatch)
    database = Questions("the database", 900, None)
    with pytest.raises(OSError, match="away"), database.question():
        raise OSError("away")
    time.now_s += 100_000
    assert database.wrong() is None


async def test_an_interrupted_question_is_neither_an_answer_nor_a_failure() -> None:
    database = Questions("the database", 0, 0)
    with pytest.raises(asyncio.CancelledError), database.question():
        raise asyncio.CancelledError
    assert database.wrong() is None
