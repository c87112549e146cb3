"""`maia learn` and `maia patterns` in processes of their own, at 80 columns."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fork_server import FORKS, Finished

pytestmark = pytest.mark.acceptance

BEGIN = datetime.now(UTC) - timedelta(days=10)


class Maia:
    """Runs `maia` on this test's database."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._environment, self._folder = environment, folder

    def __call__(self, *arguments: str, status: int = 0, **more: str) -> Finished:
        finished = FORKS.run_and_wait(
            *arguments,
            environment=os.environ | self._environment | {"COLUMNS": "80"} | more,
            folder=self._folder,
        )
        assert finished.status == status, finished.stdout + finished.stderr
        assert "Traceback" not in finished.stderr
        return finished

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json").stdout)


@pytest.fixture
def maia(environment: dict[str, str], tmp_path: Path) -> Maia:
    lines = []
    for n in range(1_000):
        at = BEGIN + timedelta(minutes=10 * n)
        tool, night = ("feeds", "search")[n % 2], at.hour < 6
        outcome = "timeout" if tool == "search" and night and n % 5 else "success"
        lines.append(
            {
                "job": f"run {n // 6}", "step": tool, "started": at.isoformat(), "state": outcome,
                "reward": 3 if outcome == "success" else 0, "cost": 1, "night": night,
            }
        )  # fmt: skip
    (tmp_path / "jobs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines) + "oops\n")
    return Maia(environment, tmp_path)


LEARN = ("learn", "--from", "jobs.jsonl", "--session", "job", "--action", "step", "--at", "started",
         "--outcome", "state")  # fmt: skip


def test_a_log_teaches_and_its_patterns_match_and_advise(maia: Maia) -> None:
    assert "Nothing has been learnt yet" in maia("patterns", "match", "night=true").stdout
    assert "Nothing has been learnt yet" in maia("patterns", "recommend", "night=true").stdout
    seen = maia(*LEARN, "--dry-run")
    assert "1,001 rows would be read as jsonl, of which 1,000 can be used" in seen.stdout
    assert "line 1,001" in seen.stderr
    assert maia.json("patterns", "list")["total"] == 0

    taught = maia(*LEARN)
    assert "learnt from 1,000 observations in 1,001 rows" in taught.stdout
    assert "1 row can't be used:\n  line 1,001: " in taught.stderr
    assert "was learnt before, 1,001 rows in all" in maia(*LEARN).stdout

    matched = maia.json("patterns", "match", "night=true", "agent=imported")
    assert matched["reason"] is None
    best = next(each for each in matched["patterns"] if len(each["met"]) > 1 and not each["missed"])
    assert set(best["met"]) == {"agent = imported", "night = true"}
    assert 0 < best["score"] <= best["confidence"] <= best["strength"] <= best["high"]
    shown = maia("patterns", "match", "--context", '{"night": true, "agent": "imported"}').stdout
    assert best["id"][:8] in shown
    assert "night = true" in shown

    advice = maia.json("patterns", "recommend", "night=true", "agent=imported")["actions"]
    assert advice[0]["action"] == "feeds"
    low, high = advice[0]["interval_80"]
    assert low < advice[0]["reward"] < high
    assert "because" in advice[0]["why"]
    text = maia("patterns", "recommend", "night=true", "agent=imported").stdout
    assert "feeds" in text
    assert "against" in text

    drawn = [maia.json("patterns", "recommend", "agent=imported", "--explore", "--seed", "7") for _ in "12"]
    first, again = ([(each["action"], each["drawn"]) for each in told["actions"]] for told in drawn)
    assert first == again
    assert None not in dict(first).values()
    assert "This context is unknown" in maia("patterns", "recommend", "colour=red").stdout
    assert "No pattern has a condition" in maia("patterns", "match", "colour=red").stdout


def test_what_was_done_tells_what_comes_next(maia: Maia) -> None:
    assert "No sequence of actions has been learnt yet" in maia("patterns", "next", "feeds").stdout
    maia(*LEARN, "--agent", "ann@example.org")
    shown = maia("patterns", "next", "sing", "feeds").stdout
    assert shown.index("search") < shown.index("(the session ends)")
    assert "Learnt from 1,167 actions of the agent mail-" in shown
    assert "It was never seen to do 'sing'." in shown
    assert max(map(len, shown.splitlines())) <= 80

    found = maia.json("patterns", "next", "feeds", "search", "--agent", "ann@example.org")
    assert (found["observations"], found["reason"], len(found["next"])) == (1_167, None, 3)
    assert {each["action"] for each in found["next"]} == {"feeds", "search", None}
    assert sum(each["probability"] for each in found["next"]) == pytest.approx(1, abs=0.02)
    assert maia.json("patterns", "next", "sing")["next"] == []
    assert "What 'bob' does was not learnt" in maia("patterns", "next", "feeds", "--agent", "bob").stdout
    assert "Missing argument 'ACTION" in maia("patterns", "next", status=2).stderr


async def test_patterns_are_paid_for_being_matched(maia: Maia, sql: Any) -> None:
    maia(*LEARN)
    before = await importance(sql)
    matched = [each["id"] for each in maia.json("patterns", "match", "night=true", "-n", "1")["patterns"]]
    after = await importance(sql)
    assert {id_ for id_ in before if after[id_] > before[id_]} == set(matched) != set()


async def importance(sql: Any) -> dict[str, float]:
    return {row["id"]: row["sti"] for row in await sql.fetch("SELECT id, sti FROM patterns")}


def test_copies_bring_back_what_was_lost_but_not_what_was_forgotten(maia: Maia) -> None:
    maia(*LEARN)
    known = [each["id"] for each in maia.json("patterns", "list", "-n", "1000")["patterns"]]
    everything = f"{len(known)} patterns"
    assert f"wrote {everything} to all.json" in maia("patterns", "export", "all.json").stdout
    assert everything in maia("patterns", "export", "all.parquet").stdout
    assert everything in maia("patterns", "export", "folder/").stdout
    assert "no snapshot" in maia("patterns", "snapshots").stdout
    assert "with everything" in maia("patterns", "snapshot").stdout
    assert "with what has changed: 0 patterns" in maia("patterns", "snapshot").stdout
    assert len(maia.json("patterns", "snapshots")["snapshots"]) == 2
    assert "changes since" in maia("patterns", "snapshots").stdout

    maia("patterns", "forget", known[0])
    restored = maia("patterns", "restore").stdout
    assert "verified 2 snapshots" in restored
    assert "1 pattern stays forgotten" in restored
    imported = maia("patterns", "import", "all.json").stdout
    assert "nothing of it is new here" in imported
    assert known[0] not in maia("patterns", "export", "-").stdout
    assert "1 pattern may be learnt again" in maia("patterns", "remember", known[0][:8]).stdout
    assert "you forgot no pattern" in maia("patterns", "remember", known[0][:8], status=2).stderr

    assert "committed" in maia("patterns", "export", "--git").stdout
    assert "nothing has changed" in maia("patterns", "export", "--git").stdout


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("patterns", "match"), 2, "say what is so now"),
        (("patterns", "recommend", "a=1", "--seed", "3"), 2, "--seed only applies"),
        (("patterns", "export"), 2, "either a FILE or FOLDER, or --git"),
        (("patterns", "export", "missing/x.json"), 1, "missing"),
        (("patterns", "import", "jobs.jsonl"), 1, "jobs.jsonl is no JSON"),
        (("patterns", "restore"), 1, "there is no snapshot"),
        (("learn", "--from", "missing.csv"), 1, "missing.csv is not there"),
        (("learn", "--from", "x.xes", "--at", "time"), 2, "leave out --at"),
        (("learn", "--from", "missing"), 1, "missing is not there"),
        (("learn", "--from", "jobs.jsonl"), 1, "no row can be used"),
    ],
)
def test_mistakes_are_explained(maia: Maia, arguments: tuple[str, ...], status: int, said: str) -> None:
    finished = maia(*arguments, status=status)
    words = " ".join(finished.stderr.replace("│", " ").split())
    assert said in words
