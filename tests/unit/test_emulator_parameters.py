from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from maia.emulator.facts import METHODS, STANDARD_PARAMETERS, Parameter
from maia.emulator.fields import ANYTHING, Mask
from maia.emulator.parameters import Arguments, category_number, check_region, read_arguments
from maia.emulator.refusals import ErrorResponse

SHARED = Path(os.environ.get("PLEIADES_SHARED") or Path(__file__).parents[3] / "shared")
DISCOVERY = SHARED / "data" / "api" / "youtube.v3.discovery.json.gz"
SEARCH, VIDEOS = METHODS["/youtube/v3/search"], METHODS["/youtube/v3/videos"]


def search(*pairs: tuple[str, str]) -> Arguments:
    return read_arguments(SEARCH, [("part", "snippet"), *pairs])


def refused(*pairs: tuple[str, str], part: str = "snippet") -> tuple[int, str, str]:
    with pytest.raises(ErrorResponse) as refusal:
        read_arguments(VIDEOS, [("part", part), *pairs] if part else pairs)
    first = refusal.value.body["error"]["errors"][0]
    return refusal.value.status, first["reason"], first.get("location", "")


def test_parameters_are_typed_and_defaults_filled_in():
    arguments = search(
        ("maxResults", "7"), ("publishedAfter", "1970-01-02T00:00:00Z"), ("type", "video,channel")
    )
    assert (arguments.get("maxResults"), arguments.get("publishedAfter")) == (7, 86400.0)
    assert arguments.get("type") == ["video", "channel"]
    assert (arguments.get("order"), arguments.get("q")) == ("relevance", None)
    assert search().get("maxResults") == 5


def test_lists_may_be_repeated_or_separated_by_commas():
    arguments = read_arguments(
        VIDEOS, [("part", "snippet,id"), ("part", "status"), ("id", "a,b"), ("id", " c ,")]
    )
    assert arguments.get("id") == ["a", "b", "c"]
    assert arguments.parts == ("id", "snippet", "status")


def test_standard_parameters_are_taken():
    arguments = search(
        ("key", "x"), ("alt", "json"), ("$.xgafv", "2"), ("prettyPrint", "true"), ("quotaUser", "me")
    )
    assert arguments.pretty


@pytest.mark.parametrize(
    ("pairs", "part", "refusal"),
    [
        ([("foo", "1")], "snippet", (400, "invalid", "")),
        ([("order", "date")], "snippet", (400, "invalid", "")),
        ([], "", (400, "required", "part")),
        ([], "snippets", (400, "unknownPart", "part")),
        ([], "fileDetails", (403, "forbidden", "part")),
        ([("chart", "top")], "snippet", (400, "invalidParameter", "chart")),
        ([("maxResults", "0")], "snippet", (400, "invalidParameter", "maxResults")),
        ([("maxResults", "51")], "snippet", (400, "invalidParameter", "maxResults")),
        ([("maxResults", "ten")], "snippet", (400, "invalidParameter", "maxResults")),
        ([("prettyPrint", "maybe")], "snippet", (400, "invalidParameter", "prettyPrint")),
        ([("fields", "items(id")], "snippet", (400, "invalidParameter", "fields")),
        ([("fields", "items/nothing")], "snippet", (400, "invalidParameter", "fields")),
        ([("myRating", "like")], "snippet", (401, "authorizationRequired", "myRating")),
        ([("access_token", "x")], "snippet", (401, "authError", "Authorization")),
        ([("alt", "xml")], "snippet", (400, "invalidParameter", "alt")),
        ([("alt", "proto")], "snippet", (400, "badRequest", "")),
    ],
)
def test_what_the_api_refuses_is_refused(
    pairs: list[tuple[str, str]], part: str, refusal: tuple[int, str, str]
):
    assert refused(*pairs, part=part) == refusal


@pytest.mark.parametrize(
    "text", ["2026-11-02", "2026-11-02T08:00:00", "yesterday", "2026-13-01T00:00:00Z", ""]
)
def test_an_instant_needs_its_offset(text: str):
    with pytest.raises(ErrorResponse, match="must end with 'Z' or have a valid timezone offset"):
        search(("publishedAfter", text))


def test_instants_may_have_fractions_and_offsets():
    given = [
        ("publishedAfter", "1970-01-01T01:00:00.5+01:00"),
        ("publishedBefore", "1970-01-01T00:00:01.123456789Z"),
    ]
    arguments = search(*given)
    assert arguments.get("publishedAfter") == 0.5
    assert arguments.get("publishedBefore") == pytest.approx(1.123456)


def test_a_page_token_is_bound_to_everything_but_the_shape_of_the_answer():
    asked = [("q", "a"), ("maxResults", "10")]
    bound = search(*asked).bound_to_token()
    assert (
        search(*asked[::-1], ("fields", "items/id"), ("key", "x"), ("pageToken", "t")).bound_to_token()
        == bound
    )
    for other in ([("q", "b"), asked[1]], [asked[0]], [*asked, ("order", "date")]):
        assert search(*other).bound_to_token() != bound


def test_regions_and_categories_are_checked():
    check_region("regionCode", None)
    check_region("regionCode", "US")
    with pytest.raises(ErrorResponse, match="region"):
        check_region("regionCode", "USA")
    assert [category_number(text) for text in (None, "0", "10")] == [None, None, 10]
    with pytest.raises(ErrorResponse, match="invalid argument"):
        category_number("music")


@pytest.fixture(scope="module")
def document() -> Any:
    if not DISCOVERY.exists():
        pytest.skip(f"{DISCOVERY} is not there: set PLEIADES_SHARED to the folder of recorded data")
    return json.loads(gzip.decompress(DISCOVERY.read_bytes()))


def embedded(parameter: Parameter) -> dict[str, Any]:
    return {
        "values": list(parameter.values),
        "bounds": (parameter.minimum, parameter.maximum) if parameter.kind == "integer" else None,
        "default": parameter.default,
        "repeated": parameter.repeated,
        "type": {"datetime": "string"}.get(parameter.kind, parameter.kind),
    }


def documented(parameter: Any) -> dict[str, Any]:
    whole = parameter["type"] == "integer"
    return {
        "values": parameter.get("enum", []),
        "bounds": (int(parameter["minimum"]), int(parameter["maximum"])) if whole else None,
        "default": parameter.get("default"),
        "repeated": parameter.get("repeated", False),
        "type": parameter["type"],
    }


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_the_embedded_parameters_are_those_of_the_discovery_document(method: Any, document: Any):
    resource, _, verb = method.name.partition(".")
    known = document["resources"][resource]["methods"][verb]["parameters"]
    assert {name: embedded(parameter) for name, parameter in method.parameters.items()} == {
        name: documented(parameter) for name, parameter in known.items()
    }


def test_the_standard_parameters_are_those_of_the_discovery_document(document: Any):
    assert {name: embedded(parameter) for name, parameter in STANDARD_PARAMETERS.items()} == {
        name: documented(parameter) for name, parameter in document["parameters"].items()
    }


def assert_within(shape: Mask, schema: str, document: Any) -> None:
    """Every name of `shape` is a property, and every property is in `shape`, as deep as `shape` goes."""
    properties = document["schemas"][schema]["properties"]
    assert shape.keys() - {"summary"} == properties.keys(), schema
    for name, inner in shape.items():
        if inner is ANYTHING or not inner or name == "summary":
            continue
        known = properties[name]
        assert_within(inner, known.get("$ref") or known["items"]["$ref"], document)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_the_embedded_answers_have_the_fields_of_the_discovery_document(method: Any, document: Any):
    resource, _, verb = method.name.partition(".")
    known = document["resources"][resource]["methods"][verb]
    assert_within(method.shape, known["response"]["$ref"], document)
