"""Messages between sites come back as they were, and whatever else arrives is refused, within bounds."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgpack
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from atlas.adapters.federation import SharedRows
from atlas.adapters.patterns import StoredEvidence
from atlas.service_settings import FederationSettings
from maia.federation import http, messages
from maia.federation.messages import Envelope, Section, decode, encode
from maia.federation.records import PatternRecords
from maia.federation.refusals import Reason, Refused

RECORDS = st.lists(
    st.lists(
        st.none() | st.integers(0, 2**53) | st.text(max_size=20) | st.binary(max_size=20)
        | st.floats(allow_nan=False),
        max_size=12,
    ),
    max_size=20,
)  # fmt: skip
NOW = datetime(2026, 11, 2, 12, tzinfo=UTC)


def envelope(**tables: list[Any]) -> Envelope:
    section = Section(kind="patterns", version=1, counts=messages.counts_of(tables), after="a", cursor="b")
    return Envelope(cluster="test", node="a", role="learner", clock=1, sections=[section])


@given(RECORDS, RECORDS)
def test_a_message_comes_back_as_it_was(texts: list[Any], evidence: list[Any]) -> None:
    tables = {"texts": texts, "evidence": evidence}
    found = decode(encode(envelope(**tables), {"patterns": tables}))
    assert found.envelope == envelope(**tables)
    assert found.tables["patterns"] == {name: rows for name, rows in tables.items() if rows}
    assert found.records == len(texts) + len(evidence)


@given(st.binary(max_size=300), st.integers(0, 400), st.binary(max_size=4))
def test_whatever_arrives_is_read_or_refused(plain: bytes, at: int, put: bytes) -> None:
    good = zstandard.decompress(encode(envelope(texts=[[1, "a"]]), {"patterns": {"texts": [[1, "a"]]}}))
    for body in (
        plain,
        zstandard.compress(plain),
        zstandard.compress(good[:at] + put + good[at + len(put) :]),
        zstandard.compress(good[:at]),
        zstandard.compress(good) + plain,
    ):
        with suppress(Refused):
            found = decode(body)
            PatternRecords(90).check(found.tables.get("patterns", {}), NOW)


def test_what_would_fill_the_memory_is_refused_before_it_does() -> None:
    def framed(*parts: bytes) -> bytes:
        return zstandard.compress(b"".join(len(part).to_bytes(4, "little") + part for part in parts))

    header = msgpack.packb(envelope().model_dump())
    bombs = [
        zstandard.compress(b"\x00" * 2**29),
        framed(b"\xdd\xff\xff\xff\xff"),
        framed(b"\x91" * 100_000),
        framed(b"\x9f" + b"\x90" * 2**20),
        framed(header, b"\xdd\x00\x00\xff\xff" + b"\x90" * 65_535),
        framed(header, *[b"\x90"] * 100),
        framed(header, b"\xc0" * (messages.MOST_RECORD_BYTES + 1)),
    ]
    tracemalloc.start()
    try:
        for bomb in bombs:
            with pytest.raises(Refused):
                decode(bomb)
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()


def test_a_newer_protocol_is_told_from_nonsense() -> None:
    header = msgpack.packb({"protocol": 7, "anything": ["else"]})
    with pytest.raises(Refused) as raised:
        decode(zstandard.compress(len(header).to_bytes(4, "little") + header))
    assert raised.value.reason is Reason.PROTOCOL


def test_peers_are_those_of_the_settings_without_their_secrets() -> None:
    settings = FederationSettings(
        token=SecretStr("0123456789abcdef"),
        coordinator_url="https://a.example",
        peers=(SecretStr("http://[::1]:8080/base"), SecretStr("https://a.example")),
    )
    assert http.urls_of(settings) == ["https://a.example", "http://[::1]:8080/base"], "each once"
    assert [http.place_of(url) for url in http.urls_of(settings)] == ["a.example:443", "[::1]:8080"]
    assert [http.is_exposed(url) for url in ("http://a.example", "https://a.example", "http://[::1]:1")] == [
        True, False, False,
    ]  # fmt: skip
    assert "0123456789abcdef" not in json.dumps(settings.model_dump(mode="json"))


def test_chunks_fit_into_messages_and_are_everything() -> None:
    row = StoredEvidence("0" * 32, "site", NOW.date(), 1, 0, 0.5, NOW, 1)
    rows = [
        replace(row, pattern_id=f"{nth % 9_000:032x}", node=f"site-{nth // 9_000}") for nth in range(45_000)
    ]
    chunks = list(PatternRecords(90).chunks(SharedRows((), rows)))
    assert len(chunks) > 2
    assert all(len(chunk) <= messages.MOST_RECORDS for chunk in chunks)
    assert sorted(each.pattern_id for chunk in chunks for each in chunk.evidence) == sorted(
        each.pattern_id for each in rows
    )
