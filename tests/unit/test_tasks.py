"""Work beside a block."""

from __future__ import annotations

import asyncio

import pytest

from atlas.tasks import running


async def test_work_ends_with_its_block() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    async with running(work()):
        await begun.wait()
        assert not ended.is_set()
    assert ended.is_set(), "the end of the block waits for that of the work"


async def test_what_fails_beside_a_block_fails_at_its_end() -> None:
    reached = False

    async def fail() -> None:
        raise ValueError("too little wood")

    with pytest.raises(ValueError, match="too little wood"):
        async with running(fail()):
            await asyncio.sleep(0)
            reached = True
    assert reached


async def test_an_error_of_the_block_goes_through() -> None:
    with pytest.raises(KeyError):
        async with running(asyncio.sleep(60)):
            raise KeyError
