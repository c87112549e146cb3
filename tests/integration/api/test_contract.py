"""The service keeps to its own OpenAPI document, whatever is asked: schemathesis makes the requests.

PLEIADES_CONTRACT_CASES=10000 makes so many of them (with pytest's --timeout 3600); the few that are made
otherwise are always the same ones.
PLEIADES_CONTRACT_PATHS=/patterns,/match only asks paths that begin so.
"""

from __future__ import annotations

import asyncio
import json
import os
import traceback
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import aiohttp
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.generation.modes import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from atlas.adapters.graph import GraphDAO, Link, Node, Sources
from atlas.composition import Atlas
from atlas.scopes import Scope
from atlas.testing import NOON
from maia.api import learning, live
from maia.learning.patterns import PatternType
from tests.growth import HOUR, store_samples, store_video
from tests.served import served

pytestmark = pytest.mark.integration

CASES = int(os.environ.get("PLEIADES_CONTRACT_CASES", "50"))
PATHS = tuple(os.environ.get("PLEIADES_CONTRACT_PATHS", "/").split(","))
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
MANY = 50
ENDLESS = "text/event-stream"


class Contract:
    """Asks each operation of a document, and counts how often."""

    def __init__(self, url: str, document: Any, headers: dict[str, str]) -> None:
        self._url, self._session, self.asked = url, requests.Session(), 0
        self._session.headers.update(headers)
        self._schema = schemathesis.openapi.from_dict(document)

    def operations(self) -> Iterator[Any]:
        for each in self._schema.get_all_operations():
            operation = each.ok()
            if operation.path.startswith(PATHS):
                yield operation

    def check(self, case: Any) -> None:
        self.asked += 1
        raw = case.operation.definition.raw["responses"]
        is_endless = any(ENDLESS in answer.get("content", {}) for answer in raw.values())
        answer = self._first_of(case) if is_endless else self._whole(case)
        if answer is None:
            return
        try:
            case.validate_response(answer, checks=CHECKS)
        except BaseException as fault:
            fault.add_note(f"{case.as_curl_command()}\n{answer.status_code} {answer.text[:500]}")
            raise

    def _whole(self, case: Any) -> Any:
        return case.call(base_url=self._url, session=self._session, timeout=30, allow_redirects=False)

    def _first_of(self, case: Any) -> requests.Response | None:
        """A refusal of a stream; None for one that begins as a stream should."""
        options = case.as_transport_kwargs(base_url=self._url)
        answer = self._session.request(**options, stream=True, timeout=30)
        if answer.status_code != 200:
            return answer
        with answer:
            assert answer.headers["Content-Type"].startswith(ENDLESS)
            assert next(answer.iter_lines()).startswith(b"retry:")
        return None

    def follow_examples(self, operation: Any) -> None:
        """Ask an operation as each of its documented examples does."""
        for strategy in operation.get_strategies_from_examples():
            self._ask(strategy, 1)

    def fuzz(self, operation: Any, cases: int) -> None:
        """Ask an operation with what it documents, and with what it doesn't."""
        for mode in GenerationMode:
            strategy = operation.as_strategy(generation_mode=mode)
            if not strategy.is_empty:
                self._ask(strategy, cases)

    def _ask(self, strategy: Any, cases: int) -> None:
        @settings(
            max_examples=cases,
            deadline=None,
            database=None,
            derandomize=CASES <= MANY,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )
        @given(case=strategy)
        def ask(case: Any) -> None:
            self.check(case)

        ask()

    def close(self) -> None:
        self._session.close()


async def test_the_service_answers_only_as_it_documents(
    atlas: Atlas, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each would be a process of its own.
    monkeypatch.setattr(learning.LearnerRuns, "_in_process", learn_nothing)
    await store_what_examples_name(atlas, sql)
    async with served(atlas) as service:
        header = await service.add_key("contract", Scope.ADMIN, requests_per_minute=10_000_000)
        document = (await service.get("/openapi.json", headers=header)).json
        contract = Contract(service.url, document, header)
        try:
            await asyncio.to_thread(all_of, contract)
        finally:
            contract.close()
    assert contract.asked >= min(CASES, 10)


async def test_a_socket_answers_subscriptions_only_as_it_documents(atlas: Atlas) -> None:
    refusals = {live.INVALID, live.VOID_CURSOR}
    scalar = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    any_json = st.recursive(
        scalar,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    )
    likely = st.fixed_dictionaries(
        {},
        optional={
            "types": st.none() | st.lists(st.sampled_from([*PatternType, "no_type"])),
            "min_confidence": st.floats() | st.floats(0, 1),
            "context": st.none() | st.dictionaries(st.text(), scalar | any_json),
            "after": st.none() | st.text() | st.from_regex(r"[0-9]+[.:-][0-9a-f]+", fullmatch=True),
        },
    )
    async with served(atlas) as service:
        loop = asyncio.get_running_loop()

        async def ask(opening: Any) -> None:
            async with service.session.ws_connect(f"{service.url}/ws") as socket:
                await socket.send_str(json.dumps(opening))
                answer = await socket.receive(timeout=20)
                if answer.type is aiohttp.WSMsgType.TEXT:
                    assert json.loads(answer.data)["kind"] == "subscribed", answer.data
                else:
                    assert (answer.type, answer.data in refusals) == (aiohttp.WSMsgType.CLOSE, True), answer

        @settings(
            max_examples=max(20, CASES // 50), deadline=None, database=None, derandomize=CASES <= MANY,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(st.fixed_dictionaries({"subscribe": likely | any_json}) | any_json)
        def fuzz(opening: Any) -> None:
            asyncio.run_coroutine_threadsafe(ask(opening), loop).result(timeout=30)

        await asyncio.to_thread(fuzz)


async def learn_nothing(_: learning.LearnerRuns, __: str, ___: Collection[str]) -> Mapping[str, Any]:
    return {"outcome": "done", "new_patterns": 1, "seconds": 0.5}


async def store_what_examples_name(atlas: Atlas, sql: Any) -> None:
    video, channel = "dQw4w9WgXcQ", "UCuAXFkgsw1L7xaCfnd5JJOw"
    await store_video(sql, video, channel=channel)
    await store_samples(sql, video, [(NOON - hour * HOUR, 1_000 - hour) for hour in range(20, -1, -1)])
    breakout = {"video_id": video, "views": 1_000, "views_per_hour": 5.0}
    await atlas.events.append("tracker.breakout", breakout, agent="tracker")
    graph = GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
    music, live = Node("tag", "music"), Node("tag", "live")
    tagged, together = Link("tagged", (Node("video", video), music)), Link("co_occurs", (music, live))
    await graph.add([tagged, together], Sources.FACTS | Sources.PEOPLE)


def all_of(contract: Contract) -> None:
    operations = list(contract.operations())
    faults = []
    for operation in operations:
        try:
            contract.follow_examples(operation)
            contract.fuzz(operation, max(1, CASES // (2 * len(operations))))
        except (Failure, FailureGroup) as fault:
            faults.append("".join(traceback.format_exception_only(fault)))
    assert not faults, "\n\n".join(faults)
