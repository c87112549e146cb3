"""What usually comes in the course of an episode."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pytest

from maia.learning.episodes import PAUSE, Episode, Episodes, episode_sequences
from maia.learning.evidence import Counts
from maia.learning.observations import Observation
from maia.learning.patterns import PatternType

DAY = datetime(2026, 11, 2, 8, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def acts(actions: str, begin: datetime = DAY, session: str = "s", agent: str = "hunter") -> list[Observation]:
    """One action a minute; each letter is one, and `.` ends a cycle."""
    return [
        Observation(agent, session, "cycle" if action == "." else action, begin + at * MINUTE)
        for at, action in enumerate(actions)
    ]


def gathered(*batches: list[Observation], most: int = 1000) -> list[str]:
    episodes = Episodes(most)
    for batch in batches:
        episodes.add(batch)
    complete = episodes.complete(DAY + 9 * timedelta(days=1))
    return [" ".join(each.actions) for each in complete]


def made_up(n: int, seed: int = 3) -> Iterator[Episode]:
    """Episodes with b at the end in nine of ten that have a, and in one of ten others; c, d, e anywhere."""
    rng = random.Random(seed)
    for at in range(n):
        middle = [rng.choice("cde") for _ in range(6)]
        opens = at % 2 == 0
        late = ["b"] if rng.random() < (0.9 if opens else 0.1) else []
        yield Episode(
            "hunter", DAY + at * timedelta(hours=3), DAY + at * timedelta(hours=3) + 9 * MINUTE,
            ("a" if opens else "f", *middle, *late),
        )  # fmt: skip


class TestEpisodes:
    def test_a_cycle_ends_an_episode_and_repetitions_count_once(self) -> None:
        assert gathered(acts("aab.bba.")) == ["a b", "b a"]

    def test_a_long_pause_ends_an_episode(self) -> None:
        assert gathered(acts("ab"), acts("c", DAY + PAUSE + 3 * MINUTE)) == ["a b", "c"]

    def test_what_may_go_on_is_not_complete(self) -> None:
        episodes = Episodes()
        episodes.add(acts("ab"))
        assert episodes.complete(DAY + 5 * MINUTE) == []
        episodes.add(acts("c", DAY + 6 * MINUTE))
        [episode] = episodes.complete(DAY + PAUSE + 7 * MINUTE)
        assert (episode.actions, episode.begun, episode.ended) == (("a", "b", "c"), DAY, DAY + 6 * MINUTE)

    def test_sessions_and_agents_are_apart(self) -> None:
        both = [
            each
            for pair in zip(acts("ab."), acts("cd.", session="t"), acts("ef.", agent="tracker"), strict=True)
            for each in pair
        ]
        assert gathered(both) == ["a b", "c d", "e f"]

    def test_memory_is_bounded_by_actions_and_the_latest_stay(self) -> None:
        assert gathered(*(acts(f"{at}ab.", session=str(at)) for at in range(9)), most=8) == [
            "7 a b",
            "8 a b",
        ]


class TestSequences:
    def test_what_comes_late_in_an_episode_is_found_and_nothing_else(self) -> None:
        [finding] = episode_sequences(made_up(400))
        assert finding.pattern.type is PatternType.TASK_SEQUENCE
        assert finding.pattern.signature == {"agent": "hunter", "in_episode": ["a"], "then": "b"}
        assert finding.pattern.statement == (
            "once the hunter has done a, with anything in between, b comes later in the same session "
            "about 9 in 10 times"
        )

    def test_the_evidence_is_counted_by_day(self) -> None:
        episodes = list(made_up(400))
        [finding] = episode_sequences(episodes)
        with_a = [each for each in episodes if each.actions[0] == "a"]
        first: date = DAY.date()
        of_day = [each for each in with_a if each.begun.date() == first]
        came = sum("b" in each.actions for each in of_day)
        assert finding.evidence[first] == Counts(came, len(of_day) - came, 0.0, of_day[-1].ended)
        assert sum(each.support for each in finding.evidence.values()) == len(with_a)

    @pytest.mark.parametrize("seed", range(5))
    def test_chance_is_no_pattern(self, seed: int) -> None:
        rng = random.Random(seed)
        episodes = [
            Episode("hunter", DAY, DAY, tuple(rng.choice("abcdefgh") for _ in range(rng.randint(2, 9))))
            for _ in range(500)
        ]
        assert episode_sequences(episodes) == []

    def test_many_frequent_sequences_do_not_stop_it(self) -> None:
        rng = random.Random(1)
        letters = "abcdefghijklmnopqrst"
        episodes = [
            Episode("hunter", DAY, DAY, (*rng.sample(letters, 18), *(["z"] if at % 2 else ["y"])))
            for at in range(60)
        ]
        assert episode_sequences(episodes) == []

    def test_nothing_comes_of_nothing(self) -> None:
        assert episode_sequences([]) == []
        assert episode_sequences([Episode("hunter", DAY, DAY, ("a",))] * 100) == []
