"""How tags are shown: as most of the first few videos that carry each spell it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Final

import numpy as np
from numpy.typing import NDArray

from atlas.adapters.graph_feeding import CARRIERS
from maia.graphing.facts import shown_spelling

_ROW: Final = np.dtype([("tag", np.int32), ("link", np.uint64), ("spelling", np.int32)])
_MOST_LOOSE: Final = 500_000


class Spelled:
    """Collects how videos spell their tags.

    Holds up to five rows of 16 bytes for each tag, and each tag and each spelling once. Carriers are ordered
    by the high halves of the handles of their links.
    """

    def __init__(self) -> None:
        self._tags: defaultdict[str, int] = defaultdict(count().__next__)
        self._spellings: defaultdict[str, int] = defaultdict(count().__next__)
        self._parts: list[NDArray[np.void]] = []
        self._loose = 0

    def add(self, tags: Sequence[str], spellings: Sequence[str], links: NDArray[np.uint64]) -> None:
        """Add carried tags, how they are spelled, and the high halves of the handles of their links."""
        rows = np.zeros(len(tags), _ROW)
        rows["tag"] = list(map(self._tags.__getitem__, tags))
        rows["spelling"] = list(map(self._spellings.__getitem__, spellings))
        rows["link"] = links
        self._parts.append(rows)
        self._loose += len(rows)
        if self._loose > _MOST_LOOSE:
            self._parts, self._loose = [self._first()], 0

    def shown(self) -> Iterator[tuple[str, str | None]]:
        """Each tag, and how it is shown; None if as it is called."""
        first, texts = self._first(), list(self._spellings)
        counts = np.bincount(first["tag"], minlength=len(self._tags))
        end = 0
        for tag, carriers in zip(self._tags, counts.tolist(), strict=True):
            begin, end = end, end + carriers
            yield tag, shown_spelling(tag, [texts[each] for each in first["spelling"][begin:end].tolist()])

    def _first(self) -> NDArray[np.void]:
        """The rows of the first carriers of each tag, by tags."""
        rows = np.concatenate([np.zeros(0, _ROW), *self._parts])
        rows = rows[np.lexsort((rows["link"], rows["tag"]))]
        tags = rows["tag"]
        begins = np.searchsorted(tags, tags)
        return rows[np.arange(len(rows)) - begins < CARRIERS]
