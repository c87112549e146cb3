"""Where to draw the atoms of a small part of the graph: the same input is always drawn in the same way.

Forces find the shape: atoms repel each other and links draw their ends together (Fruchterman and Reingold,
"Graph drawing by force-directed placement", 1991). Then the shape is turned and stretched to fill its frame,
and what would cover something else is pushed aside. Time and memory grow with the square of the atoms: it is
for some dozens of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ROUNDS: Final = 150
_HOTTEST: Final = 0.25
"""Longest first step, as a share of the drawing's width."""
_GRAVITY: Final = 0.08
"""Keeps parts that nothing connects within sight."""
_LEAST_PULL: Final = 0.3
_SPREADING_ROUNDS: Final = 250
_GOLDEN_ANGLE: Final = pi * (3 - sqrt(5))
_MOST_STRETCH: Final = 1.8
_LONGEST_LINK: Final = 190.0
"""So long is a link of one unit at most, that few atoms don't lie far apart."""
_NEARLY_ZERO: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Frame:
    """What a drawing has to fit into, and the room between two things."""

    width: float
    height: float
    gap: float = 6.0


def placed(links: Ints, weights: Floats, sizes: Floats, frame: Frame) -> Floats:
    """Centres of the atoms' boxes within a frame, shape (n, 2), so that boxes don't cover each other.

    `links` names the ends by place, shape (m, 2); `weights`, shape (m,), are from 0 to 1: the heavier a link,
    the nearer its ends. `sizes` are the widths and heights of the boxes, shape (n, 2). Where they can't all
    fit, they overlap. The first atom is the one in the middle of interest: drawing begins with it.
    """
    if not len(sizes):
        return np.zeros((0, 2))
    shape = forced(len(sizes), links, weights)
    return separated(_framed(shape, sizes, frame), sizes, frame)


def forced(count: int, links: Ints, weights: Floats) -> Floats:
    """The shape that a graph takes by itself, around its first atom, with links about one unit long."""
    at = _spiral(count)
    if count == 1:
        return at
    ends = links.reshape(-1, 2)
    pull = _LEAST_PULL + (1 - _LEAST_PULL) * np.clip(weights, 0, 1)
    for left in range(_ROUNDS, 0, -1):
        push = _repulsion(at) - _GRAVITY * at
        if len(ends):
            apart = at[ends[:, 1]] - at[ends[:, 0]]
            force = apart * (pull * np.hypot(apart[:, 0], apart[:, 1]))[:, None]
            np.add.at(push, ends[:, 0], force)
            np.add.at(push, ends[:, 1], -force)
        longest = _HOTTEST * sqrt(count) * left / _ROUNDS
        length = np.maximum(np.hypot(push[:, 0], push[:, 1]), _NEARLY_ZERO)
        at = at + push * (np.minimum(length, longest) / length)[:, None]
        at -= at[0]
    return at


def separated(at: Floats, sizes: Floats, frame: Frame) -> Floats:
    """The boxes pushed apart, each pair along the axis on which they overlap less, and kept in the frame."""
    at = _within(at, sizes, frame)
    room = (sizes[:, None] + sizes[None, :]) / 2 + frame.gap
    # What lies in the same place is parted by its order.
    order = np.sign(np.arange(len(at))[:, None] - np.arange(len(at))[None, :]).astype(np.float64)
    own = np.arange(len(at))
    for _ in range(_SPREADING_ROUNDS):
        apart = at[:, None] - at[None, :]
        overlap = room - np.abs(apart)
        covers: NDArray[np.bool_] = np.all(overlap > _NEARLY_ZERO, axis=2)
        covers[own, own] = False
        if not covers.any():
            break
        sideways = overlap[..., 0] < overlap[..., 1]
        way = np.where(np.abs(apart) > _NEARLY_ZERO, np.sign(apart), order[..., None])
        step = way * overlap * 0.5
        step[..., 0] *= covers & sideways
        step[..., 1] *= covers & ~sideways
        # Half of the way, as each box has several neighbours that push it.
        at = _within(at + step.sum(axis=1) * 0.5, sizes, frame)
    return at


def _spiral(count: int) -> Floats:
    """A sunflower's seeds: evenly spread, without chance."""
    nth = np.arange(count, dtype=np.float64)
    radius, angle = np.sqrt(nth), nth * _GOLDEN_ANGLE
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _repulsion(at: Floats) -> Floats:
    apart = at[:, None] - at[None, :]
    squared = np.maximum((apart**2).sum(axis=2), 1e-4)
    push: Floats = (apart / squared[..., None]).sum(axis=1)
    return push


def _framed(shape: Floats, sizes: Floats, frame: Frame) -> Floats:
    """The shape turned so that it is longest where the frame is, and scaled to fill it."""
    turned = _turned(shape, is_wide=frame.width >= frame.height)
    low, high = turned.min(axis=0), turned.max(axis=0)
    room = np.array([frame.width, frame.height]) - sizes.max(axis=0)
    scale = np.maximum(room, 1.0) / np.maximum(high - low, _NEARLY_ZERO)
    scale = np.minimum(scale, min(scale.min() * _MOST_STRETCH, _LONGEST_LINK))
    middle = np.array([frame.width, frame.height]) / 2
    framed: Floats = (turned - (low + high) / 2) * scale + middle
    return framed


def _turned(shape: Floats, *, is_wide: bool) -> Floats:
    around = shape - shape.mean(axis=0)
    _, axes = np.linalg.eigh(around.T @ around)
    # The sign of an axis is arbitrary: its larger part points to the right, or down.
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.where(axes[largest, np.arange(2)] < 0, -1.0, 1.0)
    turned: Floats = shape @ (axes[:, ::-1] if is_wide else axes)
    return turned


def _within(at: Floats, sizes: Floats, frame: Frame) -> Floats:
    middle = np.array([frame.width, frame.height]) / 2
    most = np.maximum(middle - sizes / 2, 0.0)
    return np.clip(at, middle - most, middle + most)
