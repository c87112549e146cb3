from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading

import pytest

from maia.cycle.signals import TERMINATED_STATUS, cancelled_by_sigterm


async def terminate_within(*, exits: bool) -> None:
    with cancelled_by_sigterm(exits=exits):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()


def test_sigterm_ends_in_status_143() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        asyncio.run(terminate_within(exits=True))
    assert ended.value.code == TERMINATED_STATUS == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_can_end_as_a_cancellation() -> None:
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(terminate_within(exits=False))


async def test_another_cancellation_stays_one() -> None:
    async def work() -> None:
        with cancelled_by_sigterm():
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_other_threads_get_no_signals_and_do_their_work() -> None:
    done: list[bool] = []

    async def work() -> None:
        with cancelled_by_sigterm():
            done.append(True)

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    thread.join()
    assert done == [True]


async def test_a_second_sigterm_does_not_disturb_the_end() -> None:
    tidied = asyncio.Event()

    async def work() -> None:
        with cancelled_by_sigterm(exits=False):
            try:
                await asyncio.Event().wait()
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.sleep(0.05)
                tidied.set()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait([task])
    assert task.cancelled()
    assert tidied.is_set()


# A signal may reach a process without interrupting the system call in which its event loop waits: it comes
# just before the call, or another thread takes it. Here it is always another thread.
DEAF_LOOP = """
import asyncio, signal, threading
from maia.commands.terminal import run

threading.Thread(target=threading.Event().wait, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})

async def wait():
    print("waiting", flush=True)
    await asyncio.Event().wait()

run(wait())
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
def test_a_command_hears_a_signal_that_does_not_interrupt_its_loop(
    number: signal.Signals, status: int
) -> None:
    command = [sys.executable, "-c", DEAF_LOOP]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(number)
        try:
            assert process.wait(30) == status
        finally:
            process.kill()
