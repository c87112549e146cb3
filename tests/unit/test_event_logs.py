"""Event logs: what is read, what is reported, and that nothing a file holds raises."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from xml.sax.saxutils import quoteattr

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maia.learning.event_logs import (
    LoggedEvent,
    Malformed,
    guess_columns,
    parse_csv,
    parse_instant,
    parse_jsonl,
    parse_xes,
)

NOON = datetime(2026, 11, 3, 12, 0, tzinfo=UTC)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(str.strip)
INSTANTS = st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
ROWS = st.lists(st.tuples(NAMES, NAMES, INSTANTS, st.floats(-1e9, 1e9)), max_size=6)

XES = """<?xml version="1.0" encoding="UTF-8"?>
<log xmlns="http://www.xes-standard.org/">
<global scope="event"><string key="concept:name" value="never"/></global>
<string key="concept:name" value="the log"/>
<trace>
<string key="concept:name" value="Case 1"/>
<int key="priority" value="3"/>
<event>
<string key="concept:name" value="open"><string key="nested" value="ignored"/></string>
<string key="org:resource" value="Ann"/>
<date key="time:timestamp" value="2026-11-03T13:00:00.000+01:00"/>
<boolean key="urgent" value="true"/>
<float key="cost" value="2.5"/>
<int key="count" value="many"/>
</event>
<event>
<string key="org:resource" value="Bob"/>
</event>
</trace>
<trace>
<event><string key="concept:name" value="close"/></event>
</trace>
</log>
"""


def lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def test_reads_json_lines() -> None:
    parsed = list(
        parse_jsonl(
            [
                codecs.BOM_UTF8
                + b'{"session": "s", "action": "search", "at": "2026-11-03T12:00:00Z", '
                + b'"reward": 1.5, "agent": "hunter", "ok": true, '
                + b'"context": {"zone": 2, "tags": ["a"], "none": null}}\n',
                "\n",
                '{"case": 7, "activity": "batch", "timestamp": 1793707200, "outcome": "failed"}',
            ]
        )
    )
    assert parsed == [
        LoggedEvent(
            "s", "search", NOON, "hunter", None, 1.5,
            attributes={"context.zone": 2, "context.tags": '["a"]', "ok": True}, line=1,
        ),
        LoggedEvent("7", "batch", NOON, outcome="failed", line=3),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"session": "s", "action": ', "unexpected end"),
        (b"[1]", "not a JSON object"),
        (b'{"session": "s"}', "no column for the action"),
        (b'{"session": "", "action": "a"}', "no session"),
        (b'{"session": "s", "action": {"a": 1}}', "no action"),
        (b'{"session": "s", "action": "a", "at": "soon"}', "not an instant: 'soon'"),
        (b'{"session": "s", "action": "a", "at": true}', "not an instant"),
        (b'{"session": "s", "action": "a", "cost": "dear"}', "cost is no number"),
        (b'{"session": "s", "action": "a", "cost": "inf"}', "cost is not finite"),
        (b'{"session": "s", "action": "a", "cost": [1]}', "cost is no number"),
        (b"\xff", "not UTF-8 at byte 1"),
    ],
)
def test_reports_a_bad_line_and_goes_on(line: bytes, problem: str) -> None:
    good = b'{"session": "s", "action": "a"}'
    first, bad, last = parse_jsonl([good, line, good])
    assert isinstance(bad, Malformed)
    assert problem in bad.problem
    assert bad.line == 2
    assert first == LoggedEvent("s", "a", line=1)
    assert last == LoggedEvent("s", "a", line=3)


def test_reads_csv_with_the_names_of_xes() -> None:
    text = (
        "\ufeffcase:concept:name;concept:name;time:timestamp;org:resource;product\n"
        'Case 1;"open; then\nwait";2026-11-03 12:00:00;Ann;\n'
        "\n"
        "Case 1;close;;;P\n"
    )
    assert list(parse_csv(lines(text))) == [
        LoggedEvent("Case 1", "open; then\nwait", NOON, "Ann", line=2),
        LoggedEvent("Case 1", "close", attributes={"product": "P"}, line=5),
    ]


def test_a_mapping_comes_before_guesses() -> None:
    text = "session,who,action,did\ns,Ann,x,search\n"
    (event,) = parse_csv(lines(text), {"session": "who", "action": "did"})
    assert event == LoggedEvent("Ann", "search", attributes={"session": "s", "action": "x"}, line=2)
    with pytest.raises(ValueError, match="no such field: actor"):
        list(parse_csv(lines(text), {"actor": "who"}))


def test_reports_bad_rows_of_csv() -> None:
    text = b'session,action,cost\ns,a\ns,"open,1\ns,b,2\n\xff,x,1\ns,c,x\ns,d"e"f,3\ns,g,4\n'
    parsed = list(parse_csv(text.splitlines(keepends=True)))
    assert sorted(each.line for each in parsed) == [2, 3, 4, 5, 6, 7, 8]
    events = [each for each in parsed if isinstance(each, LoggedEvent)]
    assert [each.action for each in events] == ["b", 'd"e"f', "g"]
    problems = {each.line: each.problem for each in parsed if isinstance(each, Malformed)}
    assert problems[2] == "it has 2 in place of the header's 3 values"
    assert problems[3] == "a quote is never closed"
    assert "UTF-8" in problems[5]
    assert "cost is no number" in problems[6]


def test_an_open_quote_loses_one_row_of_many() -> None:
    rows = ["session,action\n", 's,"open\n', *(f"s,a{number}\n" for number in range(500))]
    parsed = list(parse_csv(rows))
    assert sum(isinstance(each, LoggedEvent) for each in parsed) == 500
    assert [each.line for each in parsed if isinstance(each, Malformed)] == [2]


def test_csv_without_the_needed_columns_is_one_error() -> None:
    (bad,) = parse_csv(lines("name,value\na,1\nb,2\n"))
    assert isinstance(bad, Malformed)
    assert bad.line == 1
    assert "no column for the session" in bad.problem


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_reads_xes_in_chunks(size: int) -> None:
    data = XES.encode()
    parsed = list(parse_xes(data[at : at + size] for at in range(0, len(data), size)))
    assert parsed[0] == LoggedEvent(
        "Case 1", "open", NOON, "Ann", cost=2.5,
        attributes={"case:priority": 3, "urgent": True, "count": "many"}, line=8, log="the log",
    )  # fmt: skip
    assert isinstance(parsed[1], Malformed)
    assert parsed[1].line == 16
    assert parsed[2] == LoggedEvent("trace 2", "close", line=21, log="the log")
    assert len(parsed) == 3


def test_broken_xes_keeps_what_came_before() -> None:
    cut = XES[: XES.index("<event>\n<string key=\"org:resource\" value=\"Bob\"")]  # fmt: skip
    event, bad = parse_xes([cut])
    assert isinstance(event, LoggedEvent)
    assert event.session == "Case 1"
    assert isinstance(bad, Malformed)
    assert bad.line == cut.count("\n") + 1


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE log [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>',
        '<!DOCTYPE log [<!ENTITY a SYSTEM "file:///etc/hostname">]>',
        '<!DOCTYPE log SYSTEM "http://localhost/log.dtd">',
    ],
)
def test_refuses_declarations(declaration: str) -> None:
    (bad,) = parse_xes([f"{declaration}<log><trace>&a;</trace></log>"])
    assert isinstance(bad, Malformed)
    assert "refused" in bad.problem


@pytest.mark.parametrize("encoding", ["no-such", "utf-32", "euc-jp"])
def test_an_encoding_that_is_not_supported_is_reported(encoding: str) -> None:
    (bad,) = parse_xes([f'<?xml version="1.0" encoding="{encoding}"?><log>é</log>'.encode()])
    assert isinstance(bad, Malformed)


@given(ROWS)
def test_every_format_reads_what_was_written(rows: list[tuple[str, str, datetime, float]]) -> None:
    expected = [(session, action, at, cost) for session, action, at, cost in rows]
    records = [
        {"session": session, "action": action, "at": at.isoformat(), "cost": cost}
        for session, action, at, cost in rows
    ]
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, ["session", "action", "at", "cost"])
    writer.writeheader()
    writer.writerows(records)
    xml = "".join(
        f'<trace><string key="concept:name" value={quoteattr(each["session"])}/><event>'
        f'<string key="concept:name" value={quoteattr(each["action"])}/>'
        f'<date key="time:timestamp" value="{each["at"]}"/><float key="cost" value="{each["cost"]}"/>'
        "</event></trace>"
        for each in records
    )
    for parsed in (
        parse_jsonl([orjson.dumps(each) for each in records]),
        parse_csv(io.StringIO(table.getvalue(), newline="")),
        parse_xes([f"<log>{xml}</log>"]),
    ):
        read = [
            (each.session, each.action, each.at, each.cost)
            for each in parsed
            if isinstance(each, LoggedEvent)
        ]
        assert read == expected


@given(st.lists(st.one_of(st.binary(max_size=40), st.text(max_size=40)), max_size=6))
def test_nothing_a_file_holds_raises(rows: list[bytes | str]) -> None:
    for parsed in (
        parse_jsonl(rows),
        parse_csv(rows),
        parse_csv(["session,action,at,cost\n", *rows]),
        parse_xes(rows),
    ):
        assert all(isinstance(each, LoggedEvent | Malformed) for each in parsed)


@pytest.mark.parametrize(
    "value",
    [
        "2026-11-03T12:00:00Z", "2026-11-03 12:00", "2026-11-03T13:00+01:00", "20261103T120000", 1793707200,
        "1793707200.0", 1793707200000, 1793707200000000, "1793707200000000000",
    ],
)  # fmt: skip
def test_reads_instants(value: object) -> None:
    assert parse_instant(value) == NOON


@pytest.mark.parametrize("value", ["", "x", "inf", "nan", "1e999", True, None, [1], "0001-01-01T00:00+14:00"])
def test_refuses_what_is_no_instant(value: object) -> None:
    with pytest.raises(ValueError, match="not an instant"):
        parse_instant(value)


def test_a_compact_date_is_no_number() -> None:
    assert parse_instant("20261103") == NOON.replace(hour=0)


def claims(*outcomes: str) -> tuple[list[bytes], list[str], list[str]]:
    """The same log in each format, with a status for each of its events."""
    records = [{"session": "1", "action": "decide", "status": outcome} for outcome in outcomes]
    xml = "".join(
        f'<event><string key="concept:name" value="decide"/><string key="status" value="{outcome}"/></event>'
        for outcome in outcomes
    )
    return (
        [orjson.dumps(each) for each in records],
        ["session,action,status\n", *(f"1,decide,{outcome}\n" for outcome in outcomes)],
        [f"<log><trace>{xml}</trace></log>"],
    )


def read(parsed: Iterable[LoggedEvent | Malformed]) -> list[tuple[str | None, object, bool]]:
    """The outcome, what is left of the status, and whether that is unclear."""
    events = [each for each in parsed if isinstance(each, LoggedEvent)]
    return [(each.outcome, each.attributes.get("status"), each.has_unclear_outcome) for each in events]


def test_only_usual_words_make_an_outcome_of_a_column_that_is_guessed() -> None:
    expected = [
        ("OK", None, False), ("failed", None, False), (None, "rejected", True), ("Timeout", None, False),
        (None, None, False),
    ]  # fmt: skip
    as_jsonl, as_csv, as_xes = claims("OK", "failed", "rejected", "Timeout", "")
    assert read(parse_jsonl(as_jsonl)) == expected
    assert read(parse_csv(as_csv)) == expected
    assert read(parse_xes(as_xes)) == expected


def test_in_a_column_that_is_named_everything_is_an_outcome() -> None:
    expected = [("OK", None, False), ("rejected", None, False)]
    as_jsonl, as_csv, as_xes = claims("OK", "rejected")
    assert read(parse_jsonl(as_jsonl, {"outcome": "status"})) == expected
    assert read(parse_csv(as_csv, {"outcome": "status"})) == expected
    assert read(parse_xes(as_xes, {"outcome": "status"})) == expected


def test_guesses_each_column_once() -> None:
    assert guess_columns(["Case ID", "Activity", "Complete Timestamp", "Resource", "x"]) == {
        "session": "Case ID",
        "action": "Activity",
        "at": "Complete Timestamp",
        "resource": "Resource",
    }
    assert guess_columns(["x"]) == {}


@pytest.mark.parametrize("depth", [300, 1000])
def test_what_is_nested_too_deeply_is_reported(depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    row = b'{"case": 1, "activity": "a", "x": %s}'
    [bad, good] = parse_jsonl([row % deep, row % b"1"])
    assert isinstance(bad, Malformed)
    assert "nested too deeply" in bad.problem
    assert isinstance(good, LoggedEvent)


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b'<log><trace><event><string key="concept:name" value="', b"a" * 65536),
        (b"<log><!-- ", b"a" * 65536),
        (b"<log>", b"<a>" * 20000),
        (b"<log><trace><event>", b"".join(b'<int key="%d" value="1"/>' % n for n in range(5000))),
    ],
)
def test_an_endless_tag_is_refused_before_it_fills_the_memory(begin: bytes, more: bytes) -> None:
    def endless() -> Iterator[bytes]:
        yield begin
        for n in range(100_000):
            taken.append(n)
            yield more.replace(b'key="', b'key="%d.' % n)

    taken: list[int] = []
    last = list(parse_xes(endless()))[-1]
    assert isinstance(last, Malformed)
    assert len(taken) < 200


def test_a_trace_of_any_length_is_read_as_it_comes() -> None:
    def endless() -> Iterator[bytes]:
        yield b'<log><trace><string key="concept:name" value="c"/>'
        while True:
            yield b'<event><string key="concept:name" value="a"/><string key="x" value="%s"/></event>' % text

    text = b"x" * 1_000_000
    found = list(islice(parse_xes(endless()), 50))
    assert {(each.session, each.action) for each in found if isinstance(each, LoggedEvent)} == {("c", "a")}
    assert len(found) == 50


def test_an_open_quote_before_long_lines_is_given_up_soon() -> None:
    def lines() -> Iterator[str]:
        yield "case,activity"
        yield 'c,"' + "x" * 120_000
        for n in range(50):
            taken.append(n)
            yield "c," + "x" * 120_000

    taken: list[int] = []
    first, second = islice(parse_csv(lines()), 2)
    assert (type(first), type(second)) == (Malformed, LoggedEvent)
    assert len(taken) < 12


@pytest.mark.parametrize("separator", [";", ",", "\t", "|", ":"])
def test_a_spreadsheets_first_line_says_the_separator(separator: str) -> None:
    lines = [f"sep={separator}\r\n", f"case{separator}activity\r\n", f"1{separator}a,;|b\r\n"]
    rows = list(parse_csv(lines if separator in "\t:" else [each.replace("a,;|b", "a") for each in lines]))
    assert [(each.session, each.action[0]) for each in rows if isinstance(each, LoggedEvent)] == [("1", "a")]
