"""The hunter end to end against a floor that fetches the same answers bare and COPYs the rows; its memory.

Both take turns, each in a process of its own, against one emulator and one durable server: a round's floor
asks for what its hunter asked for. The folder of raw answers is measured in memory and on disk, as creating a
file may cost more there than all else done for a page; on disk the floor writes as many files with the same
bytes, unsynced.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench.figures import Figure
from tests.bench.stage import Run, Stage, staged, temporary_folder

SIDES = "tests.bench.hunting"
VIDEOS = 20_000
SEEDS = ("music", "gaming", "news")
CYCLES = 32
ROUNDS = 5
FEW_PAGES = 50
MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Round:
    """The hunter and the floor of its answers, one right after the other."""

    hunter: Run
    floor: Run

    @property
    def ratio(self) -> float:
        return self.floor.seconds / self.hunter.seconds


async def figures() -> AsyncIterator[Figure]:
    places: dict[str, Path | None] = {"raw answers in memory": MEMORY} if MEMORY.is_dir() else {}
    places["raw answers on disk"] = None
    async with staged(VIDEOS) as stage:
        rounds: dict[str, list[Round]] = {place: [] for place in places}
        for _ in range(ROUNDS):
            for place, parent in places.items():
                rounds[place].append(await _round(stage, parent))
    for place, measured in rounds.items():
        yield _speed(place, measured)
    for figure in _memory([turn.hunter for turn in next(iter(rounds.values()))]):
        yield figure


async def _round(stage: Stage, parent: Path | None) -> Round:
    with temporary_folder(parent) as vault, temporary_folder(parent) as plain:
        url = await stage.seeded_database(SEEDS)
        settings = {"DATABASE_URL": url, "PLEIADES_VAULT__PATH": str(vault)}
        hunter = await stage.run(SIDES, "hunt", settings, {"cycles": CYCLES})
        job = {
            "searches": hunter.measured["searches"],
            "base_url": stage.emulator_url,
            "key": "lab-key",
            "database_url": await stage.bed.new_database(),
            "folder": None if parent else str(plain),
        }
        return Round(hunter, await stage.run(SIDES, "floor", {}, job))


def _speed(place: str, rounds: Sequence[Round]) -> Figure:
    """The median round, by ratio, with where its CPU time went."""
    turn = sorted(rounds, key=lambda each: each.ratio)[len(rounds) // 2]
    sides = (("ours", turn.hunter), ("floor", turn.floor))
    spent = "; ".join(f"{name} {run.split(run.measured['pages'])}" for name, run in sides)
    ratios = ", ".join(f"{each.ratio:.2f}" for each in rounds)
    cpu = median(each.floor.cpu_s / each.hunter.cpu_s for each in rounds)
    return Figure(
        f"hunter end to end, {place}",
        turn.hunter.measured["videos"] / turn.hunter.seconds,
        "videos/s",
        turn.floor.measured["videos"] / turn.floor.seconds,
        "bare fetch and COPY",
        goal=0.5,
        note=f"rounds {ratios}; by CPU time {cpu:.2f}; ms of CPU a page, user+system: {spent}",
    )


def _memory(runs: Sequence[Run]) -> list[Figure]:
    peaks = [{int(pages): mib for pages, mib in run.measured["peak_mib"].items()} for run in runs]
    last = min(max(of_run) for of_run in peaks)
    few, many = (median(of_run[pages] for of_run in peaks) for pages in (FEW_PAGES, last))
    return [
        Figure("hunter's peak memory", many, "MiB", note=f"after {last} pages"),
        Figure("growth of peak memory", many, "MiB", few, f"after {FEW_PAGES} pages", goal=1.1, at_most=True),
    ]
