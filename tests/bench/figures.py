"""What a bench yields: figures with their peers, ratios and goals; and how much of the machine was stolen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table; `goal` bounds the ratio to the peer, or our own figure if there is none."""

    what: str
    ours: float
    unit: str
    peer: float | None = None
    peer_name: str = ""
    goal: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.peer else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        if self.goal is None:
            return None
        judged = self.ours if self.ratio is None else self.ratio
        return judged <= self.goal if self.at_most else judged >= self.goal

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio, "met": self.met}


@dataclass(frozen=True, slots=True)
class Ticks:
    """The machine's CPU time so far, and the part of it that the hypervisor gave to others."""

    total: int
    stolen: int

    @classmethod
    def now(cls) -> Ticks:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        return cls(sum(fields[:8]), fields[7])

    def steal_since(self, before: Ticks) -> float:
        """The share of the CPU time since then that was stolen."""
        return (self.stolen - before.stolen) / max(1, self.total - before.total)


def table_of(figures: Sequence[Figure]) -> Table:
    """The figures as a table."""
    table = Table(
        "figure", "ours", "peer", "ratio", "goal", "", title="Pleiades, measured", title_justify="left"
    )
    for column in table.columns[1:4]:
        column.justify = "right"
    for figure in figures:
        peer = "" if figure.peer is None else f"{_number(figure.peer)} {figure.peer_name}".rstrip()
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
        goal = "" if figure.goal is None else f"{'≤' if figure.at_most else '≥'} {_number(figure.goal)}"
        verdict = {True: "met", False: "MISSED", None: ""}[figure.met]
        what = f"{figure.what}\n  {figure.note}" if figure.note else figure.what
        table.add_row(what, f"{_number(figure.ours)} {figure.unit}", peer, ratio, goal, verdict)
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
