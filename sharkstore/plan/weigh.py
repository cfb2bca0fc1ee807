"""What an error in a table's rows costs, by what the stats have."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.errors import StatsError
from sharkstore.plan.model import TablePlan, Weigh
from sharkstore.plan.stats import BLOCK, Stats

F64 = NDArray[np.float64]
WEIGHS: tuple[Weigh, ...] = ("metric", "sensitivity", "count", "alike")
# what is known of rows that were never used is at most that half of them will be
MOST_UNSEEN = 0.5


@dataclass(frozen=True, slots=True)
class Weights:
    """What an error δ in a row costs: scale × weight of the row × δᵀ metric δ.

    Args:
        metric: float32 (dim, dim); None for the identity.
        values: uses or sensitivity of each row (rows,); None for 1.
        unseen: the weight of rows whose value is 0.
        scale: what makes the sum nats a sample, where it can.
        key: of the values in the stats; empty if there are none.
    """

    metric: NDArray[np.float32] | None = None
    values: NDArray[Any] | None = None
    unseen: float = 1.0
    scale: float = 1.0
    key: str = ""

    def without_values(self) -> Weights:
        """What of it is small enough to be sent to another process."""
        return replace(self, values=None)

    def with_values(self, stats: Stats) -> Weights:
        """The same weights again, with values out of the stats."""
        return replace(self, values=stats.arrays[self.key]) if self.key else self

    def block(self, start: int, stop: int) -> F64:
        """Weights of some rows, scale included: float64 (n,)."""
        if self.values is None:
            return np.full(stop - start, self.scale)
        return self.of(np.asarray(self.values[start:stop]))

    def of(self, values: NDArray[Any]) -> F64:
        """Weights of rows with these values, scale included."""
        wide = values.astype(np.float64)
        return np.where(wide > 0, wide, self.unseen) * self.scale


def best_weigh(stats: Stats, tables: Sequence[TablePlan]) -> Weigh:
    """The best that the stats have of all these tables."""
    known = {name: _has(stats, tables, name) for name in ("metric", "sensitivity", "count")}
    if known["metric"] and known["count"]:
        return "metric"
    if known["sensitivity"]:
        return "sensitivity"
    return "count" if known["count"] else "alike"


def _has(stats: Stats, tables: Sequence[TablePlan], kind: str) -> bool:
    return bool(tables) and all(f"tables/{table.name}/{kind}" in stats.arrays for table in tables)


def weights_of(stats: Stats, tables: Sequence[TablePlan], weigh: Weigh) -> Mapping[str, Weights]:
    """Weights by table.

    `metric`: uses, and errors in the table's metric; `sensitivity`: that of each row, and plain
    squares; `count`: uses and plain squares; `alike`: plain squares of all rows.

    Raises:
        StatsError: the stats lack what this needs of a table.
    """
    needs = {"metric": ("metric", "count"), "alike": ()}.get(weigh, (weigh,))
    for kind in needs:
        for table in tables:
            if f"tables/{table.name}/{kind}" not in stats.arrays:
                remedy = "--weigh names another kind; measure again for all of them"
                what = f"no {kind} of table {table.name!r}"
                raise StatsError(what, where=stats.where, remedy=remedy)
    return {table.name: _weights(stats, table.name, weigh) for table in tables}


def _weights(stats: Stats, name: str, weigh: Weigh) -> Weights:
    if weigh == "alike":
        return Weights()
    # half: the second-order term of the loss; by samples: its mean
    scale = 0.5 / max(_samples(stats), 1.0)
    key = f"tables/{name}/{'sensitivity' if weigh == 'sensitivity' else 'count'}"
    values = stats.arrays[key]
    if weigh == "sensitivity":
        return Weights(None, values, 0.0, scale, key)
    metric = stats.metric(name) if weigh == "metric" else None
    return Weights(metric, values, unseen_weight(values), scale, key)


def _samples(stats: Stats) -> float:
    text = stats.metadata.get("samples", "1")
    try:
        samples = float(text)
    except ValueError:
        samples = math.nan
    if not 0 <= samples < math.inf:
        expected = "a number, 0 or more"
        raise StatsError("'samples'", where=stats.where, got=f"{text:.40}", expected=expected)
    return samples


def unseen_weight(count: NDArray[Any]) -> float:
    """Expected uses, in as many samples again, of a row that was never used.

    All such rows together will be used about as often as there are rows used once (Good & Turing,
    Good 1953); at most half a use each.
    """
    never = once = 0
    for block in _blocks(count):
        never += int(np.count_nonzero(block == 0))
        once += int(np.count_nonzero((block > 0) & (block <= 1)))
    return min(MOST_UNSEEN, once / never) if never else MOST_UNSEEN


def _blocks(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for start in range(0, len(values), BLOCK):
        yield np.asarray(values[start : start + BLOCK])
