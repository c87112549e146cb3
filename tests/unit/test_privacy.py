"""Pseudonyms replace personal data in whatever notation and place, and nothing else."""

from __future__ import annotations

import json
import re
import string
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from maia.learning.privacy import Pseudonyms

HIDE = Pseudonyms(b"k" * 32)
GOOGLE_KEY = "AIza" + "SyA1234567890abcdefghijklmnopqrstuv"
SOME_UUID = "550e8400-e29b-41d4-a716-446655440000"


def pseudonym(text: str) -> str:
    hidden = HIDE.text(text)
    assert hidden != text
    return hidden


@pytest.mark.parametrize(
    ("plain", "notations"),
    [
        (
            "192.0.2.1",
            ["192.000.002.001", "::ffff:192.0.2.1", "[::FFFF:192.0.2.1]", "::ffff:c000:201",
             "192%2E0%2E2%2E1", "%31%39%32.0.2.1", "192%252E0.2.1", "１９２.0.2.1", "192&#46;0&#x2e;2.1",
             "192\\u002e0.2.1", "ip-192-0-2-1"],
        ),
        (
            "2001:db8::1",
            ["2001:DB8:0:0:0:0:0:1", "[2001:db8::1]", "2001%3Adb8%3A%3A1", "2001%253adb8%253A%253a1",
             "2001:0db8::0001"],
        ),
        ("fe80::1", ["fe80::1%eth0", "fe80::1%25eth0", "fe80::1%41", "[FE80::1%en1]"]),
        ("bob@example.com", ["BOB@EXAMPLE.COM", "bob%40example.com", "bob%2540example.com",
                             "bob＠example.com", "bob&#64;example.com", "bob\\u0040example.com",
                             "%62ob%40example%2ecom"]),
        (SOME_UUID, [SOME_UUID.upper(), SOME_UUID.replace("-", ""), f"{{{SOME_UUID}}}",
                     f"urn:uuid:{SOME_UUID}",
                     SOME_UUID.replace("-", "%2D"), f"%7B{SOME_UUID}%7D"]),
        (GOOGLE_KEY, ["%41" + GOOGLE_KEY[1:], GOOGLE_KEY.replace("z", "%7a")]),
    ],
)  # fmt: skip
def test_all_notations_of_a_value_have_one_pseudonym(plain: str, notations: list[str]) -> None:
    expected = pseudonym(plain)
    assert {notation: HIDE.text(notation) for notation in notations} == dict.fromkeys(notations, expected)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("connect to 192.0.2.1:5432 failed", "connect to ip-…:5432 failed"),
        ("GET http://[2001:db8::1]:8080/x", "GET http://ip-…:8080/x"),
        ("from 10.0.0.0/8, and 10.1.2.3.", "from ip-…/8, and ip-…."),
        ("at 12:40:31 from ::1", "at 12:40:31 from ip-…"),
        ("ip-10-0-0-1.ec2.internal", "ip-….ec2.internal"),
        ("x192.0.2.1y", "xip-…y"),
        ("to: <Bob.O'Neil+tag@mail.example.co.uk>", "to: <mail-…>"),
        ("email=bob@example.com&x=1", "email=mail-…&x=1"),
        ('"bob"@example.com', "mail-…"),
        ("root@[192.0.2.1] and root@192.0.2.1", "mail-… and mail-…"),
        ("postgresql://bob:p%40ss@db.example.com:5432/x", "postgresql://key-…@db.example.com:5432/x"),
        ("https://api/v3?key=" + GOOGLE_KEY + "&part=id", "https://api/v3?key=key-…&part=id"),
        ("ssh://git@localhost/x or ftp://bob@example.com", "ssh://key-…@localhost/x or ftp://mail-…"),
        ("password=hunter2; user=x", "password=key-…; user=x"),
        ('{"client_secret": "swordfish"}', '{"client_secret": "key-…"}'),
        ("Authorization: Bearer abc.DEF-123", "Authorization: Bearer key-…"),
        ("sent bearer 0123456789abcdef", "sent bearer key-…"),
        ("token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc_-def", "token key-…"),
        ("ghp_0123456789abcdefghijABCDEFGHIJ012345", "key-…"),
        ("odd q7Xk29dLmP04sTzB8vWc word", "odd key-… word"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\nrest", "key-…\nrest"),
        ("da39a3ee5e6b4b0d3255bfef95601890afd80709", "key-…"),
        ("run_" + SOME_UUID + "_2", "run_uuid-…_2"),
    ],
)
def test_only_the_value_is_replaced(text: str, shape: str) -> None:
    hidden = HIDE.text(text)
    assert re.fullmatch(re.escape(shape).replace("…", "[0-9a-f]{12}"), hidden), hidden
    assert HIDE.text(hidden) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dQw4w9WgXcQ",
        "https://www.youtube.com/watch?v=dQw4w9WgXcQ&t=10s",
        "UCuAXFkgsw1L7xaCfnd5JJOw",
        "playlist PLrAXtmErZgOeiKm4sgNOknGvNjby9efdf of UUuAXFkgsw1L7xaCfnd5JJOw",
        "metadata/2026-11-29/dQw4w9WgXcQ.json",
        "2026-11-29T12:40:31.123456+00:00",
        "took 12:40:31, ratio 16:9, 3.5 %",
        "aa:bb:cc:dd:ee:ff",
        "std::string of a::vector",
        "version 3.8.8.1, v3.8.8.1, Chrome/120.0.0.0",
        "PostgreSQL 18.6.1 and 1.2.3.4.5",
        "300.1.2.3",
        "md5 550e8400e29b41d4a716446655440000",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "quota limit defaultSearchListPerDayPerProject of youtube.googleapis.com",
        "authorization: missing; basic authentication; API key: invalid",
        "pageToken=CAUQAA",
        "search_results_per_day_and_project_2026",
        "@handle, 5 @ 3",
        "パンの作り方 初心者",
        "100%25 sure",
    ],
)
def test_what_is_legitimate_stays(text: str) -> None:
    assert HIDE.text(text) == text


def test_the_name_of_a_field_decides_what_its_value_is() -> None:
    digits = SOME_UUID.replace("-", "")
    kept = {
        "etag": digits,
        "pattern_id": digits,
        "template_ids": [digits],
        "app_version": "3.8.8.1",
        "page_token": "q7X",
    }
    assert HIDE.context(kept) == kept
    hidden = HIDE.context(
        {"id": digits, "node": "3.8.8.1", "db_password": "x", "apiKey": "plain", "tokens": ["a", ""]}
    )
    assert (hidden["id"][:5], hidden["node"][:3]) == ("uuid-", "ip-")
    assert {value[:4] for value in (hidden["db_password"], hidden["apiKey"], hidden["tokens"][0])} == {"key-"}
    assert hidden["tokens"][1] == ""


def test_other_objects_become_texts_and_plain_values_stay() -> None:
    at = datetime(2026, 11, 29, tzinfo=UTC)
    hidden = HIDE.context(
        {
            "uuid": uuid.UUID(SOME_UUID), "v4": IPv4Address("192.0.2.1"), "v6": IPv6Address("::1"), "at": at,
            "raw": b"192.0.2.1", "none": None, "n": 3, "x": 0.5, "yes": True,
            5: ("bob@example.com", {"192.0.2.1"}),
            "error": ValueError("no route to 192.0.2.1"),
        }
    )  # fmt: skip
    address = pseudonym("192.0.2.1")
    assert hidden["uuid"] == pseudonym(SOME_UUID)
    assert hidden["v4"] == hidden["raw"] == address
    assert hidden["v6"] == pseudonym("::1")
    assert [hidden[name] for name in ("at", "none", "n", "x", "yes")] == [at, None, 3, 0.5, True]
    assert hidden["5"] == [pseudonym("bob@example.com"), [address]]
    assert hidden["error"] == f"no route to {address}"


def test_two_notations_as_names_of_fields_are_both_kept() -> None:
    name = pseudonym("bob@example.com")
    assert HIDE.context({"bob@example.com": 1, "BOB@example.com": 2}) == {name: 1, f"{name}#2": 2}


def test_addresses_and_uuids_can_be_kept_but_not_mails_and_keys() -> None:
    lenient = Pseudonyms(b"k" * 32, ips=False, uuids=False)
    kept = f"192.0.2.1 [2001:db8::1] {SOME_UUID}"
    assert lenient.text(kept) == kept
    assert "bob" not in lenient.text(f"{kept} bob@example.com")
    assert GOOGLE_KEY not in lenient.text(f"{kept} {GOOGLE_KEY}")


def test_the_key_decides_the_pseudonym() -> None:
    other = Pseudonyms(b"o" * 32)
    assert other.text("192.0.2.1") != HIDE.text("192.0.2.1")
    assert Pseudonyms(b"o" * 32).text("192.0.2.1") == other.text("192.0.2.1")
    long = Pseudonyms(b"x" * 100)
    assert long.text("192.0.2.1") != Pseudonyms(b"x" * 99).text("192.0.2.1")
    assert "kkkk" not in repr(HIDE)
    with pytest.raises(ValueError, match="at least 16 bytes"):
        Pseudonyms(b"short")


def test_the_same_text_has_another_pseudonym_as_another_kind() -> None:
    assert HIDE.pseudonym("ip", "x")[3:] != HIDE.pseudonym("key", "x")[4:]


# --- anything, anywhere, in any encoding ---

_WORD = st.text(string.ascii_letters + string.digits, min_size=1, max_size=8)


@st.composite
def mails(draw: st.DrawFn) -> tuple[str, list[str]]:
    local = draw(st.from_regex(r"[a-z][a-z0-9]{2,8}([.+_-][a-z0-9]{1,6})?", fullmatch=True))
    domain = draw(st.from_regex(r"[a-z][a-z0-9-]{1,8}(\.[a-z]{2,5}){1,2}", fullmatch=True))
    return f"{local}@{domain}", [f"{local}@", f"@{domain}"]


@st.composite
def secrets_of_google(draw: st.DrawFn) -> tuple[str, list[str]]:
    key = "AIza" + draw(st.text(string.ascii_letters + string.digits + "-_", min_size=35, max_size=35))
    return key, [key[4:20], key[20:]]


@st.composite
def named_secrets(draw: st.DrawFn) -> tuple[str, list[str]]:
    value = draw(st.text(string.ascii_letters + string.digits, min_size=12, max_size=30))
    assume(not value.isdigit())
    name = draw(st.sampled_from(["password", "api_key", "client_secret", "access_token", "secret"]))
    return f"{name}={value}", [value]


def addresses() -> st.SearchStrategy[tuple[str, list[str]]]:
    four = st.ip_addresses(v=4).map(str)
    six = st.ip_addresses(v=6).filter(lambda a: int(a) >> 112).map(
        lambda a: (str(a), [str(a)]) if int(a) % 2 else (a.exploded, [a.exploded])
    )  # fmt: skip
    return st.one_of(four.map(lambda a: (a, [a])), four.map(lambda a: (f"::ffff:{a}", [a])), six)


def uuids() -> st.SearchStrategy[tuple[str, list[str]]]:
    # Not such as many small numbers have among their digits.
    some = st.uuids().filter(lambda u: len(set(u.hex)) > 4)
    return some.map(lambda u: (str(u), [str(u), u.hex])) | some.map(lambda u: (u.hex, [u.hex]))


ENCODINGS: list[Callable[[str], str]] = [
    str,
    str.upper,
    lambda text: quote(text, safe=""),
    lambda text: quote(quote(text, safe=""), safe=""),
    lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    lambda text: f"[{text}]",
    lambda text: f"<{text}>",
    lambda text: f"{{{text}}}",
]
BEFORE = st.sampled_from(["", " ", "see ", "http://", "x=", '"', "(", "a=1&x=", "/", ", "])
AFTER = st.sampled_from(["", " ", " failed", "/path", ":443", "&b=2", '"', ")", ", ", ";"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _WORD


def _nested(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORD, inner, max_size=3)
    )


@st.composite
def contexts(draw: st.DrawFn) -> tuple[dict[str, Any], list[str]]:
    value, traces = draw(st.one_of(mails(), secrets_of_google(), named_secrets(), addresses(), uuids()))
    text = draw(BEFORE) + draw(st.sampled_from(ENCODINGS))(value) + draw(AFTER)
    context: dict[str, Any] = draw(st.dictionaries(_WORD, _nested(SCALARS), max_size=4))
    place: Any = text
    for how in draw(st.lists(st.sampled_from(["list", "field", "name"]), max_size=3)):
        place = {"list": [1, place], "field": {draw(_WORD): place}, "name": {text: place}}[how]
    context[draw(_WORD)] = place
    return context, traces


@settings(max_examples=120)
@given(contexts())
def test_no_trace_is_left_anywhere(case: tuple[dict[str, Any], list[str]]) -> None:
    context, traces = case
    # A field called so holds no UUID.
    assume("hash" not in json.dumps(context).lower())
    hidden = HIDE.context(context)
    written = json.dumps(hidden)
    for _ in range(4):
        for trace in traces:
            assert trace.casefold() not in written.casefold()
        written = unquote(written)
    assert HIDE.context(hidden) == hidden


@given(st.text(max_size=200))
def test_any_text_is_cleaned_for_good(text: str) -> None:
    once = HIDE.text(text)
    assert HIDE.text(once) == once


@pytest.mark.parametrize(
    "unit",
    [":", "a::b ", "ab:", "1.", "%25", "@", "a@", "a.", "://a:", "key=", "a-", "eyJ", "1:2:3:4:5:6:7:8:9:"],
)
def test_long_texts_of_one_kind_are_read_in_bounded_time(unit: str) -> None:
    # It would run for hours if an expression or a search grew with the square or cube of the length.
    assert HIDE.text(unit * (50_000 // len(unit)) + " 192.0.2.1").count("192.0.2.1") == 0


def test_neighbouring_addresses_are_all_replaced() -> None:
    one, two = pseudonym("2001:db8::1"), pseudonym("2001:db8::2")
    assert HIDE.text("2001:db8::1,2001:db8::2;[2001:db8::1]") == f"{one},{two};{one}"
    assert "db8" not in HIDE.text("2001:db8:0:0:0:0:0:1:2001:db8:0:0:0:0:0:2")


def test_half_a_surrogate_pair_is_no_obstacle() -> None:
    hidden = HIDE.text("\ud800 192.0.2.1 bob@example.com")
    assert "192" not in hidden
    assert "example" not in hidden
