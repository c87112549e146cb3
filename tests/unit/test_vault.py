"""Names of objects, and how batches hold them."""

from __future__ import annotations

import string
from datetime import datetime, timedelta, timezone

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.clock import FixedClock
from atlas.errors import ConfigError, InvalidObjectName, VaultError
from atlas.stores import S3Store
from atlas.vault import _PREFIX, ObjectBatch, check_name, metadata_name

NEW_YEARS_EVE_IN_NEW_YORK = datetime(2026, 12, 31, 20, tzinfo=timezone(timedelta(hours=-5)))
ID_CHARACTERS = string.ascii_letters + string.digits + "_-"


def test_metadata_is_named_by_the_utc_date() -> None:
    name = metadata_name("dQw4w9WgXcQ", NEW_YEARS_EVE_IN_NEW_YORK)

    assert name == "metadata/2027-01-01/dQw4w9WgXcQ.json"


@given(st.text(ID_CHARACTERS, min_size=1, max_size=64))
def test_every_video_id_makes_a_name_that_can_be_fetched(video_id: str) -> None:
    check_name(metadata_name(video_id, NEW_YEARS_EVE_IN_NEW_YORK))


@given(st.text(max_size=70).filter(lambda text: not text or set(text) - set(ID_CHARACTERS) or len(text) > 64))
def test_anything_else_is_no_video_id(video_id: str) -> None:
    with pytest.raises(InvalidObjectName, match="video id"):
        metadata_name(video_id, NEW_YEARS_EVE_IN_NEW_YORK)


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "../x", "a/../b", "a/..", ".", "..", "a//b", "a/", "a/./b", ".incoming/x", "a/.git/b",
     "a\\b", "a\0b", "a b", "a\n", "é", "a" * 513, "-/~"],
)  # fmt: skip
def test_no_name_leaves_the_vault(name: str) -> None:
    with pytest.raises(InvalidObjectName, match="object's name"):
        check_name(name)


@given(st.text("ab./-_ ~\\\0", max_size=12))
def test_a_name_that_passes_stays_beneath_its_folder(name: str) -> None:
    try:
        check_name(name)
    except InvalidObjectName:
        return
    assert not name.startswith("/")
    assert all(part and not part.startswith(".") for part in name.split("/"))


@pytest.mark.parametrize("prefix", ["", "metadata", "metadata/", "metadata/2026-11-", "a/b/c.js"])
def test_prefixes_end_anywhere(prefix: str) -> None:
    assert _PREFIX.fullmatch(prefix)


@pytest.mark.parametrize("prefix", ["/", "..", "../", "a/../", "a//", ".incoming/", "a/.b", "a\n"])
def test_no_prefix_leaves_the_vault(prefix: str) -> None:
    assert not _PREFIX.fullmatch(prefix)


def test_a_batch_keeps_the_last_object_of_a_name(clock: FixedClock) -> None:
    batch = ObjectBatch(clock)

    batch.store_metadata("a", {"n": 1})
    name = batch.store_metadata("a", {"n": 2})

    assert {name: orjson.loads(body) for name, body in batch.objects.items()} == {name: {"n": 2}}


def test_what_json_has_not_cannot_be_stored(clock: FixedClock) -> None:
    with pytest.raises(VaultError, match=r"metadata/2026-11-02/a\.json cannot be stored: .*object"):
        ObjectBatch(clock).store_metadata("a", {"x": object()})


def test_s3_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atlas.stores.find_spec", lambda name: None)

    with pytest.raises(ConfigError, match=r"pip install (-e '.*\[s3\]|'s3fs)"):
        S3Store("s3://bucket", None)
