"""The contract that every detector keeps: those that come with Pleiades, and one from another package."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import random
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from itertools import permutations
from pathlib import Path

import msgpack
import pytest
import zstandard

from maia.learning.detector import ENTRY_POINTS, Detector
from maia.learning.detectors import BUILT_IN
from maia.learning.evidence import Counts, Evidence, EvidenceKey, EvidenceRow, merge, totals
from maia.learning.observations import Observation
from maia.learning.patterns import Finding, Pattern, PatternType
from maia.learning.states import StateError
from tests.observing import after, batches, by_day, choices, counted, findings, mixture, noise, step

ROOT = Path(__file__).parents[2]
OBSERVING = {each.name: each for each in BUILT_IN if each.reads == "observations"}

PAGE = ROOT / "docs" / "add-a-detector.md"
INSTALLED = [
    found
    for point in entry_points(group=ENTRY_POINTS)
    if (found := point.load()) not in BUILT_IN and found.reads == "observations"
]
"""The detectors of other packages that are installed here."""


def toy() -> str:
    """The detector that the page on adding one shows."""
    if not PAGE.exists():
        pytest.skip("docs/ is not part of what is installed")
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    return str(code)


@pytest.fixture(scope="module")
def toy_package(tmp_path_factory: pytest.TempPathFactory):
    """A package with a detector, as pip would have installed it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "toy_detectors.py").write_text(toy())
    metadata = folder / "toy_detectors-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-detectors\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\ntoy = toy_detectors:Successes\n")
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("toy_detectors", None)


@pytest.fixture(params=[*OBSERVING.values(), *INSTALLED, "toy"], ids=lambda each: getattr(each, "name", each))
def kind(request: pytest.FixtureRequest, toy_package: Path) -> type[Detector[Observation]]:
    """Each detector's class; that of the toy by its entry point."""
    if isinstance(request.param, type):
        return request.param
    toys = entry_points(group=ENTRY_POINTS, name=request.param)
    (found,) = [point for point in toys if point.value.startswith("toy_detectors:")]
    return found.load()


def test_every_detector_that_comes_with_it_is_an_entry_point():
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][ENTRY_POINTS]
    modules = {name: value.split(":") for name, value in table.items()}
    found = {name: getattr(importlib.import_module(module), cls) for name, (module, cls) in modules.items()}
    assert {name: found[name] for name in found if found[name] in BUILT_IN} == {
        each.name: each for each in BUILT_IN
    }
    assert all(cls.name == name for name, cls in found.items())


def test_names_are_not_used_twice():
    assert len({each.name for each in BUILT_IN}) == len(BUILT_IN)


def test_it_finds_what_there_is(kind: type[Detector[Observation]]):
    found = findings(kind(), batches(mixture(1, 6000), 500))
    assert found
    assert all(counts.support for counts in counted(found).values())


def test_a_restored_detector_goes_on_as_the_one_that_was_saved(kind: type[Detector[Observation]]):
    read = batches(mixture(2, 5000), 300)
    saved, restored = kind(), kind()
    for batch in read:
        saved.observe(batch)
        restored.observe(batch)
        restored = kind.from_state(restored.state())
        assert saved.patterns() == restored.patterns()
        assert saved.state() == restored.state()


def test_what_was_not_handed_out_survives_saving(kind: type[Detector[Observation]]):
    detector = kind()
    for batch in batches(mixture(3, 4000), 500):
        detector.observe(batch)
    restored = kind.from_state(detector.state())
    assert restored.patterns() == detector.patterns() != []


def test_its_capacity_survives_saving(kind: type[Detector[Observation]]):
    small = kind(capacity=7)  # type: ignore[call-arg]
    restored = kind.from_state(small.state())
    for each in (small, restored):
        each.observe(noise(1, 2000))
    assert small.state() == restored.state()


def digest(name: str) -> str:
    """A digest of all that a detector finds and remembers."""
    detector = OBSERVING[name]()
    found = findings(detector, batches(mixture(4, 3000), 400))
    text = repr([(each.pattern, sorted(each.evidence.items())) for each in found]).encode()
    return hashlib.blake2b(text + detector.state()).hexdigest()


def test_every_process_finds_the_same():
    code = (
        "import runpy, sys\n"
        f"module = runpy.run_path({str(Path(__file__))!r})\n"
        "print([module['digest'](name) for name in module['OBSERVING']])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(told) == 1


def test_nothing_is_handed_out_twice(kind: type[Detector[Observation]]):
    detector = kind()
    for batch in batches(mixture(5, 4000), 500):
        detector.observe(batch)
        detector.patterns()
        assert detector.patterns() == []
        detector.observe([])
        assert detector.patterns() == []


def test_patterns_are_well_formed(kind: type[Detector[Observation]]):
    found = findings(kind(), batches(mixture(6, 5000), 500))
    for each in found:
        assert each.pattern.type in kind.types
        assert each.pattern.statement.strip()
        for value in (each.pattern.signature, each.pattern.data):
            assert json.loads(json.dumps(value, allow_nan=False)) == value
        for day, counts in each.evidence.items():
            assert isinstance(counts.pos, int)
            assert isinstance(counts.neg, int)
            assert counts.support or counts.reward
            assert math.isfinite(counts.reward)
            assert counts.last_seen is not None
            assert counts.last_seen.date() >= day
    assert len({each.pattern.statement for each in found}) == len(found)


@pytest.mark.parametrize(
    "batch",
    [
        [],
        [step(0, "a")],
        [step(0, "a")] * 300,
        [step(0, "a", "failed", x=1, error="no")] * 300,
        [step(i, "a", "failed" if i % 2 else "success", x=math.nan, y=math.inf) for i in range(300)],
        [step(i, "a", "failed" if i % 2 else "success", x=10**400, y=-(10**400)) for i in range(300)],
        [step(i, "a" * (i % 2), duration_s=math.nan, cost=0.0, reward=1e300) for i in range(300)],
        [step(i, "b" * (i % 3), topic="", source=None, arm=True, tag_1="", goal="") for i in range(300)],
        [step(-i, "ab"[i % 2], "failed" if i % 7 else "success") for i in range(300)],
        [step(i, "watch", agent="operator", count=math.nan) for i in range(100)]
        + [step(i, "offer", agent="offer", count=-math.inf, reward=-5) for i in range(300)],
    ],
    ids=[
        "empty", "one", "constant", "failing", "NaN", "huge", "extremes", "empty texts", "backwards",
        "offers",
    ],
)  # fmt: skip
def test_it_survives_odd_input(kind: type[Detector[Observation]], batch: list[Observation]):
    detector = kind()
    for _ in range(3):
        detector.observe(batch)
        detector = kind.from_state(detector.state())
        for each in detector.patterns():
            json.dumps([each.pattern.signature, each.pattern.data], allow_nan=False)


def test_late_and_shuffled_observations_do_not_break_it(kind: type[Detector[Observation]]):
    shuffled = mixture(7, 4000)
    random.Random(7).shuffle(shuffled)
    found = findings(kind(), batches(shuffled, 300))
    assert all(counts.support >= 0 for counts in counted(found).values())


def _varied(begin: int, count: int) -> list[Observation]:
    """Observations in which everything is new again and again."""
    drawn = random.Random(begin)
    return [
        step(
            60.0 * (begin + number), f"a{drawn.randrange(3000)}", drawn.choice(("success", "quota")),
            agent=drawn.choice(("operator", "offer", *(f"agent{at}" for at in range(20)))),
            session=f"s{(begin + number) // 5}", duration_s=drawn.random(), reward=drawn.random(),
            topic=f"t{drawn.randrange(3000)}", arm=f"arm{drawn.randrange(500)}",
            goal=f"g{drawn.randrange(500)}", video=f"v{begin + number}", error=f"e{chr(97 + number % 26)}",
        )
        for number in range(count)
    ]  # fmt: skip


def test_memory_is_bounded(kind: type[Detector[Observation]]):
    detector = kind(capacity=200)  # type: ignore[call-arg]
    sizes = []
    for at in range(12):
        detector.observe(_varied(at * 1000, 1000))
        detector.patterns()
        sizes.append(len(zstandard.ZstdDecompressor().decompress(detector.state(), max_output_size=2**28)))
    assert max(sizes[8:]) <= 1.3 * max(sizes[:8])


def _rows(node: str, found: list[Finding]) -> Evidence:
    return {
        EvidenceKey(each.pattern.id, node, day): EvidenceRow(
            counts.pos, counts.neg, counts.reward, counts.last_seen or after(0), 1
        )
        for each in found
        for day, counts in each.evidence.items()
    }


def test_evidence_of_two_nodes_merges_in_any_order(kind: type[Detector[Observation]]):
    read = mixture(8, 8000)
    halves = [read[: len(read) // 2], read[len(read) // 2 :]]
    found = [findings(kind(), batches(half, 500)) for half in halves]
    rows = [_rows(node, each) for node, each in zip(("one", "two"), found, strict=True)]
    rows.append(_rows("one", findings(kind(), batches(halves[0][:2000], 500))))
    merged = [merge(*order, *order[:2]) for order in permutations(rows)]
    assert all(each == merged[0] for each in merged)
    truth: dict[str, Counts] = counted(found[0])
    for key, counts in counted(found[1]).items():
        truth[key] = truth.get(key, Counts()) + counts
    told = totals(merged[0])
    assert {key: (each.pos, each.neg) for key, each in told.items()} == {
        key: (each.pos, each.neg) for key, each in truth.items()
    }


@pytest.mark.parametrize("name", ["task_sequences", "error_recoveries", "tool_usage", "context_switches"])
def test_batches_make_no_difference(name: str):
    kind = OBSERVING[name]
    read = mixture(9, 4000)
    whole, parts = kind(), kind()
    whole.observe(read)
    for batch in batches(read, 170):
        parts.observe(batch)
    one, other = by_day(whole.patterns()), by_day(parts.patterns())
    assert one.keys() == other.keys()
    for key, days in one.items():
        assert days.keys() == other[key].keys()
        for day, counts in days.items():
            same = other[key][day]
            assert (counts.pos, counts.neg) == (same.pos, same.neg)
            assert counts.reward == pytest.approx(same.reward)


def test_what_is_no_state_is_refused(kind: type[Detector[Observation]]):
    good = kind().state()
    newer = zstandard.compress(msgpack.packb([kind.name, kind.version + 1, []]))
    other = zstandard.compress(msgpack.packb(["another", 1, []]))
    for state in (b"", b"nonsense", good[:-3], newer, other):
        with pytest.raises(StateError):
            kind.from_state(state)


def test_capacity_must_be_positive(kind: type[Detector[Observation]]):
    if kind in BUILT_IN:
        with pytest.raises(ValueError, match="capacity"):
            kind(capacity=0)  # type: ignore[call-arg]


def _compares(pattern: Pattern) -> bool:
    """Whether it says that something makes a difference: the rest just says what is."""
    retry = pattern.action is not None and pattern.action.startswith(("wait", "try again"))
    plain = pattern.type is PatternType.TOOL_USAGE and not pattern.signature["conditions"]
    return not retry and not plain


@pytest.mark.parametrize("name", OBSERVING)
def test_nothing_is_found_in_noise(name: str):
    # At a false discovery rate of 5 %, three of twenty or fewer come with a probability of 98 %.
    kind = OBSERVING[name]
    false_reports = 0
    for seed in range(20):
        read = choices(seed, 20) if name == "preferences" else noise(seed, 4000)
        found = findings(kind(), batches(read, 500))
        false_reports += any(_compares(each.pattern) for each in found)
    assert false_reports <= 3
