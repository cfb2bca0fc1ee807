"""What a person should know of a conversion, a line each."""

from __future__ import annotations

from collections.abc import Sequence

from sharkstore.allocate.budget import Budgeted
from sharkstore.plan.build import weak_fields
from sharkstore.plan.model import Plan, TablePlan
from sharkstore.plan.policy import Policy
from sharkstore.plan.stats import Stats
from sharkstore.readers.model import Checkpoint
from sharkstore.write.survey import Surveys


def staying(plan: Plan, policy: Policy) -> tuple[str, ...]:
    """What stays though the user asked for less: a table goes only with all its fields."""
    notes = []
    stored = {table.name for table in plan.tables if table.action == "store"}
    spared = [f for f in weak_fields(plan.fields, policy) if plan.fields[f].table in stored]
    if spared:
        shared = "weak fields that share a table with one that is kept stay"
        notes.append(f"{shared}: {_names(spared)}")
    if policy.pruning and len(stored) == len(plan.tables):
        notes.append(f"nothing is pruned: {policy.pruning[0]} leaves all tables")
    return tuple(notes)


def of_plan(plan: Plan, stats: Stats) -> tuple[str, ...]:
    """What the stats lack that the plan could use."""
    notes = []
    by_id = [
        table.name
        for table in plan.tables
        if table.action == "store" and table.order == "id" and len(table.tiers) > 1
    ]
    if by_id:
        which = "all tables" if len(by_id) == len(plan.tables) else _names(by_id)
        notes.append(f"{which}: no priorities, so all rows are equal and tiers go by row id")
    unweighted = [
        t.name
        for t in plan.tables
        if _wants_mean(t) and stats.count(t.name) is None and stats.mean(t.name) is None
    ]
    if unweighted:
        notes.append(f"no counts, so a plain mean row: {_names(unweighted)}")
    if stats.unknown:
        notes.append(f"stats of kinds that are not known, not used: {', '.join(stats.unknown[:4])}")
    return tuple(notes)


def weightless(found: Budgeted) -> tuple[str, ...]:
    """Tables of which the stats say that errors cost nothing."""
    names = found.allocation.weightless if found.allocation else ()
    if not names:
        return ()
    return (f"by the stats errors cost nothing, so rows take the fewest bytes: {_names(names)}",)


def _wants_mean(table: TablePlan) -> bool:
    """Whether a mean row of the table is stored."""
    constant = any(tier.encoding.name == "constant" for tier in table.stored_tiers)
    return table.action != "drop" and (constant or table.default == "mean")


def unsaid(plan: Plan, source: Checkpoint) -> tuple[str, ...]:
    """Tensors that an edited plan no longer names."""
    said = {table.name for table in plan.tables} | set(plan.dense) | set(plan.left)
    others = [name for name in source.tensors if name not in said]
    return (f"left out by the plan: {', '.join(others)}",) if others else ()


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def of_surveys(surveys: Surveys) -> tuple[str, ...]:
    """What was found in the rows."""
    notes = []
    for name, survey in surveys.tables.items():
        if survey.zeroed:
            notes.append(f"{name}: {survey.zeroed:,} NaN or infinite values became 0")
        if survey.faint:
            lost = f"{survey.faint:,} rows, at least, are too small for their encoding"
            notes.append(f"{name}: {lost} and lose precision")
    return tuple(notes)
