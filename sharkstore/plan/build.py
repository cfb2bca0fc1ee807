"""Stats and options to a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sharkstore.encodings import Encoding
from sharkstore.errors import PlanError
from sharkstore.plan.amounts import parse_amount, parse_share
from sharkstore.plan.model import (
    Default,
    FieldPlan,
    NonFinite,
    Plan,
    Rounding,
    TablePlan,
    TierPlan,
    Weigh,
)
from sharkstore.plan.prune import (
    cheapest_tables,
    check_least,
    fields_below,
    tables_without_fields,
    weakest_fields,
    weakest_share,
)
from sharkstore.plan.select import can_be_table, check_size, choose_tables
from sharkstore.plan.stats import Stats, check_stats, rows_at_least
from sharkstore.plan.tiers import TierPolicy, parse_tiers
from sharkstore.plan.weigh import WEIGHS
from sharkstore.tensors import Tensor

Rank = Literal["score", "score_curved"]
RANKS = ("score", "score_curved")
Method = Literal["loss", "shark"]
METHODS = ("loss", "shark")
RoundingChoice = Literal["auto", "nearest", "metric"]
ROUNDINGS = ("auto", "nearest", "metric")
# encodings whose codes are few enough for rounding to matter
COARSE = ("int4", "int2", "pq")
# options that say what goes; only one of them can
PRUNING = ("keep", "keep_share", "prune_below", "prune_bytes", "prune")


@dataclass(frozen=True, slots=True)
class Policy:
    """What the user asked for.

    Args:
        tiers: the `--tiers` text; None stands for `int8`, or for what a budget leads to.
        tables: globs that replace the rule which tensors are tables.
        keep: number of fields to keep, the best by score; None keeps all.
        keep_share: share of the fields to keep, likewise: `60%`.
        prune_below: prune the fields that score less.
        prune_bytes: prune the tables of least score per byte until this much is saved of their
            float32 bytes: `30%` of all tables', or `8GiB`.
        prune: fields to prune.
        rank_by: the scores that tell weak fields, `score` or `score_curved`; None: the latter
            where all fields have it.
        drop: leave pruned tables out instead of storing their mean row.
        default: the row for ids out of bounds.
        nonfinite: `error`, or `zero` for NaN and infinities in tables.
        budget: bytes of the store, as a share of the tables' float32 bytes or a size; None: none.
        max_loss: predicted increase of the loss; a budget likewise.
        encodings: that a budget may use; empty: all that the method knows.
        floors: least precise encodings for some tables: `int8:GLOB`.
        method: `loss` (least predicted loss) or `shark` (thresholds on priorities).
        weigh: what an error in a row costs; None: the best that the stats have.
        rounding: `nearest`, in the tables' `metric`, or `auto`: the latter for codes of few bits
            where the stats have it.
    """

    tiers: str | None = None
    tables: Sequence[str] = ()
    keep: int | None = None
    keep_share: str | None = None
    prune_below: float | None = None
    prune_bytes: str | None = None
    prune: Sequence[str] = ()
    rank_by: Rank | None = None
    drop: bool = False
    default: Default = "zero"
    nonfinite: NonFinite = "error"
    budget: str | None = None
    max_loss: float | None = None
    encodings: Sequence[str] = ()
    floors: Sequence[str] = ()
    method: Method = "loss"
    weigh: Weigh | None = None
    rounding: RoundingChoice = "auto"

    def __post_init__(self) -> None:
        """Refuse what a command line can't pass, but a caller can."""
        self._check_budget()
        _check_choice("default_row", self.default, ("zero", "mean"))
        _check_choice("nonfinite", self.nonfinite, ("error", "zero"))
        if self.rank_by is not None:
            _check_choice("rank_by", self.rank_by, RANKS)
        for name in ("tables", "prune", "encodings", "floors"):
            if isinstance(getattr(self, name), str):
                raise PlanError(f"{name} must be a list of texts, got one text")
        if self.keep is not None and type(self.keep) is not int:
            raise PlanError("keep must be an integer", got=repr(self.keep))
        if self.keep_share is not None:
            parse_share(self.keep_share, "keep_share")
        if self.prune_below is not None:
            check_least(self.prune_below, "prune_below")
        if self.prune_bytes is not None:
            parse_amount(self.prune_bytes, "prune_bytes")
        if len(self.pruning) > 1:
            raise PlanError(f"{' and '.join(self.pruning)} don't mix: one option says what goes")
        if self.drop and not self.pruning:
            remedy = "say which by --keep or --prune, or an option like them"
            raise PlanError("--drop leaves pruned tables out", remedy=remedy)

    def _check_budget(self) -> None:
        _check_choice("method", self.method, METHODS)
        _check_choice("rounding", self.rounding, ROUNDINGS)
        if self.weigh is not None:
            _check_choice("weigh", self.weigh, WEIGHS)
        if self.budget is not None:
            parse_amount(self.budget, "budget")
        if self.max_loss is not None:
            check_above_zero("max_loss", self.max_loss)
        if self.budget is not None and self.max_loss is not None:
            raise PlanError("--budget and --max-loss don't mix: one of them says when to stop")
        if self.limited and self.tiers is not None:
            raise PlanError("--tiers and --budget or --max-loss don't mix: one of them decides")
        given = [
            name
            for name, value in (
                ("--encodings", len(self.encodings)),
                ("--floor", len(self.floors)),
                ("--method", self.method != "loss"),
                ("--weigh", self.weigh),
            )
            if value
        ]
        if given and not self.limited:
            raise PlanError(f"{given[0]} goes with --budget or --max-loss")
        if self.method == "shark" and (self.max_loss is not None or self.weigh or self.floors):
            raise PlanError("--method shark goes by priorities within a --budget alone")

    @property
    def limited(self) -> bool:
        """Whether a budget decides over tiers."""
        return self.budget is not None or self.max_loss is not None

    @property
    def pruning(self) -> tuple[str, ...]:
        """The options given that say what goes, as the command line spells them."""
        given = [name for name in PRUNING if name != "prune" and getattr(self, name) is not None]
        given += ["prune"] if len(self.prune) else []
        return tuple("--" + name.replace("_", "-") for name in given)


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise PlanError(f"{name} {value!r} is not known", expected=" or ".join(known))


def build_plan(
    tensors: Mapping[str, Tensor], left: Mapping[str, str], stats: Stats, policy: Policy
) -> Plan:
    """The plan for a checkpoint.

    Raises:
        PlanError, StatsError: the options or the stats don't fit the checkpoint.
    """
    tiers = parse_tiers(policy.tiers or "int8")
    check_stats(stats, tensors)
    chosen = choose_tables(tensors, policy.tables, stats.tables)
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


def check_above_zero(name: str, value: float) -> None:
    """Refuse what is no finite number above 0.

    Raises:
        PlanError: with the name.
    """
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise PlanError(f"{name} must be a number above 0", got=repr(value))
