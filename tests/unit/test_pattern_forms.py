"""Patterns as JSON and as columns: equal bytes for equal content, and import that says what is wrong."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maia.learning.evidence import Counts, Evidence, EvidenceKey, EvidenceRow, merge
from maia.learning.forms import (
    FormError,
    columns,
    counted_elsewhere,
    document,
    export,
    files,
    from_document,
    from_export,
    from_files,
    from_json,
    path_of,
    rounded,
    table,
    to_json,
)
from maia.learning.known_patterns import known
from maia.learning.patterns import Condition, Operator, Pattern, PatternType
from tests.any_patterns import patterns_of

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)

RETRY = Pattern(
    PatternType.ERROR_RECOVERY,
    {"error": "quota", "action": "wait"},
    "After “quota”, wait",
    (Condition("error", Operator.EQUALS, "quota"), Condition("share", Operator.AT_LEAST, 0.123456789)),
    "wait",
    {"cost": 0.1 + 0.2, "steps": [1, 2 / 3]},
)
SEASON = Pattern(PatternType.SEASONAL_PROFILE, {"series": "cpu"}, "Busy at noon")
PAIR = known([(RETRY, Counts(30, 2, 10 / 3, NOW)), (SEASON, Counts())], pinned=[RETRY.id])


def test_a_file_is_what_people_expect() -> None:
    assert to_json(PAIR[0]).decode() == (
        f"""{{
  "action": "wait",
  "conditions": [
    {{
      "field": "error",
      "operator": "=",
      "value": "quota"
    }},
    {{
      "field": "share",
      "operator": ">=",
      "value": 0.123456789
    }}
  ],
  "data": {{
    "cost": 0.3,
    "steps": [
      1,
      0.666667
    ]
  }},
  "evidence": {{
    "confidence": 0.821266,
    "last_seen": "2026-11-29T12:00:00.000000Z",
    "neg": 2,
    "pos": 30,
    "reward": 3.33333,
    "strength": 0.911765
  }},
  "format": 1,
  "id": "{RETRY.id}",
  "pinned": true,
  "signature": {{
    "action": "wait",
    "error": "quota"
  }},
  "statement": "After “quota”, wait",
  "type": "error_recovery"
}}
"""
    )
    assert path_of(PAIR[0]) == f"error_recovery/{RETRY.id}.json"
    assert set(files(PAIR)) == {f"error_recovery/{RETRY.id}.json", f"seasonal_profile/{SEASON.id}.json"}


def test_equal_content_makes_equal_bytes() -> None:
    same = replace(
        RETRY,
        signature=dict(reversed(RETRY.signature.items())),
        data={"steps": (1, 0.6666667), "cost": 0.3},
    )
    abroad = NOW.astimezone(timezone(timedelta(hours=-3)))
    other = known([(SEASON, Counts()), (same, Counts(30, 2, 3.333333, abroad))], pinned=[RETRY.id])
    assert files(other) == files(PAIR)
    assert document(other) == document(PAIR)


# Any content

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
numbers = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False))
patterns = patterns_of(texts, numbers, rounded)
instants = st.datetimes(datetime(1900, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
counts = st.builds(
    Counts,
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.floats(-1e9, 1e9).map(rounded),
    st.one_of(st.none(), instants),
)


@settings(deadline=None)
@given(patterns, counts, st.booleans())
def test_what_was_written_is_read(pattern: Pattern, evidence: Counts, pinned: bool) -> None:
    (each,) = known([(pattern, evidence)], pinned=[pattern.id] if pinned else ())
    assert from_json(to_json(each)) == each
    assert from_files(files([each])) == [each]
    assert from_document(document([each])) == [each]
    assert to_json(from_json(to_json(each))) == to_json(each)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_rounding_is_stable_and_close(value: float) -> None:
    once = rounded(value)
    assert rounded(once) == once
    assert once == pytest.approx(value, rel=1e-5)


def test_what_json_cannot_hold_is_refused() -> None:
    for data in ({"x": math.inf}, {"x": {1, 2}}):
        (each,) = known([(replace(SEASON, data=data), Counts())])
        with pytest.raises((ValueError, TypeError)):
            to_json(each)


# Import


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    body = json.loads(to_json(PAIR[0]))
    change(body)
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.pop("type"), "f lacks type"),
        (lambda b: b.update(more=1), "f has unknown keys: more"),
        (lambda b: b.update(format=2), "f: format is 2: a newer version wrote it; this one reads up to 1"),
        (lambda b: b.update(format="1"), "f: format must be a whole number"),
        (lambda b: b.update(type="guess"), "f: type must be one of task_sequence, "),
        (lambda b: b.update(type=[]), "f: type must be one of "),
        (
            lambda b: b.update(id="0" * 32),
            f"f: id is '{'0' * 32}', but type and signature make it '{RETRY.id}'",
        ),
        (lambda b: b["signature"].update(error="x"), "f: id is "),
        (lambda b: b.update(signature=[]), "f: signature must be an object"),
        (lambda b: b.update(statement=""), "f: statement must be a text that is not empty"),
        (lambda b: b.update(action=7), "f: action must be a text"),
        (lambda b: b.update(data=None), "f: data must be an object"),
        (lambda b: b.update(pinned="yes"), "f: pinned must be true or false"),
        (lambda b: b.update(conditions={}), "f: conditions must be an array"),
        (lambda b: b["conditions"].append(7), r"f: conditions[2] must be an object"),
        (lambda b: b["conditions"][1].pop("value"), "f: conditions[1] lacks value"),
        (
            lambda b: b["conditions"][0].update(operator="~"),
            "f: conditions[0].operator must be one of =, !=, >,",
        ),
        (lambda b: b["conditions"][0].update(field=1), "f: conditions[0].field must be a text"),
        (lambda b: b["conditions"][0].update(value=[1]), "f: conditions[0].value must be a text, number"),
        (
            lambda b: b["conditions"][1].update(value="x"),
            "f: conditions[1] is wrong: share >= needs a number",
        ),
        (lambda b: b["evidence"].pop("neg"), "f: evidence lacks neg"),
        (lambda b: b["evidence"].update(pos=-1), "f: evidence.pos must be a whole number"),
        (lambda b: b["evidence"].update(pos=True), "f: evidence.pos must be a whole number"),
        (lambda b: b["evidence"].update(pos=2**63), "f: evidence.pos must be a whole number"),
        (lambda b: b["evidence"].update(reward=None), "f: evidence.reward must be a number"),
        (lambda b: b["evidence"].update(last_seen="soon"), "f: evidence.last_seen must be an instant"),
        (lambda b: b["evidence"].update(last_seen=7), "f: evidence.last_seen must be an instant"),
        (lambda b: b["evidence"].update(last_seen="2026-11-29T12:00:00"), "must say its time zone"),
        (lambda b: b["evidence"].update(last_seen="0001-01-01T00:00:00+14:00"), "beyond the years"),
    ],
)
def test_faults_are_named(change: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(FormError) as caught:
        from_json(changed(change), "f")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(FormError, match=r"^mine is no JSON: "):
        from_json(body, "mine")


def test_other_structures_and_large_files_are_refused() -> None:
    with pytest.raises(FormError, match="mine must be an object"):
        from_json(b"[]", "mine")
    with pytest.raises(FormError, match="larger than"):
        from_json(b" " * 2_000_000 + b"{}")
    with pytest.raises(FormError, match="must be an array"):
        from_document(b"{}")


def test_beliefs_are_computed_anew() -> None:
    """A file that claims more than its counts say isn't believed."""
    bold = changed(lambda body: body["evidence"].update(confidence=1.0, strength=1.0))
    assert from_json(bold).confidence == PAIR[0].confidence


def test_a_document_names_the_pattern_that_is_wrong() -> None:
    body = json.loads(document(PAIR))
    with pytest.raises(FormError, match=r"patterns\[2\] has the id of an earlier pattern"):
        from_document(json.dumps([*body, body[0]]).encode())
    body[1]["pinned"] = None
    with pytest.raises(FormError, match=r"all\[1\]: pinned must be"):
        from_document(json.dumps(body).encode(), "all")


def test_files_must_stand_where_they_belong() -> None:
    (path, body), other = files(PAIR).items()
    assert [each.id for each in from_files(dict([other, (path, body)]))] == [RETRY.id, SEASON.id]
    with pytest.raises(FormError, match=r"README\.md is no path of a pattern"):
        from_files({"README.md": b""})
    with pytest.raises(FormError, match=f"holds the pattern of {path}"):
        from_files({path.replace("error_recovery", "tool_usage"): body})
    with pytest.raises(FormError, match=f"^{path} is no JSON"):
        from_files({path: b"<<<<<<<"})


# Columns


def test_columns_are_in_the_order_of_the_ids() -> None:
    found = columns(reversed(PAIR))
    assert found == columns(PAIR)
    assert found["id"] == sorted([RETRY.id, SEASON.id])
    at = found["id"].index(RETRY.id)
    assert found["signature"][at] == '{"action":"wait","error":"quota"}'
    assert json.loads(found["conditions"][at])[1] == {
        "field": "share",
        "operator": ">=",
        "value": 0.123456789,
    }
    assert (found["pos"][at], found["last_seen"][at], found["pinned"][at]) == (30, NOW, True)


def test_parquet_keeps_types_and_values() -> None:
    for some in (PAIR, []):
        file = io.BytesIO()
        pyarrow.parquet.write_table(table(some), file)
        found = pyarrow.parquet.read_table(file)
        assert found.schema == table([]).schema
        assert found.to_pydict() == columns(some)


ROW: Evidence = {
    EvidenceKey(RETRY.id, "there", NOW.date()): EvidenceRow(30, 2, 10 / 3, NOW, 4),
    EvidenceKey(RETRY.id, "here", NOW.date() - timedelta(days=1)): EvidenceRow(0, 1, 0.0, NOW, 1),
}


class TestExports:
    def test_come_back_with_every_row_as_it_was(self) -> None:
        body = export(PAIR, ROW)
        found = from_export(body)
        assert found.evidence == ROW
        assert {each.id for each in found.patterns} == {each.id for each in PAIR}
        assert export(found.patterns, found.evidence) == body
        assert body == export(reversed(PAIR), dict(reversed(ROW.items())))

    @given(
        st.dictionaries(
            st.tuples(st.sampled_from([RETRY.id, SEASON.id]), st.text(min_size=1, max_size=9), st.dates()),
            st.tuples(
                st.integers(0, 2**63 - 1),
                st.integers(0, 2**63 - 1),
                st.floats(-1e18, 1e18),
                st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
                st.integers(1, 2**63 - 1),
            ),
        )
    )
    def test_of_any_rows_come_back_and_merge_to_the_same(self, given_: Any) -> None:
        rows = {EvidenceKey(*key): EvidenceRow(*row) for key, row in given_.items()}
        found = from_export(export(PAIR, rows)).evidence
        assert found == rows == merge(found, rows, found)

    def test_totals_count_for_a_site_that_their_contents_name(self) -> None:
        first, again = from_export(document(PAIR)), counted_elsewhere(PAIR[::-1])
        assert first.evidence.keys() == again.evidence.keys()
        ((key, row),) = first.evidence.items()
        assert (key.pattern_id, key.day, row.pos, row.neg) == (RETRY.id, NOW.date(), 30, 2)
        other = counted_elsewhere(known([(RETRY, Counts(31, 2, 1.0, NOW))]))
        assert {each.node for each in other.evidence}.isdisjoint({key.node})
        assert key.node.startswith("import-")

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"node": ""}, "node must be a text"), ({"node": "x" * 101}, "node is longer than 100"),
            ({"day": "yesterday"}, "day must be a day"), ({"pos": -1}, "pos must be a whole number"),
            ({"pos": 2**63}, "pos must be"), ({"neg": 1.5}, "neg must be"),
            ({"reward": "1"}, "reward must be"), ({"last_seen": None}, "needs last_seen"),
            ({"last_seen": "2026-11-29"}, "must say its time zone"), ({"version": 0}, "a version of 1"),
            ({"pattern": "f" * 32}, "not in the file"), ({"x": 1}, "unknown"),
        ],
    )  # fmt: skip
    def test_wrong_rows_are_named(self, change: dict[str, Any], said: str) -> None:
        plain = json.loads(export(PAIR, ROW))
        plain["evidence"][1] |= change
        with pytest.raises(FormError, match=rf"x\.json: evidence\[1\].*{said}"):
            from_export(json.dumps(plain).encode(), "x.json")

    def test_rows_that_come_twice_are_refused(self) -> None:
        plain = json.loads(export(PAIR, ROW))
        plain["evidence"] *= 2
        with pytest.raises(FormError, match=r"evidence\[2\] comes twice"):
            from_export(json.dumps(plain).encode())

    @pytest.mark.parametrize("change", [{"format": 2}, {"patterns": {}}, {"evidence": None}, {"more": 1}])
    def test_other_objects_are_refused(self, change: dict[str, Any]) -> None:
        plain = json.loads(export(PAIR, ROW)) | change
        with pytest.raises(FormError, match="patterns"):
            from_export(json.dumps(plain).encode())
