"""Convert a checkpoint to a store: readers, plan and writer in one function."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial

from sharkstore.allocate.allocate import Point
from sharkstore.allocate.budget import Budgeted
from sharkstore.conversion import notes
from sharkstore.conversion.asked import Asked
from sharkstore.conversion.earlier import Earlier, identity
from sharkstore.errors import (
    ArgumentError,
    CheckpointError,
    CheckpointNotFoundError,
    DestinationError,
    PlanError,
)
from sharkstore.format.metadata import StoreMetadata
from sharkstore.plan.amounts import parse_size
from sharkstore.plan.build import build_plan, check_plan
from sharkstore.plan.model import Default, NonFinite, Plan, Weigh, parse_plan
from sharkstore.plan.policy import Method, Policy, Rank, RoundingChoice
from sharkstore.plan.pruned import Pruned, pruned_tables
from sharkstore.plan.stats import Stats
from sharkstore.readers.files import CACHE_BYTES, is_url
from sharkstore.readers.model import Checkpoint
from sharkstore.readers.open import Opening
from sharkstore.stats.file import open_stats
from sharkstore.write.crew import Crew
from sharkstore.write.files import Destination, is_outside
from sharkstore.write.journal import Journal
from sharkstore.write.layout import data_bytes, plan_metadata
from sharkstore.write.memory import Load, check_workers, threads_within
from sharkstore.write.site import Inputs, Progress, Site
from sharkstore.write.store import DECIDED, fill_store

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
        DestinationError: nothing is left at the destination.
        WriteError, WorkerError: the disk is full, or workers were lost; as after an interrupt,
            the same call goes on from there.
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
        told = notes.staying(planned, policy)
    else:
        policy = None
        planned = _replayed(plan, source, measured)
        told = notes.unsaid(planned, source)
    asked = Asked(source, planned, measured, policy, told, progress or _silent, curve or dry_run)
    if dry_run:
        return _planned(asked)
    measures = None if stats is None else os.path.abspath(os.fsdecode(stats))
    inputs = Inputs(source, source.tensors, measured, opening.open, partial(_stats, measures))
    crew = _crew(asked, opening.place, workers, dask, max_memory)
    with (
        crew,  # let go whatever happens; and, below, before what it works on is
        Destination(os.fsdecode(store), overwrite=overwrite) as place,
        Journal(place, identity(asked, measures)) as journal,
        crew,
    ):
        earlier = Earlier(tell or _quiet)
        earlier.tell_changed(journal.changed)
        done = _written(asked, Site(inputs, journal, crew, asked.progress, earlier.found))
        _refuse_changed(source, opening)
        place.commit()
    return replace(done, resumed=earlier.chunks)


def unfinished(store: Path, error: BaseException) -> str | None:
    """Where work of a conversion lies that ended in this error; None if there is none to go on."""
    partial = Destination(os.fsdecode(store), overwrite=True).partial
    return partial if is_outside(error) and os.path.isdir(partial) else None


def _planned(asked: Asked) -> Conversion:
    """What a conversion would do."""
    found = asked.budgeted()
    told = asked.notes + notes.of_plan(found.plan, asked.stats) + notes.weightless(found)
    metadata = plan_metadata(found.plan, asked.source.tensors, asked.provenance(found.plan), {})
    pruned = _pruned(found.plan, metadata, asked.stats)
    return Conversion(found.plan, metadata, data_bytes(metadata), pruned, told, curve=found.curve)


def _written(asked: Asked, site: Site) -> Conversion:
    """Do what is not done yet of a conversion."""
    journal = site.journal
    if DECIDED in journal:
        found = Budgeted(asked.plan, None, tuple(Point(*one) for one in journal["curve"]))
    else:
        found = asked.budgeted(journal.scratch)
        journal.add("notes", notes.of_plan(found.plan, asked.stats) + notes.weightless(found))
        journal.add("curve", [astuple(point) for point in found.curve])
    provenance = asked.provenance(found.plan)
    written = fill_store(found.plan, site, provenance, allotment=found.allocation)
    told = (*asked.notes, *journal["notes"], *notes.of_surveys(written.surveys))
    metadata = written.metadata
    pruned = _pruned(written.plan, metadata, asked.stats)
    size = data_bytes(metadata)
    return Conversion(written.plan, metadata, size, pruned, told, written=True, curve=found.curve)


def _anywhere(path: Path) -> str:
    """A path that other processes can open too; URLs are such."""
    place = os.fsdecode(path)
    return place if is_url(place) else os.path.abspath(place)


def _stats(path: str | None) -> Stats:
    return Stats() if path is None else open_stats(path)


def _crew(
    asked: Asked, place: str, workers: int | None, dask: str | None, max_memory: str | None
) -> Crew:
    """Who does the work, within some memory."""
    limit = None if max_memory is None else parse_size(max_memory, "--max-memory")
    limited = asked.plan.budget if asked.policy is None else asked.policy.limited
    load = Load(asked.plan, bool(limited), CACHE_BYTES if is_url(place) else 0)
    if workers is not None:
        check_workers(limit, workers, load)
        return Crew.of_processes(workers)
    threads = threads_within(limit, load)
    return Crew.of_threads(threads) if dask is None else Crew.of_dask(dask)


def _refuse_inside(path: Path | None, store: Path) -> None:
    """An input below the destination would be replaced with it."""
    if path is None or is_url(os.fsdecode(path)):
        return
    inner, outer = os.path.realpath(os.fsdecode(path)), os.path.realpath(os.fsdecode(store))
    if os.path.commonpath([inner, outer]) == outer:
        raise DestinationError("the destination holds an input", where=os.fsdecode(path))


def _refuse_changed(source: Checkpoint, opening: Opening) -> None:
    """Rows of two checkpoints, one saved over the other meanwhile, must not become a store."""
    try:
        same = opening.open().stamp == source.stamp
    except (CheckpointError, CheckpointNotFoundError):
        same = False
    if not same:
        raise CheckpointError(
            "was changed while it was read",
            where=opening.place,
            remedy="start again from what is there now",
        )


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


def _silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def _quiet(_: str) -> None:
    """Messages that nobody reads."""
