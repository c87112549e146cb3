"""What commands print: no markup, nothing that a terminal executes, the same in every form."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.text import Text

import maia.commands
from atlas.adapters.watches import WatchesChanged, WatchesDAO
from atlas.csvform import CsvForm
from maia.commands import running, status, terminal, up, video, watch
from maia.commands.tables import print_table
from maia.commands.terminal import ExitStatus

ESCAPES = "\x1b[31mred\x9b2J\x07\u202e"
INSTANT = datetime(2026, 11, 2, 9, 30, tzinfo=timezone(timedelta(hours=1)))


def test_tables_show_markup_and_escapes_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("id", "title"), [("[red]x[/blue]", ESCAPES)], title=f"[b]{ESCAPES}")
    shown = capsys.readouterr().out
    assert "[red]x[/blue]" in shown
    assert "␛[31mred\ufffd2J␇" in shown
    assert "[b]␛" in shown
    assert not set(shown) & set("\x1b\x9b\x07\u202e")


def test_nothing_composed_by_a_command_reaches_the_terminal_raw(capsys: pytest.CaptureFixture[str]) -> None:
    out = terminal.console()
    out.print(ESCAPES)
    out.print(Text(f"[/] {ESCAPES} :smile:", style="bold"))
    terminal.print_text(ESCAPES)
    terminal.print_text(ESCAPES, stderr=True)
    captured = capsys.readouterr()
    assert not set(captured.out + captured.err) & set("\x1b\x9b\x07\u202e")
    assert "[/] ␛" in captured.out
    assert ":smile:" in captured.out


def test_json_is_the_same_document_without_controls(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_json({"title": ESCAPES, "at": datetime(2026, 11, 2, tzinfo=UTC)})
    terminal.print_line({"title": ESCAPES})
    printed = capsys.readouterr().out
    assert not set(printed) & set("\x1b\x9b\x07\u202e")
    assert printed.count(json.dumps(ESCAPES)) == 2


@pytest.mark.parametrize(
    ("form", "line"),
    [
        (CsvForm.GUARDED, "'=1,'-x,-1.5,2026-11-02T08:30:00Z,true,\n"),
        (CsvForm.EXCEL, "'=1,'-x,-1.5,2026-11-02T08:30:00Z,true,\n"),
        (CsvForm.RAW, "=1,-x,-1.5,2026-11-02T08:30:00Z,true,\n"),
    ],
)
def test_csv_guards_texts_alone(capsysbinary: pytest.CaptureFixture[bytes], form: CsvForm, line: str) -> None:
    names = ("a", "b", "c", "d", "e", "f")
    terminal.print_csv(names, [("=1", "-x", -1.5, INSTANT, True, None)], form)
    mark = "\ufeff" if form is CsvForm.EXCEL else ""
    assert capsysbinary.readouterr().out.decode() == f"{mark}a,b,c,d,e,f\n{line}"


def test_commands_print_only_through_the_terminal() -> None:
    folder = Path(maia.commands.__path__[0])
    ways_around = ("typer.echo(", "sys.stdout.write", "sys.stderr.write", "rich.print", "Console(")
    found = [
        f"{path.name}: {way}"
        for path in sorted(folder.glob("*.py"))
        if path.name not in ("terminal.py", "streams.py")
        for way in ways_around
        if way in path.read_text("utf-8")
    ]
    assert found == []


class Terminal(io.StringIO):
    """Standard error as a terminal; how wide it is, COLUMNS says."""

    def isatty(self) -> bool:
        return True


def narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    return terminal


def test_complaints_are_wrapped_between_words_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = narrow_terminal(monkeypatch)
    terminal.print_error(
        "set YOUTUBE_API_KEY_POOL_JSON to your own key, or try everything without one", ExitStatus.FAILED
    )
    assert narrow.getvalue().splitlines() == [
        "maia: set YOUTUBE_API_KEY_POOL_JSON to ",
        "your own key, or try everything without ",
        "one",
    ]


def test_a_wait_is_explained_above_the_bar_that_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = narrow_terminal(monkeypatch)
    monkeypatch.setattr(terminal, "LONG_WAIT_S", 0.05)
    with running.cycle_progress(str), terminal.explain_long_wait("Starting the server"):
        deadline = time.monotonic() + 10
        while "server" not in narrow.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    printed = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", narrow.getvalue())
    assert "Starting the server …" in [line.strip() for line in re.split(r"[\r\n]", printed)]


def test_no_bar_is_shown_beside_what_standard_output_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = narrow_terminal(monkeypatch)
    with terminal.progress_bar("Exporting", None, hidden=True) as show:
        show(1.0)
    assert narrow.getvalue() == ""


def test_ctrl_c_says_once_what_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(10)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.1)

    narrow = narrow_terminal(monkeypatch)
    with pytest.raises(SystemExit) as ended:
        up._run(interrupted())
    assert ended.value.code == 130
    assert narrow.getvalue().count("Stopping; runs in progress") == 1


def test_cycles_keep_the_figures_that_tell_most_where_there_is_little_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cycle = {
        "at": INSTANT, "node": "machine", "outcome": "idle", "gone": 1, "cycles": 1, "missing": 1,
        "hidden": 1, "samples": 7, "videos": 8, "seconds": 0.5, "detail": "nothing is due now; next at noon",
    }  # fmt: skip
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", shown := Terminal())
    status._print_cycles("tracker", [cycle])
    table, _, left_out = shown.getvalue().partition("Columns left out")
    assert "samples" in table
    assert "videos" in table
    assert "hidden" in left_out


def test_removing_what_is_not_watched_says_so_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch, "with_atlas", lambda _: WatchesChanged(0, 0))
    watch.remove(["dQw4w9WgXcQ"])
    monkeypatch.setattr(watch, "with_atlas", lambda _: WatchesChanged(2, 3))
    watch.remove(["dQw4w9WgXcQ", "UCuAXFkgsw1L7xaCfnd5JJOw"])
    assert capsys.readouterr().out.splitlines() == [
        "none of them is watched; maia watch list shows what is",
        "stopped watching 2; known videos that changed zone: 3",
    ]


async def test_what_is_no_video_is_not_offered_to_the_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object) -> dict[str, str]:
        return {}

    monkeypatch.setattr(WatchesDAO, "__init__", lambda *_, **__: None)
    monkeypatch.setattr(WatchesDAO, "kinds_of", nothing)
    atlas: Any = SimpleNamespace(db=None, clock=None, settings=None)
    assert "maia watch add" not in str(await video._unknown(atlas, "nope"))
    assert "maia watch add dQw4w9WgXcQ" in str(await video._unknown(atlas, "dQw4w9WgXcQ"))
