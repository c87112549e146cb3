"""`maia catalogue` and `maia emulator` as processes."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from maia.emulator.catalogue import Catalogue
from maia.emulator.realism import WORST, assumptions
from tests.fork_server import FORKS

pytestmark = pytest.mark.integration
A, B = "aaaaaaaaaaa", "bbbbbbbbbbb"


def maia(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return FORKS.run_and_wait(*map(str, arguments), environment=os.environ, folder=cwd).completed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a.catalogue lies, synthesized by the command itself."""
    folder = tmp_path_factory.mktemp("process")
    sizes = ("--videos", "300", "--channels", "9", "--days", "3", "--seed", "5")
    done = maia("catalogue", "synthesize", "-o", "a.catalogue", *sizes, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "300" in done.stdout
    return folder


@contextmanager
def emulator(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running `maia emulator` with the first line that it printed."""
    command = [
        sys.executable,
        "-m",
        "maia",
        "emulator",
        "--catalogue",
        "a.catalogue",
        "--port",
        "0",
        *arguments,
    ]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline()
        finally:
            process.kill()


def fetch(url: str, **headers: str) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as response:
        return json.load(response)


def test_a_catalogue_is_shown_as_text_and_as_json(folder: Path):
    shown = maia("catalogue", "show", "a.catalogue", cwd=folder)
    assert (shown.returncode, "seed 5" in shown.stdout) == (0, True)
    summary = json.loads(maia("catalogue", "show", "a.catalogue", "--json", cwd=folder).stdout)
    assert (summary["videos"], summary["channels"]) == (300, 9)
    assert summary["origin"]["made_by"] == "synthesize"
    missing = maia("catalogue", "show", "none", cwd=folder)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "maia catalogue synthesize -o none" in missing.stderr
    assert "Traceback" not in missing.stderr


@pytest.mark.parametrize("file", [None, "my practice.env"])
def test_what_reaches_the_emulator_is_printed_in_lines_to_copy(folder: Path, file: str | None):
    with emulator(folder, *(("--environment", file) if file else ())) as (process, _):
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines[1] == "To make agents use it and its time, run in their shell:\n"
        if file is None:
            assert lines[2].startswith("export PLEIADES_YOUTUBE__BASE_URL=http://127.0.0.1:")
        else:
            assert lines[2] == f". '{folder / file}'\n"
            assert "export YOUTUBE_API_KEY_POOL_JSON=" in (folder / file).read_text()


def test_an_import_names_bad_rows_and_counts_all(tmp_path: Path):
    bad = "".join(f"bad{number},2025-11-02,1\n" for number in range(7))
    (tmp_path / "a.csv").write_text(f"vid,when,plays\n{A},2025-11-02,1\n{bad}")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(f"video_id,title\n{A},A title\n".encode()))
    columns = ("--columns", "video_id=vid,captured_at=when", "--columns", "views=plays")
    files = ("-o", "x.catalogue", "a.csv", "b.csv.gz")
    done = maia("catalogue", "import", *files, *columns, "--show-bad", "2", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0] == "a.csv:3: skipped: video_id 'bad0' is not 11 of A-Z, a-z, 0-9, - and _"
    assert lines[2:] == ["a.csv: … and 5 more rows skipped"]
    report = json.loads(done.stdout)
    assert (report["videos"], report["bad_rows"], report["files"][0]["bad_rows"]) == (1, 7, 7)
    with Catalogue.open(tmp_path / "x.catalogue") as catalogue:
        assert catalogue.video(0).title == "A title"


def test_an_import_says_what_it_had_to_suppose(tmp_path: Path):
    (tmp_path / "a.csv").write_text(f"video_id,captured_at,views,rank\n{A},2025-11-02,1,9\n{B},,,8\n")
    done = maia("catalogue", "import", "-o", "x.catalogue", "a.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rank" in done.stdout
    told = done.stdout.splitlines()[-4:]
    assert told[0] == "x.catalogue: 1 video of 1 channel, 1 sample"
    assert told[1].startswith("1 publication date is estimated")
    assert told[2].startswith("1 video has no title")
    assert told[3].startswith("1 video was left out")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("catalogue", "import", "-o", "x", "none.csv"), 1, "there is no file none.csv"),
        (("catalogue", "import", "-o", "x", "a.catalogue"), 1, "a.catalogue is not a CSV file"),
        (("catalogue", "import", "-o", "x", "a.catalogue", "--columns", "views"), 2, "OURS=THEIRS"),
        (
            ("catalogue", "import", "-o", "x", "a.catalogue", "--captured-at", "2025-11-02T00:00"),
            2,
            "time zone",
        ),
        (("emulator", "--catalogue", "none"), 1, "there is no catalogue none"),
        (("emulator", "--catalogue", "a.catalogue", "--fault", "x:1"), 2, "is not a fault"),
        (("emulator", "--catalogue", "a.catalogue", "--project", "x:y=1"), 2, "is not a limit"),
        (("emulator", "--catalogue", "a.catalogue", "--key", "x"), 2, "KEY=PROJECT"),
        (
            ("emulator", "--catalogue", "a.catalogue", "--key", "x=nobody", "--port", "0"),
            1,
            "--project nobody",
        ),
        (("emulator", "--catalogue", "a.catalogue", "--clock", "noon"), 2, "is not a time such as"),
    ],
)
def test_wrong_usage_is_said_without_a_traceback(
    folder: Path, arguments: tuple[str, ...], status: int, message: str
):
    done = maia(*arguments, cwd=folder)
    assert done.returncode == status
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert not (folder / "x").exists()


def test_the_emulator_says_where_it_is_and_ends_cleanly(folder: Path):
    options = (
        "--clock",
        "2026-10-02T00:00:00Z",
        "--speed",
        "60",
        "--project",
        "me:search=1",
        "--key",
        "AIza=me",
        "--json",
    )
    with emulator(folder, *options) as (process, line):
        ready = json.loads(line)
        variables = ready["environment"]
        assert variables["PLEIADES_YOUTUBE__BASE_URL"] == ready["url"]
        assert (variables["PLEIADES_CLOCK__START"], variables["PLEIADES_CLOCK__SPEED"]) == (
            "2026-10-02T00:00:00Z",
            "60",
        )
        key = json.loads(variables["YOUTUBE_API_KEY_POOL_JSON"])[0]["key"]
        for used in (key, "AIza"):
            assert fetch(
                f"{ready['url']}/youtube/v3/videoCategories?part=id&id=10", **{"x-goog-api-key": used}
            )["items"]
        state = fetch(ready["control"])
        assert state["quota"]["projects"]["me"]["general"]["used"] == 2
        assert datetime.fromisoformat(state["clock"]["now"]) > datetime(2026, 10, 2, tzinfo=UTC)
        assert ready["pid"] == process.pid
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, output, errors) == (143, "", "")


def test_the_emulator_prints_what_to_export_and_stops_at_ctrl_c(folder: Path):
    with emulator(folder) as (process, line):
        assert line.startswith("YouTube emulator at http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        output = process.stdout.read()
        assert process.wait(timeout=20) == 130
    exported = [row for row in output.splitlines() if row.startswith("export ")]
    evaluated = subprocess.run(
        ["sh", "-c", "; ".join(exported) + '; echo "$YOUTUBE_API_KEY_POOL_JSON $PLEIADES_QUOTA__PROJECTS"'],
        capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    pool, projects = evaluated.stdout.split()
    assert json.loads(pool) == [{"key": "demo-key", "project": "demo"}]
    assert json.loads(projects) == {"demo": {"search": 100, "stats": 10_000, "general": 10_000}}


def outcomes(folder: Path, seed: str) -> list[int]:
    with emulator(folder, "--fault", "500:0.5", "--seed", seed, "--json") as (_, line):
        url = json.loads(line)["url"]
        statuses = []
        for number in range(30):
            try:
                fetch(f"{url}/youtube/v3/search?part=id&q={number}&key=demo-1")
                statuses.append(200)
            except urllib.error.HTTPError as error:
                with error:
                    statuses.append(error.code)
        return statuses


def test_a_seed_repeats_a_run(folder: Path):
    first = outcomes(folder, "1")
    assert set(first) == {200, 500}
    assert outcomes(folder, "1") == first != outcomes(folder, "2")


def test_it_begins_where_videos_still_grow_and_writes_what_reaches_it(folder: Path):
    with Catalogue.open(folder / "a.catalogue") as opened:
        first, last = opened.busy_span
    with emulator(folder, "--environment", "practice.env", "--json") as (_, line):
        told = json.loads(line)["environment"]
        script = '. ./practice.env; echo "$PLEIADES_CLOCK__START"; echo "$YOUTUBE_API_KEY_POOL_JSON"'
        asked = subprocess.run(["sh", "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    assert asked.stdout.splitlines() == [told["PLEIADES_CLOCK__START"], told["YOUTUBE_API_KEY_POOL_JSON"]]
    assert datetime.fromisoformat(told["PLEIADES_CLOCK__START"]) == first + (last - first) / 5


def test_a_file_that_cannot_be_written_is_named(folder: Path):
    options = ("--catalogue", "a.catalogue", "--port", "0", "--environment", "absent/practice.env")
    done = maia("emulator", *options, cwd=folder)
    assert done.returncode == 2
    assert "absent/practice.env cannot be written: No such file" in " ".join(
        done.stderr.replace("│", " ").split()
    )


def test_the_emulator_is_told_how_realistic_to_be(folder: Path) -> None:
    options = ("--realism", "worst", "--assume", "empty_most=3", "--assume", "feed_missing=0", "--json")
    with emulator(folder, *options) as (_, line):
        state = fetch(f"{json.loads(line)['url']}/_emulator")
    expected = replace(WORST, empty_most=3, feed_missing=0.0).parameters()
    assert state["realism"] == {**expected, "name": "customized", "ignored_orders": ["viewCount"]}
    with emulator(folder, "--realism", "realistic") as (_, line):
        assert line.rstrip().endswith("realism: realistic")


@pytest.mark.parametrize(
    ("setting", "message"),
    [("luck=1", "is not NAME=VALUE with one of these names"), ("repeats=2", "repeats is from 0 to 1")],
)
def test_a_wrong_assumption_is_wrong_usage(folder: Path, setting: str, message: str) -> None:
    refused = maia("emulator", "--catalogue", "a.catalogue", "--assume", setting, cwd=folder)
    assert refused.returncode == 2
    assert message in " ".join(refused.stderr.replace("│", " ").split())


def test_the_help_lists_every_assumption(folder: Path) -> None:
    text = " ".join(maia("emulator", "--help", cwd=folder).stdout.replace("│", " ").split())
    for name, assumption in assumptions().items():
        assert f"{name} (" in text
        assert assumption in text
    assert "or_words (1000, 12, 1)" in text


@pytest.mark.parametrize(
    ("options", "channels", "older"), [((), 100, True), (("--world", "plain", "--channels", "9"), 9, False)]
)
def test_a_world_is_mixed_unless_it_is_to_be_plain(
    folder: Path, options: tuple[str, ...], channels: int, older: bool
) -> None:
    sizes = ("--videos", "400", "--days", "5", "--start", "2026-10-01T00:00:00Z", "--json")
    made = maia("catalogue", "synthesize", "-o", "w.catalogue", *sizes, *options, cwd=folder)
    summary = json.loads(made.stdout)
    assert (summary["videos"], summary["channels"]) == (400, channels)
    assert (summary["first_published_at"] < "2026-10-01") is older
    with Catalogue.open(folder / "w.catalogue") as catalogue:
        start, end = (f"{instant:%Y-%m-%dT%H}" for instant in catalogue.busy_span)
    assert start == "2026-10-01T00" or not older
    assert end == "2026-10-06T00"
