"""SIGTERM ends a process within its grace, even one whose threads or loop are stuck."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time

import pytest

PROLOGUE = """
    import asyncio, os, signal, sys, threading, time
    from maia.cycle.signals import cancelled_by_sigterm
    from maia.cycle.termination import Terminator

    signal.signal(signal.SIGTERM, Terminator(grace_s=1.0))
    os.mkfifo(sys.argv[1])

    def stuck():
        print("ready", flush=True)
        open(sys.argv[1])

    async def in_the_loop():
        with cancelled_by_sigterm():
            print("ready", flush=True)
            while True:
                pass

    async def in_a_thread():
        with cancelled_by_sigterm():
            await asyncio.to_thread(stuck)

    async def at_rest():
        with cancelled_by_sigterm():
            print("ready", flush=True)
            await asyncio.sleep(60)
"""


@pytest.mark.parametrize(
    ("body", "longest_s"),
    [
        ("asyncio.run(in_the_loop())", 5),
        ("asyncio.run(in_a_thread())", 5),
        ("asyncio.run(at_rest())", 0.9),
        ("thread = threading.Thread(target=stuck)\nthread.start()\nthread.join()", 5),
        ("stuck()", 0.9),
    ],
)
def test_every_process_ends(tmp_path_factory: pytest.TempPathFactory, body: str, longest_s: float) -> None:
    program = textwrap.dedent(PROLOGUE) + body
    fifo = tmp_path_factory.mktemp("fifo") / "fifo"
    process = subprocess.Popen([sys.executable, "-c", program, str(fifo)], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.2)
        began_s = time.monotonic()
        process.terminate()
        try:
            assert process.wait(20) == 128 + signal.SIGTERM
        finally:
            process.kill()
        # Generous, as other tests may keep the machine busy; the stuck ones take the grace of a second.
        assert time.monotonic() - began_s < 10 * longest_s


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_is_lost_comes_again(number: signal.Signals) -> None:
    program = """
        import os, signal, sys, time
        from maia import cli

        class Resource:
            def __del__(self):
                signal.raise_signal(int(sys.argv[1]))

        def app(**_):
            Resource()
            time.sleep(60)

        cli.app = app
        cli.main([])
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(int(number))]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=40)
    assert finished.returncode == 128 + number
    assert "Exception ignored" not in finished.stderr


def test_an_import_that_turns_the_signal_into_an_error_ends_by_it() -> None:
    program = """
        import os, signal
        from maia import cli

        def app(**_):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except SystemExit:
                raise TypeError("expected a message argument") from None

        cli.app = app
        cli.main([])
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], check=False, capture_output=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGTERM, b"")


@pytest.mark.parametrize(("number", "told"), [(signal.SIGTERM, ""), (signal.SIGINT, "maia: interrupted\n")])
def test_an_end_is_told_once_however_many_signals_there_are(number: signal.Signals, told: str) -> None:
    program = """
        import asyncio, signal, sys
        from maia import cli
        from maia.commands import streams

        def app(**_):
            unawaited = asyncio.sleep(1)
            signal.raise_signal(int(sys.argv[1]))

        def has_printed():
            signal.raise_signal(signal.SIGINT)
            return False

        cli.app, streams.has_printed = app, has_printed
        cli.main([])
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(int(number))]
    finished = subprocess.run(command, check=False, capture_output=True, text=True, timeout=40)
    assert (finished.returncode, finished.stderr) == (128 + number, told)
