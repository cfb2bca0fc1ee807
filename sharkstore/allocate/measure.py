"""Every row measured in every encoding that it may take: tasks, a span of a table each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.allocate.decide import Tally, tally_block
from sharkstore.allocate.table import TableChoice
from sharkstore.errors import PlanError
from sharkstore.plan.stats import Stats
from sharkstore.tensors import TensorSource, as_float32
from sharkstore.write.elsewhere import opened
from sharkstore.write.files import reported
from sharkstore.write.rows import BLOCK_BYTES
from sharkstore.write.scan import Span
from sharkstore.write.site import Job

F64 = NDArray[np.float64]
# bytes that say what a row does
CHOICE_BYTES = 2
# values smaller than so much of the largest, or of 1, are nothing beside it
FAINT = 2.0**-10


@dataclass(frozen=True, slots=True)
class Measuring:
    """A span of a table, and what it is measured by; small enough to be sent to another process.

    Args:
        table: without its sample, and without the stats' values.
        levels: prices.
        path: of the file that takes what each row does; it has room for all rows.
    """

    table: TableChoice
    levels: Sequence[float]
    path: str
    span: Span


@dataclass(frozen=True, slots=True)
class Measured:
    """What measuring reads.

    Args:
        threads: that share a span.
    """

    source: TensorSource
    stats: Stats
    threads: int


def measure_span(inputs: Measured, task: Measuring) -> list[list[Any]]:
    """A task: measure some rows, and write, durably, where each changes its encoding.

    Returns:
        The document of their `Tally`.
    """
    table = task.table.of_stats(inputs.stats)
    whole = Tally.empty(len(table.row_bytes))
    with reported(task.path), open(task.path, "r+b") as file:
        file.seek(CHOICE_BYTES * task.span.start)
        for tally, packed in _blocks(inputs, table, task):
            whole.add(tally)
            file.write(packed.data)
        file.flush()
        os.fsync(file.fileno())
    return whole.document()


def measure_there(job: Job, task: Measuring) -> list[list[Any]]:
    """The same in another process."""
    source, stats = opened(job)
    return measure_span(Measured(source, stats, threads=1), task)


def _blocks(
    inputs: Measured, table: TableChoice, task: Measuring
) -> Iterator[tuple[Tally, NDArray[np.uint16]]]:
    """Tallies and choices of consecutive blocks of rows."""
    plan, span, levels = table.plan, task.span, task.levels
    step = block_rows(plan.dim)

    def work(start: int) -> tuple[Tally, NDArray[np.uint16]]:
        stop = min(span.stop, start + step)
        raw = inputs.source.read(plan.name, start, stop)
        rows = np.require(as_float32(raw, plan.dtype), np.float32, ["C", "A"])
        losses = losses_near(table, rows, table.weights.block(start, stop), levels[0])
        return tally_block(losses, table.row_bytes, levels)

    starts = range(span.start, span.stop, step)
    with ThreadPoolExecutor(inputs.threads) as pool:
        # a few at a time, so that no more of them wait for the disk
        for first in range(0, len(starts), 2 * inputs.threads):
            yield from pool.map(work, starts[first : first + 2 * inputs.threads])


def block_rows(dim: int) -> int:
    """Rows that are measured at a time: whole blocks of the row map."""
    return max(64, BLOCK_BYTES // (4 * dim) // 64 * 64)


def losses_near(
    table: TableChoice, rows: NDArray[np.float32], weights: F64, price: float
) -> NDArray[np.float32]:
    """Losses of rows in each encoding, as far as they can matter: float32 (encodings, n).

    Where they can't, they are infinite: rows that lose less as the constant row than any other
    encoding would cost are measured no further, and of each weight only the encodings that rows
    of the sample took at it are measured: at first one, and then those that were taken by rows
    of such a loss in it.

    Args:
        weights: float64 (n,).
        price: of a byte; no lower one will be asked for.
    """
    ruler, row_bytes = table.ruler, table.row_bytes
    wanted = table.wanted(weights)
    losses = np.full((len(row_bytes), len(rows)), np.inf, np.float32)
    constant = [k for k, one in enumerate(ruler.encodings) if one.name == "constant"]
    for index in constant:
        losses[index] = ruler.measure(rows, weights, [index])[0]
        least = price * np.delete(row_bytes, index).min()
        wanted = np.where(losses[index] <= np.float32(least), 0, wanted)
    if table.probe is not None:
        at = np.flatnonzero(wanted >> table.probe & 1)
        _measure_some(table, rows, weights, at, [table.probe], losses)
        wanted[at] = table.wanted_still(weights[at], losses[table.probe, at])
    for mask in np.unique(wanted):
        own = [k for k in range(len(row_bytes)) if mask >> k & 1 and k not in constant]
        _measure_some(table, rows, weights, np.flatnonzero(wanted == mask), own, losses)
    _hold_all(table, rows, weights, losses)
    return losses


def _measure_some(
    table: TableChoice,
    rows: NDArray[np.float32],
    weights: F64,
    at: NDArray[np.intp],
    own: Sequence[int],
    losses: NDArray[np.float32],
) -> None:
    """Measure rows at some places in some encodings, into (encodings, n)."""
    if not own or not len(at):
        return
    if len(at) == len(rows):
        losses[own] = table.ruler.measure(rows, weights, own)
        return
    measured = table.ruler.measure(np.ascontiguousarray(rows[at]), weights[at], own)
    for place, index in enumerate(own):
        losses[index, at] = measured[place]


def _hold_all(
    table: TableChoice, rows: NDArray[np.float32], weights: F64, losses: NDArray[np.float32]
) -> None:
    """Measure rows in all encodings that no row of the sample was like.

    Raises:
        PlanError: none of the table's encodings holds one.
    """
    at = np.flatnonzero(np.isinf(losses.min(axis=0)))
    if not len(at):
        return
    some = np.where(np.isfinite(rows[at]), rows[at], np.float32(0))
    # rows too small for scales of 16 bits come to nothing in any encoding: no reason to stop
    some[np.abs(some).max(axis=1) < FAINT * max(1.0, table.ruler.largest)] = 0
    losses[:, at] = table.ruler.measure(some, weights[at])
    lost = at[np.isinf(losses[:, at].min(axis=0))]
    if len(lost):
        largest = float(np.abs(rows[lost[0]]).max())
        raise PlanError(
            f"a row with a value of {largest:g} does not fit the encodings that the others took",
            where=table.plan.name,
            got=", ".join(map(str, table.ruler.encodings)),
            remedy="mend it in the checkpoint, or pass --encodings f32,constant",
        )
