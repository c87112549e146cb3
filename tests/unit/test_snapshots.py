"""Snapshots: equal bytes for equal content, increments, and no damage that passes unnoticed."""

from __future__ import annotations

import math
import struct
from base64 import b85decode
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from hashlib import blake2b
from typing import Any

import msgpack
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from maia.learning.evidence import EvidenceKey, EvidenceRow
from maia.learning.importance import Importance
from maia.learning.patterns import Condition, Operator, Pattern, PatternType
from maia.learning.snapshots import (
    Remembered,
    Snapshot,
    SnapshotError,
    Tombstone,
    apply,
    difference,
    id_of,
    read,
    restored,
    write,
)
from tests.any_patterns import patterns_of

NOW = datetime(2026, 11, 29, 12, 0, 0, 123456, tzinfo=UTC)
TODAY = NOW.date()

RETRY = Pattern(
    PatternType.ERROR_RECOVERY,
    {"error": "quota", "action": "wait"},
    "After “quota”, wait — that helped",
    (Condition("error", Operator.EQUALS, "quota"), Condition("hour", Operator.AT_LEAST, 7)),
    "wait",
    {"cost": 0.1, "steps": [1, 2], "nested": {"b": None, "a": True}},
)
SEASON = Pattern(PatternType.SEASONAL_PROFILE, {"series": "cpu"}, "Busy at noon")
GONE = Pattern(PatternType.ANOMALY, {"series": "disk"}, "Odd")


def row(
    pos: int = 1, neg: int = 0, reward: float = 0.5, seen: datetime = NOW, version: int = 1
) -> EvidenceRow:
    return EvidenceRow(pos, neg, reward, seen, version)


FULL = Snapshot(
    NOW,
    {
        RETRY.id: Remembered(RETRY, True, Importance(12.5, 3.25, NOW), 4, NOW - timedelta(days=9), NOW),
        SEASON.id: Remembered(SEASON),
        GONE.id: Remembered(GONE, forgotten=Tombstone(NOW, "operator")),
    },
    {
        EvidenceKey(RETRY.id, "site-a", TODAY): row(7, 2, -3.75, NOW, 9),
        EvidenceKey(RETRY.id, "site-b", TODAY - timedelta(days=1)): row(1, 0, 0.0, NOW, 2),
        EvidenceKey(SEASON.id, "site-a", TODAY): row(),
    },
    first_day=TODAY - timedelta(days=90),
)
WRITTEN = write(FULL)

# Any content

texts = st.text(st.characters(codec="utf-8"), max_size=12)
numbers = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
instants = st.datetimes(datetime(1900, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
days = st.dates(TODAY - timedelta(days=5), TODAY)
patterns = patterns_of(texts, numbers)
amounts = st.floats(allow_nan=False)
remembered = st.builds(
    Remembered,
    patterns,
    st.booleans(),
    st.one_of(st.none(), st.builds(Importance, amounts, amounts, instants)),
    st.integers(1, 2**40),
    st.one_of(st.none(), instants),
    st.one_of(st.none(), instants),
    st.one_of(st.none(), st.builds(Tombstone, instants, texts)),
)
counters = st.integers(0, 2**63 - 1)
rows = st.builds(EvidenceRow, counters, counters, amounts, instants, st.integers(1, 2**40))
ids = st.binary(min_size=16, max_size=16).map(bytes.hex)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    kept = draw(st.lists(remembered, max_size=4))
    known = {each.pattern.id: each for each in kept}
    about = st.one_of(ids, st.sampled_from(sorted(known))) if known else ids
    evidence = draw(st.dictionaries(st.builds(EvidenceKey, about, texts, days), rows, max_size=5))
    removed = frozenset(draw(st.sets(ids, max_size=2))) - known.keys()
    base = draw(st.one_of(st.none(), st.text("0123456789abcdef", min_size=64, max_size=64)))
    first_day = draw(st.one_of(st.none(), days))
    return Snapshot(draw(instants), known, evidence, base, removed, first_day)


@settings(deadline=None)
@given(snapshots())
def test_what_was_written_is_read(snapshot: Snapshot) -> None:
    written = write(snapshot)
    assert read(written) == snapshot
    assert write(read(written)) == written


def backwards(content: Mapping[Any, Any]) -> dict[Any, Any]:
    return dict(reversed(content.items()))


def test_equal_content_makes_equal_bytes() -> None:
    retry = Pattern(
        RETRY.type,
        backwards(RETRY.signature),
        RETRY.statement,
        RETRY.conditions,
        RETRY.action,
        backwards(RETRY.data),
    )
    abroad = timezone(timedelta(hours=5, minutes=30))
    other = Snapshot(
        NOW.astimezone(abroad),
        backwards({**FULL.patterns, RETRY.id: replace(FULL.patterns[RETRY.id], pattern=retry)}),
        backwards(FULL.evidence),
        first_day=FULL.first_day,
    )
    assert write(other) == WRITTEN
    assert write(replace(FULL, created_at=NOW + timedelta(microseconds=1))) != WRITTEN


def test_numbers_keep_their_kind() -> None:
    found = read(WRITTEN).patterns[RETRY.id].pattern
    assert repr(found.conditions) == repr(RETRY.conditions)
    assert {name: type(value) for name, value in found.data.items()} == {
        name: type(value) for name, value in RETRY.data.items()
    }
    assert found.data["nested"] == {"a": True, "b": None}


def test_an_empty_snapshot_is_one() -> None:
    assert read(write(Snapshot(NOW))) == Snapshot(NOW)


# Damage


@settings(deadline=None)
@given(st.integers(0, len(WRITTEN) - 1), st.integers(1, 255))
def test_any_changed_byte_is_found(at: int, change: int) -> None:
    damaged = bytearray(WRITTEN)
    damaged[at] ^= change
    with pytest.raises(SnapshotError):
        read(bytes(damaged))


def test_each_single_bit_is_protected() -> None:
    for at in range(len(WRITTEN)):
        damaged = bytearray(WRITTEN)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(SnapshotError):
            read(bytes(damaged))


def test_any_cut_is_found() -> None:
    for length in range(len(WRITTEN)):
        with pytest.raises(SnapshotError):
            read(WRITTEN[:length])


@given(st.binary(min_size=1, max_size=64))
def test_bytes_at_the_end_are_found(more: bytes) -> None:
    with pytest.raises(SnapshotError):
        read(WRITTEN + more)


@given(st.binary(max_size=200))
def test_any_other_file_is_refused(body: bytes) -> None:
    with pytest.raises(SnapshotError, match="no snapshot of patterns"):
        read(body)


def directory(written: bytes) -> tuple[dict[str, Any], int]:
    """The header, and where the blocks begin."""
    _, _, length = struct.unpack_from("<8sHI", written)
    return msgpack.unpackb(written[14 : 14 + length]), 14 + length + 16


def test_errors_name_the_damaged_block() -> None:
    header, at = directory(WRITTEN)
    for name, length, _, _ in header["blocks"]:
        damaged = bytearray(WRITTEN)
        damaged[at + length // 2] ^= 0x10
        with pytest.raises(SnapshotError, match=rf"block {name} is damaged"):
            read(bytes(damaged))
        with pytest.raises(SnapshotError, match=rf"cut off in its block {name}$"):
            read(WRITTEN[: at + length - 1] + bytes(32))
        at += length


def test_errors_tell_header_and_total_apart() -> None:
    damaged = bytearray(WRITTEN)
    damaged[20] ^= 1
    with pytest.raises(SnapshotError, match="header is damaged"):
        read(bytes(damaged))
    damaged = bytearray(WRITTEN)
    damaged[-1] ^= 1
    with pytest.raises(SnapshotError, match="total checksum"):
        read(bytes(damaged))
    with pytest.raises(SnapshotError, match="header is cut off"):
        read(WRITTEN[:40])


def sealed(start: bytes, blocks: bytes) -> bytes:
    """Bytes with checksums that are right."""
    whole = start + blake2b(start, digest_size=16).digest() + blocks
    return whole + blake2b(whole, digest_size=32).digest()


def with_version(version: int) -> bytes:
    _, at = directory(WRITTEN)
    start = WRITTEN[: at - 16]
    return sealed(start[:8] + struct.pack("<H", version) + start[10:], WRITTEN[at:-32])


def test_newer_versions_are_refused() -> None:
    assert with_version(2) == WRITTEN
    with pytest.raises(SnapshotError, match="has format version 3; this version reads up to 2: upgrade"):
        read(with_version(3))
    with pytest.raises(SnapshotError, match="impossible format version 0"):
        read(with_version(0))


def test_a_whole_file_that_makes_no_sense_is_refused() -> None:
    header, at = directory(WRITTEN)
    for change in ({"patterns": 7}, {"created_at_us": "today"}, {"first_day": 10**12}, {"blocks": []}):
        packed = msgpack.packb({**header, **change})
        blocks = WRITTEN[at:-32] if "blocks" not in change else b""
        with pytest.raises(SnapshotError, match="makes no sense"):
            read(sealed(WRITTEN[:10] + struct.pack("<I", len(packed)) + packed, blocks))


def test_when_a_pattern_was_remembered_is_kept() -> None:
    told = replace(FULL, patterns={SEASON.id: Remembered(SEASON, remembered_at=NOW)}, evidence={})
    assert read(write(told)) == told


def test_the_first_version_is_read_for_ever() -> None:
    """The bytes are those that version 1 wrote for this content; never write them anew."""
    assert read(b85decode(FIRST_VERSION)) == FULL


# What can't be written


@pytest.mark.parametrize(
    "wrong",
    [
        replace(FULL, created_at=datetime(2026, 11, 29)),  # noqa: DTZ001
        replace(FULL, removed=frozenset({RETRY.id})),
        replace(FULL, removed=frozenset({"short"})),
        replace(FULL, evidence={EvidenceKey("G" * 32, "n", TODAY): row()}),
        replace(FULL, evidence={EvidenceKey("A" * 32, "n", TODAY): row()}),
        replace(FULL, patterns={SEASON.id: Remembered(replace(SEASON, data={"x": math.nan}))}),
        replace(FULL, patterns={SEASON.id: Remembered(replace(SEASON, data={"x": {1, 2}}))}),
        replace(FULL, evidence={EvidenceKey(RETRY.id, "n", TODAY): row(2**63)}),
    ],
)
def test_what_has_no_place_is_refused(wrong: Snapshot) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError)):
        write(wrong)


# Increments


@settings(deadline=None)
@given(snapshots(), snapshots(), st.integers(0, 3))
def test_an_increment_turns_its_base_into_the_present(base: Snapshot, other: Snapshot, kept: int) -> None:
    base = replace(base, base=None, removed=frozenset(), first_day=None)
    now = later(base, other, kept)
    base_id = id_of(write(base))
    increment = read(write(difference(base, base_id, now)))
    assert apply(base, base_id, increment) == now


def later(base: Snapshot, other: Snapshot, kept: int) -> Snapshot:
    """A state that can follow another: patterns came and went, counters rose, and old days expired."""
    patterns = {**dict(sorted(base.patterns.items())[:kept]), **other.patterns}
    first = TODAY - timedelta(days=2)
    gone = base.patterns.keys() - patterns.keys()
    evidence = {key: each for key, each in other.evidence.items() if key not in base.evidence}
    for key, each in base.evidence.items():
        raised = min(each.pos + 1, 2**63 - 1)
        evidence[key] = replace(each, pos=raised, sum_reward=1.5, version=each.version + 1)
    evidence = {
        key: each for key, each in evidence.items() if key.pattern_id not in gone and key.day >= first
    }
    return Snapshot(other.created_at, patterns, evidence, first_day=first)


def test_an_increment_holds_only_what_changed() -> None:
    key = EvidenceKey(SEASON.id, "site-a", TODAY)
    now = replace(FULL, evidence={**FULL.evidence, key: row(2, version=2)})
    increment = difference(FULL, id_of(WRITTEN), now)
    assert increment.patterns == {}
    assert increment.evidence == {key: row(2, version=2)}
    assert len(write(increment)) < len(WRITTEN)


def test_a_chain_of_increments_is_restored_in_its_order() -> None:
    second = replace(
        FULL,
        patterns={each: FULL.patterns[each] for each in (RETRY.id, SEASON.id)},
        evidence={**FULL.evidence, EvidenceKey(SEASON.id, "b", TODAY): row(3)},
    )
    third = replace(second, patterns={RETRY.id: Remembered(RETRY)}, evidence={})
    third = replace(third, evidence={k: v for k, v in second.evidence.items() if k.pattern_id == RETRY.id})
    first_file = WRITTEN
    second_file = write(difference(FULL, id_of(first_file), second))
    third_file = write(difference(second, id_of(second_file), third))
    assert restored([first_file]) == FULL
    assert restored([first_file, second_file, third_file]) == third
    with pytest.raises(SnapshotError, match="is for the base"):
        restored([first_file, third_file])
    with pytest.raises(SnapshotError, match="the first snapshot is an increment"):
        restored([second_file, third_file])
    with pytest.raises(SnapshotError, match="no snapshot to restore"):
        restored([])
    with pytest.raises(SnapshotError, match="total checksum"):
        restored([first_file, second_file[:-1] + b"?"])


def test_days_are_utc_days() -> None:
    assert isinstance(read(WRITTEN).first_day, date)
    assert read(WRITTEN).created_at.utcoffset() == timedelta()


FIRST_VERSION = (
    "iBL>XK~xP20RUPA004)iVqtS-z@}nsZ)0n7+yESuqiJMwIWWW!D$5N(NNI4oB<;Cl7=;Kll&f%IbaZ8MZgVbaWEBj=5KomfI?Y*k"
    "@PCn!JD<avc$BShVRUq5a&B`jba`-PGAYCmwi%C=oF58N>^A>mvOFIMl(KMPbaZ8MZgVbkX=iR>bairNOh?2JrFbwg>C#1#)F=9I"
    "T{t33l(KMPbaZ8MZgVbkbYXO5ZDnqBL_5R~6p%G<m@qCmu=(l9^V;B<l(TSQbaZ8MZgVbUZ*F91bZKvHb2%`?5NMsiaG+r8u~!~3"
    "4Pp)eqm-|3VRUq5a&B`jVPkY@Z*CC?#1KQiV3_Qxc_W5eC}$y!V)&G;aA9<GWpZwFE@WYJVM##55PU_fvzXn+ogn+oL8z5<zLc+U"
    "VRUq5a&B`jaA|ICWn>Hk#1N9mNp5tnvmzDioW!-<vuu>FaA9<GWpZwFE_PvTb!B7>1H=%L$VqN=ud^Z*>zu^3+_P+yuyA2?bY*gG"
    "b1rsea&u{KZW9>95dKB|WyQ!1PwMMJ_557mvy`)NVRUq5a&B`jV{&C-bY)~;VRRuF#1P{swnT>VQpi>2DjOHOI7pPUaA9<GWpZwF"
    "E_HBZVRU6=Utx417{m}V1Do>d$XH6pXOhr;#s#F5wQyl{bY*gGb1r6Ya%XRJbY*T|VRRuF#1L{6SHx(WBVf+oGI|v`*{GDYaA9<G"
    "WpZwFE@p3XXK!?LWo}<$c@+%A5SVr8qSyM0{3wZ0hQPj9)s(JjZE$aLbYX5|WiE4cX%Ps-5RW}`R8t2<E4X>lKQ^~U#+0sUZE$aL"
    "bYX5|WiD)VX%Ps-5Vy=Ogk00(U*4zq3W!s6DU_{gZE$aLbYX5|WiDZK5eUQ(<<kHy>{ZSGOl6g_i81L4l&)oVX=G(?V`VOGZ)9b2"
    "7!Sk{`U2|IZ-Xi~=jQEPUMf9xl(1!XX=G(?V`VOIVRUq5a&8q2#1OQaW(a?v&Q=z{BYJPuxd)W3Wp-&~Wo~0-E^cpRWfcs>5F}`j"
    "RBbSW!ds)c<c>q@^OUS*c4=f~ZewLGWMO#~48#y1<AXNkbVM0U)t*q>A8Lt|tYvm-WMyt+WiD`Ua}yZE5V20GUJqdZOLGz61xwHx"
    "D3q*ac4=f~ZewLGZe?c@7{m}wiDf35X<w&~I3-?uCn<rHvt@Q^WMyt+WiE4dZC`R_cVTj578t}37r3AZ=gVicAktD=2FXNIl(J=Z"
    "X=G(?V`VOEVRLj}b7f_2AsECEH14%a3~tx-X5W$_{u>x9l(1!XX=G(?V`VOOWpZ<AZ*CJ9#1Ibw`X%#|0BCgN6(d1RS)G)pa%F9A"
    "c4cG<0K^dA{JAe$o)t=Kwq>8%-N7@hV{&C-bY)~;VRT=0bI$+<VQC0nQb4F>c4=f~ZewKwsb*<%b97&1VR_9^*r;$}baZ8MZgT^t"
    "a%F9Ac4cG$DJcwk^iHftBEmE0Ngsm3D77#BATWUe04M^yXh|Y2#6dRGut-Y(5H$Y+Z)L}sR86YMq#j=SDsm*s@>IXM&gjU8<(ujb"
    "=P0!={U8is000010ssI200000001bpFa01XNdW+pr(teyZDDMAuybW$b8l{8Y+rD4Z)Rz1Wv*p%a&K~9a%E$0c4cyTD77#BAV(bn"
    "0K@~6v3nwOWpZg{b0Rt-WNCA2B7Lx9aCIVm*&%x(VPkY@Z*C$wB6neFbRsMwWpZ+Faw0k+admHWVIqA20Lqw5D77#BAUoLs0F$Fn"
    "WMr&Db#r+jVRRsFZ*OkdCqZU(WpW_mfShr4Z**befSoKLcVTICAmV_OAarP9bRcMDY;a{{D77#BATWUe0F$CyU7}lE*(Y0DB4u)N"
    "Z*n3mB0VB3B5`$ZbYUW0EL$RIZ*_7aEFwNVA}lvuT`09L{U8WI005J~z@&F!X>=&HFa01u0RjM%qI-R!dwtnAdm>|Rb95p)FfK7H"
    "B5q}KbY)~BI(s5vB06+(b!99fVj?<jb!=>XEFyDsWpHyMI$JR;GF^QrwJ-f30~r7S0003fwJ-f30~r7S0003fwJ-f37*zlOAOQgc"
    "0096rAOa}0Fa01G!2kdN06+i$@&EwK008>{0J8u9U;qFHfPerfwJ-f37{LGl002M$08#(|UH||H003zK0AT<C27rJ7D77#BAQ-^_"
    "06+i$QUCy6000O80BHaKVE_OI0001hfGD*u{U8is005JyZ*XODVRUbDz`!WAFa010K>z>%0000004YEywJ-f32tfb<00000000U="
    "D77#BAP7MK06<b+2x(yk04TLD{U8r{005Gvb7^#CEn%i}X>?^RVkosQ{U8is000330ssI200000001bpFa014VE_OC0096100000"
    "0000ewJ-f33}FBOGBPnyQBeQ@00000D77#BAQ)8u03ZPe0RRC2G#~;fwJ-f37)<~G7ytqQ0RSHu0w}dF{U8`^001}u;0^#kzyJXN"
    "%uWa>wJ-f37{LGlKtMo}lJf2C#10ND3JM+o0000000000D77#BAQ)8u03ZPg0ssL3G#~;fwJ-f300961jb9HE<c0(ZEiM=q|NR`U"
    "8;&`Tw0g)q2C&FSKMm+X"
)


def signed(header: object, blocks: bytes = b"") -> bytes:
    """A file whose checksums are right, whatever its header says."""
    packed = header if isinstance(header, bytes) else msgpack.packb(header)
    start = struct.pack("<8sHI", b"\x89PLPAT\r\n", 1, len(packed)) + packed
    whole = start + blake2b(start, digest_size=16).digest() + blocks
    return whole + blake2b(whole, digest_size=32).digest()


def bombs(count: int, size: int) -> bytes:
    """A small file whose blocks are large once they are decompressed."""
    body = zstandard.ZstdCompressor(write_content_size=True).compress(bytes(size))
    entry = [len(body), size, blake2b(body, digest_size=16).digest()]
    return signed({"blocks": [[f"b{n}", *entry] for n in range(count)]}, body * count)


@pytest.mark.parametrize(
    "header",
    [
        b"", b"\xc1", b"\x93\x01", [], None, {}, {"blocks": None}, {"blocks": 3}, {"blocks": [1]},
        {"blocks": [["ids", "1", 2, b""]]},
        {"blocks": [["ids", -5, 0, blake2b(b"", digest_size=16).digest()]]},
        {"blocks": [[[], 0, 0, b""]]}, {"blocks": [["ids", 0, "many", b""]]}, {"blocks": []},
    ],
)  # fmt: skip
def test_a_signed_header_that_makes_no_sense_is_refused(header: object) -> None:
    with pytest.raises(SnapshotError):
        read(signed(header))


def test_a_file_that_would_fill_the_memory_is_refused_before_it_does() -> None:
    bomb = bombs(300, 1 << 23)
    assert len(bomb) < 1 << 20
    with pytest.raises(SnapshotError, match="more than 2 GiB of memory"):
        read(bomb)
