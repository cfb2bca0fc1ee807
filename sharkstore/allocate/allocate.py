"""From a plan and a budget to encodings for every table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sharkstore.allocate.allocation import Allocation, Limit
from sharkstore.allocate.request import Floor, check_floors, offered
from sharkstore.allocate.table import TableChoice
from sharkstore.encodings import Encoding
from sharkstore.errors import PlanError
from sharkstore.plan.costs import table_bytes
from sharkstore.plan.model import Budget, Plan, TablePlan, TierPlan, Weigh
from sharkstore.plan.solve import Solution, Solver
from sharkstore.plan.stats import Stats
from sharkstore.plan.weigh import Weights, weights_of
from sharkstore.quant.metric import mean_diagonal
from sharkstore.tensors import Tensor, TensorSource
from sharkstore.write.sample import MOST, Room, Sample, draw_two

Progress = Callable[[str, int, int], None]

# rows that are sampled, of all tables together; of one at least eight times a codebook's entries
SAMPLE_BYTES = 512 << 20
LEAST_ROWS = 1 << 11
# shares of the float32 bytes that a budget curve is drawn at
CURVE = (0.30, 0.20, 0.15, 0.10, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02)


@dataclass(frozen=True, slots=True)
class Point:
    """A budget, and the least predicted loss within it; None where it can't be met."""

    share: float
    nbytes: float
    loss: float | None


@dataclass(frozen=True, slots=True)
class Allocator:
    """The tables of a plan, sampled and measured.

    Args:
        spare: bytes that no choice changes: of pruned tables, default rows, and tables that a
            plan decides over.
        unit: what losses are multiplied by here, and divided by on the way out.
    """

    source: TensorSource
    plan: Plan
    tables: Sequence[TableChoice]
    spare: int
    solver: Solver
    unit: float

    @classmethod
    def of(
        cls,
        source: TensorSource,
        tensors: Mapping[str, Tensor],
        plan: Plan,
        stats: Stats,
        weigh: Weigh,
        encodings: Mapping[str, Sequence[Encoding]] | Sequence[Encoding],
        floors: Sequence[Floor],
        progress: Progress,
        folder: str | None = None,
    ) -> Allocator:
        """Sample the tables, train codebooks, measure every encoding.

        Args:
            encodings: allowed: of all tables, or by table as they are.
            folder: for samples, see `Room`.

        Raises:
            StatsError, PlanError: the stats or the encodings don't suit the tables.
        """
        fixed = isinstance(encodings, Mapping)
        stored = [
            table
            for table in plan.tables
            if table.action == "store" and (table.order == "loss" or not fixed)
        ]
        check_floors(floors, [table.name for table in stored])
        weights = weights_of(stats, stored, weigh)
        most = rows_to_draw(stored)
        room = Room(sum(2 * 4 * min(one.rows, most) * one.dim for one in stored), folder)
        samples = {
            table.name: draw_two(source, tensors[table.name], weights[table.name], most, room)
            for table in stored
        }
        unit = unit_of({name: sample for name, (sample, _) in samples.items()}, weights)
        tables = []
        for table in stored:
            scaled = replace(weights[table.name], scale=weights[table.name].scale * unit)
            sample, fresh = (
                replace(one, weights=one.weights * unit) for one in samples.pop(table.name)
            )
            if isinstance(encodings, Mapping):
                own = tuple(encodings[table.name])
            else:
                largest = float(np.abs(sample.rows).max(initial=0.0))
                own = offered(encodings, floors, table.name, table.rows, table.dim, largest)
            tables.append(TableChoice.of(table, scaled, sample, fresh, own))
            progress("train", 1, len(stored))
        solver = Solver([table.costs() for table in tables])
        spare = cls.spare_of(plan) + _kept_bytes(plan, stored)
        return cls(source, plan, tables, spare, solver, unit)

    @staticmethod
    def spare_of(plan: Plan) -> int:
        """Bytes that no choice of encodings changes."""
        rows = 0
        for table in plan.tables:
            if table.action != "drop":
                rows += table.dim * ((table.action == "prune") + (table.default == "mean"))
        return 4 * rows

    def curve(self, source_nbytes: int) -> list[Point]:
        """The least predicted loss at some sizes; codebooks are those of whole tables."""
        points = []
        for share in CURVE:
            limit = share * source_nbytes
            try:
                loss = self.solver.within_bytes(limit - self.spare).loss
            except PlanError:
                points.append(Point(share, limit, None))
            else:
                points.append(Point(share, limit, loss / self.unit))
        return points

    def allocate(self, limit: Limit) -> Allocation:
        """Choose the encodings of every table.

        Raises:
            PlanError: the limit can't be kept; tells the least that is possible.
        """
        found = self._within(limit, self.solver)
        return self.settle(limit, [one.kept for one in found.mixtures], found.price / self.unit)

    def settle(self, limit: Limit, kept: Sequence[Sequence[int]], price: float) -> Allocation:
        """Carry an allocation out with these encodings.

        Codebooks and constant rows are made for the rows that take them at this price; then the
        price that keeps the limit is looked for again.
        """
        pairs = zip(self.tables, kept, strict=True)
        settled = [table.settled(own, price * self.unit) for table, own in pairs]
        solution = self._within(limit, Solver([table.costs() for table in settled]))
        tables = [
            replace(table, ruler=table.ruler.only(one.kept))
            for table, one in zip(settled, solution.mixtures, strict=True)
        ]
        losses = [one.loss / self.unit for one in solution.mixtures]
        plan = _planned(self.plan, tables, solution, losses, limit, price)
        chosen = {table.name: table for table in plan.tables}
        tables = [replace(table, plan=chosen[table.plan.name]) for table in tables]
        own_limit = self._own(limit)
        return Allocation(self.source, plan, tables, own_limit, solution.price, self.unit)

    def _own(self, limit: Limit) -> Limit:
        """A limit for the tables that are allocated, in their unit."""
        if limit.nbytes is not None:
            return Limit(nbytes=limit.nbytes - self.spare)
        assert limit.loss is not None
        return Limit(loss=limit.loss * self.unit)

    def _within(self, limit: Limit, solver: Solver) -> Solution:
        own = self._own(limit)
        if limit.loss is not None:
            richest = solver.at_price(0.0).loss / self.unit
            if richest > limit.loss:
                expected = f"{richest:.3g} or more"
                what = "the loss can't be kept so low"
                raise PlanError(what, got=f"{limit.loss:g}", expected=expected)
            return own.solve(solver)
        assert limit.nbytes is not None
        least = solver.least.nbytes + self.spare
        if least > limit.nbytes:
            expected = f"{least:,.0f} bytes or more"
            remedy = "allow constant or smaller encodings, or lower a floor"
            got = f"{limit.nbytes:,.0f}"
            raise PlanError("the budget is too small", got=got, expected=expected, remedy=remedy)
        return own.solve(solver)


def rows_to_draw(tables: Sequence[TablePlan]) -> int:
    """Rows of a table to sample, so that samples of many tables stay within some memory."""
    wide = sum(2 * 4 * table.dim for table in tables)
    return max(LEAST_ROWS, min(MOST, SAMPLE_BYTES // max(wide, 1)))


def _kept_bytes(plan: Plan, allocated: Sequence[TablePlan]) -> int:
    """Bytes of tables that a plan keeps out of its budget: they count all the same."""
    names = {table.name for table in allocated}
    total = 0.0
    for table in plan.tables:
        if table.action == "store" and table.name not in names:
            encodings = [tier.encoding for tier in table.tiers]
            rows = np.array([tier.rows for tier in table.tiers])
            total += table_bytes(table.rows, table.dim, encodings, rows)
    return int(total)


def unit_of(samples: Mapping[str, Sample], weights: Mapping[str, Weights]) -> float:
    """A power of two that brings losses to about 1: stats of any size fit into float32.

    By the median of what rows would lose as zeros.
    """
    found = []
    for name, sample in samples.items():
        metric = weights[name].metric
        mean = 1.0 if metric is None else mean_diagonal(metric)
        found.append(np.square(sample.rows, dtype=np.float64).sum(axis=1) * sample.weights * mean)
    losses = np.concatenate([*found, np.empty(0)])
    losses = losses[losses > 0]
    octave = np.rint(np.log2(np.median(losses))) if len(losses) else 0.0
    return float(2.0 ** -np.clip(octave, -1000, 1000))


def _planned(
    plan: Plan,
    tables: Sequence[TableChoice],
    solution: Solution,
    losses: Sequence[float],
    limit: Limit,
    price: float,
) -> Plan:
    chosen = {}
    for table, one, loss in zip(tables, solution.mixtures, losses, strict=True):
        rows = _whole(one.rows, table.plan.rows)
        pairs = zip(table.ruler.encodings, rows, strict=True)
        tiers = tuple(TierPlan(encoding, count) for encoding, count in pairs)
        chosen[table.plan.name] = replace(
            table.plan,
            order="loss",
            tiers=tiers,
            rounding="nearest" if table.weights.metric is None else "metric",
            predicted_loss=loss,
        )
    budget = Budget(
        nbytes=None if limit.nbytes is None else int(limit.nbytes),
        loss=limit.loss,
        price=price,
        weigh=plan.budget.weigh if plan.budget else "alike",
    )
    planned = tuple(chosen.get(table.name, table) for table in plan.tables)
    return replace(plan, tables=planned, budget=budget)


def _whole(rows: Sequence[float], total: int) -> list[int]:
    """Whole numbers of rows with the same sum."""
    ends = np.rint(np.cumsum(rows) * (total / max(sum(rows), 1e-300))).astype(np.int64)
    whole: list[int] = np.diff(ends, prepend=0).tolist()
    return whole
