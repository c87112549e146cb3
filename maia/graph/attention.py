"""Attention over the graph: wages for stimulated atoms, which spread over links, and what to forget first.

After OpenCog's economic attention networks (ECAN), whose constants have their names here: those of the
attention agents in github.com/opencog/opencog (`default-param-values.scm`), and the wage of its
`AttentionBank`. Wages, rent and long-term importance are those of `maia.learning.importance`.

In ECAN, agents take turns: each time the diffusion agent runs, every atom in the attentional focus passes on
a share of its STI, so that how far attention gets depends on how often the agent runs. Here a wage spreads
once, when it is paid: an atom keeps its part of what reaches it and passes on a share, as far as there is
anything to pass on. That is the sum of all of ECAN's steps for this wage. It is linear, and so is rent:
wages may be spread together or one by one, at once or late, and the attention at any later instant is the
same as long as the links are. Nothing is lost on the way: the links only pass on what was paid.

ECAN counts links as atoms that have importance of their own; here they only conduct, between the atoms of
their outgoing set and in both directions.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array

from maia.graph.arrays import Float32s, Float64s, GraphArrays, Int64s
from maia.learning.importance import ECONOMY, FORESIGHT_H, Economy

MAX_SPREAD_PERCENTAGE: Final = 0.4
"""The share of what reaches an atom that it passes on."""

HEBBIAN_MAX_ALLOCATION_PERCENTAGE: Final = 0.05
"""The part of that which goes over Hebbian links, where an atom has others too."""

HEBBIAN: Final = frozenset({"co_occurs", "similar"})
"""The types of links that say no more than that two atoms tend to come together, as Hebbian links do."""

_TOLERANCE: Final = 1e-4
"""The spreading ends when less than this part of the wages is still on its way; it stays where it is then."""


@dataclass(frozen=True, slots=True)
class Spreading:
    """How much spreads, and how it is divided."""

    share: float = MAX_SPREAD_PERCENTAGE
    hebbian_share: float = HEBBIAN_MAX_ALLOCATION_PERCENTAGE

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1 or not 0 <= self.hebbian_share <= 1:
            raise ValueError("share must be in [0, 1) and hebbian_share in [0, 1]")


SPREADING: Final = Spreading()


def conductance(
    arrays: GraphArrays, spreading: Spreading = SPREADING, hebbian: Collection[str] = HEBBIAN
) -> csr_array:
    """To which atoms each atom passes attention on: float32, rows add up to 1, or are empty.

    A link of two conducts by the strength of its truth value, times its weight if it has one. Links of other
    numbers of ends, and those that nothing speaks for, conduct nothing.
    """
    links = np.flatnonzero(np.diff(arrays.outgoing_starts) == 2)
    first = arrays.outgoing_starts[links]
    ends = np.stack([arrays.outgoing[first], arrays.outgoing[first + 1]]).astype(np.int64)
    count = arrays.count[links]
    strength = np.where(count > 0, arrays.positive[links] / np.maximum(count, 1e-300), 1.0)
    weight = np.nan_to_num(arrays.weight[links].astype(np.float64), nan=1.0)
    codes = [arrays.types.index(name) for name in hebbian if name in arrays.types]
    return conductance_of(
        len(arrays),
        ends,
        np.maximum(strength * weight, 0.0),
        np.isin(arrays.type_of[links], codes),
        spreading,
    )


def conductance_of(
    atoms: int,
    ends: Int64s,
    strength: Float64s,
    is_hebbian: NDArray[np.bool_],
    spreading: Spreading = SPREADING,
) -> csr_array:
    """The same of links whose ends are the columns of `ends`, shape (2, links), with their strengths."""
    conducts = (strength > 0) & (ends[0] != ends[1])
    ends, strength, is_hebbian = ends[:, conducts], strength[conducts], is_hebbian[conducts]
    rows, columns = np.concatenate((ends[0], ends[1])), np.concatenate((ends[1], ends[0]))
    both, kinds = np.concatenate((strength, strength)), np.concatenate((is_hebbian, is_hebbian))
    hebbian = np.bincount(rows[kinds], both[kinds], atoms)
    others = np.bincount(rows[~kinds], both[~kinds], atoms)
    part = np.where(others > 0, np.where(hebbian > 0, spreading.hebbian_share, 0.0), 1.0)
    of_kind = np.where(kinds, part[rows], 1 - part[rows])
    shared = of_kind * both / np.where(kinds, hebbian[rows], others[rows])
    matrix = coo_array((shared, (rows, columns)), shape=(atoms, atoms))
    shares: csr_array = matrix.tocsr().astype(np.float32)
    shares.eliminate_zeros()
    return shares


def propagate_attention(
    links: csr_array, stimulus: Float32s, spreading: Spreading = SPREADING, tolerance: float = _TOLERANCE
) -> Float32s:
    """Where wages come to rest that are paid to atoms: the same shape as `stimulus`, and the same sums.

    `stimulus` has a row per atom; several columns spread side by side. `links` says, in the row of an atom,
    which part of what it passes on goes where (`conductance`). Atoms without links keep all. ValueError if a
    stimulus is negative or not finite.
    """
    moving: Any = np.asarray(stimulus, np.float32)
    if len(moving) and not (np.isfinite(moving).all() and moving.min() >= 0):
        raise ValueError("stimuli must be finite and not negative")
    shape = (-1, *([1] * (moving.ndim - 1)))
    passed_on = np.where(np.diff(links.indptr) > 0, np.float32(spreading.share), np.float32(0)).reshape(shape)
    onward = links.T
    rest = np.zeros_like(moving)
    least = tolerance * float(moving.sum(dtype=np.float64))
    while float(moving.sum(dtype=np.float64)) > least:
        leaving = moving * passed_on
        rest += moving - leaving
        moving = onward @ leaving
    rest += moving
    result: Float32s = rest
    return result


def attention_gained(
    links: csr_array,
    places: Int64s,
    wages: ArrayLike,
    ages_h: ArrayLike,
    spreading: Spreading = SPREADING,
    economy: Economy = ECONOMY,
) -> tuple[Float32s, Float32s]:
    """The STI and LTI of all atoms that come of wages paid to atoms some hours ago, as they are by now.

    An atom may be paid several times.
    """
    paid = economy.after(wages, np.zeros(len(places)), ages_h)
    atoms = links.shape[0]
    columns = np.stack([np.bincount(places, each, atoms) for each in paid], axis=1).astype(np.float32)
    gained = propagate_attention(links, columns, spreading)
    return gained[:, 0], gained[:, 1]


def least_important(
    sti: ArrayLike,
    lti: ArrayLike,
    hours: ArrayLike,
    vlti: ArrayLike,
    excess: int,
    economy: Economy = ECONOMY,
) -> Int64s:
    """Which atoms to forget, at most `excess`: those of the lowest LTI first, of equal ones the first.

    As `maia.learning.importance.forget`, by the LTI that they would have some time from now if nothing
    happened; STI and LTI are so many hours old. Atoms that have very-long-term importance stay for ever.
    """
    foreseen = economy.after(sti, lti, np.maximum(np.asarray(hours, float), 0) + FORESIGHT_H)[1]
    disposable = np.flatnonzero(np.asarray(vlti) == 0)
    order = np.argsort(foreseen[disposable], kind="stable")
    return disposable[order[: max(excess, 0)]]
