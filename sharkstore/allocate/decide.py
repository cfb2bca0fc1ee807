"""Every row's encoding: one pass over all rows, at prices close to the one that the sample gave.

Each row's choice at the lowest and at the highest of these prices, and where it changes between
them, goes to a file, two bytes a row; what changes at each price is added up. The last price with
which the budget holds is then known, and at it rows change one after the other until the budget
is met, so memory does not grow with the tables and the budget is used to the last row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.plan.costs import choose

U8 = NDArray[np.uint8]
F64 = NDArray[np.float64]

LEVELS = 32
# prices that float32 can compute with
LOWEST, HIGHEST = 2.0**-100, 2.0**80
# octaves from the lowest to the highest price: more where a sample stood for the rows
NARROW, WIDE = 0.02, 0.15
BLOCK_BYTES = 4 << 20
TIER_BITS = 3
# values smaller than so much of the largest, or of 1, are nothing beside it
FAINT = 2.0**-10


@dataclass(slots=True)
class Tally:
    """What the rows of a table come to.

    Index 0 of an axis of LEVELS + 1 is the choice at the lowest price; index i > 0 is what
    changes from price i - 1 to price i.

    Args:
        rows: int64 (LEVELS + 1, encodings): rows of each encoding.
        nbytes: float64 (LEVELS + 1,).
        loss: the same.
    """

    rows: NDArray[np.int64]
    nbytes: F64
    loss: F64

    @classmethod
    def empty(cls, encodings: int) -> Tally:
        levels = LEVELS + 1
        rows = np.zeros((levels, encodings), np.int64)
        return cls(rows, np.zeros(levels), np.zeros(levels))

    def document(self) -> list[list[Any]]:
        """As JSON has it."""
        return [self.rows.tolist(), self.nbytes.tolist(), self.loss.tolist()]

    @classmethod
    def parse(cls, document: Sequence[Any]) -> Tally:
        """Out of its document."""
        rows, nbytes, loss = document
        return cls(np.asarray(rows, np.int64), np.asarray(nbytes, float), np.asarray(loss, float))

    @classmethod
    def fixed(cls, rows: int, row_bytes: F64, mean_loss: float) -> Tally:
        """Of rows that have one encoding at every price."""
        tally = cls.empty(1)
        tally.rows[0], tally.loss[0] = rows, rows * mean_loss
        tally.nbytes[0] = rows * row_bytes[0]
        return tally

    def add(self, other: Tally) -> None:
        self.rows += other.rows
        self.nbytes += other.nbytes
        self.loss += other.loss


def prices(price: float, octaves: float) -> list[float]:
    """LEVELS prices around one, rising."""
    price = min(max(price, LOWEST), HIGHEST)
    octaves = min(octaves, 32.0)
    return [price * 2.0 ** (octaves * (i / (LEVELS - 1) - 0.5)) for i in range(LEVELS)]


def tally_block(
    losses: NDArray[np.float32], row_bytes: F64, levels: Sequence[float]
) -> tuple[Tally, NDArray[np.uint16]]:
    """What some rows come to at each price.

    Returns:
        The tally, and uint16 (n,): in its lowest bits the choice at the lowest price, then that
        at the highest, then the index of the first price with another choice than the lowest; 0
        if there is none.
    """
    count = len(losses)
    low, least = choose(losses, row_bytes, levels[0])
    high, _ = choose(losses, row_bytes, levels[-1])
    moved = np.flatnonzero(low != high)
    some = np.take(losses, moved, axis=1)
    before, after = low[moved], high[moved]
    at = _first_change(some, row_bytes, levels, before)
    everywhere = np.arange(len(moved))
    gained = some[after, everywhere].astype(np.float64) - some[before, everywhere]
    tally = Tally.empty(count)
    size = (LEVELS + 1) * count
    moves = np.bincount(at * count + after, minlength=size)
    moves -= np.bincount(at * count + before, minlength=size)
    tally.rows += moves.reshape(LEVELS + 1, count)
    lowest = np.bincount(low, minlength=count)
    tally.rows[0] += lowest
    # of every row, cost less price of its bytes
    tally.loss[0] = least.sum(dtype=np.float64) - levels[0] * float(lowest @ row_bytes)
    tally.loss += np.bincount(at, gained, LEVELS + 1)
    tally.nbytes = tally.rows @ row_bytes
    packed = low * np.uint16(1 + (1 << TIER_BITS))
    change = before | after.astype(np.uint16) << TIER_BITS | at.astype(np.uint16) << 2 * TIER_BITS
    packed[moved] = change
    return tally, packed


def _first_change(
    losses: NDArray[np.float32], row_bytes: F64, levels: Sequence[float], low: U8
) -> NDArray[np.intp]:
    """The first price with another choice than the lowest, of rows that have one: (n,).

    The prices with one choice lie together, so they are halved.
    """
    priced = np.multiply.outer(row_bytes, np.asarray(levels)).astype(np.float32)
    same, other = np.zeros(len(low), np.intp), np.full(len(low), LEVELS - 1)
    while (other - same).max(initial=0) > 1:
        middle = (same + other) // 2
        costs = losses + priced[:, middle]
        moved = costs.argmin(axis=0) != low
        other = np.where(moved, middle, other)
        same = np.where(moved, same, middle)
    return other


def tiers_from(path: str, level: int, changed: int, rows: int) -> Iterator[U8]:
    """Choices of consecutive rows, out of the file: uint8 (n,), in blocks of a multiple of 64.

    Args:
        level: rows that change before this price have changed, those that change later haven't.
        changed: so many of the rows that change at this price have changed, the first ones.
    """
    packed = np.memmap(path, np.uint16, mode="r", shape=(rows,)) if rows else np.zeros(0, "u2")
    mask = (1 << TIER_BITS) - 1
    for start in range(0, rows, 1 << 18):
        block = np.asarray(packed[start : start + (1 << 18)])
        where = block >> 2 * TIER_BITS
        late = (where > 0) & (where < level)
        here = np.flatnonzero(where == level) if level else np.zeros(0, np.intp)
        late[here[:changed]] = True
        changed = max(0, changed - len(here))
        yield np.where(late, block >> TIER_BITS & mask, block & mask).astype(np.uint8)
