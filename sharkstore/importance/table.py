"""What is measured of one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sharkstore.errors import StatsError
from sharkstore.importance.lookups import Lookup
from sharkstore.stats.rows import RowCounts, Weights

GATHER = 1 << 20  # rows
BAG = 64  # rows that are summed in the table's own precision


class TableTotals:
    """Counts, uses, metric and mean row of one table.

    Attributes:
        weight: (rows, dim), the model's own.
        counted: uses in the counting pass, or of an earlier stats file.
        used: uses in the measured pass.
        metric: float64 (dim, dim): of all uses in the measured pass, added up.
        padding: the row that stands for no row, if there is one.
    """

    def __init__(self, name: str, weight: Tensor, padding: int | None) -> None:
        self.name = name
        self.weight = weight
        self.padding = padding
        self.counted, self.used = RowCounts(), RowCounts()
        self.metric = np.zeros((weight.shape[1],) * 2)

    @property
    def rows(self) -> int:
        return self.weight.shape[0]

    @property
    def dim(self) -> int:
        return self.weight.shape[1]

    def mean_row(self, weights: Weights) -> NDArray[np.float64]:
        """The row c = Σ count · row / Σ count over the rows counted, as the table is now: (dim,).

        Raises:
            StatsError: no row was counted.
        """
        counts = self.counted.ended(weights)
        uses = float(counts.count.sum())
        if not uses:
            remedy = "run the model within importance.counting() first, or pass counts=STATS"
            what = "no row was looked up in the counting pass"
            raise StatsError(what, where=self.name, remedy=remedy)
        total = torch.zeros(self.dim, dtype=torch.float64, device=self.weight.device)
        for start in range(0, len(counts.ids), GATHER):
            ids = torch.from_numpy(counts.ids[start : start + GATHER]).to(self.weight.device)
            often = torch.from_numpy(counts.count[start : start + GATHER]).to(total)
            total += _weighted_sum(self.weight.detach(), ids, often)
        mean: NDArray[np.float64] = (total / uses).cpu().numpy()
        return mean

    def prune(self, weights: Weights) -> None:
        """Make every row the mean row, but that of padding, and train the weight no more.

        Raises:
            StatsError: no row was counted.
        """
        row = torch.from_numpy(self.mean_row(weights)).to(self.weight)
        with torch.no_grad():
            kept = None if self.padding is None else self.weight[self.padding].clone()
            self.weight.copy_(row)
            if kept is not None:
                self.weight[self.padding] = kept
        self.weight.requires_grad_(False)
        self.weight.grad = None

    def mean_metric(self) -> NDArray[np.float64]:
        """The metric, (dim, dim): the mean over uses in the measured pass; 0 if none."""
        return self.metric / max(self.used.uses(), 1)

    def state(self) -> dict[str, Any]:
        """All but the weight, as tensors and numbers."""
        parts = {"counted": self.counted.state(), "used": self.used.state()}
        tensors: dict[str, Any] = {
            part: {key: torch.from_numpy(np.array(values)) for key, values in state.items()}
            for part, state in parts.items()
        }
        metric = torch.from_numpy(self.metric.copy())
        return {**tensors, "metric": metric, "shape": [self.rows, self.dim]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave.

        Raises:
            StatsError: of a table of other size.
        """
        if state["shape"] != [self.rows, self.dim]:
            what = "a state of another table"
            raise StatsError(
                what, where=self.name, got=state["shape"], expected=[self.rows, self.dim]
            )
        self.counted, self.used = (
            RowCounts.of({key: values.numpy().copy() for key, values in state[part].items()})
            for part in ("counted", "used")
        )
        self.metric = state["metric"].numpy().copy()


def use_rows(counts: RowCounts, lookup: Lookup, positive: Tensor | None) -> None:
    """Count a lookup's rows; `positive` is bool (samples,)."""
    marks = None
    if positive is not None:
        mine = positive.to(lookup.ids.device)
        mine = mine if lookup.owner is None else mine[lookup.owner]
        marks = mine.cpu().numpy()
    counts.add(lookup.ids.cpu().numpy(), marks)


def _weighted_sum(weight: Tensor, ids: Tensor, often: Tensor) -> Tensor:
    """Σ often · row, float64 (dim,): gathered and summed in one go, in small bags."""
    if weight.dtype not in (torch.float32, torch.float64) or not weight.is_contiguous():
        return often @ weight[ids].double()
    starts = torch.arange(0, len(ids), BAG, device=ids.device)
    bags = nn.functional.embedding_bag(
        ids, weight, starts, mode="sum", per_sample_weights=often.to(weight.dtype)
    )
    return bags.sum(dim=0, dtype=torch.float64)
