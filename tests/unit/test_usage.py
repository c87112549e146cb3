"""What is counted in memory before it is written, and giving up on what may fail."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

import pytest

from atlas.errors import DatabaseError
from atlas.usage import UsageBuffer, attempt, command
from maia import cli


def counted(buffer: UsageBuffer) -> dict[tuple[str, str], tuple[int, int]]:
    return {key: (one.count, one.errors) for key, one in buffer._counts.items()}


def test_uses_are_counted_by_kind_and_name() -> None:
    buffer = UsageBuffer()
    assert not buffer
    buffer.add("call", "feed", 1.0, failed=False)
    buffer.add("call", "feed", 1.0, failed=True)
    buffer.add("command", "feed", -1.0, failed=False)
    assert buffer
    assert counted(buffer) == {("call", "feed"): (2, 1), ("command", "feed"): (1, 0)}
    assert buffer._counts["command", "feed"].seconds == 0


def test_a_command_is_counted_once_and_only_while_it_runs() -> None:
    first, second = UsageBuffer(), UsageBuffer()
    with command("top"):
        first.add_command(failed=True)
        second.add_command(failed=False)
    second.add_command(failed=False)
    assert counted(first) == {("command", "top"): (1, 1)}
    assert not second


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["top", "--by", "score"], "top"),
        (["queue", "list"], "queue list"),
        (["metrics", "show", "--node", "secret"], "metrics show"),
        (["metrics", "--once"], "metrics serve"),
        (["channel", "@secret"], "channel show"),
        (["hunter", "--direct"], "hunter"),
    ],
)
def test_commands_are_known_by_their_names_alone(
    arguments: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = UsageBuffer()

    class Counting:
        """A command that counts itself instead of doing anything."""

        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, attribute: str) -> Any:
            return getattr(self._real, attribute)

        def make_context(self, *_: Any, **__: Any) -> Any:
            buffer.add_command(failed=False)
            raise SystemExit(0)

    real = cli.load_command
    monkeypatch.setattr(cli, "load_command", lambda named: Counting(real(named)))
    monkeypatch.setattr(sys, "argv", ["maia"])
    with pytest.raises(SystemExit):
        cli.app(args=arguments)
    assert counted(buffer) == {("command", name): (1, 0)}


class TestAttempt:
    async def test_returns_an_error_of_ours_and_raises_others(self) -> None:
        async def fail(error: Exception) -> None:
            raise error

        async def succeed() -> int:
            return 1

        ours = DatabaseError("away")
        assert await attempt(fail(ours), 60) is ours
        assert await attempt(succeed(), 60) is None
        with pytest.raises(KeyError):
            await attempt(fail(KeyError("a defect")), 60)

    async def test_gives_up_what_takes_too_long_even_if_it_does_not_end(self) -> None:
        let_go, cancelled = asyncio.Event(), asyncio.Event()

        async def hang() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                await let_go.wait()

        error = await attempt(hang(), 0.01)
        assert isinstance(error, TimeoutError)
        assert "0.01 s" in str(error)
        await cancelled.wait()
        let_go.set()

    async def test_a_cancellation_is_passed_on(self) -> None:
        began, ended = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        work: Coroutine[Any, Any, Any] = attempt(wait(), 3600)
        task = asyncio.create_task(work)
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await ended.wait()
