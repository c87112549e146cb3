"""Answers that are kept: shared, given stale while they are made anew, and never an error."""

from __future__ import annotations

import asyncio

import pytest

from maia.api.caching import Kept


class Source:
    """Counts how often it is asked; answers once it may."""

    def __init__(self) -> None:
        self.asked, self.may, self.fails = 0, asyncio.Event(), False
        self.may.set()

    async def __call__(self) -> int:
        self.asked += 1
        answer = self.asked
        await self.may.wait()
        if self.fails:
            raise RuntimeError("away")
        return answer


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_all_that_ask_at_once_share_one_computation() -> None:
    kept, source = Kept(now_s=Clock()), Source()
    source.may.clear()
    asking = [asyncio.create_task(kept.get("a", source)) for _ in range(5)]
    await settle()
    asking[0].cancel()
    source.may.set()
    assert await asyncio.gather(*asking[1:]) == [1] * 4
    assert source.asked == 1
    assert asking[0].cancelled()


async def test_a_stale_answer_is_given_while_it_is_made_anew() -> None:
    clock, source = Clock(), Source()
    kept = Kept(now_s=clock)
    assert [await kept.get("a", source), await kept.get("a", source), await kept.get("b", source)] == [
        1,
        1,
        2,
    ]
    clock.now_s = 5.0
    assert await kept.get("a", source) == 1
    await settle()
    assert await kept.get("a", source) == 3
    clock.now_s = 16.0
    assert await kept.get("a", source) == 4


async def test_what_fails_is_told_and_not_kept() -> None:
    clock, source = Clock(), Source()
    kept = Kept(now_s=clock)
    source.fails = True
    with pytest.raises(RuntimeError, match="away"):
        await kept.get("a", source)
    source.fails = False
    assert await kept.get("a", source) == 2
    source.fails, clock.now_s = True, 5.0
    assert await kept.get("a", source) == 2
    await settle()
    source.fails, clock.now_s = False, 6.0
    assert await kept.get("a", source) == 2
    await settle()
    assert await kept.get("a", source) == 4


async def test_a_change_forgets_all_also_what_is_being_made() -> None:
    kept, source = Kept(now_s=Clock()), Source()
    source.may.clear()
    before = asyncio.create_task(kept.get("a", source))
    await settle()
    kept.forget()
    source.may.set()
    assert await before == 1
    assert await kept.get("a", source) == 2


async def test_only_so_many_are_kept() -> None:
    kept, source = Kept(2, Clock()), Source()
    for key in ("a", "b", "a", "c", "a", "b"):
        await kept.get(key, source)
    assert source.asked == 4


async def test_what_is_being_made_ends_with_it() -> None:
    kept, source = Kept(now_s=Clock()), Source()
    source.may.clear()
    asking = asyncio.create_task(kept.get("a", source))
    await settle()
    await kept.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
