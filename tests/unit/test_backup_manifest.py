"""Manifests of backups: what is read back, and everything that is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.backups import manifest as manifests
from atlas.backups.manifest import Manifest, Part
from atlas.errors import BackupDamaged, BackupError
from tests.manifests import CONTENTS, MANIFEST, NAME


def test_a_manifest_is_read_as_it_was_written() -> None:
    found = Manifest.loads(MANIFEST.dumps(), NAME)
    assert found == MANIFEST
    assert (found.size_bytes, found.contents.rows) == (67, 5)
    assert found.contents.as_json() == CONTENTS.as_json()


@given(st.integers(0, len(MANIFEST.dumps()) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(place: int, change: int) -> None:
    body = bytearray(MANIFEST.dumps())
    body[place] ^= change
    try:
        found = Manifest.loads(bytes(body), NAME)
    except BackupError:
        return
    # Only white space between the values may change.
    assert found == MANIFEST


@given(st.integers(0, len(MANIFEST.dumps()) - 3))
def test_a_torn_manifest_is_refused(length: int) -> None:
    with pytest.raises(BackupDamaged, match=NAME):
        Manifest.loads(MANIFEST.dumps()[:length], NAME)


def test_a_manifest_of_a_later_version_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "FORMAT", 2)
    later = MANIFEST.dumps()
    monkeypatch.undo()
    with pytest.raises(BackupError, match="install the version that made it") as caught:
        Manifest.loads(later, NAME)
    # It is not damaged, and so not to be reported as that.
    assert not isinstance(caught.value, BackupDamaged)


def test_the_manifest_of_another_backup_is_refused() -> None:
    with pytest.raises(BackupDamaged, match="that of another one"):
        Manifest.loads(MANIFEST.dumps(), NAME.replace("0a", "ff"))


@pytest.mark.parametrize("name", ["../../etc/passwd", "part-1.zst", "manifest.json", "/part-00001.zst"])
def test_a_part_can_be_no_other_file(name: str) -> None:
    odd = replace(MANIFEST, parts=(Part(name=name, size_bytes=1, sha256="0" * 64),))
    with pytest.raises(BackupDamaged, match=re.escape(name)):
        Manifest.loads(odd.dumps(), NAME)


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.pop("parts"),
        lambda value: value["parts"][0].update(size_bytes="64"),
        lambda value: value["parts"][0].update(name=5),
        lambda value: value["contents"]["tables"][0].update(rows=None),
        lambda value: value["contents"].update(database_bytes=[]),
        lambda value: value["contents"].update(created_at="yesterday"),
        lambda value: value.update(seconds="1", recipient_fingerprint=5),
    ],
)
def test_a_manifest_without_what_it_needs_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    value = orjson.loads(MANIFEST.dumps())
    del value["digest"]
    change(value)
    value["digest"] = sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()
    with pytest.raises(BackupDamaged, match="not well-formed"):
        Manifest.loads(orjson.dumps(value), NAME)


@given(st.datetimes(timezones=st.just(UTC), min_value=datetime(2000, 1, 1), max_value=datetime(2200, 1, 1)))  # noqa: DTZ001
def test_names_tell_the_second_and_sort_by_it(at: datetime) -> None:
    name = manifests.new_name(at)
    assert manifests.NAME.fullmatch(name)
    assert manifests.begun_at(name) == at.replace(microsecond=0)
    assert name != manifests.new_name(at)
