"""What is told callers and operators of requests that fail."""

from __future__ import annotations

import asyncio
import logging

import pytest

from atlas.errors import DatabaseUnavailable, StatementTimeout
from maia.api import problems
from maia.api.problems import Failures, problem_of


async def test_requests_that_fail_in_an_outage_are_told_in_few_lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(problems, "_failures", Failures(every_s=0.2))
    caplog.set_level(logging.INFO, problems.__name__)

    def fail(count: int) -> None:
        for _ in range(count):
            problem = problem_of(DatabaseUnavailable("keys: connection refused"))
            assert problem is not None
            assert problem.status == 503

    async def told(lines: int) -> None:
        async with asyncio.timeout(20):
            while len(caplog.messages) < lines:
                await asyncio.sleep(0.01)

    fail(500)
    problem_of(StatementTimeout("videos: canceling statement"))
    assert caplog.messages == [
        "a request failed: keys: connection refused",
        "a request failed: videos: canceling statement",
    ]
    # Each kind is told for itself: one timed out alone, the others go on.
    await told(4)
    assert caplog.messages[2:] == [
        "499 more requests failed in 0.2 s: keys: connection refused",
        "requests no longer fail, as 1 did: videos: canceling statement",
    ]
    await told(5)
    assert caplog.messages[4] == "requests no longer fail, as 500 did: keys: connection refused"
    assert caplog.records[4].levelno == logging.INFO
    fail(1)
    assert caplog.messages[5] == "a request failed: keys: connection refused"
