"""SHARK's rule within a budget: thresholds on row priorities, the same for all tables.

Source: SHARK, arXiv 2308.09395, F-Quantization. The paper leaves its thresholds open: here each is
an eighth of the one before, and the first is the lowest with which the budget is met.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.encodings import Encoding
from sharkstore.errors import PlanError
from sharkstore.plan.costs import table_bytes
from sharkstore.plan.model import Plan, TablePlan, TierPlan
from sharkstore.plan.stats import BLOCK, Stats

I64 = NDArray[np.int64]

# thresholds are tried at 2 ** (step / STEPS), from 2 ** -OCTAVES to 2 ** OCTAVES
STEPS, OCTAVES = 64, 64
RATIO_STEPS = 3 * STEPS
LAST = 2 * STEPS * OCTAVES


def by_thresholds(plan: Plan, stats: Stats, encodings: Sequence[Encoding], nbytes: float) -> Plan:
    """The plan with rows in these encodings by priority, within a number of bytes.

    Args:
        encodings: the most precise first; rows of the highest priority take the first.
        nbytes: for the tables that are stored.

    Raises:
        PlanError: no priorities, or fewer bytes than the last encoding takes.
    """
    tables = [table for table in plan.tables if table.action == "store"]
    reached = [_reached(table, stats) for table in tables]
    least = sum(_bytes(t, r, encodings, LAST + 1) for t, r in zip(tables, reached, strict=True))
    if least > nbytes:
        remedy = "allow constant or smaller encodings, or leave --method shark out"
        expected = f"{least:,.0f} bytes or more for the tables"
        raise PlanError(
            "the budget is too small", got=f"{nbytes:,.0f}", expected=expected, remedy=remedy
        )
    first, last = -1, LAST + 1
    while first + 1 < last:
        middle = (first + last) // 2
        pairs = zip(tables, reached, strict=True)
        if sum(_bytes(t, r, encodings, middle) for t, r in pairs) <= nbytes:
            last = middle
        else:
            first = middle
    counts = _fill(tables, reached, encodings, last, nbytes)
    planned = {
        table.name: replace(table, order="priority", tiers=_tiers(encodings, own))
        for table, own in zip(tables, counts, strict=True)
    }
    return replace(plan, tables=tuple(planned.get(t.name, t) for t in plan.tables))


def _tiers(encodings: Sequence[Encoding], counts: I64) -> tuple[TierPlan, ...]:
    pairs = [TierPlan(e, int(n)) for e, n in zip(encodings, counts, strict=True)]
    return tuple(tier for tier in pairs if tier.rows) or (pairs[-1],)


def _fill(
    tables: Sequence[TablePlan],
    reached: Sequence[I64],
    encodings: Sequence[Encoding],
    step: int,
    nbytes: float,
) -> list[I64]:
    """Rows of each encoding at a threshold, and what the next lower one adds as far as it fits."""
    counts = [_counts(one, step, len(encodings)) for one in reached]
    if step == 0:
        return counts
    more = [_counts(one, step - 1, len(encodings)) for one in reached]
    used = sum(
        table_bytes(t.rows, t.dim, encodings, own) for t, own in zip(tables, counts, strict=True)
    )
    for index, table in enumerate(tables):
        rest = used - table_bytes(table.rows, table.dim, encodings, counts[index])
        low, high = 0.0, 1.0
        for part in (1.0, *([None] * 40)):
            middle = part or (low + high) / 2
            own = _between(counts[index], more[index], middle)
            total = rest + table_bytes(table.rows, table.dim, encodings, own)
            low, high = (middle, high) if total <= nbytes else (low, middle)
            if low == 1.0:
                break
        counts[index] = _between(counts[index], more[index], low)
        used = rest + table_bytes(table.rows, table.dim, encodings, counts[index])
    return counts


def _between(low: I64, high: I64, part: float) -> I64:
    """Rows of each encoding, part of the way from one to the other."""
    ends = np.cumsum(low) + np.floor(part * (np.cumsum(high) - np.cumsum(low))).astype(np.int64)
    rows: I64 = np.diff(ends, prepend=0)
    return rows


def _bytes(table: TablePlan, reached: I64, encodings: Sequence[Encoding], step: int) -> float:
    counts = _counts(reached, step, len(encodings))
    return table_bytes(table.rows, table.dim, encodings, counts)


def _counts(reached: I64, step: int, encodings: int) -> I64:
    """Rows of each encoding where the first threshold is at a step."""
    ends = [
        int(reached[min(max(step - RATIO_STEPS * k, 0), LAST + 1)]) for k in range(encodings - 1)
    ]
    rows: I64 = np.diff(np.array([0, *ends, int(reached[0])]))
    return rows


def _reached(table: TablePlan, stats: Stats) -> I64:
    """Rows whose priority reaches each step; none reaches the last."""
    priority = stats.priority(table.name)
    if priority is None:
        remedy = "pass --stats that have them"
        raise PlanError("thresholds need row priorities", where=table.name, remedy=remedy)
    bins = np.zeros(LAST + 2, np.int64)
    for start in range(0, len(priority), BLOCK):
        bins += np.bincount(_steps(priority[start : start + BLOCK]), minlength=LAST + 2)
    reached: I64 = np.cumsum(bins[::-1]).astype(np.int64)[::-1]
    return reached


def _steps(priority: NDArray[Any]) -> I64:
    """The highest step that each priority reaches."""
    with np.errstate(divide="ignore"):
        exact = np.log2(priority.astype(np.float64)) * STEPS + LAST // 2
    steps: I64 = np.clip(np.nan_to_num(np.floor(exact), neginf=0.0), 0, LAST).astype(np.int64)
    return steps
