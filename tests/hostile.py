"""Values, bodies and parameters made to break whoever reads them, and what must come of each.

Whatever is sent, the answer is one that is documented, and whatever was stored of it can be shown.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from maia.api.mcp.server import TOOLS
from tests.attacking import RawAnswer, request, sent
from tests.served import Answer, Served

JSON = {"Content-Type": "application/json"}
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
HERE = "@"
"""Stands for the value that is exchanged."""
OBSERVED = {"agent": "a", "session": "s", "action": "b"}
PATTERN = {"type": "tool_usage", "statement": "says", "action": "feeds"}
PLACES: dict[str, list[Any]] = {
    "/observe": [
        OBSERVED | {"context": {"x": HERE}}, OBSERVED | {"agent": HERE}, OBSERVED | {"reward": HERE},
        [OBSERVED | {"at": HERE}], OBSERVED | {HERE: 1}, OBSERVED | {"context": {HERE: 1}},
    ],
    "/match": [{"context": {"x": HERE}}, {"context": {HERE: 1}}, {"context": {}, "limit": HERE}],
    "/recommend": [{"context": {"x": HERE}}, {"context": {}, "explore": True, "seed": HERE}],
    "/patterns": [
        PATTERN | {"data": {"x": HERE}}, PATTERN | {"signature": {"x": HERE}}, PATTERN | {"statement": HERE},
        PATTERN | {"conditions": [{"field": "f", "operator": "=", "value": HERE}]},
        PATTERN | {"data": {HERE: 1}},
        PATTERN | {"conditions": [{"field": HERE, "operator": "in", "value": "x"}]},
        PATTERN | {"action": HERE},
        PATTERN | {"evidence": [{"pos": HERE, "neg": 1}]},
        PATTERN | {"evidence": [{"pos": 1, "neg": 1, "day": HERE}]},
    ],
    "/api/v1/topics": [{"queries": ["x"], HERE: 1}, {"queries": [HERE]}, {"queries": ["x"], "region": HERE}],
    "/api/v1/topics/1/park": [{"reason": HERE}],
    "/api/v1/watches": [{"kind": "video", "id": HERE}, {"kind": HERE, "id": "dQw4w9WgXcQ"}],
    "/api/v1/incidents/1/acknowledge": [{"note": HERE}],
    "/api/v1/patterns/learn": [{"force": HERE}],
}  # fmt: skip
VALUES = {
    "NaN": "NaN", "Infinity": "-Infinity", "a number beyond floats": "1e999",
    "a number near nothing": "1e-999",
    "an integer of 65 bits": "18446744073709551616", "an integer of 400 digits": "9" * 400,
    "an integer of 5,000 digits": "9" * 5_000, "minus nothing": "-0", "a NUL": '"a\\u0000b"',
    "half a character": '"\\ud800"', "the other half": '"\\udc00\\ud800"',
    "a long text": f'"{"x" * 300_000}"',
    "bidirectional": '"\\u202e\\u2066"', "deep": "[" * 500 + "]" * 500,
    "deeper": '{"a":' * 900 + "1" + "}" * 900,
    "bottomless": "[" * 100_000, "wide": "[" + "0," * 100_000 + "0]", "an object": '{"__proto__": {"x": 1}}',
    "null": "null", "a regular expression": '"(a+)+$"', "LIKE": '"%_%_%_%_\\\\"', "true": "true",
    "date": '"0000-00-00"',
    "far": '"9999-12-31T23:59:59.999999999+14:00"', "a format": '"{0.__class__}%s%n${x}"',
}  # fmt: skip
BODIES = {
    "nothing": b"", "a part": b"{", "a value": b"1", "a text": b'"x"', "null": b"null", "a list": b"[]",
    "a list of nothing": b"[null]", "two": b"{}{}", "a comment": b"/**/{}",
    "UTF-16": '{"context": {}}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"context": {}}', "Latin-1": b'{"context": {"\xe9": 1}}',
    "zeros": b"\0" * 100_000,
    "bottomless": b"[" * 1_000_000, "bottomless objects": b'{"a":' * 200_000,
    "the same name twice": b'{"context": {}, "context": 1}',
    "many names": b"{" + b",".join(b'"%d":1' % n for n in range(90_000)) + b"}",
    "XML": b'<!DOCTYPE a SYSTEM "file:///etc/passwd">',
    "a pickle": b"\x80\x04\x95", "a form": b"context=1", "spaces": b" " * 1_000_000,
}  # fmt: skip
PARAMETERS = (
    "", "%00", "a%00b", "%ED%A0%80", "%FF", "%25", "%25_" * 60, "%5C" * 100, "'", "%22%27;--", "(a%2B)%2B$",
    "9" * 400,
    "-1", "1e400", "NaN", "Infinity", "0x10", "%EF%BC%91", "a" * 2_000, "%F0%9F%92%A9", "null", "%E2%80%AE",
    "1_0",
    "AAAA", "W10", "%0d%0a", "*", "[]", "..%2f..", "24h%0a", "9999d", "0h", "true",
)  # fmt: skip


def refuse_constant(constant: str) -> NoReturn:
    raise AssertionError(f"an answer holds {constant}")


def check(answer: Answer | RawAnswer, documented: Any, what: object) -> None:
    """The status is documented, errors are problem details, and nothing of the inside is told."""
    assert str(answer.status) in documented, (what, answer)
    body = answer.body if isinstance(answer, Answer) else answer.received.partition(b"\r\n\r\n")[2]
    json.loads(body, parse_constant=refuse_constant)
    revealing = RawAnswer(body).reveals
    assert revealing is None, (what, revealing, body[:1_000])


def spelled(body: Any, value: str) -> bytes:
    """The body as JSON, in which a value that may be no JSON stands where it is wanted."""
    text = json.dumps(body)
    as_name = value if value.startswith('"') else json.dumps(value[:2_000])
    return text.replace(f'"{HERE}":', f"{as_name}:").replace(f'"{HERE}"', value).encode()


async def ask_with_values(service: Served, values: Mapping[str, str], *, places: int = 100) -> int:
    """Put each value into places of each body; returns how many requests that took."""
    documented = (await service.get("/openapi.json")).json["paths"]
    await service.post("/api/v1/topics", {"queries": ["lofi"]})
    asked = 0
    for path, bodies in PLACES.items():
        [operation] = [
            methods["post"]
            for template, methods in documented.items()
            if "post" in methods and template.replace("{id}", "1") == path
        ]
        for body in bodies[:places]:
            for what, value in values.items():
                if path.endswith("learn") and value == "true":
                    continue
                answer = await service.ask("POST", path, data=spelled(body, value), headers=JSON)
                check(answer, operation["responses"], (path, what, body))
                asked += 1
    await show_everything(service)
    return asked


async def ask_with_bodies(service: Served, bodies: Mapping[str, bytes]) -> None:
    """Send each body to whatever takes one, and compressed bombs."""
    documented = (await service.get("/openapi.json")).json["paths"]
    spaces = b" " * 2**24
    bombs = {"gzip": gzip.compress(spaces), "deflate": zlib.compress(spaces), "br": gzip.compress(spaces)}
    for template, methods in documented.items():
        for method, operation in methods.items():
            path = template.replace("{id}", "7").replace("{kind}", "video")
            if method == "get" or path.endswith("/learn"):
                continue
            for what, body in bodies.items():
                answer = await service.ask(method.upper(), path, data=body, headers=JSON)
                check(answer, operation["responses"], (path, what))
            for coding, bomb in bombs.items():
                headers = JSON | {"Content-Encoding": coding}
                answer = await service.ask(method.upper(), path, data=bomb, headers=headers)
                check(answer, operation["responses"], (path, coding))
    await show_everything(service)


async def show_everything(service: Served) -> None:
    """What was stored meanwhile spoils nothing."""
    for path in (
        "/patterns?limit=1000", "/api/v1/patterns?limit=1000", "/statistics", "/api/v1/topics?limit=500",
        "/api/v1/topics?format=csv&limit=500", "/", "/topics?limit=1000", "/learnt", "/health",
    ):  # fmt: skip
        answer = await service.get(path, headers=HTML)
        assert (path, answer.status) == (path, 200), answer.body[:500]
    for each in (await service.get("/patterns?limit=1000")).json["patterns"]:
        assert (await service.get(f"/patterns/{each['id']}")).status == 200
        assert (await service.get(f"/learnt/{each['id']}", headers=HTML)).status == 200


async def ask_with_parameters(service: Served, values: Collection[str]) -> int:
    """Give each documented parameter each value; returns how many requests that took."""
    documented = (await service.get("/openapi.json")).json["paths"]
    asked = 0
    for template, methods in documented.items():
        operation = methods.get("get")
        if operation is None or template.endswith("/events"):
            continue
        for parameter in operation.get("parameters", ()):
            for value in values:
                path, query = template, f"{parameter['name']}={value}"
                if parameter["in"] == "path":
                    if not value or value == "..%2f..":
                        continue
                    path, query = template.replace(f"{{{parameter['name']}}}", value), ""
                answer = await sent(service, request(f"{path.replace('{id}', 'risen')}?{query}"))
                assert str(answer.status) in operation["responses"], (path, query, answer.received[-500:])
                if answer.status != 200:
                    check(answer, operation["responses"], (path, query))
                asked += 1
    return asked


PAGES = {
    "/": ("by", "window", "category", "channel", "tag", "region", "age_min", "velocity_min", "limit", "zone"),
    "/videos/risen": ("window",), "/channels/UC-one": ("window", "limit"), "/compare": ("id", "add", "scale"),
    "/topics": ("status", "limit", "done", "table"), "/learnt": ("type", "min_confidence", "offset"),
    "/graph": ("q", "type"), "/search": ("q",), "/quota": ("as",), "/login": ("next",),
}  # fmt: skip
"""The parameters of each page."""


async def ask_pages(service: Served, values: Collection[str]) -> None:
    """Give each parameter of the pages each value, and look for pages that are named so."""
    forms = [f"{page}?{name}=" for page, names in PAGES.items() for name in names]
    forms += ["/videos/", "/channels/", "/learnt/", "/graph/", "/static/x/"]
    for target in (f"{form}{value}" for form in forms for value in values):
        answer = await sent(service, request(target, "Accept: text/html"))
        assert (answer.status or 500) < 500, target


async def call_mcp(service: Served, body: bytes, **headers: str) -> Answer:
    wanted = JSON | {"Accept": "application/json, text/event-stream"} | headers
    return await service.ask("POST", "/mcp", data=body, headers=wanted)


async def ask_tools(service: Served, values: Mapping[str, str], *, places: int = 100) -> None:
    """Put each value into places of the arguments of each of the assistants' tools."""
    for name, tool in TOOLS.items():
        arguments = [HERE, {HERE: 1}, *({field: HERE} for field in tool.arguments.model_fields)]
        for place in arguments[:places]:
            for what, value in values.items():
                message = {
                    "jsonrpc": "2.0", "id": 1, "method": "tools/call",
                    "params": {"name": name, "arguments": place},
                }  # fmt: skip
                answer = await call_mcp(service, spelled(message, value))
                assert answer.status in (200, 400), (name, place, what, answer.body[:500])
                assert RawAnswer(answer.body).reveals is None, (name, place, what)
                assert b"is a defect" not in answer.body, (name, place, what)
