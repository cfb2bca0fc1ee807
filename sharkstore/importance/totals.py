"""Everything that a measurement has added up so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sharkstore.errors import StatsError
from sharkstore.importance.find import Site
from sharkstore.importance.sums import BatchSums
from sharkstore.importance.table import TableTotals
from sharkstore.stats.rows import Weights

VERSION = 1
MOST = 0.9
SCORES = ("score", "score_signed", "sfs", "score_curved")
PLAIN = (
    *("counted", "counted_labelled", "counted_priority", "counts_from"),
    *("measured", "measured_labels", "empirical", "batches"),
)


class Totals:
    """Sums over all batches of both passes.

    Attributes:
        fields: field → table.
        counted: samples of the counting pass, or of an earlier stats file.
        counted_labelled: how many of them came with labels.
        counted_priority: whether an earlier file brought priorities.
        counts_from: digest of an earlier file's counts.
        measured: samples of the measured pass.
        measured_labels: whether all of its batches told which samples are positive.
        losses: names of the losses seen.
        empirical: whether a loss had no curvature but its squared gradients.
        batches: steps taken; `left_out`: those kept out, from 0.
    """

    def __init__(self, sites: Sequence[Site], weights: Weights) -> None:
        self.weights = weights
        self.tables: dict[str, TableTotals] = {}
        for site in sites:
            if site.table not in self.tables:
                module = site.module
                self.tables[site.table] = TableTotals(site.table, module.weight, module.padding_idx)
        self.fields = {field: site.table for site in sites for field in site.fields}
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.counted: float = 0
        self.counted_labelled: float = 0
        self.counted_priority = False
        self.counts_from = ""
        self.measured = 0
        self.measured_labels = True
        self.losses: list[str] = []
        self.empirical = False
        self.batches = 0
        self.left_out: list[int] = []

    @property
    def counted_labels(self) -> bool:
        """Whether positives come from the counting pass: all of its samples had labels."""
        return 0 < self.counted == self.counted_labelled

    @property
    def labelled(self) -> float:
        """Samples that positives are over; 0: positives are not known."""
        return self.counted if self.counted_labels else self.measured * self.measured_labels

    @property
    def prioritised(self) -> bool:
        """Whether priorities can stand in for counts: they are over nearly all samples counted.

        Counts of many training samples rank rows better than priorities of few held-out ones.
        """
        return self.counted_priority or self.labelled >= MOST * self.counted > 0

    def add(self, batch: BatchSums, samples: int) -> None:
        """Add the sums of a batch."""
        for field, sums in zip(batch.fields, batch.scores.cpu().numpy(), strict=True):
            self.sums[field] = self.sums.get(field, np.zeros(len(SCORES))) + sums
        for name, metric in batch.metrics.items():
            self.tables[name].metric += metric.cpu().numpy()
        self.measured += samples

    def add_loss(self, names: Sequence[str], *, empirical: bool) -> None:
        """Note what was measured."""
        self.losses += [name for name in names if name not in self.losses]
        self.empirical |= empirical

    def scores(self) -> dict[str, dict[str, float]]:
        """Each field's scores, of the kinds in SCORES, per sample.

        Raises:
            StatsError: nothing was measured, or some field was never looked up.
        """
        if not self.measured:
            what = "nothing was measured yet"
            if self.left_out:
                what = f"all {len(self.left_out)} batches were kept out: gradients not finite"
            raise StatsError(what, remedy="with importance: importance.step(model(x), y)")
        never = [field for field in self.fields if field not in self.sums]
        if never:
            remedy = "leave it out by skip=[…], or measure batches that have it"
            raise StatsError(f"never looked up: {', '.join(never[:8])}", remedy=remedy)
        return {
            field: dict(zip(SCORES, (self.sums[field] / self.measured).tolist(), strict=True))
            for field in self.fields
        }

    def state(self) -> dict[str, Any]:
        """All of it as tensors, numbers and texts."""
        return {
            "version": VERSION,
            "fields": dict(self.fields),
            "weights": dataclasses.asdict(self.weights),
            "tables": {name: table.state() for name, table in self.tables.items()},
            "sums": {field: torch.from_numpy(sums.copy()) for field, sums in self.sums.items()},
            **{name: getattr(self, name) for name in PLAIN},
            "losses": list(self.losses),
            "left_out": list(self.left_out),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave.

        Raises:
            StatsError: of another model.
        """
        mine = {"version": VERSION, "fields": self.fields}
        mine["weights"] = dataclasses.asdict(self.weights)
        found = state if isinstance(state, Mapping) else {}
        for name, value in mine.items():
            if found.get(name) != value:
                what = f"a state of another model, or measured otherwise: {name}"
                raise StatsError(what, got=found.get(name), expected=value)
        for name, table in self.tables.items():
            table.restore(state["tables"][name])
        self.sums = {field: sums.numpy().copy() for field, sums in state["sums"].items()}
        for name in PLAIN:
            setattr(self, name, state[name])
        self.losses, self.left_out = list(state["losses"]), list(state["left_out"])
