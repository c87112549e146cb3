"""Made-up observations for the tests of detectors."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from maia.learning.detector import Detector
from maia.learning.evidence import Counts
from maia.learning.observations import Observation, Scalar
from maia.learning.patterns import Finding, combined

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def step(
    seconds: float,
    action: str,
    outcome: str = "success",
    *,
    agent: str = "hunter",
    session: str = "s",
    reward: float = 0.0,
    cost: float = 1.0,
    duration_s: float | None = None,
    **context: Scalar,
) -> Observation:
    return Observation(agent, session, action, after(seconds), outcome, context, reward, cost, duration_s)


def noise(seed: int, count: int) -> list[Observation]:
    """Observations in which nothing has to do with anything."""
    drawn = random.Random(seed)
    return [_noise(drawn, number) for number in range(count)]


def _noise(drawn: random.Random, number: int) -> Observation:
    return Observation(
        drawn.choice(("hunter", "tracker")),
        f"s{number // 20}",
        drawn.choice("abcdef"),
        after(60.0 * number),
        "success" if drawn.random() < 0.8 else drawn.choice(("quota", "timeout")),
        {
            "hour": drawn.randrange(24),
            "region": drawn.choice(("US", "KR", "JP")),
            "load": drawn.random() * 4,
            "source": drawn.choice(("feeds", "search", "uploads")),
            "goal": "videos",
        },
        float(drawn.random() < 0.5),
        1.0,
        drawn.expovariate(1.0),
    )


def choices(seed: int, days: int) -> list[Observation]:
    """An operator's choices among offers, without any preference."""
    drawn = random.Random(seed)
    made: list[Observation] = []
    for number in range(40 * days):
        at = 86_400.0 * (number // 40) + number % 40
        about = {
            "category": drawn.choice(("Music", "News", "Games", "Film")),
            "channel": f"c{int(drawn.paretovariate(1)) % 200}",
            "tag_1": drawn.choice("abcdefghijkl"),
            "tag_2": drawn.choice("mnopq"),
        }
        made.append(step(at, "offer", agent="offer", **about, count=drawn.randrange(1, 4)))
        if drawn.random() < 0.15:
            made.append(step(at, drawn.choice(("watch", "park")), agent="operator", **about))
    return made


def mixture(seed: int, count: int) -> list[Observation]:
    """Observations of all kinds, with something to find for every detector."""
    drawn = random.Random(seed)
    made: list[Observation] = []
    for number in range(count // 10):
        made += _session(drawn, number)
    return made


def _session(drawn: random.Random, number: int) -> Iterator[Observation]:
    begin, agent, session = 7200.0 * number, drawn.choice(("hunter", "tracker")), f"s{number}"
    careful, bad = drawn.random() < 0.5, drawn.random() < 0.2
    region = "KR" if bad else drawn.choice(("US", "JP"))
    actions = (["check"] if careful else ["skip"]) + ["feeds", "uploads", "search", "store"]
    for at, action in enumerate(actions):
        failed = action == "search" and drawn.random() < (0.7 if bad else 0.05)
        yield Observation(
            agent, session, action, after(begin + 10 * at), "quota" if failed else "success",
            {"region": region, "load": drawn.random(), "topic": action[:2], "error": f"quota {number}"}
            if failed
            else {"region": region, "load": drawn.random(), "topic": action[:2]},
            float(drawn.random() < 0.5), 2.0, drawn.expovariate(1.0),
        )  # fmt: skip
        if failed:
            fixed = "success" if drawn.random() < 0.9 else "quota"
            yield Observation(agent, session, action, after(begin + 10 * at + 5), fixed, {"region": region})
    for arm, mean in (("slices", 1.0), ("new", 3.0)):
        context: Mapping[str, Scalar] = {"arm": arm, "region": region}
        gained, took = float(drawn.random() < 1 / mean), drawn.expovariate(1 / mean)
        yield Observation(agent, session, "ask", after(begin + 60), "success", context, gained, 1.0, took)
    well = drawn.random() < (0.9 if careful else 0.4)
    yield Observation(agent, session, "end", after(begin + 70), "success" if well else "lost")
    for category in ("Music", "News"):
        yield Observation(
            "offer", "o", "offer", after(begin + 80), context={"category": category, "count": 3}
        )
    if drawn.random() < 0.5:
        category = "Music" if drawn.random() < 0.9 else "News"
        yield Observation("operator", "o", "watch", after(begin + 90), context={"category": category})


def batches(observations: Sequence[Observation], size: int) -> list[list[Observation]]:
    return [list(observations[at : at + size]) for at in range(0, len(observations), size)]


def findings(detector: Detector[Any], read: Sequence[Sequence[Observation]]) -> list[Finding]:
    """All that a detector finds, asked after each batch."""
    found: list[Finding] = []
    for batch in read:
        detector.observe(batch)
        found += detector.patterns()
    return combined(found)


def counted(found: Sequence[Finding]) -> dict[str, Counts]:
    """The counts of each pattern over all days, by its statement's id."""
    return {each.pattern.id: sum(each.evidence.values(), Counts()) for each in found}


def by_day(found: Sequence[Finding]) -> dict[str, dict[date, Counts]]:
    return {each.pattern.id: dict(each.evidence) for each in found}
