"""A plan brought within its budget, or carried out again as it was written down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sharkstore.allocate.allocate import Allocator, Point, Progress
from sharkstore.allocate.allocation import Allocation, Limit
from sharkstore.allocate.request import DEFAULT, parse_encodings, parse_floor
from sharkstore.plan.amounts import parse_amount
from sharkstore.plan.model import Budget, Plan, Weigh
from sharkstore.plan.policy import Policy
from sharkstore.plan.stats import Stats
from sharkstore.plan.thresholds import by_thresholds
from sharkstore.plan.weigh import best_weigh
from sharkstore.tensors import Tensor, TensorSource

SHARK = ("f32", "f16", "int8")


@dataclass(frozen=True, slots=True)
class Budgeted:
    """A plan within its budget.

    Args:
        allocation: decides over rows; None where priorities do.
        curve: the least predicted loss at other budgets, if it was asked for.
        weigh: what an error in a row costs.
    """

    plan: Plan
    allocation: Allocation | None
    curve: tuple[Point, ...] = ()
    weigh: Weigh | None = None


def within_budget(
    source: TensorSource,
    tensors: Mapping[str, Tensor],
    plan: Plan,
    stats: Stats,
    policy: Policy,
    progress: Progress,
    *,
    curve: bool,
    folder: str | None = None,
) -> Budgeted:
    """Bring a plan within the budget of a policy.

    Args:
        folder: for files that are needed until all rows are decided over.

    Raises:
        PlanError: the budget is too small, or an option doesn't suit the tables.
        StatsError: the stats lack what the policy weighs by.
    """
    total = source_nbytes(plan)
    nbytes = None
    if policy.budget is not None:
        nbytes = math.floor(parse_amount(policy.budget, "--budget").of(total))
    if policy.method == "shark":
        assert nbytes is not None
        encodings = parse_encodings(policy.encodings or SHARK)
        spare = Allocator.spare_of(plan)
        return Budgeted(by_thresholds(plan, stats, encodings, nbytes - spare), None)
    stored = [table for table in plan.tables if table.action == "store"]
    weigh = policy.weigh or best_weigh(stats, stored)
    allocator = Allocator.of(
        source,
        tensors,
        plan,
        stats,
        weigh,
        parse_encodings(policy.encodings or DEFAULT),
        [parse_floor(text) for text in policy.floors],
        progress,
        folder,
    )
    limit = Limit(nbytes, policy.max_loss)
    started = replace(plan, budget=Budget(nbytes, policy.max_loss, 1.0, weigh))
    allocation = replace(allocator, plan=started).allocate(limit)
    points = tuple(allocator.curve(total)) if curve else ()
    return Budgeted(allocation.plan, allocation, points, weigh)


def again(
    source: TensorSource,
    tensors: Mapping[str, Tensor],
    plan: Plan,
    stats: Stats,
    progress: Progress,
    folder: str | None = None,
) -> Budgeted:
    """Carry out a plan that has a budget: its encodings, its price, codebooks trained as then.

    Args:
        folder: for files that are needed until all rows are decided over.

    Raises:
        PlanError, StatsError: the budget can't be kept, or the stats are others.
    """
    budget = plan.budget
    assert budget is not None
    encodings = {table.name: [tier.encoding for tier in table.tiers] for table in plan.tables}
    weigh: Weigh = budget.weigh
    most = source, tensors, plan, stats, weigh, encodings
    allocator = Allocator.of(*most, (), progress, folder)
    kept = [range(len(table.ruler.encodings)) for table in allocator.tables]
    allocation = allocator.settle(Limit(budget.nbytes, budget.loss), kept, budget.price)
    return Budgeted(allocation.plan, allocation, (), weigh)


def source_nbytes(plan: Plan) -> int:
    """Bytes of all tables that are taken, in float32."""
    return sum(table.rows * table.dim * 4 for table in plan.tables)
