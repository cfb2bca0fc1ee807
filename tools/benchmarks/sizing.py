"""A sizing note: a checkpoint of 10 TB on 64 workers, from what one worker was measured to cost."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.workers import Shared

CHECKPOINT, WORKERS = 10e12, 64
# of disks or network in all, bytes a second: what many a storage system gives
STORAGE = 10e9
CHOICE_BYTES = 2  # a row, with a budget


@dataclass(frozen=True, slots=True)
class Cost:
    """What converting costs.

    Args:
        worker: CPU seconds of workers, a byte of float32.
        alone: CPU seconds of the one process that hands tasks out, while no tasks run.
        reads: how often all tables are read, at most.
        stored: bytes of the store, a byte of float32.
        scratch: bytes of row maps and choices in the folder of work, the same.
    """

    options: str
    worker: float
    alone: float
    reads: float
    stored: float
    scratch: float

    @classmethod
    def of(cls, shared: Shared, start: float) -> Cost:
        """Of conversions by one worker.

        Args:
            start: CPU seconds of a worker's start.
        """
        told, budget = shared.told, "budget" in shared.way.how
        size = int(told[0]["source"])

        def each(cost: Callable[[dict[str, Any]], float]) -> float:
            seconds: float = statistics.median([cost(one) for one in told])
            return max(0.0, seconds) / size

        alone = each(lambda one: one["sample_cpu"] + one["tasks_cpu"])
        choices = CHOICE_BYTES * told[0]["rows"] if budget else 0
        return cls(
            shared.way.name,
            each(lambda one: one["workers_cpu"] - one["train_workers_cpu"] - start),
            alone if budget else 0.0,
            1 + budget + told[0]["gathers"],
            told[0]["stored"] / size,
            (told[0]["rowmaps"] + choices) / size,
        )

    @property
    def seconds(self) -> float:
        """Of the checkpoint on the workers, by CPU alone."""
        return CHECKPOINT * (self.worker / WORKERS + self.alone)


def text(found: Sequence[Shared], start: float) -> str:
    """The note as markdown."""
    columns = (
        "options|GB/s a worker|workers, min|one process, min|together, min|"
        "read, TB|written, TB|scratch, GB|in, GB/s|out, GB/s|storage of 10 GB/s, min"
    )
    lines = [
        f"### Sizing: {CHECKPOINT / 1e12:.0f} TB of float32 on {WORKERS} workers",
        "",
        (
            "Times are by **CPU alone**: CPU seconds a byte of the runs above with one worker, "
            f"start of workers ({start:.2f} s each) and training of codebooks left out. *In* and "
            "*out* are what disks and network must deliver for that; where they deliver less, "
            "bytes over their rate is the time, as in the last column."
        ),
        "",
        f"| {columns.replace('|', ' | ')} |",
        "|" + "---|" * 11,
    ]
    lines += [_row(Cost.of(one, start)) for one in found]
    return "\n".join([*lines, "", ASSUMED])


def _row(cost: Cost) -> str:
    read, written = CHECKPOINT * cost.reads, CHECKPOINT * (cost.stored + cost.scratch)
    times = ["–"] * 4  # too small a checkpoint to tell
    rates = ["–"] * 2
    if cost.worker > 0:
        parts = CHECKPOINT * cost.worker / WORKERS, CHECKPOINT * cost.alone, cost.seconds
        times = [f"{1e-9 / cost.worker:.2f}", *(f"{seconds / 60:.1f}" for seconds in parts)]
        rates = [f"{nbytes / cost.seconds / 1e9:.3g}" for nbytes in (read, written)]
    sizes = f"{read / 1e12:.0f}", f"{written / 1e12:.2f}", f"{CHECKPOINT * cost.scratch / 1e9:.0f}"
    stored = f"{(read + written) / STORAGE / 60:.0f}"
    return f"| {' | '.join([f'`{cost.options}`', *times, *sizes, *rates, stored])} |"


ASSUMED = (
    "Assumed: cores as fast as these, each with its share of memory's bandwidth; tables like the "
    "measured ones (rows of 64 values for int8, the mix and int4; half of the bytes in rows of 16 "
    "for pq4 and the budget), many enough that ranking and training, a task a table, occupy all "
    "workers. Tables are read once by the survey, once more with a budget to measure, and once "
    "for each tier to write: the most, for a mapped file gives only the pages that a tier has "
    "rows in, and a block that another tier has just read may still be in the cache. Scratch "
    "space (row maps; with a budget 2 bytes a row) counts as written. Sampling and deciding "
    "with a budget are one process's work; stats are read by everybody and not counted."
)
