"""Convert a checkpoint to a store: readers, plan and writer in one function."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from hashlib import sha256
from typing import Any

from sharkstore import __version__
from sharkstore.allocate.allocate import Point
from sharkstore.allocate.budget import Budgeted, again, within_budget
from sharkstore.errors import ArgumentError, DestinationError, PlanError
from sharkstore.format.metadata import StoreMetadata
from sharkstore.plan.amounts import parse_size
from sharkstore.plan.build import build_plan, check_plan, weak_fields
from sharkstore.plan.model import Default, NonFinite, Plan, TablePlan, Weigh, parse_plan
from sharkstore.plan.policy import Method, Policy, Rank, RoundingChoice
from sharkstore.plan.pruned import Pruned, pruned_tables
from sharkstore.plan.stats import Stats
from sharkstore.readers.files import is_url, open_files
from sharkstore.readers.model import Checkpoint
from sharkstore.readers.open import Opening
from sharkstore.stats.file import open_stats
from sharkstore.write.crew import Crew
from sharkstore.write.files import Destination
from sharkstore.write.journal import Journal
from sharkstore.write.layout import data_bytes, plan_metadata
from sharkstore.write.memory import check_workers, threads_within
from sharkstore.write.site import Inputs, Progress, Site
from sharkstore.write.store import DECIDED, fill_store
from sharkstore.write.survey import Surveys

Path = str | os.PathLike[str]

# of the files of a conversion under way
WORK = "work 1"
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
        resumed: parts of the store that an earlier run had written, and how many there are.
    """

    plan: Plan
    metadata: StoreMetadata
    data_bytes: int
    pruned: Pruned
    notes: tuple[str, ...] = ()
    written: bool = False
    curve: tuple[Point, ...] = ()
    resumed: tuple[int, int] | None = None

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
    rank_files: str | None = None,
    sharded: Sequence[str] = (),
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
    max_memory: str | None = None,
    workers: int | None = None,
    dask: str | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> Conversion:
    """Convert a checkpoint to a store.

    Args:
        checkpoint: `.safetensors`, `*.safetensors.index.json`, `.pt`, `.pth`, `.bin`, `.npz` or
            `.npy`; a folder of torch.distributed.checkpoint, of safetensors or of ranks' files; or
            a URL of one of these.
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
        rank_files: how the files of ranks in a folder are named: `*_rank_{rank}.pt`.
        sharded: globs over keys of rank files that hold a part of a table's rows each.
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
        max_memory: what all processes of this machine may take together, beyond mapped files
            (`1GiB`); refused if it can't be kept. With `dask`, what each of its workers takes.
        workers: processes that share the work, each one core; left out: threads of this
            process. They are spawned: a script that asks for them needs the usual
            `if __name__ == "__main__"`.
        dask: address of a Dask scheduler whose workers do it, on the same file system.
        progress: called with a stage (`train`, `measure`, `rank`, `read`, `write`), what was
            just done and how much there is: tables in `train`, bytes in the others.
        tell: called with what a person should know at once: that work of a run that was killed
            is taken up, or why not.

    Returns:
        The plan, and the metadata of the store.

    Raises:
        CheckpointNotFoundError, CheckpointError, StatsError, PlanError, NonFiniteError,
        DestinationError, WriteError: nothing is left at the destination.
        WorkerError: workers were lost; the same call goes on from there.
    """
    if workers is not None and dask is not None:
        raise ArgumentError("workers of this machine, or those of a Dask cluster: not both")
    for name in (checkpoint, stats, plan):
        _refuse_inside(name, store)
    opening = Opening(_anywhere(checkpoint), rank_files, tuple(sharded))
    source = opening.open()
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
    asked = _Asked(source, planned, measured, policy, notes, progress or _silent, curve or dry_run)
    if dry_run:
        return _planned(asked)
    identity = _identity(asked, stats)
    restat = partial(_stats, None if stats is None else os.path.abspath(os.fsdecode(stats)))
    inputs = Inputs(source, source.tensors, measured, opening.open, restat)
    with (
        Destination(os.fsdecode(store), overwrite=overwrite) as place,
        Journal(place, identity) as journal,
        _crew(asked, workers, dask, max_memory) as crew,
    ):
        earlier = _Earlier(tell or _quiet)
        earlier.tell_changed(journal.changed)
        done = _written(asked, Site(inputs, journal, crew, asked.progress, earlier.found))
        place.commit()
    return replace(done, resumed=earlier.chunks)


def unfinished(store: Path) -> str | None:
    """Where work of a conversion to this place lies that was stopped; None if there is none."""
    partial = Destination(os.fsdecode(store), overwrite=True).partial
    return partial if os.path.isdir(partial) else None


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was asked for: a plan, and what is still to be decided of it.

    Args:
        policy: None where a plan was given.
    """

    source: Checkpoint
    plan: Plan
    stats: Stats
    policy: Policy | None
    notes: tuple[str, ...]
    progress: Progress
    curve: bool

    def budgeted(self, folder: str | None = None) -> Budgeted:
        """The plan with what decides over rows, where a budget does; with room in a folder."""
        source, policy, plan = self.source, self.policy, self.plan
        most = source, source.tensors, plan, self.stats
        if policy is not None and policy.limited:
            curve = self.curve
            return within_budget(*most, policy, self.progress, curve=curve, folder=folder)
        if policy is None and plan.budget is not None:
            return again(*most, self.progress, folder)
        return Budgeted(plan, None)

    def provenance(self, plan: Plan) -> dict[str, Any]:
        """What a store says of where it comes from."""
        return {
            "tool": f"sharkstore {__version__}",
            "source": {"name": self.source.name},
            "plan": plan.document(),
        }


@dataclass(slots=True)
class _Earlier:
    """What is found of an earlier run, and told.

    Args:
        chunks: batches of chunks that it had written, and how many there are.
    """

    tell: Callable[[str], None]
    chunks: tuple[int, int] | None = None

    def found(self, stage: str, done: int, total: int) -> None:
        """Take in what an earlier run had done of a stage."""
        words = {"read": "read", "write": "written"}
        if stage in words:
            of = "checkpoint" if stage == "read" else "store"
            share = f"{done:,} of {total:,} parts of the {of}"
            self.tell(f"going on where an earlier run stopped: {share} are {words[stage]} already")
        if stage == "write":
            self.chunks = (done, total)

    def tell_changed(self, changed: Sequence[str]) -> None:
        """Say why the work of an earlier run is of no use."""
        if changed:
            others = " and ".join(changed)
            self.tell(f"an earlier run stopped here, for {others} of before: starting anew")


def _planned(asked: _Asked) -> Conversion:
    """What a conversion would do."""
    found = asked.budgeted()
    notes = asked.notes + _notes(found.plan, asked.stats) + _weightless(found)
    metadata = plan_metadata(found.plan, asked.source.tensors, asked.provenance(found.plan), {})
    pruned = _pruned(found.plan, metadata, asked.stats)
    return Conversion(found.plan, metadata, data_bytes(metadata), pruned, notes, curve=found.curve)


def _written(asked: _Asked, site: Site) -> Conversion:
    """Do what is not done yet of a conversion."""
    journal = site.journal
    if DECIDED in journal:
        found = Budgeted(asked.plan, None, tuple(Point(*one) for one in journal["curve"]))
    else:
        found = asked.budgeted(journal.scratch)
        journal.add("notes", _notes(found.plan, asked.stats) + _weightless(found))
        journal.add("curve", [astuple(point) for point in found.curve])
    provenance = asked.provenance(found.plan)
    written = fill_store(found.plan, site, provenance, allotment=found.allocation)
    notes = (*asked.notes, *journal["notes"], *_found(written.surveys))
    metadata = written.metadata
    pruned = _pruned(written.plan, metadata, asked.stats)
    size = data_bytes(metadata)
    return Conversion(written.plan, metadata, size, pruned, notes, written=True, curve=found.curve)


def _identity(asked: _Asked, stats: Path | None) -> dict[str, Any]:
    """What the bytes of a store depend on, in words that a person is told if it changes."""
    source = asked.source
    shapes = [[one.name, one.dtype, one.shape] for one in source.tensors.values()]
    policy = None if asked.policy is None else asdict(asked.policy)
    told = {
        "a checkpoint": [source.stamp, shapes],
        "stats": None if stats is None else _stamp(stats),
        "a plan": [asked.plan.document(), policy, asked.curve],
    }
    digests = {name: sha256(json.dumps(one).encode()).hexdigest() for name, one in told.items()}
    return {**digests, "a version": f"sharkstore {__version__}, {WORK}"}


def _anywhere(path: Path) -> str:
    """A path that other processes can open too; URLs are such."""
    place = os.fsdecode(path)
    return place if is_url(place) else os.path.abspath(place)


def _stamp(path: Path) -> str:
    folder, name = os.path.split(os.fsdecode(path))
    return f"{name} {open_files(folder).stamp(name)}"


def _stats(path: str | None) -> Stats:
    return Stats() if path is None else open_stats(path)


def _crew(asked: _Asked, workers: int | None, dask: str | None, max_memory: str | None) -> Crew:
    """Who does the work, within some memory."""
    limit = None if max_memory is None else parse_size(max_memory, "--max-memory")
    limited = asked.policy is not None and asked.policy.limited
    if workers is not None:
        check_workers(limit, workers, asked.plan, decides=limited)
        return Crew.of_processes(workers)
    threads = threads_within(limit, asked.plan, decides=limited)
    return Crew.of_threads(threads) if dask is None else Crew.of_dask(dask)


def _refuse_inside(path: Path | None, store: Path) -> None:
    """An input below the destination would be replaced with it."""
    if path is None or is_url(os.fsdecode(path)):
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


def _quiet(_: str) -> None:
    """Messages that nobody reads."""
