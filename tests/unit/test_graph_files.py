"""Files of graphs: equal bytes for equal content, increments, JSON, and no damage that passes unnoticed."""

from __future__ import annotations

import io
import struct
from base64 import b85decode
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any
from uuid import UUID
from zlib import decompress

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maia.graph import files, json_lines, values
from maia.graph.arrays import pairs_of
from maia.graph.files import GraphSnapshot, apply, difference, read, restored
from maia.graph.values import NO_VALUES, Elements, Kind, Values
from maia.learning import column_file
from maia.learning.column_file import SnapshotError, id_of
from tests.graph_arrays import Known, Numbers, any_values, atoms, contents, graph_of, told

NOW = datetime(2026, 11, 29, 12, 0, 0, 123456, tzinfo=UTC)
MUSIC, CAFE = Known("tag", "music"), Known("tag", "café 🎵")
VIDEO = Known("video", "dQw4w9WgXcQ")
TAGGED = Known("tagged", "", (VIDEO.handle, MUSIC.handle))
RELATED = Known("related_to", "", (TAGGED.handle, CAFE.handle, VIDEO.handle))
ATOMS: Mapping[Known, Numbers] = {
    MUSIC: Numbers(12, 13, 7, 1, 1, np.nan, 1_764_000_000_123_456, 2.5, 0.125, 1, 1_764_003_600_000_001),
    CAFE: Numbers(0, 0, 0, 0, 4),
    VIDEO: Numbers(1e300, 2e300, 2**62, 3, 9, np.nan, -1),
    TAGGED: Numbers(weight=0.1, sti=-3.25, attended_us=-7),
    RELATED: Numbers(0.5, 1.5, weight=-1),
}
VALUES = Values.of(
    {
        CAFE.handle: {"shown": Elements(Kind.TEXTS, ["Café 🎵", ""])},
        MUSIC.handle: {
            "mood": Elements(Kind.FLOATS, [0.5, -1e300, 3]),
            "near": Elements(Kind.HANDLES, [CAFE.handle, VIDEO.handle]),
            "none": Elements(Kind.TEXTS, []),
        },
        TAGGED.handle: {"mood": Elements(Kind.FLOATS, []), "shown": Elements(Kind.FLOATS, [7])},
    }.items()
)
FULL = GraphSnapshot(graph_of(ATOMS), NOW, NOW + timedelta(seconds=1), values=VALUES)


def written(snapshot: GraphSnapshot) -> bytes:
    return b"".join(files.write(snapshot))


def in_file(body: bytes) -> io.BytesIO:
    return io.BytesIO(body)


def as_json(snapshot: GraphSnapshot) -> list[bytes]:
    return b"".join(json_lines.write(snapshot)).splitlines(keepends=True)


def content(snapshot: GraphSnapshot) -> tuple[object, ...]:
    named = (snapshot.created_at, snapshot.saved_at, snapshot.base, snapshot.removed.tolist())
    return *named, contents(snapshot.graph), told(snapshot.values)


WRITTEN = written(FULL)
LINES = as_json(FULL)

instants = st.datetimes(datetime(1900, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@st.composite
def snapshots(draw: st.DrawFn) -> GraphSnapshot:
    known = draw(atoms())
    base = draw(st.one_of(st.none(), st.text("0123456789abcdef", min_size=64, max_size=64)))
    # Those of increments are also of atoms that it doesn't have, or of none any more.
    handles = [each.handle for each in known] + (draw(st.lists(st.uuids(), max_size=2)) if base else [])
    return GraphSnapshot(
        graph_of(known),
        draw(instants),
        draw(instants),
        base,
        draw(st.lists(st.uuids(), max_size=2).map(pairs_of)),
        draw(any_values(handles, least=0 if base else 1)),
    )


@settings(max_examples=20)
@given(snapshots())
def test_what_was_written_is_read(snapshot: GraphSnapshot) -> None:
    body = written(snapshot)
    id_, found = read(in_file(body))
    assert content(found) == content(snapshot)
    assert (id_, written(found)) == (id_of(body), body)
    lines = as_json(snapshot)
    found = json_lines.read(lines)
    assert content(found) == content(snapshot)
    assert as_json(found) == lines


@settings(max_examples=30)
@given(st.data())
def test_a_difference_of_values_makes_one_the_other(data: st.DataObject) -> None:
    known = [UUID(int=nth << 60) for nth in range(5)]
    base = data.draw(any_values(data.draw(st.lists(st.sampled_from(known), unique=True))))
    left = data.draw(st.lists(st.sampled_from(known), unique=True).map(sorted))
    # Some of the atoms have the same values as before.
    drawn, before = data.draw(any_values(left)), dict(base.by_atom())
    same = data.draw(st.sets(st.sampled_from(known))) & {*left} & before.keys()
    now = Values.of({**dict(drawn.by_atom()), **{each: before[each] for each in same}}.items())
    changed = values.difference(base, now, pairs_of(left))
    assert told(values.update(base, changed, pairs_of(left))) == told(now)
    values.check_values(changed)
    assert same.isdisjoint(handle for handle, _ in changed.by_atom())
    assert not len(values.difference(now, now, pairs_of(left)).handles)


def test_long_columns_are_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_file, "_BLOCK_BYTES", 16)
    body = written(FULL)
    header, _ = directory(body)
    names = [each[0] for each in header["blocks"]]
    assert [name for name in names if name.startswith("seen_us/")] == ["seen_us/0", "seen_us/1", "seen_us/2"]
    assert content(read(in_file(body))[1]) == content(FULL)


def test_equal_content_makes_equal_bytes() -> None:
    backwards = graph_of(dict(reversed(ATOMS.items())))
    assert written(replace(FULL, graph=backwards)) == WRITTEN
    assert as_json(replace(FULL, graph=backwards)) == LINES
    assert written(replace(FULL, saved_at=NOW)) != WRITTEN


def test_json_is_for_people() -> None:
    assert LINES[0] == (
        b'{"format":"pleiades graph","version":2,"atoms":5,"valued":0,"removed":0,"created_at":'
        b'"2026-11-29T12:00:00.123456+00:00","saved_at":"2026-11-29T12:00:01.123456+00:00","base":null}\n'
    )
    [music] = [line.decode() for line in LINES if b'"music"' in line]
    assert music == (
        f'{{"handle":"{MUSIC.handle}","type":"tag","name":"music","positive":12.0,"count":13.0,"pos":7,'
        '"neg":1,"sources":1,"seen_at":"2025-11-24T16:00:00.123456Z","sti":2.5,"lti":0.125,"vlti":1,'
        '"attended_at":"2025-11-24T17:00:00.000001Z","values":{"mood":{"floats":[0.5,-1e+300,3.0]},"near":'
        f'{{"handles":["{CAFE.handle}","{VIDEO.handle}"]}},"none":{{"texts":[]}}}}}}\n'
    )
    # Whoever edits the lines deletes the last one.
    edited = [line.replace(b'"sti":2.5', b'"sti":9.5') for line in LINES]
    with pytest.raises(SnapshotError, match="the checksum in line 7 is wrong"):
        json_lines.read(edited)
    graph = json_lines.read([LINES[0], *edited[-2:0:-1]]).graph
    assert contents(graph) == contents(graph_of({**ATOMS, MUSIC: replace(ATOMS[MUSIC], sti=9.5)}))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"pos":7', b'"pos":7.5'), (b'"sources":4', b'"sources":260'), (b'"vlti":1', b'"vlti":"1"'),
        (b'"sti":2.5', b'"sti":1e39'), (b'"sti":2.5', b'"sti":null'), (b"00.123456Z", b"00.123456"),
        (b"00.123456Z", b"00+01:00Z"), (b"00.123456Z", b"noonZ"), (b'"name":"music"', b'"name":7'),
        (b'"pos":7,', b""), (b'"type":"tag"', b'"type":null'), (b'"handle":"', b'"handle":"0'),
        (b'"music"', b'"musik"'), (b"00:00\",\"base\":null", b"00:00\",\"base\":[]"),
        (b'01.123456+00:00"', b'01.123456"'), (b'"tag"', b"5"),
        (b"0.5,", b'"0.5",'), (b'"mood":{', b'"":{'), (b'{"texts":[]}', b'{"texts":[],"floats":[]}'),
        (b'{"texts":[]}', b'{"text":[]}'), (b'{"texts":[]}', b'{"texts":"a"}'), (b'{"texts":[]}', b"[]"),
        (b'{"texts":[]}', b'{"texts":["\\u0000"]}'), (b'{"texts":[]}', b'{"handles":["x"]}'),
    ],
)  # fmt: skip
def test_json_that_makes_no_sense_is_refused(old: bytes, new: bytes) -> None:
    lines = [line.replace(old, new) for line in LINES[:-1]]
    assert lines != LINES[:-1]
    with pytest.raises(SnapshotError, match="makes no sense"):
        json_lines.read(lines)


# Damage


def test_any_changed_byte_and_any_cut_is_found() -> None:
    for at in range(len(WRITTEN)):
        damaged = bytearray(WRITTEN)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(SnapshotError):
            read(in_file(bytes(damaged)))
        with pytest.raises(SnapshotError):
            read(in_file(WRITTEN[:at]))
    with pytest.raises(SnapshotError, match="bytes after its last block"):
        read(in_file(WRITTEN + b"\0"))


def test_any_damage_of_json_is_found() -> None:
    whole = b"".join(LINES)
    for at in range(0, len(whole) - len(LINES[-1]) - 1, 3):
        with pytest.raises(SnapshotError):
            json_lines.read(in_file(whole[:at]))
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(SnapshotError):
            json_lines.read(in_file(bytes(damaged)))
    with pytest.raises(SnapshotError, match="line 7 is more than the first line says"):
        json_lines.read([*LINES[:-1], LINES[1]])
    with pytest.raises(SnapshotError, match="the lines end after line 4; 2 are missing"):
        json_lines.read(LINES[:4])


def directory(body: bytes) -> tuple[dict[str, Any], int]:
    """The header, and where the blocks begin."""
    _, _, length = struct.unpack_from("<8sHI", body)
    return msgpack.unpackb(body[14 : 14 + length]), 14 + length + 16


def test_errors_name_the_damaged_block() -> None:
    header, at = directory(WRITTEN)
    assert len(header["blocks"]) == 29
    for name, length, _, _ in header["blocks"]:
        damaged = bytearray(WRITTEN)
        damaged[at + length // 2] ^= 0x10
        with pytest.raises(SnapshotError, match=rf"block {name} is damaged"):
            read(in_file(bytes(damaged)))
        with pytest.raises(SnapshotError, match=rf"cut off in its block {name}$"):
            read(in_file(WRITTEN[: at + length - 1] + bytes(32)))
        at += length


def sealed(version: int, header: Mapping[str, Any], blocks: bytes) -> io.BytesIO:
    """A file with checksums that are right."""
    packed = msgpack.packb(header)
    start = struct.pack("<8sHI", b"\x89PLGRA\r\n", version, len(packed)) + packed
    whole = start + blake2b(start, digest_size=16).digest() + blocks
    return in_file(whole + blake2b(whole, digest_size=32).digest())


def test_other_versions_are_told_by_name() -> None:
    header, at = directory(WRITTEN)
    blocks = WRITTEN[at:-32]
    assert sealed(2, header, blocks).getvalue() == WRITTEN
    with pytest.raises(SnapshotError, match="has format version 3; this version reads up to 2: upgrade"):
        read(sealed(3, header, blocks))
    with pytest.raises(SnapshotError, match="its columns are not those of version 1"):
        read(sealed(1, header, blocks))
    with pytest.raises(SnapshotError, match="impossible format version 0"):
        read(sealed(0, header, blocks))
    with pytest.raises(SnapshotError, match="lines have format version 3; this version reads up to 2: up"):
        json_lines.read([LINES[0].replace(b'"version":2', b'"version":3'), *LINES[1:]])
    with pytest.raises(SnapshotError, match="no snapshot of a graph"):
        read(in_file(b"\x89PLPAT\r\n" + WRITTEN[8:]))


@pytest.mark.parametrize(
    "change",
    [
        {"nodes": 4}, {"values": 5}, {"types": ["tag"]}, {"types": None}, {"created_at_us": "today"},
        {"base": "me"}, {"base": [0] * 64}, {"types": [1, 2, 3, 4]},
        {"columns": []}, {"columns": [["vlti", "O", 5]]}, {"columns": [["vlti", "u1", 10**18]]},
        {"columns": [["vlti", "u1", -1]]}, {"blocks": [["vlti/0", -1, 2, b""]]},
    ],
)  # fmt: skip
def test_a_whole_file_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    header, at = directory(WRITTEN)
    with pytest.raises(SnapshotError, match="makes no sense"):
        read(sealed(2, {**header, **change}, WRITTEN[at:-32]))


def test_columns_of_another_kind_are_refused() -> None:
    header, at = directory(WRITTEN)
    columns = [["sti", "f4", 5] if name == "weight" else [name, *rest] for name, *rest in header["columns"]]
    with pytest.raises(SnapshotError, match="makes no sense"):
        read(sealed(2, {**header, "columns": columns}, WRITTEN[at:-32]))
    swapped = [header["blocks"][1], header["blocks"][0], *header["blocks"][2:]]
    with pytest.raises(SnapshotError):
        read(sealed(2, {**header, "blocks": swapped}, WRITTEN[at:-32]))
    with pytest.raises(ValueError, match="columns are not those of version 2"):
        written(replace(FULL, graph=replace(FULL.graph, sti=FULL.graph.sti.astype(np.float64))))
    endless = Values.of([(MUSIC.handle, {"mood": Elements(Kind.FLOATS, [np.inf])})])
    assert told(read(in_file(written(replace(FULL, values=endless))))[1].values) == told(endless)
    with pytest.raises(ValueError, match="a value holds what JSON cannot"):
        as_json(replace(FULL, values=endless))
    with pytest.raises(ValueError, match="the column sti holds what JSON cannot"):
        as_json(replace(FULL, graph=graph_of({MUSIC: Numbers(sti=np.inf)})))


def test_a_file_that_would_fill_the_memory_is_refused_before_it_does() -> None:
    header, at = directory(WRITTEN)
    huge = [[name, length, 2**33, digest] for name, length, _, digest in header["blocks"]]
    with pytest.raises(SnapshotError, match="more than 16 GiB of memory"):
        read(sealed(2, {**header, "blocks": huge}, WRITTEN[at:-32]))


def test_the_first_version_is_read_for_ever() -> None:
    """The bytes are those that version 1 wrote for this content; never write them anew."""
    at = (NOW - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    graph = graph_of({atom: replace(each, attended_us=at if each.sti else 0) for atom, each in ATOMS.items()})
    former = replace(FULL, graph=graph, values=NO_VALUES)
    id_, found = read(in_file(b85decode(FIRST_VERSION)))
    assert content(found) == content(former)
    lines = decompress(b85decode(FIRST_LINES)).splitlines(keepends=True)
    assert content(json_lines.read(lines)) == content(former)
    # What is saved next is an increment on it.
    increment = written(difference(found, id_, FULL))
    assert content(restored([in_file(b85decode(FIRST_VERSION)), in_file(increment)])[1]) == content(FULL)


@pytest.mark.parametrize(
    ("change", "told_of"),
    [
        ({"handles": pairs_of([UUID(int=1)]), "starts": [0, 1]}, "an atom that is not there has values"),
        ({"starts": [0, 6, 6, 6]}, "not in the order of their keys|an atom without values"),
        ({"starts": [0, 1, 4, 5]}, "the numbers of values"),
        ({"keys": ("mood", "none", "near", "shown")}, "not in alphabetical order"),
        ({"keys": ("mood", "near", "none", "s" * 101)}, "no text of 1 to 100 characters"),
        ({"key_of": [0, 1, 2, 9, 0, 3]}, "a key that is not there"),
        ({"kind_of": [3] * 6}, "of a kind that is not there"),
        ({"kind_of": [1, 0, 2, 1, 0, 0]}, "a text of a value is cut off|handles of a value are cut off"),
    ],
)
def test_values_that_make_no_sense_are_refused(change: dict[str, Any], told_of: str) -> None:
    forms = {"starts": np.int64, "key_of": np.int32, "kind_of": np.uint8}
    columns = {name: np.array(each, forms[name]) if name in forms else each for name, each in change.items()}
    base = VALUES
    if "handles" in change:
        base = Values.of([(CAFE.handle, {"a": Elements(Kind.FLOATS, [1])})])
    odd = replace(FULL, values=replace(base, **columns))
    with pytest.raises(ValueError, match=told_of):
        files.check_all(odd)


# Increments


def test_a_chain_of_increments_is_restored_in_its_order() -> None:
    second = GraphSnapshot(graph_of({**ATOMS, Known("tag", "new"): Numbers()}), NOW, NOW)
    of_music = {"mood": Elements(Kind.FLOATS, [0.25])}
    third = GraphSnapshot(
        graph_of({MUSIC: Numbers(7), VIDEO: ATOMS[VIDEO]}),
        NOW,
        NOW,
        values=Values.of([(MUSIC.handle, of_music)]),
    )
    increment = difference(FULL, id_of(WRITTEN), second)
    # The values of three atoms are gone.
    assert (len(increment.graph), len(increment.values.handles), len(increment.values)) == (1, 3, 0)
    second_file = written(increment)
    third_file = written(difference(second, id_of(second_file), third))
    chain = [WRITTEN, second_file, third_file]
    for length, state in enumerate((FULL, second, third), start=1):
        id_, found = restored(map(in_file, chain[:length]))
        assert (id_, content(found)) == (id_of(chain[length - 1]), content(state))
    with pytest.raises(SnapshotError, match="is for the base"):
        restored(map(in_file, [WRITTEN, third_file]))
    with pytest.raises(SnapshotError, match="the first snapshot is an increment"):
        restored([in_file(second_file)])
    with pytest.raises(SnapshotError, match="no snapshot to restore"):
        restored([])
    with pytest.raises(SnapshotError, match="total checksum"):
        restored(map(in_file, [WRITTEN, second_file[:-1] + b"?"]))
    stray = replace(increment, removed=pairs_of([VIDEO.handle]))
    with pytest.raises(SnapshotError, match="makes no sense"):
        apply(FULL, id_of(WRITTEN), stray)
    stray = replace(increment, values=Values.of([(UUID(int=1), of_music)]))
    with pytest.raises(SnapshotError, match=r"makes no sense.*an atom that is not there has values"):
        apply(FULL, id_of(WRITTEN), stray)


FIRST_VERSION = (
    "iBL>OQb7$00RV6V004-jVqtS-z@}nsZ)0n7+yD`ju4rLyWNc+~UubD(XfH4^D8vw7T8<P;1#acGw&SXIo~U7zt!QCxWNc+~Uu<u8FEBA"
    "E#1Ocv5$g)_$0NPYr$=Vg+a;8#ba`-PUvFkFFcS*I5X!~>+>=}@=*v_Jlsr1-CzPyiVQpn!VtI6Bb1yIx6vPlsQq10RxQ4ye>4$;PA$8"
    "A`r*2_wWpghuBO1gIqpma#eL4k74x=R4c;ggul&4{GX>@rnFclQU5ENlgmWgYqpJ9~%#>7JS#+0gWb#!NMX>MmPFccKT5R78Cf1)G)2g"
    "`ZU=&3V;!<4FUZ*ysMX?A5VFfk~^5TqpzwFhUIXZR|n>q|Ks=#-~pZ*^{TFEBAE#1MQv<Okn1+B$Vp7HT?Twuh9ZaBp)jFc~Ps5Ev$qf"
    "-YE;Wdxsx%jCvv8I+}NWoIui5-7wFtGm~DYS^KHED+T=SSkwdl&N!Xb#h~6b1yIs1;h})MC)1@M&T$3wPP<59YI5ssCQ*)XJ~XUFdY=c"
    "5YR*8BXr;euQp@1c4KFQCX}gjWo2$(b#pH;F(||kE5MV4G(3;;D4K{)mj6CZl%;cYX)iDx6vPnB@?Jp@Z)rKoO^R$3%{d&DrEGL*FEAD"
    "q#1Q<vzuP~Tv2Juoa|$7UXjzn|c5HNMFE9=T#1IY5_yjKi(6m9nLyq?yuo<UgZ)|mKZgboK6O*iHVQyq>WpiI>X=iAnbvOl+t7u_vWNc"
    "+~Uu<u8qIEb0lc#ifaAjX_W};~_1(T|7VQpn!VtI6BbE0)L1(T(2VQpn|qIEGElciyDX>@s_bu<N&sBd+2XK!h4XQF8|1(T?7Z*ysMX?"
    "A6zW;g|trDJb(Zgiq%I0ciVaBp*>X*dOwqi$tqqG>n<lc#fUb#h~6bE0)I1(T+CWoc(<bfRW71(T<9Wo2$(b#tO=I0ciVb98B<W;6wpq"
    "il3(qGmJ&lcaWRbZMe>F$I&Xa%F9Ac4cH=XlZ9?qIEa`ldE!NZEtpEWM6D=ccOJT0Ig$kWnpw>WM5%)Uv+cO00v=c2wqY^rEF<#YjXmn"
    "Zf|5|a|5e$VRmI?Utx4#b#u=E24QIkZIpneba`-PbCjxbWo%(|Wn^D;Z=-Z!XQp&vXJ=((rFLm#WpAilT4jC(2slAS+VEH4_=G66Fa01"
    "WK>+|zpkF#d!Vl-U*Kb6n{aPWx%QaTozF?FA(y=&i+|Zm3_Upgp>GS<4wJ-f3C_w=L@%y~h{D%&il1!L}zg4}tp*)+(6GN6M!syKTaV="
    "l(I?*i0JYo@rD77#BAPP|c009F500IC20000ewJ-f36jcBKAO#Bw00969AOa}0Fa01I(EtE#b#rNBWKnlCcR5#QSYuIRVP?arAn>1#wJ"
    "5bO{U8)&001xm000950096pC;}+8Fa01CT>t<m1Ofp80096U&;ls6Fa01WK>+{&oB#j-0CfNW000000001p00000JOBUy0OSAw04O&A;"
    "P60x06#w{wJ-f3C_w=L0Gt2-004CW0000000000hyVZp06YKy0086w001gS0Qm4gegHo|D77#BASi_Z08j@200992KmY&$0RSQ>0w}dF"
    "{U9h!000;P0{{U49xwzbwJ-f31t|ak0SN>F0VuUE{U8*f00000007MZ0002Yz`($O%zuA>zdb0mFa01WK>+|j{{R30BL4sY0A&9F002S"
    "%00014{{R30ME?K)00#d6000300000ewJ-f36rlhB0000000000001BW002-x0002MD77#BAQWu?05|{uJ^%m!00968zyc_>Fa00|DF6"
    "Tg00000Qm0MwXKLD+dNFo-p;-=jEY{H5Mk!bBE+=BajT_G&"
)
FIRST_LINES = (
    "c-pO$U1}RK5XawpilEm-Ml<@@)!rgtXlW@$pU%>?*Lc?sCFBadLZ5qpo}d@%5jxrg+glpyK!spuq>*-h|B>{-a=%-<ku_}FrPjqXT&;F)"
    "d&h3rA?=2?->?R5m>c``z#4tSc4^%oQe=&|VPTitnBu2tJqk1&fTLXkHbPKe07|9J_2kfwgFCz&4Sz;^Hzd|<_Feb*=7HV0P3*{LK1UHT"
    "I*wp652ytXmCiiXAicG9U1gxv<CkrT9^HzZjawIIy&u{@?zSJ=u|3cb;G%H!`wb-pvN$x!nu^w>)r3Cu`&~%GlbzD$n7^L#S4%K6+V=%?"
    "Y*~W~lB+9LnIiizIWVJ1+6E6k@c>G3k)7Z&B;pE6I;f3E*`H_*ZA|@%C*Izxd;50vF5J$k(zO&PE_`+;GGzb^?F+TSO4gMX>X}uZvD$N1"
    "u*PygE@6qX(U$tcPVLAligMl2dLk8bQY(_AAM@ay=Bbp-pmaQ2Yh>{B@!^HK1($z*zxws<>yH_xIIEpFmQFn5h%+2D$EgGtKz%vYt&~no"
    "?KL=AW@EBdT<RRTw?qOEfmeV;qP4}SPdK~OO*dsM)$8};s&6-x;|G>w@-a|0+GxjPrI6Pe1IHLJSRYl$MU@N1yXZ81oNK60=fBvKhVT~+"
    "Y3x3=t2+whP*nNvie4tg>42>08Jeqk;cdF;37N?R=g-9PsQp7Gy7o^h2vAngwF7*mYFsW*zo47%+~<V8JOion+AHtsjG(*{HlwanCfQ=d"
    "Otcm?WULW|%-Kq#m8_C+S}CQaV~=ls11>JC4g"
)
