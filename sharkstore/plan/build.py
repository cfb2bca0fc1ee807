"""Stats and options to a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sharkstore.encodings import Encoding
from sharkstore.errors import PlanError
from sharkstore.plan.amounts import parse_amount, parse_share
from sharkstore.plan.model import FieldPlan, Plan, Rounding, TablePlan, TierPlan
from sharkstore.plan.policy import Policy, RoundingChoice
from sharkstore.plan.prune import (
    cheapest_tables,
    fields_below,
    tables_without_fields,
    weakest_fields,
    weakest_share,
)
from sharkstore.plan.select import can_be_table, check_size, choose_tables, optimizer_state
from sharkstore.plan.stats import Stats, check_stats, rows_at_least
from sharkstore.plan.tiers import TierPolicy, parse_tiers
from sharkstore.tensors import Tensor

# encodings whose codes are few enough for rounding to matter
COARSE = ("int4", "int2", "pq")


def build_plan(
    tensors: Mapping[str, Tensor], left: Mapping[str, str], stats: Stats, policy: Policy
) -> Plan:
    """The plan for a checkpoint.

    Raises:
        PlanError, StatsError: the options or the stats don't fit the checkpoint.
    """
    tiers = parse_tiers(policy.tiers or "int8")
    check_stats(stats, tensors)
    if not policy.tables:
        states = optimizer_state(tensors)
        left = {**left, **states}
        tensors = {name: one for name, one in tensors.items() if name not in states}
    chosen = choose_tables(tensors, policy.tables, stats.tables, left)
    fields = {
        name: FieldPlan(
            table, stats.score(name), stats.score_signed(name), stats.score_curved(name)
        )
        for name, table in stats.fields.items()
    }
    pruned = _pruned(fields, [tensors[name] for name in chosen], policy)
    tables = []
    for name, why in chosen.items():
        table = _table(tensors[name], why, stats, tiers, policy)
        if name in pruned:
            table = replace(table, action="drop" if policy.drop else "prune")
        tables.append(table)
    dense = tuple(name for name in tensors if name not in chosen)
    return Plan(tuple(tables), dense, left, fields, policy.nonfinite)


def check_plan(plan: Plan, tensors: Mapping[str, Tensor], stats: Stats) -> None:
    """Refuse to replay a plan that was made for another checkpoint or needs other stats.

    Raises:
        PlanError: tables or parameters that the checkpoint lacks or has in other shapes.
    """
    check_stats(stats, tensors)
    for table in plan.tables:
        tensor = tensors.get(table.name)
        got = None if tensor is None else (*tensor.shape, tensor.dtype)
        expected = (table.rows, table.dim, table.dtype)
        if got != expected:
            raise PlanError(
                "the plan is for another checkpoint", where=table.name, got=got, expected=expected
            )
        assert tensor is not None
        if not can_be_table(tensor):
            raise PlanError("this tensor can't be a table", where=table.name, got=got)
        check_size(tensor)
        if (
            len(table.tiers) > 1
            and table.order == "priority"
            and stats.priority(table.name) is None
        ):
            raise PlanError("the plan orders rows by priority: pass its --stats", where=table.name)
        if table.rounding == "metric" and stats.metric(table.name) is None:
            raise PlanError("the plan rounds in a metric: pass its --stats", where=table.name)
    names = [table.name for table in plan.tables] + list(plan.dense)
    lacking = sorted(set(names) - set(tensors))
    twice = [name for name, times in Counter(names).items() if times > 1]
    if lacking or twice:
        which = ", ".join(map(repr, lacking or twice))
        what = f"the plan's tables and parameters don't fit the checkpoint: {which}"
        raise PlanError(what, got="no such tensors" if lacking else "them twice")
    if not plan.tables:
        raise PlanError("the plan has no tables")
    known = {table.name for table in plan.tables}
    for field, one in plan.fields.items():
        if one.table not in known:
            raise PlanError(f"table {one.table!r} of field {field!r} is not in the plan")


def ranking(fields: Mapping[str, FieldPlan], policy: Policy) -> Mapping[str, FieldPlan]:
    """The fields with the score in place that tells weak ones.

    First-order scores vanish where a field already gets its samples right; the second-order term
    doesn't, and follows true permutation more closely (tools/reproduce).
    """
    curved = bool(fields) and all(one.score_curved is not None for one in fields.values())
    if policy.rank_by == "score" or not (curved or policy.rank_by):
        return fields
    return {name: replace(one, score=one.score_curved) for name, one in fields.items()}


def weak_fields(fields: Mapping[str, FieldPlan], policy: Policy) -> list[str]:
    """Fields that a policy finds too weak; their tables go unless a stronger one needs them."""
    fields = ranking(fields, policy)
    if policy.keep is not None:
        return weakest_fields(fields, policy.keep)
    if policy.keep_share is not None:
        return weakest_share(fields, parse_share(policy.keep_share))
    if policy.prune_below is not None:
        return fields_below(fields, policy.prune_below)
    return []


def _pruned(fields: Mapping[str, FieldPlan], tables: Sequence[Tensor], policy: Policy) -> list[str]:
    if policy.prune_bytes is not None:
        sizes = {table.name: table.rows * table.shape[1] * 4 for table in tables}
        return cheapest_tables(ranking(fields, policy), sizes, parse_amount(policy.prune_bytes))
    gone = policy.prune or weak_fields(fields, policy)
    names = [table.name for table in tables]
    return tables_without_fields(fields, names, gone, explicit=bool(policy.prune))


def _table(tensor: Tensor, why: str, stats: Stats, tiers: TierPolicy, policy: Policy) -> TablePlan:
    priority = stats.priority(tensor.name)
    if priority is None and tiers.needs_priorities:
        raise PlanError(
            "tiers by threshold need row priorities",
            where=tensor.name,
            remedy="pass --stats, or tiers by share ('f32=1%,int8=rest')",
        )
    counts = tiers.counts(
        tensor.rows, lambda least: 0 if priority is None else rows_at_least(priority, least)
    )
    planned = [
        TierPlan(_with_entries(rule.encoding, count), count)
        for rule, count in zip(tiers.rules, counts, strict=True)
    ]
    return TablePlan(
        name=tensor.name,
        rows=tensor.rows,
        dim=tensor.shape[1],
        dtype=tensor.dtype,
        action="store",
        order="id" if priority is None else "priority",
        tiers=tuple(tier for tier in planned if tier.rows) or (planned[-1],),
        default=policy.default,
        why=why,
        rounding=choose_rounding(tensor.name, planned, stats, policy.rounding),
    )


def _with_entries(encoding: Encoding, rows: int) -> Encoding:
    """The encoding with no more entries in its codebook than there are rows."""
    if encoding.name != "pq":
        return encoding
    return replace(encoding, entries=max(1, min(encoding.entries, rows)))


def choose_rounding(
    name: str, tiers: Sequence[TierPlan], stats: Stats, choice: RoundingChoice
) -> Rounding:
    """How the codes of a table are rounded.

    Raises:
        PlanError: in its metric, which the stats lack.
    """
    if choice == "nearest":
        return "nearest"
    known = f"tables/{name}/metric" in stats.arrays
    if choice == "metric" and not known:
        raise PlanError("--rounding metric needs the table's metric in --stats", where=name)
    coarse = any(tier.encoding.name in COARSE for tier in tiers)
    return "metric" if known and (coarse or choice == "metric") else "nearest"
