"""The dashboard in a real browser: nothing fails, nothing leaves this host, and it is live.

SCREENSHOTS names a folder that gets a picture of each page, to look at, and AXE the file axe.min.js of npm's
axe-core, which then looks for what people with disabilities can't use.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from atlas.composition import Atlas
from atlas.scopes import Scope
from atlas.testing import NOON
from maia.api.pages.rendering import in_graph
from tests.dashboard import PATTERN_ID, store_awkward, store_shown
from tests.served import Served, served
from tests.stored_graphs import AWKWARD, store_graph

pytestmark = pytest.mark.integration

PAGES = {
    "rising": "/", "video": "/videos/risen", "compare": "/compare?id=risen&id=slow", "health": "/health",
    "quota": "/quota", "topics": "/topics", "patterns": "/learnt", "channel": "/channels/UC-one",
    "search": "/search?q=risen", "login": "/login", "log": "/health/log", "actions": "/health/actions",
    "graph": "/graph?q=l", "atom": "/graph/tag:lofi",
}  # fmt: skip
ONE = ("video", "channel", "atom")
"""Pages of something, which there must be."""
_ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--disable-quic",
)  # fmt: skip
BREAKOUT = {"video_id": "slow", "at": NOON.isoformat(), "times_expected": 8.5}


@dataclass
class Seen:
    """A page of the browser, and what went wrong in it."""

    page: Page
    troubles: list[str] = field(default_factory=list)


@pytest_asyncio.fixture
async def service(atlas: Atlas, sql: Any) -> AsyncIterator[Served]:
    await store_shown(sql)
    await store_graph(atlas)
    async with served(atlas) as service:
        yield service


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
        browser = await playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        yield browser
        await browser.close()


@asynccontextmanager
async def opened(
    browser: Browser, service: Served, width: int = 1280, scheme: Literal["light", "dark"] = "light"
) -> AsyncIterator[Seen]:
    context = await browser.new_context(
        base_url=service.url, viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    seen = Seen(await context.new_page())
    seen.page.on("pageerror", lambda error: seen.troubles.append(str(error)))
    seen.page.on(
        "console",
        lambda said: seen.troubles.append(said.text) if said.type in ("error", "warning") else None,
    )
    seen.page.on(
        "request",
        lambda asked: (
            None if asked.url.startswith((f"{service.url}/", "data:")) else seen.troubles.append(asked.url)
        ),
    )
    yield seen
    await context.close()


async def test_nothing_and_awkward_texts_are_laid_out_as_well(
    browser: Browser, atlas: Atlas, sql: Any
) -> None:
    async with served(atlas) as service:
        for width in (1280, 390):
            await _look(browser, service, {n: p for n, p in PAGES.items() if n not in ONE}, width, "empty")
    await store_awkward(sql)
    await store_graph(atlas)
    async with served(atlas) as service:
        for width in (1280, 390):
            awkward = PAGES | {
                "video": "/videos/awkward0", "compare": "/compare?id=awkward0&id=awkward1&id=awkward2",
                "channel": "/channels/UC-0", "search": "/search?q=2026", "pattern": f"/learnt/{PATTERN_ID}",
                "atom": in_graph("concept", AWKWARD),
            }  # fmt: skip
            await _look(browser, service, awkward, width, "awkward")


async def _look(
    browser: Browser, service: Served, pages: dict[str, str], width: int, name: str,
    scheme: Literal["light", "dark"] = "light",
) -> None:  # fmt: skip
    """Look at pages: none is wider than the window, has an error, or something people can't use."""
    async with opened(browser, service, width, scheme) as seen:
        for page, path in pages.items():
            answer = await seen.page.goto(path)
            assert answer is not None
            assert answer.status == 200, page
            if page in ("video", "compare") and name != "empty":
                await expect(seen.page.locator("[data-plot] canvas")).to_be_visible()
            needed = await seen.page.evaluate("document.documentElement.scrollWidth")
            assert needed <= width, f"{page} is {needed} px wide"
            await _picture(seen.page, f"{page}-{width}-{name}")
            assert await _found_by_axe(seen.page) == [], page
    assert seen.troubles == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
async def test_each_page_fits_and_loads_without_trouble(
    browser: Browser, service: Served, width: int, scheme: Literal["light", "dark"]
) -> None:
    await _look(browser, service, PAGES, width, scheme, scheme)


async def _picture(page: Page, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        await page.screenshot(path=f"{folder}/{name}.png", full_page=True)


async def _found_by_axe(page: Page) -> list[str]:
    if (axe := os.environ.get("AXE")) is None:
        return []
    await page.evaluate(await asyncio.to_thread(Path(axe).read_text))
    found: list[dict[str, Any]] = (await page.evaluate("axe.run()"))["violations"]
    return [f"{each['impact']}: {each['help']}: {each['nodes'][0]['html']}" for each in found]


async def test_a_breakout_appears_as_it_happens(browser: Browser, service: Served) -> None:
    async with opened(browser, service) as seen:
        await seen.page.goto("/")
        await expect(seen.page.locator("#live")).to_have_text("Live")
        await expect(seen.page.locator("#breakouts")).to_have_count(0)
        await service.atlas.events.append("tracker.breakout", BREAKOUT, agent="tracker")
        await expect(seen.page.locator("#live")).to_contain_text("a breakout just now")
        await expect(seen.page.locator("#breakouts li")).to_contain_text("8.5 times the expected")
    assert seen.troubles == []


async def test_a_filter_changes_the_board_and_the_address(browser: Browser, service: Served) -> None:
    async with opened(browser, service) as seen:
        page = seen.page
        await page.goto("/")
        await expect(page.locator(".leaders tbody tr")).to_have_count(2)
        await page.get_by_label("Length").select_option("long")
        await expect(page.locator(".leaders tbody tr")).to_have_count(1)
        assert "length=long" in page.url
        await page.reload()
        await expect(page.get_by_label("Length")).to_have_value("long")
        await expect(page.locator(".leaders tbody tr")).to_have_count(1)
    assert seen.troubles == []


async def test_the_keyboard_alone_leads_past_the_navigation(browser: Browser, service: Served) -> None:
    async with opened(browser, service) as seen:
        await seen.page.goto("/topics")
        await seen.page.keyboard.press("Tab")
        await expect(seen.page.locator(".skip")).to_be_focused()
        await seen.page.keyboard.press("Enter")
        await expect(seen.page.locator("#main")).to_be_focused()


async def test_communities_appear_once_they_are_found(browser: Browser, service: Served) -> None:
    async with opened(browser, service) as seen:
        await seen.page.goto("/graph")
        await expect(seen.page.locator("#communities table")).to_be_visible(timeout=30_000)
        await expect(seen.page.locator("#communities")).to_have_count(1)
    assert seen.troubles == []


async def test_the_keyboard_leads_from_atom_to_atom(browser: Browser, service: Served) -> None:
    async with opened(browser, service) as seen:
        page = seen.page
        await page.goto("/graph/tag:lofi")
        await expect(page.locator("#narrow-graph")).to_be_hidden()
        atom = page.locator("#wide-graph a.atom").filter(has_text="jazz")
        await atom.focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("jazz")
        await expect(page.locator("#wide-graph .middle text")).to_have_text("jazz")
    assert seen.troubles == []


async def test_a_key_signs_in_and_out(browser: Browser, service: Served) -> None:
    key = (await service.add_key("eva", Scope.WRITE))["X-API-Key"]
    async with opened(browser, service) as seen:
        page = seen.page
        await page.goto("/login?next=/topics")
        await page.get_by_label("Key").fill(key)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("heading", name="Topics")).to_be_visible()
        await page.get_by_label("Topics, one a line").fill("slow jazz")
        await page.get_by_role("button", name="Add", exact=True).click()
        await expect(page.get_by_role("row", name="slow jazz")).to_be_visible()
        await page.get_by_role("button", name="Park slow jazz").click()
        await expect(page.get_by_role("row", name="slow jazz")).to_contain_text("parked")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        await page.goto("/topics")
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert seen.troubles == []


async def test_an_admin_looks_at_a_plan_and_confirms_it(browser: Browser, service: Served, sql: Any) -> None:
    await sql.execute(
        "INSERT INTO log_lines (at, node, level, logger, text) VALUES ($1, 'a', 20, 'maia', 'old')",
        NOON - timedelta(days=40),
    )
    key = (await service.add_key("boss", Scope.ADMIN))["X-API-Key"]
    async with opened(browser, service) as seen:
        page = seen.page
        await page.goto("/login?next=/health/actions")
        await page.get_by_label("Key").fill(key)
        await page.get_by_role("button", name="Sign in").click()
        await page.get_by_role("button", name="Show what it would do").first.click()
        await expect(page.get_by_label("lines of logs")).to_be_checked()
        await _picture(page, "plan-1280-light")
        assert await _found_by_axe(page) == []
        await page.get_by_role("button", name="Do what is ticked").click()
        await expect(page.get_by_role("row", name="cleanup lines of logs")).to_contain_text("applied")
        await _picture(page, "done-1280-light")
    assert seen.troubles == []


async def test_the_log_goes_on_by_itself(browser: Browser, service: Served) -> None:
    async with opened(browser, service) as seen:
        await seen.page.goto("/health/log?level=warning")
        logging.getLogger("maia.tracker").warning("this just happened")
        await expect(seen.page.locator("#log")).to_contain_text("this just happened", timeout=20_000)
    assert seen.troubles == []
