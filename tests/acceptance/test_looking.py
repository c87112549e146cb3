"""Looking at what was tracked: real processes of `maia`, a real server, the emulator."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from rich.cells import cell_len

from atlas.testing import NOON
from maia.emulator.catalogue import Catalogue
from tests.acceptance.conftest import Stage, StageFactory
from tests.fork_server import FORKS, Finished
from tests.growth import store_samples, store_video

pytestmark = pytest.mark.acceptance

HOUR = timedelta(hours=1)
TITLE = "Number {}, “grown” \U0001f331"
ATTRIBUTION = "computed by Pleiades, not by YouTube"


@pytest_asyncio.fixture
async def grown(environment: dict[str, str], sql: Any) -> dict[str, str]:
    """The environment of a database of 12 videos; the n-th gains 100 n views an hour until noon."""
    for number in range(1, 13):
        await store_video(
            sql, f"grown-{number:05}", channel=f"UC-{number % 3}", title=TITLE.format(number),
            clock_velocity=100.0 * number, clock_acceleration=float(number % 5), clock_zone=number % 3,
            clock_relative_velocity=number / 7, clock_viral_score=1 / number,
        )  # fmt: skip
        counts = [(NOON - (30 - hour) * HOUR, 1000 + 100 * number * hour) for hour in range(30)]
        await store_samples(sql, f"grown-{number:05}", counts)
    anchor = datetime.now(UTC).isoformat()
    return environment | {"PLEIADES_CLOCK__START": NOON.isoformat(), "PLEIADES_CLOCK__ANCHOR": anchor}


def maia(environment: Mapping[str, str], *arguments: str) -> Finished:
    """Run a command to its end."""
    return FORKS.run_and_wait(*arguments, environment={**environment, "COLUMNS": "200"})


def on_a_terminal(environment: Mapping[str, str], columns: int, *arguments: str) -> str:
    """What a command writes to a terminal of so many columns."""
    finished, written = FORKS.on_a_terminal(*arguments, environment=environment, columns=columns)
    assert finished.status == 0, finished.stderr
    return written


def plain(text: str) -> str:
    """Without colours and links."""
    return re.sub(r"\x1b\]8;[^\x1b]*\x1b\\|\x1b\[[0-9;]*m", "", text).replace("\r", "")


class TestTop:
    def test_leaders_are_told_to_people_and_machines(self, grown: dict[str, str]) -> None:
        told = maia(grown, "top", "--json", "-n", "5").json
        assert [video["velocity"] for video in told["videos"]] == [1200, 1100, 1000, 900, 800]
        assert [video["id"] for video in told["videos"]][:2] == ["grown-00012", "grown-00011"]
        assert [video["rank"] for video in told["videos"]] == [1, 2, 3, 4, 5]
        assert ATTRIBUTION in told["attribution"]
        assert [round(rate) for rate in told["videos"][0]["growth"] if rate is not None] == [1200] * 24

        table = maia(grown, "top", "-n", "5").stdout
        for video in told["videos"]:
            assert video["id"] in table
            assert video["title"] in table
        assert f": {ATTRIBUTION}." in table
        assert "\x1b" not in table

        rows = list(csv.DictReader(io.StringIO(maia(grown, "top", "--csv", "-n", "5").stdout)))
        assert [row["video_id"] for row in rows] == [video["id"] for video in told["videos"]]
        assert [float(row["velocity"]) for row in rows] == [video["velocity"] for video in told["videos"]]
        assert {row["attribution"] for row in rows} == {ATTRIBUTION}

    def test_every_lead_and_filter(self, grown: dict[str, str]) -> None:
        columns = {"score": "viral_score", "acceleration": "acceleration", "relative": "relative_velocity"}
        for lead, column in columns.items():
            values = [video[column] for video in maia(grown, "top", "--by", lead, "--json").json["videos"]]
            assert len(values) == 10
            assert values == sorted(values, reverse=True)
        windowed = maia(grown, "top", "--window", "6h", "--json").json
        assert (windowed["window_h"], windowed["videos"][0]["leads_by"]) == (6.0, pytest.approx(1200))
        filters = ("--channel", "channel uc-1", "--zone", "warm", "--category", "music", "--tag", "LOFI")
        kept = maia(grown, "top", *filters, "--json").json["videos"]
        assert [video["id"] for video in kept] == [f"grown-{number:05}" for number in (10, 7, 4, 1)]
        none = maia(grown, "top", "--tag", "no such tag")
        assert (none.status, "maia tracker" in none.stdout) == (0, True)

    @pytest.mark.parametrize("columns", [80, 104, 150])
    def test_titles_give_way_to_the_terminal(self, grown: dict[str, str], columns: int) -> None:
        shown = on_a_terminal(grown, columns, "top", "-n", "3", "--by", "score")
        assert "\x1b[" in shown
        lines = plain(shown).splitlines()
        assert max(map(cell_len, lines)) <= columns
        told = next(line for line in lines if "grown-00001" in line)
        assert told.split()[:2] == ["1", "grown-00001"]
        assert "1" in told.split()
        assert told.rstrip().endswith("█")

    def test_no_number_is_cut_where_there_is_little_room(self, grown: dict[str, str]) -> None:
        lines = plain(on_a_terminal(grown, 44, "top", "-n", "3", "--by", "score")).splitlines()
        assert max(map(cell_len, lines)) <= 44
        told = next(line for line in lines if "grown-00001" in line)
        assert told.count("…") <= 1
        assert "growth" not in plain(on_a_terminal(grown, 44, "top", "-n", "3"))

    def test_wrong_usage_says_what_is_right(self, environment: dict[str, str]) -> None:
        for arguments, hint in (
            (("--by", "views"), "velocity"), (("--window", "long"), "90m, 24h, 7d or 2w"),
            (("--category", "Musik"), "Music"), (("--json", "--csv"), "not both"),
            (("--zone", "tepid"), "hot"), (("--limit", "0"), "--limit"),
        ):  # fmt: skip
            refused = maia(environment, "top", *arguments)
            assert refused.status == 2
            assert hint in refused.stderr


class TestVideo:
    async def test_shows_a_curve(self, grown: dict[str, str], sql: Any, tmp_path: Path) -> None:
        id_ = "grown-00007"
        payload = json.dumps({"video_id": id_, "at": NOON.isoformat(), "times_expected": 4.2})
        await sql.execute(
            "INSERT INTO events (at, kind, node, payload) VALUES ($1, 'tracker.breakout', 'n', $2::jsonb)",
            NOON - 9 * HOUR,
            payload,
        )
        told = maia(grown, "video", f"https://www.youtube.com/watch?v={id_}", "--json").json
        assert (told["id"], told["title"], told["zone"]) == (id_, TITLE.format(7), "warm")
        assert ATTRIBUTION in told["attribution"]
        assert [sample["views"] for sample in told["samples"]] == [1000 + 700 * hour for hour in range(30)]
        assert [sample["velocity"] for sample in told["samples"]] == [None] + [700] * 29
        assert told["breakouts"][0]["times_expected"] == 4.2
        assert told["lag_s"] < 0

        png = tmp_path / "curve.png"
        shown = maia(grown, "video", id_, "--window", "12h", "--png", str(png)).stdout
        assert png.read_bytes().startswith(b"\x89PNG")
        for words in (told["title"], ATTRIBUTION, "views per hour", "4.2 times the expected", "▲", "warm"):
            assert words in shown
        assert re.search("[\u2801-\u28ff]", shown)
        assert "\x1b" not in shown

        narrow = plain(on_a_terminal(grown, 66, "video", id_)).splitlines()
        assert max(map(cell_len, narrow)) <= 66
        assert any(re.search("[\u2801-\u28ff]", line) for line in narrow)

    def test_what_cannot_be_shown_says_what_to_do(self, environment: dict[str, str], tmp_path: Path) -> None:
        refused = maia(environment, "video", "dQw4w9WgXcQ")
        assert (refused.status, refused.stdout) == (1, "")
        assert "maia watch add dQw4w9WgXcQ" in refused.stderr
        refused = maia(environment, "video", "https://example.org/watch?v=dQw4w9WgXcQ")
        assert (refused.status, "is not a YouTube address" in refused.stderr) == (2, True)

    async def test_without_a_sample_there_is_no_curve(
        self, environment: dict[str, str], sql: Any, tmp_path: Path
    ) -> None:
        await store_video(sql, "grown-00001")
        shown = maia(environment, "video", "grown-00001")
        assert (shown.status, "No sample yet" in shown.stdout) == (0, True)
        refused = maia(environment, "video", "grown-00001", "--png", str(tmp_path / "a.png"))
        assert (refused.status, "nothing to draw for grown-00001: No sample" in refused.stderr) == (1, True)


class TestWatch:
    async def test_what_nobody_has_met_is_fetched_and_tracked(
        self, stage_of: StageFactory, synthetic: Catalogue
    ) -> None:
        stage: Stage = await stage_of(synthetic)
        id_ = synthetic.visible_ids(synthetic.span[1])[0]
        address = f"https://www.youtube.com/watch?v={id_}"
        added = await stage.maia("watch", "add", address, "dQw4w9WgXcQ", "--zone", "hot")
        assert added.status == 0, added.stderr
        assert "the tracker fetches them in its next cycle" in added.stdout

        assert (await stage.maia("tracker", "--direct")).status == 0
        [known, unknown] = sorted(
            (await stage.maia("watch", "list", "--json")).json, key=lambda watch: not watch["known"]
        )
        assert (known["id"], known["zone"], known["known"], known["asks"]) == (id_, "hot", True, 1)
        assert (unknown["id"], unknown["known"], unknown["asks"]) == ("dQw4w9WgXcQ", False, 1)
        # An hour must pass before it is asked for again: the list below says it was not.
        assert (await stage.maia("tracker", "--direct")).status == 0

        removed = await stage.maia("watch", "remove", id_, "--json")
        assert removed.json == {"watches": 1, "videos_pinned": 1}
        assert (await stage.maia("watch", "list", "--json")).json == [unknown]
        again = await stage.maia("watch", "remove", id_, "--json")
        assert again.json == {"watches": 0, "videos_pinned": 0}

        acts = await stage.rows("SELECT payload, session FROM events WHERE kind = 'operator.act' ORDER BY id")
        pinned, unmet, unwatched = (json.loads(payload) for payload, _ in acts)
        assert pinned == unmet == {"action": "pin", "context": {"kind": "video", "pinned": "hot"}}
        assert unwatched["action"] == "unwatch"
        assert unwatched["context"]["zone"] == "hot"
        assert {"category_id", "channel_id", "length"} <= unwatched["context"].keys()
        sessions = [session for _, session in acts]
        assert sessions[0] == sessions[1] != sessions[2]

    def test_without_a_key_it_says_what_is_missing(self, environment: dict[str, str]) -> None:
        added = maia(environment, "watch", "add", "https://youtu.be/dQw4w9WgXcQ")
        assert (added.status, "YOUTUBE_API_KEY_POOL_JSON" in added.stdout) == (0, True)
        assert "is watched, but not stored yet" in maia(environment, "video", "dQw4w9WgXcQ").stderr
        refused = maia(environment, "watch", "add", "what-is-it")
        assert (refused.status, "give its address" in refused.stderr) == (2, True)
        assert "dQw4w9WgXcQ" in maia(environment, "watch", "list").stdout


class TestExport:
    @pytest.mark.parametrize(("table", "count"), [("samples", 360), ("videos", 12), ("channels", 3)])
    def test_writes_what_is_stored(
        self, grown: dict[str, str], tmp_path: Path, table: str, count: int
    ) -> None:
        for ending in ("csv", "parquet"):
            path = tmp_path / f"out.{ending}"
            written = maia(grown, "export", "--to", str(path), "--table", table, "--json")
            assert written.status == 0, written.stderr
            assert written.json["rows"] == _rows(path) == count
            assert written.json["bytes"] == path.stat().st_size
        said = maia(grown, "export", "--to", "vault:exports/a.csv", "--table", table)
        assert said.stdout.startswith(f"wrote {count:,} {table} (")
        stored = Path(grown["PLEIADES_DATA_DIR"]) / "vault" / "exports" / "a.csv"
        assert stored.read_bytes() == (tmp_path / "out.csv").read_bytes()

    def test_a_span_is_told_by_days(self, grown: dict[str, str], tmp_path: Path) -> None:
        path = tmp_path / "out.csv"
        span = ("--since", "2026-11-01", "--until", "2026-11-02T00:00:00Z")
        written = maia(grown, "export", "--to", str(path), *span, "--json").json
        assert (written["rows"], written["since"]) == (12 * 18, "2026-11-01T00:00:00Z")

    def test_what_cannot_be_is_told_in_a_line(self, environment: dict[str, str], tmp_path: Path) -> None:
        for to, more, status, hint in (
            ("samples.xlsx", (), 2, "--format"), ("ftp://host/a.csv", (), 78, "neither a path nor"),
            (f"{tmp_path}", ("--format", "csv"), 78, "name a file in it"),
            ("a.csv", ("--since", "2026-01-02", "--until", "2026-01-01"), 2, "is not before"),
            ("a.csv", ("--since", "soon"), 2, "not a time such as"),
            ("/proc/nowhere/a.csv", (), 1, "there is no folder /proc/nowhere: create it first"),
        ):  # fmt: skip
            refused = maia(environment, "export", "--to", to, *more)
            assert refused.status == status, refused.stderr
            assert hint in refused.stderr
            assert "Traceback" not in refused.stderr


def _rows(path: Path) -> int:
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return sum(1 for _ in csv.DictReader(file))
    from pyarrow import parquet

    return int(parquet.read_metadata(path).num_rows)


class TestForecasts:
    @pytest_asyncio.fixture
    async def forecast(self, grown: dict[str, str], sql: Any) -> dict[str, str]:
        """With a forecast of each video, of which the n-th gains 1000 n views in a day, and their checks."""
        await sql.execute(
            "INSERT INTO video_forecasts SELECT video_id, last_at, last_views, last_views + 500 * n, "
            "last_views + 1000 * n, last_views + 2000 * n, n / 50.0, last_views, last_views + 5000 * n, "
            "last_views + 9000 * n, NULL FROM video_clock, "
            "LATERAL (SELECT right(video_id, 5)::int) AS part (n)"
        )
        await sql.execute(
            "INSERT INTO forecast_checks (video_id, made_at, horizon_h, due_at, age_class, views, low, "
            "expected, high, top, damped, actual, settled_at) "
            "SELECT video_id, $1::timestamptz - k * interval '1 minute', 24, $1, 4, 1000, 1500, 2000, 2500, "
            "0.1, 1800, 1400 + 10 * k, $1 FROM video_clock, generate_series(1, 10) AS k",
            NOON - HOUR,
        )
        return grown

    def test_rank_videos(self, forecast: dict[str, str]) -> None:
        told = maia(forecast, "top", "--by", "forecast", "--json", "-n", "3").json["videos"]
        assert [video["id"] for video in told] == ["grown-00012", "grown-00011", "grown-00010"]
        assert [video["leads_by"] for video in told] == [12_000, 11_000, 10_000]
        csv_text = maia(forecast, "top", "--by", "forecast", "--csv", "-n", "1").stdout
        [row] = csv.DictReader(io.StringIO(csv_text))
        assert int(row["views_in_24h"]) == int(row["views"]) + 12_000
        assert (row["top_chance_24h"], row["top_chance_7d"]) == ("0.24", "")
        table = plain(on_a_terminal(forecast, 80, "top", "--by", "forecast", "-n", "1"))
        assert "+12k     24 %" in table
        assert max(map(cell_len, table.splitlines())) <= 80

    def test_are_shown_with_their_video(self, forecast: dict[str, str], tmp_path: Path) -> None:
        shown = plain(on_a_terminal(forecast, 80, "video", "grown-00012"))
        assert "in 24 h: 48,000 views (80 %: 42,000–60,000)" in shown
        assert "its age in 24 h: 24 %" in shown
        assert "dotted: the forecast and its 80 % interval" in shown
        assert max(map(cell_len, shown.splitlines())) <= 80
        picture = tmp_path / "curve.png"
        told = maia(forecast, "video", "grown-00012", "--json", "--png", str(picture)).json["forecast"]
        assert picture.stat().st_size > 10_000
        assert told["day"]["views"] - told["views"] == 12_000

    def test_are_scored(self, forecast: dict[str, str]) -> None:
        shown = on_a_terminal(forecast, 80, "learner", "score")
        assert "12–24 h      120" in plain(shown)
        assert "120 forecasts were checked" in plain(shown)
        assert max(map(cell_len, plain(shown).splitlines())) <= 80
        [score] = maia(forecast, "learner", "score", "--json").json["scores"]
        assert (score["forecasts"], score["coverage"]) == (120, 0.1)
        assert "No forecast was checked" in maia(forecast, "learner", "score", "--since", "1m").stdout

    def test_the_learner_still_runs_by_default(self, forecast: dict[str, str]) -> None:
        assert maia(forecast, "learner", "--direct", "--force", "--json").json["forecasts"] == 12
        assert maia(forecast, "learner", "run", "--direct", "--json").json["outcome"] in ("idle", "done")
        assert maia(forecast, "learner", "--no-such-option").status == 2
