"""The learner when a state is damaged, a detector is broken, or the database breaks off or is full."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import asyncpg
import numpy as np
import pytest
from pydantic import SecretStr

from atlas.adapters.patterns import Model
from atlas.clock import FixedClock
from atlas.composition import Atlas
from atlas.config import Settings
from atlas.db import Database, Transaction
from atlas.errors import DatabaseUnavailable
from atlas.testing import NOON, SettingsFactory, ThrowAwayServer, throw_away_server
from maia.learner import knowledge
from maia.learning.detector import ObservationDetector
from maia.learning.detectors.failure_modes import FailureModes
from maia.learning.evidence import Counts
from maia.learning.observations import Observation
from maia.learning.patterns import Finding, Pattern, PatternType
from maia.learning.states import pack
from tests.integration.conftest import MountSmall
from tests.integration.test_cannot_store import fill_up
from tests.integration.test_learner import dao, evidence, failing_nights, forget_everything, learn

pytestmark = pytest.mark.integration

FAILURE_MODES = "detector.failure_modes"
NOT_COMPARED = ("learner_cursors", "sti", "lti", "attended_at", "changed")
"""The log grows by each cycle that ends; importance is paid by the cycle, if it comes that far; and the
transactions that stored it all have other numbers."""
TABLES = ("patterns", "pattern_evidence", "models", "learner_cursors")


async def contents(atlas: Atlas, *without: str) -> dict[str, list[str]]:
    """All rows of the tables of what is learnt, without some columns or whole tables."""
    connection = await asyncpg.connect(atlas.db.url_of())
    try:
        found = {}
        for table in (each for each in TABLES if each not in without):
            rows = await connection.fetch(
                f"SELECT (to_jsonb(t) - $1::text[])::text FROM {table} AS t", without
            )
            found[table] = sorted(row[0] for row in rows)
        return found
    finally:
        await connection.close()


class TestStates:
    @pytest.mark.parametrize("damage", [b"", b"no state", pack("another", 1, [])])
    async def test_a_damaged_state_starts_anew_and_the_patterns_stay(
        self, atlas: Atlas, clock: FixedClock, caplog: pytest.LogCaptureFixture, damage: bytes
    ) -> None:
        await failing_nights(atlas, clock, 5)
        await learn(atlas)
        before = await evidence(atlas)
        known = [each for each in await dao(atlas).known() if each.type == "failure_mode"]
        assert known
        await dao(atlas).save_models([Model(FAILURE_MODES, FailureModes.version, damage, 1080)])

        await failing_nights(atlas, clock, 5)
        with caplog.at_level(logging.ERROR):
            statistics = await learn(atlas)

        assert statistics["outcome"] == "done"
        damaged = [each for each in caplog.records if getattr(each, "action", "") == "state_damaged"]
        assert ["failure_modes" in each.getMessage() for each in damaged] == [True]
        after = await evidence(atlas)
        assert all(sum(after[id_]) >= sum(before[id_]) for id_ in before)
        assert any(sum(after[each.id]) > sum(before[each.id]) for each in known), "it learns again"
        restored = await dao(atlas).models([FAILURE_MODES])
        FailureModes.from_state(restored[FAILURE_MODES].state)

    async def test_a_newer_state_is_left_alone_and_the_cycle_says_what_to_do(
        self, atlas: Atlas, clock: FixedClock
    ) -> None:
        await failing_nights(atlas, clock, 5)
        await learn(atlas)
        newer = pack("failure_modes", FailureModes.version + 1, {"of": "a later version"})
        await dao(atlas).save_models([Model(FAILURE_MODES, FailureModes.version + 1, newer, 5000)])
        await failing_nights(atlas, clock, 1)
        before = await contents(atlas)

        statistics = await learn(atlas)

        assert (statistics["outcome"], statistics["observations"]) == ("misconfigured", 0)
        assert "failure_modes has version 2, and this is version 1" in statistics["detail"]
        assert "update Pleiades" in statistics["detail"]
        assert await contents(atlas) == before


class Cut:
    """Loses the connection after the nth statement, whose effect stays but whose answer nobody hears."""

    def __init__(self, nth: int) -> None:
        self.left, self.label = nth, ""

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for owner in (Database, Transaction):
            monkeypatch.setattr(owner, "_on_connection", self._losing(owner._on_connection))

    def _losing(self, usual: Any) -> Any:
        async def lose(runner: Any, label: str, work: Any) -> Any:
            answer = await usual(runner, label, work)
            self.left -= 1
            if self.left == 0:
                self.label = label
                raise DatabaseUnavailable("the connection broke")
            return answer

        return lose


class TestCuts:
    @pytest.fixture
    def atlas_settings(self, settings_factory: SettingsFactory) -> Settings:
        """Without samples of this machine, which would be learnt from, and the graph, cut elsewhere."""
        return settings_factory(monitoring={"enabled": False}, graph={"enabled": False})

    @pytest.mark.timeout(300)
    async def test_a_cut_after_any_statement_loses_nothing_and_repeats_nothing(
        self, atlas: Atlas, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await failing_nights(atlas, clock, 4)
        await learn(atlas, batch_size=500)
        expected = await contents(atlas, *NOT_COMPARED)
        assert all(expected.values())

        cut_after: list[str] = []
        while True:
            await forget_everything(atlas)
            cut = Cut(len(cut_after) + 1)
            with monkeypatch.context() as patched, suppress(DatabaseUnavailable):
                cut.install(patched)
                await learn(atlas, batch_size=500)
            # From here on the cycle judges and forecasts, and everything is learnt.
            if cut.label in ("", "patterns.expire_evidence"):
                break
            cut_after.append(cut.label)
            await learn(atlas, batch_size=500)
            assert await contents(atlas, *NOT_COMPARED) == expected, cut_after

        assert cut_after.count("COMMIT") >= 2
        assert {"patterns.move_cursor", "patterns.store", "patterns.count"} <= set(cut_after)


class Broken(ObservationDetector):
    """Another package's detector, which can't cope with any observation that failed."""

    name: ClassVar[str] = "broken"
    types: ClassVar[frozenset[PatternType]] = frozenset({PatternType.FAILURE_MODE})

    def observe(self, batch: Sequence[Observation]) -> None:
        for each in batch:
            if not each.succeeded:
                raise ZeroDivisionError(each.action)

    def patterns(self) -> list[Finding]:
        return []

    def state(self) -> bytes:
        return pack(self.name, self.version, None)

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        return cls()


class WithoutState(Broken):
    """A detector that learns, but can't say what it knows."""

    def observe(self, batch: Sequence[Observation]) -> None:
        pass

    def state(self) -> bytes:
        raise KeyError("state")


class Unmade(Broken):
    """A detector that nobody can make without knowing what of."""

    def __init__(self, of: str) -> None:
        self.of = of


class Point:
    """The entry point by which the other package's detector is found, if its module can be imported."""

    name, value = "broken", "elsewhere:Broken"

    def __init__(self, detector: object) -> None:
        self._detector = detector

    def load(self) -> object:
        if self._detector is None:
            raise ModuleNotFoundError("No module named 'elsewhere'")
        return self._detector


Install = Callable[[object], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a broken detector."""
    installed = knowledge.installed_points()

    def put(detector: object) -> None:
        monkeypatch.setattr(knowledge, "installed_points", lambda: [*installed, Point(detector)])

    return put


class TestBrokenDetectors:
    @pytest.mark.parametrize(
        "detector",
        [Broken, WithoutState, Unmade, len, None],
        ids=["observe", "state", "init", "class", "import"],
    )
    async def test_one_that_raises_is_left_out_and_the_others_learn_the_same(
        self,
        atlas: Atlas,
        clock: FixedClock,
        caplog: pytest.LogCaptureFixture,
        install: Install,
        detector: object,
    ) -> None:
        await failing_nights(atlas, clock, 5)
        await learn(atlas, batch_size=200)
        expected = await evidence(atlas)
        await forget_everything(atlas)
        install(detector)

        with caplog.at_level(logging.ERROR):
            statistics = await learn(atlas, batch_size=200)

        assert statistics["outcome"] == "done"
        assert await evidence(atlas) == expected
        assert expected
        failed = [each for each in caplog.records if getattr(each, "action", "") == "detector_failed"]
        assert len(failed) == 1, "an error a page would fill the log"
        assert "PLEIADES_LEARNER__OFF=broken" in failed[0].getMessage()
        assert "detector.broken" not in await dao(atlas).models(["detector.broken"])

    def test_one_that_cannot_even_be_imported_can_be_switched_off(
        self, install: Install, caplog: pytest.LogCaptureFixture
    ) -> None:
        install(None)
        assert knowledge.detector_classes(["broken"]) == knowledge.detector_classes()
        assert [each.getMessage()[:15] for each in caplog.records] == ["detector broken"]


def found(signature: Mapping[str, Any] | None = None, data: Any = None, **counted: Any) -> Finding:
    statement, action = counted.pop("statement", "said"), counted.pop("action", None)
    pattern = Pattern(PatternType.FAILURE_MODE, signature or {"x": 1}, statement, (), action, data or {})
    return Finding(pattern, {NOON.date(): Counts(**{"pos": 1, "last_seen": NOON} | counted)})


class TestUnstorableFindings:
    @pytest.mark.parametrize(
        "finding",
        [
            "a word",
            found({"x": float("nan")}),
            found({"x": np.int64(3)}),
            found({"x": "a\0"}),
            found(MappingProxyType({"x": 1})),
            found({"x": 10**30}),
            found(statement=""),
            found(statement="x" * 2001),
            found(action="x" * 201),
            found(data={"x": {1, 2}}),
            found(pos=2**63),
            found(reward=float("inf")),
            found(last_seen=NOON.replace(tzinfo=None)),
        ],
    )
    async def test_their_detector_is_left_out(
        self,
        atlas: Atlas,
        clock: FixedClock,
        caplog: pytest.LogCaptureFixture,
        install: Install,
        finding: Any,
    ) -> None:
        class Faulty(WithoutState):
            def patterns(self) -> list[Finding]:
                return [finding]

            def state(self) -> bytes:
                return pack(self.name, self.version, None)

        install(Faulty)
        await failing_nights(atlas, clock, 5)
        assert (await learn(atlas))["outcome"] == "done"
        assert await evidence(atlas)
        assert caplog.text.count("detector broken failed and is left out now") == 1
        assert await dao(atlas).models(["detector.broken"]) == {}

    async def test_a_state_that_is_a_text_is_none(
        self, atlas: Atlas, clock: FixedClock, caplog: pytest.LogCaptureFixture, install: Install
    ) -> None:
        class Textual(WithoutState):
            def state(self) -> Any:
                return "text"

        install(Textual)
        await failing_nights(atlas, clock, 1)
        assert (await learn(atlas))["outcome"] == "done"
        assert "its state is str, not bytes" in caplog.text

    def test_a_class_without_a_name_is_no_detector(self, install: Install) -> None:
        expected = knowledge.detector_classes()
        install(type("Nameless", (ObservationDetector,), {}))
        assert knowledge.detector_classes() == expected


@pytest.fixture
def small_server(embedded_data_dir: Path, mount_small: MountSmall) -> Iterator[ThrowAwayServer]:
    """A server whose file system holds little more than an empty cluster."""
    with throw_away_server(mount_small(embedded_data_dir / "small", "160m")) as server:
        yield server


async def test_a_full_disk_ends_the_cycle_and_later_nothing_is_left_out(
    settings_factory: SettingsFactory, small_server: ThrowAwayServer, clock: FixedClock
) -> None:
    url = small_server.dsn_of(small_server.create_database(small_server.migrated_template()))
    settings = settings_factory(database_url=SecretStr(url))
    async with Atlas.open(settings, clock=clock) as atlas:
        await failing_nights(atlas, clock, 5)
        await fill_up(url)

        statistics = await learn(atlas)

        assert statistics["outcome"] == "storage_failed", statistics
        assert "free space on the database's disk" in statistics["detail"]
        assert statistics["observations"] == 0
        connection = await asyncpg.connect(url)
        await connection.execute("DROP TABLE ballast")
        await connection.close()
        assert await evidence(atlas) == {}

        again = await learn(atlas)

        assert (again["outcome"], again["observations"]) == ("done", 5 * 24 * 9)
        assert await evidence(atlas)
