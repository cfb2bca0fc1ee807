"""Convert a checkpoint to a store: readers, plan and writer in one function."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sharkstore import __version__
from sharkstore.allocate.allocate import Point
from sharkstore.allocate.budget import Budgeted, again, within_budget
from sharkstore.errors import DestinationError, PlanError
from sharkstore.format.metadata import StoreMetadata
from sharkstore.plan.build import build_plan, check_plan, weak_fields
from sharkstore.plan.model import Default, NonFinite, Plan, TablePlan, Weigh, parse_plan
from sharkstore.plan.policy import Method, Policy, Rank, RoundingChoice
from sharkstore.plan.pruned import Pruned, pruned_tables
from sharkstore.plan.stats import Stats
from sharkstore.readers.model import Checkpoint
from sharkstore.readers.open import open_checkpoint
from sharkstore.stats.file import open_stats
from sharkstore.write.layout import data_bytes, plan_metadata
from sharkstore.write.store import Progress, write_store
from sharkstore.write.survey import Surveys

Path = str | os.PathLike[str]

# losses of a measurement that are not log losses
OTHER_LOSSES = {"squared", "per_sample"}


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a conversion did, or in a dry run would do.

    Args:
        plan: what happens to each table.
        metadata: of the store; in a dry run without digest and scale exponents.
        data_bytes: bytes of all chunk files.
        pruned: the tables that go, what they cost in predicted loss and what they save.
        notes: what a person should know: rows that count alike, values set to zero, …
        written: whether the store was written; False in a dry run.
        curve: in a dry run with a budget, the least predicted loss at other budgets.
    """

    plan: Plan
    metadata: StoreMetadata
    data_bytes: int
    pruned: Pruned
    notes: tuple[str, ...] = ()
    written: bool = False
    curve: tuple[Point, ...] = ()

    @property
    def predicted_loss(self) -> float | None:
        """Predicted increase of the loss by the encodings; None if nothing predicts it."""
        if self.plan.budget is None:
            return None
        return sum(table.predicted_loss or 0.0 for table in self.plan.tables)


def convert_checkpoint(
    checkpoint: Path,
    store: Path,
    *,
    tiers: str | None = None,
    budget: str | None = None,
    max_loss: float | None = None,
    encodings: Sequence[str] = (),
    floors: Sequence[str] = (),
    method: Method = "loss",
    weigh: Weigh | None = None,
    rounding: RoundingChoice = "auto",
    stats: Path | None = None,
    tables: Sequence[str] = (),
    keep: int | None = None,
    keep_share: str | None = None,
    prune_below: float | None = None,
    prune_bytes: str | None = None,
    prune: Sequence[str] = (),
    rank_by: Rank | None = None,
    drop: bool = False,
    default_row: Default = "zero",
    nonfinite: NonFinite = "error",
    plan: Path | None = None,
    dry_run: bool = False,
    curve: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Convert a checkpoint to a store.

    Args:
        checkpoint: `.safetensors`, `*.safetensors.index.json`, `.pt` or `.pth`.
        store: the directory to make.
        tiers: `int8`, or shares (`f32=1%,f16=9%,int8=rest`), or least priorities
            (`f32@1000,f16@50,int8`); `int8` if neither this nor a budget is given.
        budget: bytes of the store's tables, all counted: a share of the tables' float32 bytes
            (`10%`) or a size (`8GiB`). Every row gets the encoding that makes the predicted
            loss least within it.
        max_loss: predicted increase of the loss; as few bytes as keep to it.
        encodings: that a budget may use (`int8`, `pq4`, …); all when left out.
        floors: least precise encodings of some tables: `int8:GLOB`.
        method: `loss`, or `shark`: the paper's thresholds on priorities within the budget.
        weigh: what an error in a row costs: `metric`, `sensitivity`, `count` or `alike`; the
            best that the stats have when left out.
        rounding: codes are the `nearest` or round in the table's `metric`; `auto`: the latter
            for codes of few bits where the stats have it.
        stats: row priorities and field scores; without it all rows count alike.
        tables: globs over the checkpoint's keys; they replace the rule which are tables.
        keep: keep this many fields, the best by score, and prune the rest: a table whose
            fields all go becomes its mean row. This and the next four exclude each other; all
            but `prune` need field scores.
        keep_share: keep this share of the fields (`60%`), to the nearest number and at least 1.
        prune_below: prune the fields that score less.
        prune_bytes: prune the tables of least score per byte until this much of the tables'
            float32 bytes is saved: a share (`30%`) or a size (`8GiB`, `500MB`).
        prune: fields to prune, by name.
        rank_by: the scores that tell weak fields: `score`, the first-order term (SHARK), or
            `score_curved`, the second-order term; by default the latter where the stats have it.
        drop: leave pruned tables out instead.
        default_row: the row for ids out of bounds: `zero`, or the table's `mean`.
        nonfinite: `error`, or `zero` to store NaN and infinities in tables as 0.
        plan: a plan as a dry run gives it, edited or not; replaces the options above but
            `stats`.
        dry_run: write nothing.
        curve: find out what other budgets would cost, as a dry run with a budget does.
        overwrite: replace the store that is there, in one step.
        progress: called with a stage (`train`, `measure`, `rank`, `read`, `write`), what was
            just done and how much there is: tables in `train`, bytes in the others.

    Returns:
        The plan, and the metadata of the store.

    Raises:
        CheckpointNotFoundError, CheckpointError, StatsError, PlanError, NonFiniteError,
        DestinationError, WriteError: nothing is left at the destination.
    """
    for name in (checkpoint, stats, plan):
        _refuse_inside(name, store)
    source = open_checkpoint(checkpoint)
    measured = Stats() if stats is None else open_stats(stats)
    if plan is None:
        policy = Policy(
            tiers=tiers,
            tables=tables,
            keep=keep,
            keep_share=keep_share,
            prune_below=prune_below,
            prune_bytes=prune_bytes,
            prune=prune,
            rank_by=rank_by,
            drop=drop,
            default=default_row,
            nonfinite=nonfinite,
            budget=budget,
            max_loss=max_loss,
            encodings=encodings,
            floors=floors,
            method=method,
            weigh=weigh,
            rounding=rounding,
        )
        planned = build_plan(source.tensors, source.left, measured, policy)
        notes = _stay(planned, policy)
    else:
        policy = None
        planned = _replayed(plan, source, measured)
        notes = _unsaid(planned, source)
    tell = progress or _silent
    found = _budgeted(source, planned, measured, policy, tell, curve=curve or dry_run)
    planned = found.plan
    provenance: dict[str, Any] = {
        "tool": f"sharkstore {__version__}",
        "source": {"name": source.name},
        "plan": planned.document(),
    }
    notes += _notes(planned, measured) + _weightless(found)
    if dry_run:
        metadata = plan_metadata(planned, source.tensors, provenance, {})
        pruned = _pruned(planned, metadata, measured)
        size = data_bytes(metadata)
        return Conversion(planned, metadata, size, pruned, notes, curve=found.curve)
    written = write_store(
        source,
        source.tensors,
        planned,
        measured,
        os.fsdecode(store),
        provenance=provenance,
        overwrite=overwrite,
        progress=tell,
        allotment=found.allocation,
    )
    notes += _found(written.surveys)
    metadata, planned = written.metadata, written.plan
    pruned = _pruned(planned, metadata, measured)
    size = data_bytes(metadata)
    return Conversion(planned, metadata, size, pruned, notes, written=True, curve=found.curve)


def _budgeted(
    source: Checkpoint,
    plan: Plan,
    stats: Stats,
    policy: Policy | None,
    progress: Progress,
    *,
    curve: bool,
) -> Budgeted:
    """The plan with what decides over rows, where a budget does."""
    if policy is not None and policy.limited:
        return within_budget(source, source.tensors, plan, stats, policy, progress, curve=curve)
    if policy is None and plan.budget is not None:
        return again(source, source.tensors, plan, stats, progress)
    return Budgeted(plan, None)


def _refuse_inside(path: Path | None, store: Path) -> None:
    """An input below the destination would be replaced with it."""
    if path is None:
        return
    inner, outer = os.path.realpath(os.fsdecode(path)), os.path.realpath(os.fsdecode(store))
    if os.path.commonpath([inner, outer]) == outer:
        raise DestinationError("the destination holds an input", where=os.fsdecode(path))


def _replayed(path: Path, source: Checkpoint, stats: Stats) -> Plan:
    where = os.fsdecode(path)
    try:
        with open(where, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"can't be read: {error}", where=where) from error
    planned = parse_plan(text, where)
    check_plan(planned, source.tensors, stats)
    return planned


def _pruned(plan: Plan, metadata: StoreMetadata, stats: Stats) -> Pruned:
    stored = {table.name: table.nbytes for table in metadata.tables}
    other = OTHER_LOSSES & set(stats.metadata.get("loss", "").split("+"))
    unit = "nats" if stats.fields and not other else ""
    return Pruned(pruned_tables(plan, stored), unit)


def _stay(plan: Plan, policy: Policy) -> tuple[str, ...]:
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


def _notes(plan: Plan, stats: Stats) -> tuple[str, ...]:
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


def _weightless(found: Budgeted) -> tuple[str, ...]:
    names = found.allocation.weightless if found.allocation else ()
    if not names:
        return ()
    return (f"by the stats errors cost nothing, so rows take the fewest bytes: {_names(names)}",)


def _wants_mean(table: TablePlan) -> bool:
    """Whether a mean row of the table is stored."""
    constant = any(tier.encoding.name == "constant" for tier in table.stored_tiers)
    return table.action != "drop" and (constant or table.default == "mean")


def _unsaid(plan: Plan, source: Checkpoint) -> tuple[str, ...]:
    """Tensors that an edited plan no longer names."""
    said = {table.name for table in plan.tables} | set(plan.dense) | set(plan.left)
    unsaid = [name for name in source.tensors if name not in said]
    return (f"left out by the plan: {', '.join(unsaid)}",) if unsaid else ()


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def _found(surveys: Surveys) -> tuple[str, ...]:
    notes = []
    for name, survey in surveys.tables.items():
        if survey.zeroed:
            notes.append(f"{name}: {survey.zeroed:,} NaN or infinite values became 0")
        if survey.faint:
            lost = f"{survey.faint:,} rows, at least, are too small for their encoding"
            notes.append(f"{name}: {lost} and lose precision")
    return tuple(notes)


def _silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
