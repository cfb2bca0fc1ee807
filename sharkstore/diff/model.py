"""What a comparison found, as typed values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sharkstore.diff.rows import (
    BAD_A,
    BAD_B,
    CHANGED,
    COSINES,
    DIRECTED,
    F64,
    NEW_BAD,
    ROWS,
    SQUARES,
    VALUES,
    Worst,
)

# `dropped_a`: left out of A on purpose, and not in B either, or in B only
Status = Literal["compared", "shape", "only_a", "only_b", "dropped_a", "dropped_b", "dropped"]
BROKEN: tuple[Status, ...] = ("shape", "only_a", "only_b")


@dataclass(frozen=True, slots=True)
class Figures:
    """How far the rows of B are from those of A; None where there is nothing to take it of.

    Args:
        rmse: root of the mean squared error, over all values that are finite on both sides.
        cosine: mean over rows of the cosine between the two, over rows that are finite on both
            sides; 1 for a row that is zero on both, 0 for one that is zero on one.
        changed: share of the rows of which any bit of a float32 value differs.
    """

    rmse: float | None
    cosine: float | None
    changed: float | None


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of a table, of one of its tiers, or of all tables.

    Args:
        rows: how many.
        plain: figures with all rows alike.
        worst_row: id of the row with the largest RMS error; None if none has any, and for all
            tables.
        worst_rms: its RMS error, over its values that are finite on both sides.
        worst_abs: its largest absolute error.
        nonfinite_a: NaN and infinite values in A.
        nonfinite_b: the same in B.
        nonfinite_new: those of B that are finite in A.
        uses: lookups of these rows, by the stats; None without.
        seen: figures with each row weighted by its uses: what a lookup sees.
    """

    rows: int
    plain: Figures
    worst_row: int | None
    worst_rms: float | None
    worst_abs: float | None
    nonfinite_a: int
    nonfinite_b: int
    nonfinite_new: int
    uses: float | None
    seen: Figures | None


@dataclass(frozen=True, slots=True)
class TableDifference:
    """One table.

    Args:
        status: `compared`; or why not: another `shape`, `only_a`, `only_b`, `dropped_b` (left
            out of B when it was converted), `dropped_a`, `dropped` (out of both).
        shapes: (rows, dim) in A and in B; None where it is in neither tables nor dropped.
        pruned: whether every row is the mean row, in A and in B.
        whole: over all rows, if compared.
        tiers: by encoding, in the store's order, if compared.
    """

    name: str
    status: Status
    shapes: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    pruned: tuple[bool, bool] = (False, False)
    whole: Part | None = None
    tiers: tuple[tuple[str, Part], ...] = ()


@dataclass(frozen=True, slots=True)
class Parameters:
    """Names of what is no table: equal bit for bit, different, or missing on a side."""

    equal: tuple[str, ...] = ()
    differ: tuple[str, ...] = ()
    shape: tuple[str, ...] = ()
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between A and B.

    Args:
        tables: in the order of A, then those that only B has.
        total: over all values of all tables that were compared.
        parameters: what is no table; None if tables were chosen by name.
        left: entries of a checkpoint that can't be compared, with the reason.
        uncounted: tables of which the stats have no counts; None without stats.
    """

    tables: tuple[TableDifference, ...]
    total: Part
    parameters: Parameters | None
    left: Mapping[str, str]
    uncounted: tuple[str, ...] | None

    @property
    def same_structure(self) -> bool:
        """Whether both have the same tables and parameters of the same shapes.

        Tables that were dropped at conversion are known to be gone: no difference.
        """
        if any(table.status in BROKEN for table in self.tables):
            return False
        other = self.parameters
        return other is None or not (other.shape or other.only_a or other.only_b)

    def above(self, max_rmse: float) -> tuple[TableDifference, ...]:
        """Tables with a larger RMSE, or with values that are finite in A alone.

        Tables that are pruned in B are meant to differ: not among them.
        """
        return tuple(table for table in self.tables if _is_above(table, max_rmse))


def _is_above(table: TableDifference, max_rmse: float) -> bool:
    whole = table.whole
    if whole is None or table.pruned[1]:
        return False
    return bool(whole.nonfinite_new) or (whole.plain.rmse or 0.0) > max_rmse


def part(plain: F64, seen: F64 | None, worst: Worst) -> Part:
    """Figures of sums: float64 (COLUMNS,), `seen` weighted by uses."""
    error = worst.row >= 0
    return Part(
        rows=int(plain[ROWS]),
        plain=_figures(plain),
        worst_row=worst.row if error else None,
        worst_rms=math.sqrt(worst.square) if error else None,
        worst_abs=worst.largest if error else None,
        nonfinite_a=int(plain[BAD_A]),
        nonfinite_b=int(plain[BAD_B]),
        nonfinite_new=int(plain[NEW_BAD]),
        uses=None if seen is None else float(seen[ROWS]),
        seen=None if seen is None else _figures(seen),
    )


def _figures(sums: F64) -> Figures:
    square = _ratio(sums[SQUARES], sums[VALUES])
    return Figures(
        rmse=None if square is None else math.sqrt(square),
        cosine=_ratio(sums[COSINES], sums[DIRECTED]),
        changed=_ratio(sums[CHANGED], sums[ROWS]),
    )


def _ratio(sum_: Any, count: Any) -> float | None:
    return float(sum_ / count) if count else None
