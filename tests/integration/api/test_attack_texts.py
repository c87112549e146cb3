"""Texts of strangers in everything that the service shows: they stay text in pages, and in CSV no formula."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import pytest

from atlas import csvform
from atlas.composition import Atlas
from atlas.testing import NOON
from maia.api.app import every_route
from maia.api.pages import router
from tests.attacking import Markup
from tests.dashboard import store_shown
from tests.served import Served

pytestmark = pytest.mark.integration

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


# What strangers may write into titles, tags, names, patterns and searches.
MARKUP = "\"'`><script>alert(1)</script><img src=x onerror=alert(2)></title>{{7*7}}${7*7}javascript:1"
FORMULAS = (
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "＝1",
    " =1",
    "a\t=1",
    "a\n=1",
    "a;=cmd|' /C calc'!A0",
)
OF_ONE = (
    "/videos/risen",
    "/channels/UC-one",
    "/compare?id=risen&id=slow",
    "/search?q=alert",
    "/search?q=HYPERLINK",
)
"""Pages about something that is stored; the others are found by their routes."""
LISTS = (
    "videos?", "channels/UC-one?", "topics?", "breakouts?", "quota?", "incidents?", "search?q=HYPERLINK&",
)  # fmt: skip


async def store_foreign(atlas: Atlas, sql: Any, text: str) -> str:
    """What the service shows, with a stranger's text wherever there can be one; a pattern's id."""
    await store_shown(sql)
    await sql.execute(
        "UPDATE videos SET title = $1, description = $1, tags = ARRAY[$1], default_language = $1", text
    )
    await sql.execute("UPDATE channels SET title = $1", text)
    breakout = {"video_id": "risen", "at": NOON.isoformat(), "times_expected": 8.5, "views": 3}
    await atlas.events.append("tracker.breakout", breakout, agent=text[:60])
    await sql.execute(
        "INSERT INTO incidents "
        "(key, component, node, severity, text, opened_at, seen_at, command, cause, note) "
        "VALUES ($1, 'host', $1, 'warning', $1, $2, $2, $1, $1, $1)",
        text,
        NOON,
    )
    await sql.execute(
        "INSERT INTO log_lines (at, node, level, logger, agent, run, text) "
        "VALUES ($1, $2, 40, $2, $2, $2, $2)",
        NOON,
        text,
    )
    id_ = "c" * 32
    await sql.execute(
        "INSERT INTO patterns (id, type, signature, statement, conditions, action, data, created_at, "
        "updated_at, attended_at) VALUES ($1, 'tool_usage', $2, $3, $4, $3, $2, $5, $5, $5)",
        id_,
        json.dumps({text: text}),
        text,
        json.dumps([{"field": text[:60], "operator": "=", "value": text}]),
        NOON,
    )
    await sql.execute(
        "INSERT INTO pattern_evidence (pattern_id, node, day, pos, neg, sum_reward, version, last_seen) "
        "VALUES ($1, $2, $3, 90, 1, 2.5, 1, $4)",
        id_,
        text[:60],
        NOON.date(),
        NOON,
    )
    return id_


def pages() -> list[str]:
    """The addresses of all pages that are not about one thing."""
    found = [
        str(getattr(route, "path", ""))
        for route in every_route(router.routes)
        if "GET" in getattr(route, "methods", ())
    ]
    return [path for path in dict.fromkeys(found) if "{" not in path]


class TestForeignText:
    async def test_is_only_ever_text_on_pages(self, service: Served, sql: Any) -> None:
        id_ = await store_foreign(service.atlas, sql, MARKUP)
        await service.post("/api/v1/topics", {"queries": [MARKUP[:100]]})
        await service.post("/api/v1/topics/1/park", {"reason": MARKUP[:400]})
        shown = 0
        nowhere = "/nothing/" + MARKUP.replace("/", "").replace("?", "")
        for path in (*pages(), *OF_ONE, f"/learnt/{id_}", nowhere):
            for name in ("", "q", "add", "channel"):
                query = {name: MARKUP} if name and "?" not in path else {}
                answer = await service.get(path, headers=HTML, params=query)
                assert answer.status < 500, (path, query)
                page = Markup(answer.body.decode())
                assert page.dangers() == [], (path, query)
                shown += "alert(1)" in answer.body.decode()
                for attributes in (
                    attributes for _, attributes in page.elements if "data-values" in attributes
                ):
                    json.loads(attributes["data-values"] or "")
        assert shown > 20

    async def test_is_no_formula_in_any_csv(self, service: Served, sql: Any) -> None:
        for each in FORMULAS:
            assert is_harmless(str(csvform.cell(each, csvform.CsvForm.GUARDED))), each
        id_ = await store_foreign(service.atlas, sql, "=HYPERLINK(1)\t=1\n+1;@a\r-1")
        await service.post("/api/v1/topics", {"queries": ["=HYPERLINK(1)"]})
        paths = [f"/api/v1/{path}format=csv" for path in LISTS]
        for page in (*pages(), *OF_ONE, f"/learnt/{id_}"):
            start = f"{page}{'&' if '?' in page else '?'}as=csv&table="
            paths += [start + table for table in await self.tables_of(service, page)]
        assert len(paths) > 25
        cells = 0
        for path in paths:
            answer = await service.get(path)
            assert (path, answer.status) == (path, 200)
            assert answer.headers["Content-Type"].startswith("text/csv")
            for row in csv.reader(io.StringIO(answer.body.decode(), newline="")):
                cells += len(row)
                assert [cell for cell in row if not is_harmless(cell)] == [], path
        assert cells > 500

    @staticmethod
    async def tables_of(service: Served, page: str) -> list[str]:
        """The names of the tables that a page has as CSV, as it tells whoever asks for another one."""
        answer = await service.get(f"{page}{'&' if '?' in page else '?'}as=csv&table=no")
        detail: str = answer.json["detail"] if answer.status == 404 else "table=none"
        return [name for name in detail.rpartition("table=")[2].split(", ") if name != "none"]


def is_harmless(cell: str) -> bool:
    """Whether no spreadsheet would compute the cell, or begin another with a formula in it."""
    if re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", cell):
        return True
    return re.search(r"(^|[\t\r\n;])[\s\u200b\ufeff]*[=+\-@＝＋－＠\t\r]", cell) is None
