"""Totals of all processes in one."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch.distributed import ProcessGroup

from sharkstore.errors import StatsError
from sharkstore.importance.totals import Totals
from sharkstore.stats.rows import RowCounts

REMEDY = "call importance.all_reduce() in every process"


class Reduction:
    """What has been added up over processes.

    Args:
        parallel: the model is in DistributedDataParallel.

    Attributes:
        done: the parts that are complete: `counted`, `measured`.
    """

    def __init__(self, totals: Totals, *, parallel: bool) -> None:
        self._totals = totals
        self._parallel = parallel
        self.done: set[str] = set()

    def refuse_more(self, part: str) -> None:
        """Refuse to add to what is complete: a second reduction would count it twice."""
        if part in self.done:
            what = f"the {part} samples are complete: summed over processes, or out of a file"
            raise StatsError(what, remedy="begin with another Importance")

    def refuse_unreduced(self, *parts: str) -> None:
        """Refuse to use one process's share of what several see."""
        if not (self._parallel and dist.is_initialized() and dist.get_world_size() > 1):
            return
        for part in parts:
            if getattr(self._totals, part) and part not in self.done:
                what = f"the {part} samples are those of this process only"
                raise StatsError(what, where="DistributedDataParallel", remedy=REMEDY)

    def run(self, group: ProcessGroup | None) -> None:
        """Add up each part that has samples in some process and isn't added up yet.

        Rows go round one process and table at a time, so memory holds one process's counts of
        one table beside their sum.

        Raises:
            StatsError: there is no process group.
        """
        if not (dist.is_available() and dist.is_initialized()):
            raise StatsError("no process group", remedy="torch.distributed.init_process_group()")
        totals = self._totals
        everyone: list[dict[str, Any]] = [{}] * dist.get_world_size(group)
        dist.all_gather_object(everyone, _share(totals), group=group)
        if "counted" not in self.done and any(share["counted"] for share in everyone):
            for table in totals.tables.values():
                table.counted = _sum_rows(table.counted, group)
            totals.counted = sum(share["counted"] for share in everyone)
            totals.counted_labelled = sum(share["counted_labelled"] for share in everyone)
            self.done.add("counted")
        if "measured" not in self.done and any(share["measured"] for share in everyone):
            for table in totals.tables.values():
                table.used = _sum_rows(table.used, group)
            _sum_measured(totals, everyone)
            self.done.add("measured")


def _share(totals: Totals) -> dict[str, Any]:
    """What one process has, but its rows."""
    state = totals.state()
    tables = state.pop("tables")
    return {**state, "metrics": {name: table["metric"] for name, table in tables.items()}}


def _sum_measured(totals: Totals, everyone: list[dict[str, Any]]) -> None:
    totals.measured = sum(share["measured"] for share in everyone)
    totals.measured_labels = all(share["measured_labels"] for share in everyone)
    totals.sums = {}
    for share in everyone:
        totals.add_loss(share["losses"], empirical=share["empirical"])
        for field, sums in share["sums"].items():
            totals.sums[field] = totals.sums.get(field, 0) + sums.numpy()
    for name, table in totals.tables.items():
        table.metric = sum(share["metrics"][name].numpy() for share in everyone)


def _sum_rows(counts: RowCounts, group: ProcessGroup | None) -> RowCounts:
    total: RowCounts | None = None
    for rank in range(dist.get_world_size(group)):
        box = [counts.state() if rank == dist.get_rank(group) else None]
        source = rank if group is None else dist.get_global_rank(group, rank)
        dist.broadcast_object_list(box, src=source, group=group)
        state = box[0]
        assert state is not None
        share = RowCounts.of(state)
        if total is None:
            total = share
        else:
            total.join(share)
    assert total is not None
    return total
