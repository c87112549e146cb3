"""Tables at the width of a terminal: what shrinks, what is left out, what stays whole."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from rich.cells import cell_len

from maia.commands.tables import Column, print_table

COLUMNS = (
    "id", Column("title", 10), "views", Column("sampled", rank=2), Column("held until", rank=3),
    Column("reason", 12, wraps=True, rank=1),
)  # fmt: skip
REASON = "the project has spent what the day allows it, and reopens at midnight in Los Angeles"


def row(number: int) -> tuple[object, ...]:
    at = datetime(2026, 11, 2, 8, number, 30, tzinfo=UTC)
    return (
        f"video-{number:05}",
        "動画のとても長いタイトル [red]x[/blue] 🌱" * 3,
        10**number,
        at,
        None,
        REASON,
    )


def printed(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
    *rows: tuple[object, ...],
) -> list[str]:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    print_table(COLUMNS, rows, title="Videos")
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()


class TestWidth:
    @pytest.mark.parametrize("columns", [60, 80, 100, 160])
    def test_no_line_is_longer_than_the_terminal(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
    ) -> None:
        lines = printed(capsys, monkeypatch, columns, *map(row, range(5)))
        assert max(cell_len(line.rstrip()) for line in lines) <= columns
        text = "\n".join(lines)
        assert all(f"video-{number:05}" in text for number in range(5))
        assert "10,000" in text

    def test_what_says_nothing_goes_first_then_the_highest_rank(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        narrow = " ".join(" ".join(printed(capsys, monkeypatch, 60, row(1))).split())
        assert "held until" not in narrow
        assert "Columns left out: sampled (--json shows all)" in narrow
        wide = "\n".join(printed(capsys, monkeypatch, 160, row(1)))
        assert "2026-11-02 08:01" in wide
        assert "Times are UTC" in wide
        assert "Columns left out" not in wide

    def test_words_that_wrap_stay_whole(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        words = {word for line in printed(capsys, monkeypatch, 80, row(1)) for word in line.split()}
        assert set(REASON.split()) <= words

    def test_numbers_stand_to_the_right(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lines = printed(capsys, monkeypatch, 160, row(0), row(4))
        ends = {
            line.index(number) + len(number)
            for number in (" 1 ", "10,000 ")
            for line in lines
            if number in line
        }
        assert len(ends) == 1

    def test_foreign_text_is_no_markup(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "[red]x[/blue]" in "\n".join(printed(capsys, monkeypatch, 300, row(1)))

    def test_a_word_that_has_no_room_is_broken_not_the_other_columns(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lines = printed(capsys, monkeypatch, 60, (*row(1)[:5], "https://example.org/" + "x" * 200))
        assert max(cell_len(line.rstrip()) for line in lines) <= 60
        assert any(line.startswith("video-00001") for line in lines)


@pytest.mark.parametrize(
    ("columns", "heading"),
    [(80, "zone  waiting too long  lag in h"), (23, "zone     long  lag in h"), (19, "zone     long  in h")],
)
def test_headings_stand_in_one_line_where_there_is_room(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int, heading: str
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    print_table(("zone", "waiting too long", "lag in h"), [("warm", 0, 2.5)])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    rule = next(place for place, line in enumerate(lines) if line.startswith("─"))
    assert lines[rule - 1].rstrip() == heading
    assert max(map(cell_len, lines)) <= max(columns, cell_len(heading))
