"""Every documented example does what it says: in OpenAPI, in docs/service.md, and for assistants."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator

from atlas.composition import Atlas
from atlas.scopes import Scope
from atlas.testing import NOON
from maia.api.mcp.server import TOOLS
from tests.growth import HOUR, store_samples, store_video
from tests.served import Served, served

pytestmark = pytest.mark.integration

DOCUMENTATION = Path(__file__).resolve().parents[3] / "docs" / "service.md"
VIDEO, CHANNEL = "dQw4w9WgXcQ", "UCuAXFkgsw1L7xaCfnd5JJOw"


@pytest_asyncio.fixture
async def service(atlas: Atlas, sql: Any) -> AsyncIterator[Served]:
    """A service that knows what the examples name."""
    await store_video(sql, VIDEO, channel=CHANNEL)
    await store_samples(sql, VIDEO, [(NOON - hour * HOUR, 1_000 - hour) for hour in range(20, -1, -1)])
    await sql.execute("ALTER SEQUENCE search_queue_id_seq RESTART WITH 17")
    await sql.execute("ALTER SEQUENCE incidents_id_seq RESTART WITH 7")
    await sql.execute(
        "INSERT INTO incidents (key, component, node, severity, text, opened_at, seen_at) "
        "VALUES ('host.disk:node-1', 'host', 'node-1', 'warning', 'the disk is full', $1, $1)",
        NOON,
    )
    await sql.execute(
        "INSERT INTO patterns (id, type, signature, statement, conditions, action, data, created_at, "
        "updated_at, attended_at) VALUES ($1, 'tool_usage', '{}', 'Nights are better', '[]', 'search:new', "
        "'{}', $2, $2, $2)",
        "3f2a9c" + "0" * 26,
        NOON,
    )
    async with served(atlas) as service:
        yield service


class TestOpenApi:
    async def test_each_example_of_an_answer_has_the_form_that_is_documented(self, service: Served) -> None:
        document = (await service.get("/openapi.json")).json
        checked = 0
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                for status, answer in operation["responses"].items():
                    for content in answer.get("content", {}).values():
                        for example in examples_of(content, document):
                            schema = {**content["schema"], "components": document["components"]}
                            faults = [*Draft202012Validator(schema).iter_errors(example)]
                            assert not faults, (path, method, status, faults[0])
                            checked += 1
                wanted = [s for s in ("200", "201") if s in operation["responses"]]
                assert wanted, (path, method)
        assert checked > 15

    async def test_each_schema_and_example_is_one(self, service: Served) -> None:
        document = (await service.get("/openapi.json")).json
        assert document["openapi"].startswith("3.1")
        for name, schema in document["components"]["schemas"].items():
            Draft202012Validator.check_schema(schema)
            for example in schema.get("examples", ()):
                whole = {**schema, "components": document["components"]}
                assert not [*Draft202012Validator(whole).iter_errors(example)], name


def examples_of(content: dict[str, Any], document: dict[str, Any]) -> Iterator[Any]:
    if "example" in content:
        yield content["example"]
    for each in content.get("examples", {}).values():
        yield each["value"]
    reference = content.get("schema", {}).get("$ref", "")
    yield from document["components"]["schemas"].get(reference.rpartition("/")[2], {}).get("examples", ())


@dataclass(slots=True)
class Call:
    """What a command line of curl sends."""

    url: str = ""
    method: str | None = None
    data: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


def calls_of(text: str) -> Iterator[Call]:
    """The calls of all blocks of shell commands, as curl would make them."""
    variables: dict[str, str] = {}
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in lines_of(block):
            words = shlex.split(line, comments=True)
            if len(words) == 1 and "=" in words[0]:
                name, _, variables[name] = words[0].partition("=")
            lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&")
            lexer.whitespace_split = True
            command: list[str] = []
            for word in (*lexer, ";"):
                if set(word) <= set(";|&"):
                    if command[:1] == ["curl"]:
                        yield call_of(command[1:], variables)
                    command = []
                else:
                    command.append(word)


def lines_of(block: str) -> Iterator[str]:
    """Its lines; one ends only where its quotes do."""
    line = ""
    for part in block.splitlines():
        line += part + "\n"
        try:
            shlex.split(line, comments=True)
        except ValueError:
            continue
        yield line
        line = ""


def call_of(words: list[str], variables: dict[str, str]) -> Call:
    call, rest = Call(), iter(words)
    for word in rest:
        match word:
            case "-X":
                call.method = next(rest)
            case "-H":
                name, _, value = next(rest).partition(": ")
                call.headers[name] = value
            case "-d" | "--data":
                call.data = next(rest)
            case _:
                assert not word.startswith("-"), f"this test does not know curl's {word}"
                call.url = word
    for name, value in variables.items():
        call.url = call.url.replace(f"${name}", value)
    if call.data is not None:
        call.headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
    call.method = call.method or ("GET" if call.data is None else "POST")
    return call


class TestDocumentation:
    async def test_each_call_of_curl_does_what_it_says(self, service: Served) -> None:
        calls = [*calls_of(DOCUMENTATION.read_text("utf-8"))]
        assert len(calls) > 20
        key = await service.add_key("reader-of-the-docs", Scope.ADMIN)
        for call in calls:
            path = call.url.removeprefix("http://127.0.0.1:8080")
            assert path.startswith("/"), call
            if "$KEY" in call.headers.get("X-API-Key", ""):
                call.headers["X-API-Key"] = key["X-API-Key"]
            answer = await service.ask(call.method or "GET", path, data=call.data, headers=key | call.headers)
            assert answer.status in (200, 201), (call, answer.status, answer.body[:500])

    async def test_the_example_of_a_subscription_is_one(self, service: Served) -> None:
        [opening] = re.findall(r'^\{"subscribe": .*\}$', DOCUMENTATION.read_text("utf-8"), re.MULTILINE)
        async with service.session.ws_connect(f"{service.url}/ws") as socket:
            await socket.send_json({"subscribe": {}})
            cursor = (await socket.receive_json())["cursor"]
        async with service.session.ws_connect(f"{service.url}/ws") as socket:
            await socket.send_str(opening.replace("CURSOR", cursor))
            assert (await socket.receive_json())["kind"] == "subscribed"

    async def test_the_example_of_an_answer_is_one(self, service: Served) -> None:
        text = DOCUMENTATION.read_text("utf-8")
        [answered] = re.findall(r'^\{"accepted": .*\}$', text, re.MULTILINE)
        document = (await service.get("/openapi.json")).json
        [schema] = [
            content["schema"]
            for content in document["paths"]["/observe"]["post"]["responses"]["200"]["content"].values()
        ]
        whole = {**schema, "components": document["components"]}
        assert not [*Draft202012Validator(whole).iter_errors(json.loads(answered))]


async def test_each_example_of_a_tools_argument_is_taken(service: Served) -> None:
    calls = 0
    for name, tool in TOOLS.items():
        schema = tool.arguments.model_json_schema()
        fields = schema.get("properties", {})
        required = {each: fields[each]["examples"][0] for each in schema.get("required", ())}
        given = [(each, example) for each, about in fields.items() for example in about.get("examples", ())]
        for arguments in (required, *(required | {each: example} for each, example in given)):
            message = {
                "jsonrpc": "2.0", "id": 1, "method": "tools/call",
                "params": {"name": name, "arguments": arguments},
            }  # fmt: skip
            accept = {"Accept": "application/json, text/event-stream"}
            result = (await service.post("/mcp", message, headers=accept)).json["result"]
            # What an example names need not be stored here.
            is_unknown = any(each in str(result) for each in ("stored", "known", "there is no atom"))
            assert not result.get("isError") or is_unknown, (name, arguments, result)
            calls += 1
    assert calls > 20
