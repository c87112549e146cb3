"""The service keeps to its own OpenAPI document, whatever is asked: schemathesis makes the requests.

PLEIADES_CONTRACT_CASES=10000 makes so many of them; the few that are made otherwise only find the obvious.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.generation.modes import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from atlas.composition import Atlas
from atlas.scopes import Scope
from atlas.testing import NOON
from tests.growth import HOUR, store_samples, store_video
from tests.served import served

pytestmark = pytest.mark.integration

CASES = int(os.environ.get("PLEIADES_CONTRACT_CASES", "100"))
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
            if not any(ENDLESS in str(answer) for answer in operation.definition.raw["responses"].values()):
                yield operation

    def check(self, case: Any) -> None:
        self.asked += 1
        answer = case.call(base_url=self._url, session=self._session, timeout=30, allow_redirects=False)
        try:
            case.validate_response(answer, checks=CHECKS)
        except BaseException as fault:
            fault.add_note(f"{case.as_curl_command()}\n{answer.status_code} {answer.text[:500]}")
            raise

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
            derandomize=cases < MANY,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )
        @given(case=strategy)
        def ask(case: Any) -> None:
            self.check(case)

        ask()

    def close(self) -> None:
        self._session.close()


async def test_the_service_answers_only_as_it_documents(atlas: Atlas, sql: Any) -> None:
    await store_what_examples_name(atlas, sql)
    async with served(atlas) as service:
        header = await service.add_key("contract", Scope.WRITE, requests_per_minute=10_000_000)
        document = (await service.get("/openapi.json", headers=header)).json
        contract = Contract(service.url, document, header)
        try:
            await asyncio.to_thread(all_of, contract)
        finally:
            contract.close()
    assert contract.asked >= min(CASES, 10) or not document["paths"]


async def store_what_examples_name(atlas: Atlas, sql: Any) -> None:
    video, channel = "dQw4w9WgXcQ", "UCuAXFkgsw1L7xaCfnd5JJOw"
    await store_video(sql, video, channel=channel)
    await store_samples(sql, video, [(NOON - hour * HOUR, 1_000 - hour) for hour in range(20, -1, -1)])
    breakout = {"video_id": video, "views": 1_000, "views_per_hour": 5.0}
    await atlas.events.append("tracker.breakout", breakout, agent="tracker")


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
