"""Letters between sites are opened only if they were sealed with the cluster's token, unchanged."""

from __future__ import annotations

import hmac
from dataclasses import replace
from hashlib import sha256

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.federation.sealing import MOST_BYTES, Letter, SealBroken, Sealer

TOKEN = "a token that nobody else has"
LETTER = Letter("changes", "0123456789abcdef", "chain", b"evidence", 7)
SEALER = Sealer(TOKEN, "pleiades")

names = st.text(st.characters(codec="utf-8"), max_size=100)


@given(
    st.builds(
        Letter,
        st.sampled_from(["changes", "question", "answer"]),
        names,
        names,
        st.binary(max_size=300),
        st.integers(0, 2**53),
        names,
        names,
    )
)
def test_what_was_sealed_is_opened_as_it_was(letter: Letter) -> None:
    assert SEALER.open(SEALER.seal(letter)) == letter


@given(st.data())
def test_whoever_changes_a_letter_breaks_its_seal(data: st.DataObject) -> None:
    sealed = SEALER.seal(LETTER)
    at, flipped = data.draw(st.integers(0, len(sealed) - 1)), data.draw(st.integers(1, 255))
    changed = bytearray(sealed)
    changed[at] ^= flipped
    for text in (bytes(changed), sealed[: data.draw(st.integers(0, len(sealed) - 1))], sealed + b"\0"):
        with pytest.raises(SealBroken):
            SEALER.open(text)


def test_letters_of_another_token_or_cluster_are_refused() -> None:
    for other in (Sealer(TOKEN + "x", "pleiades"), Sealer(TOKEN, "hyades")):
        with pytest.raises(SealBroken, match="all sites need the same one"):
            SEALER.open(other.seal(LETTER))


def test_what_is_too_long_is_not_even_hashed() -> None:
    with pytest.raises(SealBroken, match="none of ours"):
        SEALER.open(bytes(MOST_BYTES + 1))


@pytest.mark.parametrize(
    "told",
    [
        7,
        [],
        (2, "pleiades", "changes", "a", "", "c", 1, "", b""),
        (1, "pleiades", "rumours", "a", "", "c", 1, "", b""),
        (1, "pleiades", "changes", 5, "", "c", 1, "", b""),
        (1, "pleiades", "changes", "a" * 201, "", "c", 1, "", b""),
        (1, "pleiades", "changes", "a", "", "c", -1, "", b""),
        (1, "pleiades", "changes", "a", "", "c", True, "", b""),
        (1, "pleiades", "changes", "a", "", "c", 1, "", "text"),
        (1, "pleiades", "changes", "a", "", "c", 1, None, b""),
        (1, "pleiades", ["changes"], "a", "", "c", 1, "", b""),
    ],
)
def test_a_form_that_is_not_known_is_refused_though_its_seal_holds(told: object) -> None:
    packed = msgpack.packb(told)
    seal = hmac.digest(hmac.digest(TOKEN.encode(), b"pleiades letters pleiades", sha256), packed, sha256)
    assert SEALER.open(SEALER.seal(replace(LETTER, number=8))).number == 8
    with pytest.raises(SealBroken, match="update this site"):
        SEALER.open(seal + packed)
