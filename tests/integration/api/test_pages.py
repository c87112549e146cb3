"""The dashboard over a real database: what it shows, that foreign text stays text, and who sees it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
import pytest_asyncio

from atlas.adapters.access import AccessDAO
from atlas.composition import Atlas
from atlas.scopes import Scope
from atlas.testing import NOON
from maia import log_keeping
from tests.dashboard import PATTERN_ID, store_pattern, store_shown
from tests.growth import store_video
from tests.served import Answer, Served, served
from tests.stored_graphs import store_graph

pytestmark = pytest.mark.integration

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}\u202egnp"
PAGES = (
    "/", "/topics", "/learnt", "/quota", "/health", "/health/log", "/health/actions", "/search",
    "/search?q=lofi", "/compare", "/graph", "/login",
)  # fmt: skip
SHOWN = (
    "/", "/videos/risen", "/channels/UC-one", "/compare?id=risen&id=slow", "/search?q=risen", "/topics",
    "/health", "/quota",
)  # fmt: skip
INCIDENT = (
    "INSERT INTO incidents (key, component, node, severity, text, opened_at, seen_at) "
    "VALUES ('host.cpu:a', 'host', 'a', 'warning', 'It is busy.', $1, $1) RETURNING id"
)
CYCLE = (
    "INSERT INTO events (at, kind, node, payload) VALUES ($1, $2::text || '.cycle', 'a', "
    """'{"outcome": "completed"}')"""
)
HEALTH_DONE = (
    "INSERT INTO duty_runs (duty, node, turn, attempts, state, started_at, finished_at, done_at) "
    "VALUES ('health', $2, $1, 1, 'done', $1, $1, $1)"
)
MET = (
    "INSERT INTO video_sources (video_id, arm, met_at, is_first) "
    "VALUES ('risen', 'charts', $1, false), ('risen', 'search:views', $1, true)"
)
OLD_LINES = (
    "INSERT INTO log_lines (at, node, level, logger, text) SELECT $1, 'a', 20, 'maia', 'old' "
    "FROM generate_series(1, 3)"
)


class Page(HTMLParser):
    """What matters of a page: its elements with their attributes, and its visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._within: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._within and self._within[-1] == tag:
            self._within.pop()

    def handle_data(self, data: str) -> None:
        assert not (self._within and data.strip()), "a page has no script or style of its own"
        self.text += data

    def named(self, *tags: str) -> Iterator[dict[str, str | None]]:
        return (attributes for tag, attributes in self.elements if tag in tags)

    def forms(self) -> list[tuple[dict[str, str | None], list[dict[str, str | None]]]]:
        """Each form with its fields."""
        forms: list[tuple[dict[str, str | None], list[dict[str, str | None]]]] = []
        for tag, attributes in self.elements:
            if tag == "form":
                forms.append((attributes, []))
            elif tag in ("input", "select") and forms:
                forms[-1][1].append(attributes)
        return forms


@pytest_asyncio.fixture
async def stored(sql: Any) -> None:
    await store_shown(sql)


async def seen(service: Served, path: str, **options: Any) -> Page:
    answer = await service.get(path, headers=HTML, **options)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8"), path
    return Page(answer.body.decode())


class TestEveryPage:
    async def test_answers_while_nothing_is_stored_and_says_what_to_do(self, service: Served) -> None:
        for path in PAGES:
            page = await seen(service, path)
            assert len([*page.named("h1")]) == 1, path
            assert [each for each in page.named("main") if each.get("id") == "main"], path
            assert [each for each in page.named("a") if each.get("href") == "#main"], path
            is_empty = [each for each in page.named("div") if each.get("class") == "empty"]
            # The log may have been written to meanwhile.
            assert is_empty or path in {"/login", "/health/log"}, path

    @pytest.mark.usefixtures("stored")
    async def test_has_nothing_inline_and_loads_only_our_own_files(self, service: Served) -> None:
        for path in (*PAGES, *SHOWN):
            page = await seen(service, path)
            for tag, attributes in page.elements:
                assert "style" not in attributes, (path, tag)
                assert not [name for name in attributes if name.startswith("on")], (path, tag)
                assert not [name for name in attributes if name.startswith("hx-on")], (path, tag)
            for loaded in page.named("script", "img", "link"):
                address = loaded.get("src") or loaded.get("href") or ""
                assert address.startswith("/static/"), (path, address)
            assert not [each for each in page.named("a") if (each["href"] or "").startswith("javascript")]

    @pytest.mark.usefixtures("stored")
    async def test_links_lead_somewhere(self, service: Served) -> None:
        known: dict[str, int] = {}
        for path in (*PAGES, *SHOWN):
            page = await seen(service, path)
            for each in page.named("a", "link", "script", "img"):
                address = each.get("href") or each.get("src") or ""
                if address.startswith("/") and address not in known:
                    known[address] = (await service.get(address, headers=HTML)).status
        assert {address: status for address, status in known.items() if status != 200} == {}
        assert len(known) > 30

    @pytest.mark.usefixtures("stored")
    async def test_an_empty_field_of_a_form_is_one_that_was_not_given(self, service: Served) -> None:
        await store_graph(service.atlas)
        asked = {
            (form.get("action") or path, tuple(name for field in fields if (name := field.get("name"))))
            for path in (*PAGES, *SHOWN)
            for form, fields in (await seen(service, path)).forms()
            if form.get("method", "get") == "get"
        }
        assert {"/", "/graph", "/search"} <= {path.partition("?")[0] for path, _ in asked}
        for path, names in asked:
            await seen(service, f"{path}?{'&'.join(f'{name}=' for name in names)}")

    @pytest.mark.usefixtures("stored")
    async def test_tables_have_a_caption_and_headings_with_a_scope(self, service: Served) -> None:
        tables = 0
        for path in SHOWN:
            page = await seen(service, path)
            found = [*page.named("table")]
            tables += len(found)
            assert len([*page.named("caption")]) == len(found), path
            assert all(each.get("scope") for each in page.named("th")), path
        assert tables >= 5

    async def test_asks_who_did_nothing_wrong_to_come_again(self, service: Served) -> None:
        for path in ("/nothing", "/videos/nobody", "/channels/nobody", "/learnt/nothing", "/?limit=0"):
            answer = await service.get(path, headers=HTML)
            assert (answer.status, answer.headers["Vary"]) == (422 if "limit" in path else 404, "Accept")
            assert [*Page(answer.body.decode()).named("h1")]
            problem = await service.get(path)
            assert problem.json["detail"].partition(": GET ")[0][1:30] in answer.body.decode().replace(
                "&#39;", "'"
            ), path

    async def test_nothing_there_leads_people_on_and_tells_programs_what_there_is(
        self, service: Served
    ) -> None:
        answer = await service.get("/nowhere", headers=HTML)
        assert (answer.status, answer.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
        page = Page(answer.body.decode())
        assert "There is nothing at /nowhere." in page.text
        main = answer.body.decode().partition("<main")[2].partition("</main>")[0]
        assert "openapi" not in main
        led_to = {each["href"] for each in Page(main).named("a")}
        assert {"/", "/topics", "/learnt", "/quota", "/health", "/search", "/compare"} <= led_to
        for path in sorted(filter(None, led_to)):
            await seen(service, path)
        problem = await service.get("/nowhere")
        assert problem.json["detail"] == "there is nothing at /nowhere: GET /openapi.json lists what there is"
        refused = await service.get("/topics?limit=0", headers=HTML)
        assert (refused.status, "GET /" in refused.body.decode()) == (422, False)


class TestHostileText:
    @pytest.mark.usefixtures("stored")
    async def test_stays_text(self, service: Served, sql: Any) -> None:
        await sql.execute("UPDATE videos SET title = $1, description = $1, tags = ARRAY[$1]", HOSTILE)
        await sql.execute("UPDATE channels SET title = $1", HOSTILE)
        breakout = {"video_id": "risen", "at": NOON.isoformat(), "times_expected": 8.5}
        await service.atlas.events.append("tracker.breakout", breakout, agent="tracker")
        for path in (*SHOWN[:4], "/search?q=alert"):
            page = await seen(service, path)
            for loaded in page.named("script", "img"):
                assert (loaded.get("src") or "").startswith("/static/"), path
            assert "<script>alert(1)</script>" in page.text, path
            assert "\u202e" not in page.text, path
            assert "{{7*7}}" in page.text, path

    async def test_a_search_for_it_finds_nothing_and_shows_it_as_text(self, service: Served) -> None:
        page = await seen(service, "/search", params={"q": HOSTILE})
        assert "<script>alert(1)</script>" in page.text


class TestTables:
    @pytest.mark.usefixtures("stored")
    async def test_are_to_be_had_as_csv_and_json_of_what_is_shown(self, service: Served) -> None:
        table = await service.get("/", params={"length": "short", "table": "videos", "as": "csv"})
        [row] = csv.DictReader(io.StringIO(table.body.decode()))
        assert (row["id"], row["rank"], row["velocity"]) == ("risen", "1", "500.0")
        assert row["forecast.day.views"] == "23000.0"
        assert "not by YouTube" in row["attribution"]
        page = await seen(service, "/?length=short")
        [link] = [each["href"] for each in page.named("a") if "format=csv" in (each["href"] or "")]
        same = [*csv.DictReader(io.StringIO((await service.get(link or "")).body.decode()))]
        assert [each["id"] for each in same] == ["risen"]
        again = await service.get("/", params={"length": "short", "table": "videos", "as": "json"})
        assert [each["id"] for each in again.json["rows"]] == ["risen"]
        assert "not by YouTube" in again.json["attribution"]
        assert 'filename="videos.json"' in again.headers["Content-Disposition"]

    async def test_a_formula_is_no_formula_in_csv(self, service: Served, sql: Any, stored: None) -> None:
        await sql.execute("UPDATE videos SET title = '=HYPERLINK(\"http://evil.example\")'")
        table = await service.get("/", params={"table": "videos", "as": "csv"})
        rows = [*csv.DictReader(io.StringIO(table.body.decode()))]
        assert {row["title"][:2] for row in rows} == {"'="}

    async def test_there_is_no_other_one(self, service: Served) -> None:
        answer = await service.get("/", params={"table": "secrets", "as": "csv"})
        assert (answer.status, "table=videos" in answer.json["detail"]) == (404, True)


class TestRising:
    @pytest.mark.usefixtures("stored")
    async def test_filters_are_in_the_address_and_in_the_form(self, service: Served) -> None:
        page = await seen(service, "/?by=score&length=long&channel=&tag=&category=10&window=6h")
        assert "Video slow" in page.text
        assert "Video risen" not in page.text.split("Breakouts")[0]
        chosen = [each["value"] for each in page.named("option") if "selected" in each]
        assert {"score", "long", "10", "6h"} <= set(chosen)

    @pytest.mark.usefixtures("stored")
    async def test_says_what_was_expected_and_what_came(self, service: Served) -> None:
        page = await seen(service, "/")
        assert "0 of 1 held their 80 % interval" in page.text
        assert "5k4k–6k11kabove" in "".join(page.text.split())


class TestVideo:
    @pytest.mark.usefixtures("stored")
    async def test_has_its_curve_with_the_forecast(self, service: Served) -> None:
        page = await seen(service, "/videos/risen")
        [plot] = [
            json.loads(each["data-values"] or "") for each in page.named("div") if "data-values" in each
        ]
        assert (len(plot["at_s"]), plot["views"][-1], plot["velocity"][-1]) == (21, 11000, 500)
        assert plot["band"]["high"] == [11000, 26000]

    @pytest.mark.usefixtures("stored")
    async def test_says_what_found_it_as_the_answers_do(self, service: Served, sql: Any) -> None:
        await sql.execute(MET, NOON)
        page = await seen(service, "/videos/risen")
        assert "by search:views." in page.text
        assert "search:views found it" in page.text
        assert "charts found it" not in page.text
        assert (await service.get("/api/v1/videos/risen")).json["found_by"] == "search:views"
        call = {
            "jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": "video_history", "arguments": {"video_id": "risen"}},
        }  # fmt: skip
        answer = await service.post("/mcp", call, headers={"Accept": "application/json, text/event-stream"})
        assert answer.json["result"]["structuredContent"]["found_by"] == "search:views"

    @pytest.mark.usefixtures("stored")
    async def test_counts_samples_in_one_way(self, service: Served, sql: Any) -> None:
        # The clock counts less: not what was seen at ingestion.
        await sql.execute("UPDATE video_clock SET samples = 20")
        for window, samples in (("", 21), ("?window=90m", 2)):
            told = " ".join((await seen(service, f"/videos/risen{window}")).text.split())
            assert f"All {samples} samples" in told
            assert f"Samples{samples}" in told

    @pytest.mark.usefixtures("stored")
    async def test_says_that_it_slows_down(self, service: Served, sql: Any) -> None:
        await sql.execute("UPDATE video_clock SET acceleration = -170")
        assert "170 fewer each hour" in (await service.get("/videos/risen")).body.decode()

    @pytest.mark.usefixtures("stored")
    async def test_is_compared_by_age_whatever_way_it_is_named(self, service: Served, sql: Any) -> None:
        await store_video(sql, "abcdefghijk")
        address = "https://www.youtube.com/watch?v=abcdefghijk&t=3"
        page = await seen(service, "/compare", params=[("id", "risen"), ("id", "gone"), ("add", address)])
        [curves] = plots_of(page)
        assert [curve["id"] for curve in curves] == ["risen", "abcdefghijk"]
        assert (curves[0]["age_h"][0], curves[0]["views"][0]) == (4, 1000)
        assert "gone is not known here" in page.text

    @pytest.mark.usefixtures("stored")
    async def test_is_watched_and_unwatched(self, service: Served, sql: Any) -> None:
        for thing in ("/videos/risen", "/channels/UC-one"):
            for act, other, count in (("watch", "Unwatch", 1), ("unwatch", "Watch", 0)):
                answer = await form(service, f"{thing}/{act}")
                assert (answer.status, answer.headers["Location"]) == (303, thing)
                assert other in (await seen(service, thing)).text.split()
                assert await sql.fetchval("SELECT count(*) FROM watches") == count
            assert (await form(service, f"{thing}-nobody/watch")).status == 404


class TestTopics:
    async def test_are_added_parked_and_retried(self, service: Served, sql: Any) -> None:
        answer = await form(service, "/topics/seed", "topics=lofi+beats%0D%0Aslow+jazz")
        assert (answer.status, answer.headers["Location"]) == (303, "/topics?done=seeded")
        page = await seen(service, "/topics")
        assert "slow jazz" in page.text
        id_ = await sql.fetchval("SELECT id FROM search_queue WHERE query = 'slow jazz'")
        await form(service, f"/topics/{id_}/park")
        assert "slow jazz" in (await seen(service, "/topics?status=parked")).text
        await form(service, f"/topics/{id_}/retry")
        assert "slow jazz" not in (await seen(service, "/topics?status=parked")).text

    async def test_only_whoever_may_write_changes_them(self, service: Served) -> None:
        header = await service.add_key("reader", Scope.READ)
        answer = await form(service, "/topics/seed", "topics=x", headers=header)
        assert answer.status == 403
        page = await seen_with(service, "/topics", header)
        assert not [each for each in page.named("form") if "/topics/" in (each.get("action") or "")]

    async def test_tags_that_occur_together_are_seeded_and_parked_together(
        self, service: Served, sql: Any
    ) -> None:
        for n in range(6):
            tags = ["LoFi", "slow jazz", HOSTILE] if n < 3 else ["chess"]
            await store_video(sql, f"v{n}", tags=tags)
        page = await seen(service, "/topics")
        assert "<script>alert(1)</script>" in page.text
        [given] = [each["value"] for each in page.named("input") if each.get("name") == "topics"]
        assert {"LoFi", "slow jazz"} < {line for line in (given or "").splitlines() if line}
        body = "topics=LoFi%0D%0Aslow+jazz"
        assert (await form(service, "/topics/seed", body)).status == 303
        page = await seen(service, "/topics")
        assert ("Seed 1" in page.text, "Park 2" in page.text) == (True, True)
        await form(service, "/topics/park", body)
        assert await sql.fetchval("SELECT count(*) FROM search_queue WHERE status = 'parked'") == 2
        table = await service.get("/topics?table=clusters&as=json")
        [row] = table.json["rows"]
        assert (row["videos"], row["parked"], row["similarity"]) == (3, 2, pytest.approx(1.0))
        assert {"LoFi", "slow jazz"} < {tag["tag"] for tag in row["tags"]}


class TestPatterns:
    async def test_say_what_they_changed_and_who_saw_them(self, service: Served, sql: Any) -> None:
        await store_pattern(sql)
        page = await seen(service, f"/learnt/{PATTERN_ID}")
        for told in (
            "prior ×1.4, so that it got 40 % of its units",
            "Prefer tags",
            "suggested; open",
            "there",
        ):
            assert told in page.text, told
        table = await service.get(f"/learnt/{PATTERN_ID[:8]}?table=sites&as=json")
        sites = [(row["node"], row["days"], row["pos"]) for row in table.json["rows"]]
        assert sites == [("here", 1, 30), ("there", 2, 9)]
        everywhere = await seen(service, "/learnt")
        assert f"/learnt/{PATTERN_ID[:8]}" in [each["href"] for each in everywhere.named("a")]
        # One point a day, after what all sites counted on it.
        assert page.text.count("Confidence after each day's evidence") >= 1
        changed = await service.get(f"/learnt/{PATTERN_ID}?table=changed&as=csv")
        assert [row["whose"] for row in rows_of(changed)] == ["hunter", "people"]


class TestQuota:
    async def test_says_what_waits_and_why(self, service: Served) -> None:
        await form(service, "/topics/seed", "topics=lofi+beats%0D%0Aslow+jazz")
        table = await service.get("/quota?table=waiting&as=csv")
        [row] = rows_of(table)
        assert (row["what"], row["count"], row["why"]) == (
            "topics to be searched",
            "2",
            "no key is set for the hunter",
        )
        duties = await service.get("/quota?table=duties&as=json")
        assert {"health", "cleanup"} <= {row["duty"] for row in duties.json["rows"]}

    async def test_promises_no_run_of_what_nothing_runs(self, atlas: Atlas, sql: Any) -> None:
        await sql.execute(CYCLE, NOON - timedelta(minutes=4), "hunter")
        await sql.execute(HEALTH_DONE, NOON - timedelta(minutes=4), atlas.settings.node_id)
        for minutes in (14, 4):
            await sql.execute(CYCLE, NOON - timedelta(minutes=minutes), "tracker")
        async with served(atlas) as service:
            page = await seen(service, "/quota")
            duties = (await service.get("/quota?table=duties&as=json")).json["rows"]
        told = " ".join(page.text.split())
        assert "Nothing is known to run it again: maia up runs all agents, maia hunter this one" in told
        assert "Next run in 6 min; one every 10 min." in told
        assert told.count("Next run") == 1
        assert "Nothing is known to run the maintainer here" in told
        assert {(row["next_at"], row["is_off"]) for row in duties} == {(None, False)}

        for minutes in (9, 4):
            await sql.execute(CYCLE, NOON - timedelta(minutes=minutes), "maintainer")
        async with served(atlas) as service:
            page = await seen(service, "/quota")
            duties = (await service.get("/quota?table=duties&as=json")).json["rows"]
        assert "not scheduled" not in page.text
        assert None not in {row["next_at"] for row in duties}


class TestHealth:
    async def test_shows_the_tail_of_the_log(self, atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(log_keeping, "EVERY_S", 0.05)
        address = "/health/log?level=warning&table=log&as=json"
        async with served(atlas) as service:
            logging.getLogger("maia.hunter").warning("<b>odd</b> answers\nand why")
            [row] = (await service.until(address, lambda found: found["rows"])).json["rows"]
            assert (row["level"], row["logger"]) == ("warning", "maia.hunter")
            for path in ("/health", "/health/log?level=warning&limit=1"):
                assert "<b>odd</b> answers" in (await seen(service, path)).text, path
            assert "odd" not in (await seen(service, "/health/log?level=error")).text

    async def test_an_incident_is_acknowledged(self, service: Served, sql: Any) -> None:
        id_ = await sql.fetchval(INCIDENT, NOON)
        assert "Acknowledge" in (await seen(service, "/health")).text
        answer = await form(service, f"/health/incidents/{id_}/acknowledge")
        assert answer.status == 303
        assert "acknowledged" in (await seen(service, "/health")).text

    async def test_an_action_is_planned_confirmed_and_recorded(self, service: Served, sql: Any) -> None:
        writer = await service.add_key("writer", Scope.WRITE)
        admin = await service.add_key("boss", Scope.ADMIN)
        await sql.execute(OLD_LINES, NOON - timedelta(days=40))
        await until(service, "/health/actions", 200, admin)
        assert "scope admin" in (await seen_with(service, "/health/actions", writer)).text
        assert (await service.get("/health/actions/cleanup", headers=writer)).status == 403
        page = await seen_with(service, "/health/actions/cleanup", admin)
        boxes = [each["name"] for each in page.named("input") if each.get("type") == "checkbox"]
        assert "cleanup lines of logs" in boxes
        assert await sql.fetchval("SELECT count(*) FROM log_lines WHERE text = 'old'") == 3
        body = "cleanup+lines+of+logs=on&restart+pleiades.service=on"
        assert (await form(service, "/health/actions/cleanup", body, headers=writer)).status == 403
        session = {"Cookie": await session_of(service, admin), "Origin": "https://evil.example"}
        assert (await form(service, "/health/actions/cleanup", body, headers=session)).status == 403
        assert (await form(service, "/health/actions/cleanup", headers=admin)).status == 422
        assert (await form(service, "/health/actions/reboot", body, headers=admin)).status == 404
        answer = await form(service, "/health/actions/cleanup", body, headers=admin)
        assert (answer.status, answer.headers["Location"][:16]) == (303, "/health/actions?")
        async with asyncio.timeout(20):
            while not (
                rows := await sql.fetch(
                    "SELECT kind, target, asked, state FROM actions WHERE state <> 'running'"
                )
            ):
                await asyncio.sleep(0.05)
        assert [tuple(row) for row in rows] == [("cleanup", "lines of logs", True, "applied")]
        assert await sql.fetchval("SELECT count(*) FROM log_lines WHERE text = 'old'") == 0
        assert await sql.fetchval("SELECT count(*) FROM events WHERE kind = 'maintainer.action'") == 1
        page = await seen_with(service, "/health/actions", admin)
        assert "asked for" in page.text


class TestSigningIn:
    async def test_whoever_has_no_key_is_led_to_the_form_and_back(self, service: Served) -> None:
        key = (await service.add_key("eva", Scope.WRITE))["X-API-Key"]
        asked = await until(service, "/quota?a=b", 303)
        assert asked.headers["Location"] == "/login?next=%2Fquota%3Fa%3Db"
        page = await seen(service, asked.headers["Location"])
        assert "/quota?a=b" in [each.get("value") for each in page.named("input")]
        part = await service.get("/quota", headers=HTML | {"HX-Request": "true"})
        assert (part.status, part.headers["HX-Refresh"]) == (401, "true")
        wrong = await form(service, "/login", "key=pk_wrong&next=/")
        assert (wrong.status, b"not valid here" in wrong.body) == (401, True)
        answer = await form(service, "/login", f"key={key}&next=/quota%3Fa%3Db")
        assert (answer.status, answer.headers["Location"]) == (303, "/quota?a=b")
        cookie = answer.headers["Set-Cookie"]
        assert all(part in cookie for part in ("HttpOnly", "SameSite=strict", "Path=/"))
        assert key not in cookie
        session = {"Cookie": cookie.split(";")[0]}
        assert "Sign out" in (await seen_with(service, "/quota", session)).text
        out = await form(service, "/logout", headers=session)
        assert (out.status, out.headers["Location"]) == (303, "/login")
        assert 'pleiades_session=""' in out.headers["Set-Cookie"]

    async def test_a_revoked_key_ends_its_sessions(self, service: Served) -> None:
        key = (await service.add_key("eva", Scope.READ))["X-API-Key"]
        await service.add_key("other", Scope.READ)
        await until(service, "/quota", 303)
        cookie = (await form(service, "/login", f"key={key}")).headers["Set-Cookie"].split(";")[0]
        dao = AccessDAO(service.atlas.db, clock=service.atlas.clock, settings=service.atlas.settings)
        await dao.revoke("eva")
        await until(service, "/quota", 303, headers={"Cookie": cookie})

    @pytest.mark.parametrize(
        "then",
        ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/login", "//["],
    )
    async def test_leads_to_no_other_site(self, service: Served, then: str) -> None:
        key = (await service.add_key("eva", Scope.READ))["X-API-Key"]
        await until(service, "/quota", 303)
        page = await seen(service, "/login", params={"next": then})
        assert [each["value"] for each in page.named("input") if each.get("name") == "next"] == ["/"]
        answer = await form(service, "/login", f"key={key}&next={then}")
        assert answer.headers["Location"] == "/"

    async def test_another_site_can_not_sign_a_visitor_in(self, service: Served) -> None:
        key = (await service.add_key("theirs", Scope.READ))["X-API-Key"]
        answer = await form(service, "/login", f"key={key}", headers={"Origin": "https://evil.example"})
        assert (answer.status, "Set-Cookie" in answer.headers) == (403, False)


class TestFiles:
    async def test_are_kept_for_ever_by_the_digest_in_their_address(self, service: Served) -> None:
        page = await seen(service, "/")
        addresses = [each["href"] for each in page.named("link")] + [
            each["src"] for each in page.named("script")
        ]
        for address in addresses:
            answer = await service.get(address or "")
            assert "immutable" in answer.headers["Cache-Control"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        name = (addresses[0] or "").rpartition("/")[2]
        for wrong in (f"/static/0000000000000000/{name}", "/static/x/app.py", "/static/x/vendored.json"):
            assert (await service.get(wrong)).status == 404

    async def test_need_no_key(self, service: Served) -> None:
        await service.add_key("eva", Scope.READ)
        await until(service, "/", 303)
        [icon] = [
            each["href"] for each in (await seen(service, "/login")).named("link") if each["rel"] == "icon"
        ]
        assert (await service.get(icon or "")).status == 200


async def session_of(service: Served, key: dict[str, str]) -> str:
    """The cookie of a browser that has signed in."""
    answer = await form(service, "/login", f"key={key['X-API-Key']}")
    return str(answer.headers["Set-Cookie"].split(";")[0])


def rows_of(answer: Answer) -> list[dict[str, str]]:
    return [*csv.DictReader(io.StringIO(answer.body.decode()))]


def plots_of(page: Page) -> list[Any]:
    return [json.loads(each["data-values"] or "") for each in page.named("div") if "data-values" in each]


async def form(service: Served, path: str, body: str = "", **options: Any) -> Answer:
    """Post a form as a browser does from our own page, without following where it leads."""
    headers = HTML | {"Content-Type": "application/x-www-form-urlencoded", "Origin": service.url}
    headers |= options.get("headers", {})
    return await service.ask("POST", path, data=body, headers=headers, allow_redirects=False)


async def seen_with(service: Served, path: str, header: dict[str, str]) -> Page:
    answer = await service.get(path, headers=HTML | header)
    assert answer.status == 200
    return Page(answer.body.decode())


async def until(service: Served, path: str, status: int, headers: dict[str, str] | None = None) -> Answer:
    """The answer once it has a status: a process hears of a change of keys by a notice."""
    for _ in range(100):
        answer = await service.get(path, headers=HTML | (headers or {}), allow_redirects=False)
        if answer.status == status:
            return answer
        await asyncio.sleep(0.05)
    raise AssertionError(f"{path} never answered {status}")
