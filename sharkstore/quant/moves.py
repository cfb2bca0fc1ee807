"""Moves of k-means: an entry that is hardly missed goes where one more helps most.

After Patanè and Russo, "The enhanced LBG algorithm", 2001, with gain and cost in closed form: a
move is made only where it lowers the error.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Index = NDArray[np.intp]

# of the cost: what a move must gain at least
WORTH = 1.05


def move_entries(points: F32, weights: F64, entries: F32, index: Index) -> int:
    """Give entries away to others' rows, where that lowers the weighted squared error.

    Args:
        points: float32 (sub, n).
        weights: float64 (n,).
        entries: means of their rows, float32 (entries, sub).
        index: the entry of each row (n,); changed in place.

    Returns:
        How many entries were moved.
    """
    if len(entries) < 2:
        return 0
    shares = np.bincount(index, weights, len(entries)).astype(np.float64, copy=False)
    nearest, costs = _removals(entries, shares)
    axes, gains = _splits(points, weights, entries, index, shares)
    moves = _pairs(nearest, costs, gains)
    if moves:
        removed, split = np.array(moves).T
        _apply(points, entries, index, removed, nearest, split, axes)
    return len(moves)


def _removals(entries: F32, shares: F64) -> tuple[Index, F64]:
    """The entry nearest to each, and what it costs that it takes the rows of that one."""
    apart = np.zeros((len(entries), len(entries)), np.float32)
    for values in entries.T:
        off = values[:, None] - values
        apart += off * off
    np.fill_diagonal(apart, np.inf)
    nearest = apart.argmin(axis=1)
    return nearest, shares * apart[np.arange(len(entries)), nearest]


def _splits(
    points: F32, weights: F64, entries: F32, index: Index, shares: F64
) -> tuple[Index, F64]:
    """The axis to split each entry's rows at their mean along, and what that gains at least."""
    gains = np.zeros((len(points), len(entries)))
    for axis, values in enumerate(points):
        off = values - entries[index, axis]
        above = np.where(off > 0, weights, 0)
        upper = np.bincount(index, above, len(entries))
        moment = np.bincount(index, above * off, len(entries))
        lower = shares - upper
        both = (upper > 0) & (lower > 1e-12 * shares)
        # both halves lie as far from the mean, each by its share
        safe = np.where(both, upper * lower, 1)
        gains[axis] = np.where(both, moment * moment * shares / safe, 0)
    axes = gains.argmax(axis=0)
    return axes, gains[axes, np.arange(len(entries))]


def _pairs(nearest: Index, costs: F64, gains: F64) -> list[tuple[int, int]]:
    """(removed, split) of the best moves, in which no entry has two parts."""
    free = np.ones(len(costs), bool)
    helped = iter(np.argsort(-gains, kind="stable").tolist())
    moves: list[tuple[int, int]] = []
    split = next(helped)
    for removed in np.argsort(costs, kind="stable").tolist():
        keeper = int(nearest[removed])
        if not (free[removed] and free[keeper]):
            continue
        while not free[split] or split in (removed, keeper):
            following = next(helped, None)
            if following is None:
                return moves
            split = following
        if not gains[split] > WORTH * costs[removed]:
            return moves
        free[[removed, keeper, split]] = False
        moves.append((removed, split))
    return moves


def _apply(
    points: F32,
    entries: F32,
    index: Index,
    removed: Index,
    nearest: Index,
    split: Index,
    axes: Index,
) -> None:
    """Change the entries of rows: those of the removed ones first."""
    keeps = np.arange(len(entries))
    keeps[removed] = nearest[removed]
    index[:] = keeps[index]
    gets = np.full(len(entries), -1)
    gets[split] = removed
    rows = np.flatnonzero(gets[index] >= 0)
    own = index[rows]
    above = points[axes[own], rows] > entries[own, axes[own]]
    index[rows[above]] = gets[own[above]]
