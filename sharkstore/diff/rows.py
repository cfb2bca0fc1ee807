"""Rows of both sides compared, and what is summed up over them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

# what is summed over rows: once as it is, once weighted by their uses
ROWS, VALUES, SQUARES, DIRECTED, COSINES, CHANGED, BAD_A, BAD_B, NEW_BAD = range(9)
COLUMNS = 9
# a column that is the same for all rows is a number
Columns = list[F64 | float]


@dataclass(frozen=True, slots=True)
class Worst:
    """The row of the largest mean squared error; the first of them if several are equal.

    Args:
        row: its id.
        square: its mean squared error, over its values that are finite on both sides.
        largest: its largest absolute error.
    """

    row: int = -1
    square: float = 0.0
    largest: float = 0.0


class Sums:
    """Sums over the rows of each tier.

    Attributes:
        plain: float64 (tiers, COLUMNS).
        seen: the same, each row weighted by its uses.
        worst: of each tier; row -1 while no row has an error.
    """

    def __init__(self, tiers: int) -> None:
        self.plain = np.zeros((tiers, COLUMNS))
        self.seen = np.zeros((tiers, COLUMNS))
        self.worst = [Worst()] * tiers

    def add(self, a: F32, b: F32, tiers: U8 | None, uses: F64 | None, start: int) -> None:
        """Add a block of rows, small enough for a core's cache.

        Args:
            a: float32 (n, dim), contiguous; `b` likewise.
            tiers: of each row (n,); None: all are of tier 0.
            uses: of each row (n,); None: not known.
            start: id of the first row.
        """
        columns = compare_rows(a, b)
        places = np.zeros(len(a), np.uint8) if tiers is None else tiers
        inside = (np.arange(len(self.worst))[:, None] == places).astype(np.float64)
        _add(self.plain, columns, inside)
        if uses is not None:
            _add(self.seen, columns, inside * uses)
        self._find_worst(columns, inside, a, b, start)

    def merge(self, later: Sums) -> None:
        """Add the sums of later rows."""
        self.plain += later.plain
        self.seen += later.seen
        self.worst = [worse(*pair) for pair in zip(self.worst, later.worst, strict=True)]

    def _find_worst(self, columns: Columns, inside: F64, a: F32, b: F32, start: int) -> None:
        errors: F64 = np.asarray(columns[SQUARES] / np.maximum(columns[VALUES], 1.0))
        most = errors.max(initial=0.0)
        for tier, worst in enumerate(self.worst):
            if most <= worst.square:
                continue
            own = errors * inside[tier]
            at = int(own.argmax())
            if own[at] > worst.square:
                self.worst[tier] = Worst(start + at, float(own[at]), _largest(a[at], b[at]))


def worse(one: Worst, other: Worst) -> Worst:
    """The worse of two rows; the first if they are equal."""
    return other if other.square > one.square else one


def _add(sums: F64, columns: Columns, weights: F64) -> None:
    """Add columns with the rows' weights in each tier, float64 (tiers, n).

    numpy's own loops, not BLAS: their order depends on shapes alone, so sums repeat.
    """
    rows = weights.sum(axis=1)
    for index, one in enumerate(columns):
        sums[:, index] += (
            one * rows if isinstance(one, float) else np.einsum("tn,n->t", weights, one)
        )


def compare_rows(a: F32, b: F32) -> Columns:
    """What is summed, of each row: float64 (n,), or one number for all rows.

    A row's cosine counts if all its values are finite: 1 if both rows are zero, 0 if one is.
    """
    with np.errstate(invalid="ignore"):  # a signalling NaN
        before, after = a.astype(np.float64), b.astype(np.float64)
    squared_a, squared_b = _dots(before, before), _dots(after, after)
    # squares of finite float32 values don't overflow float64, nor do sums of a block
    if not np.isfinite(squared_a.sum() + squared_b.sum()):
        return _compare_nonfinite(a, b)
    cosines = _cosines(_dots(before, after), squared_a, squared_b)
    after -= before
    squares = _dots(after, after)
    changed = _changed(a, b, squares)
    return [1.0, float(a.shape[1]), squares, 1.0, cosines, changed, 0.0, 0.0, 0.0]


def _compare_nonfinite(a: F32, b: F32) -> Columns:
    """The same for rows with NaN or infinities, whose other values count as they are."""
    finite_a, finite_b = np.isfinite(a), np.isfinite(b)
    both = finite_a & finite_b
    before = np.where(both, a, np.float32(0)).astype(np.float64)
    after = np.where(both, b, np.float32(0)).astype(np.float64)
    whole = both.all(axis=1)
    dots = _dots(before, after), _dots(before, before), _dots(after, after)
    cosines = np.where(whole, _cosines(*dots), 0.0)
    after -= before
    counts = [_count(~finite_a), _count(~finite_b), _count(finite_a & ~finite_b)]
    squares = _dots(after, after)
    changed = _changed(a, b, squares)
    return [1.0, _count(both), squares, whole.astype(np.float64), cosines, changed, *counts]


def _changed(a: F32, b: F32, squares: F64) -> F64:
    """1 for rows of which any bit differs; the bits are looked at where values are equal."""
    changed = squares > 0
    equal = np.flatnonzero(~changed)
    changed[equal] = (a[equal].view(np.uint32) != b[equal].view(np.uint32)).any(axis=1)
    return changed.astype(np.float64)


def _dots(left: F64, right: F64) -> F64:
    dots: F64 = np.einsum("ij,ij->i", left, right)
    return dots


def _count(flags: NDArray[np.bool_]) -> F64:
    counts: F64 = np.count_nonzero(flags, axis=1).astype(np.float64)
    return counts


def _cosines(dots: F64, squared_a: F64, squared_b: F64) -> F64:
    with np.errstate(invalid="ignore"):
        cosines: F64 = dots / np.sqrt(squared_a * squared_b)
    zero = np.flatnonzero((squared_a == 0) | (squared_b == 0))
    cosines[zero] = squared_a[zero] == squared_b[zero]
    np.clip(cosines, -1.0, 1.0, out=cosines)
    return cosines


def _largest(a: F32, b: F32) -> float:
    finite = np.isfinite(a) & np.isfinite(b)
    return float(np.abs(b[finite].astype(np.float64) - a[finite]).max(initial=0.0))
