"""The measured pass."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sharkstore.errors import StatsError
from sharkstore.importance.find import Site
from sharkstore.importance.lookups import Lookup, split_fields
from sharkstore.importance.losses import Step
from sharkstore.importance.sums import check_lookup, drop_strays, pull_back, sum_batch
from sharkstore.importance.table import use_rows
from sharkstore.importance.totals import Totals

Found = Mapping[str, list[Lookup]]
NO_LOOKUP = (
    "run the model within the loop, with gradients on, as it was given to Importance; "
    "a copy made by torch.compile passes hooks by"
)


class Measuring:
    """Lookups since the last step, and the mean rows they are compared with.

    Raises:
        StatsError: a table's rows were not counted, or batch norm has no running statistics.
    """

    def __init__(self, totals: Totals, sites: Sequence[Site], model: nn.Module) -> None:
        self._totals = totals
        self._sites = sites
        self._norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        if any(norm.running_mean is None for norm in self._norms):
            raise StatsError("batch norm without running statistics mixes samples")
        self._means: dict[str, Tensor] = {
            name: torch.from_numpy(table.mean_row(totals.weights)).to(table.weight.device)
            for name, table in totals.tables.items()
        }
        self._lookups: dict[str, list[Lookup]] = {}

    def add(self, lookup: Lookup) -> None:
        """Keep a lookup for the step that follows."""
        self._lookups.setdefault(lookup.site.path, []).append(lookup)

    def take(self) -> Found:
        """What was looked up since the last step, by module; gone even if the step fails."""
        found, self._lookups = self._lookups, {}
        return found

    def measure(
        self,
        found: Found,
        step: Step,
        losses: Sequence[str],
        *,
        empirical: bool,
        retain_graph: bool,
    ) -> None:
        """Add a batch to the totals, or warn and keep it out if it is not finite.

        Raises:
            StatsError: nothing was looked up, or not so that samples can be told apart.
        """
        if not found:
            raise StatsError("no lookup was seen since the last step", remedy=NO_LOOKUP)
        if any(norm.training for norm in self._norms):
            raise StatsError("batch norm in training mode mixes samples", remedy="model.eval()")
        totals = self._totals
        split = [
            pair for site in self._sites for pair in split_fields(site, found.get(site.path, []))
        ]
        pulled = pull_back(step, [lookup for lookup, _ in split], retain_graph=retain_graph)
        split, pulled = drop_strays(split, pulled)
        for lookup, _ in split:
            check_lookup(lookup, step.samples)
        batch = sum_batch(split, pulled, self._means)
        number, totals.batches = totals.batches, totals.batches + 1
        broken = batch.broken()
        if broken:
            totals.left_out.append(number)
            which = ", ".join(broken[:4]) + (", …" if len(broken) > 4 else "")
            text = f"batch {number} (from 0) is kept out: gradients not finite in {which}"
            warnings.warn(text, RuntimeWarning, stacklevel=4)
            return
        for lookup, _ in split:
            use_rows(totals.tables[lookup.site.table].used, lookup, step.positive)
        totals.add(batch, step.samples)
        totals.add_loss(losses, empirical=empirical)
        totals.measured_labels &= step.positive is not None
