"""How much memory a conversion takes beyond mapped files, and how many tasks fit into a limit."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from sharkstore.errors import ArgumentError
from sharkstore.plan.model import Plan, TablePlan
from sharkstore.write.books import is_coded
from sharkstore.write.crew import THREADS
from sharkstore.write.rows import BLOCK_BYTES, SEARCHED, cores
from sharkstore.write.sample import MOST
from sharkstore.write.writer import BUFFERS, WRITE_BYTES

MIB = 1 << 20
# of a task in hand: what is being written, and blocks of rows on their way there
TASK_BYTES = BUFFERS * WRITE_BYTES + 5 * BLOCK_BYTES
# of a thread for encodings that take long: its block of rows, and arrays beside it
THREAD_BYTES = 3 * BLOCK_BYTES
# training takes its sample, and arrays of that size beside it
TIMES_SAMPLE = 4
# of deciding over rows: solving, what is known of each table, and a thread's block in all encodings
DECIDING_BYTES, TABLE_BYTES, MEASURED_BYTES = 48 << 20, 1 << 20, 6 * BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class Load:
    """What a conversion has to do, as far as memory goes.

    Args:
        decides: whether a budget decides over rows.
        cache: bytes that the checkpoint's reader keeps of what it read.
    """

    plan: Plan
    decides: bool = False
    cache: int = 0

    def here(self) -> int:
        """Bytes of the process that hands tasks out."""
        return resident_bytes() + self.cache + (_deciding(self.plan) if self.decides else 0)

    def worker(self) -> int:
        """Bytes of another process that does one task at a time."""
        return resident_bytes() + self.cache + self.task(1)

    def task(self, threads: int) -> int:
        """Bytes of a task in hand, where encodings that take long have so many threads."""
        tables = self.plan.tables
        coded = [table for table in tables if is_coded(table)]
        encodings = {tier.encoding.name for table in tables for tier in table.tiers}
        searched = threads * THREAD_BYTES if encodings & set(SEARCHED) else 0
        return TASK_BYTES + searched + TIMES_SAMPLE * _sample(coded)


def threads_within(limit: int | None, load: Load) -> int:
    """How many threads of this process may carry tasks out.

    Args:
        limit: bytes beyond mapped files; None for any.

    Raises:
        ArgumentError: not even one.
    """
    if limit is None:
        return THREADS
    here, task = load.here(), load.task(cores())
    if here + task > limit:
        expected = f"{told(here + task)} or more"
        raise ArgumentError("too little", where="--max-memory", got=told(limit), expected=expected)
    return min(THREADS, (limit - here) // task)


def check_workers(limit: int | None, workers: int, load: Load) -> None:
    """Refuse more worker processes than a limit allows.

    Raises:
        ArgumentError: too many; says how many fit.
    """
    if limit is None:
        return
    here, each = load.here(), load.worker()
    need = here + workers * each
    if need > limit:
        fit = max(0, (limit - here) // each)
        raise ArgumentError(
            f"too little for {workers} workers",
            where="--max-memory",
            got=told(limit),
            expected=f"{told(need)} or more",
            remedy=f"--workers {fit} fit" if fit else "",
        )


def resident_bytes() -> int:
    """Bytes of this process in memory beyond mapped files, where the system tells them apart."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            lines = dict(line.split(":", 1) for line in status)
        return int(lines["RssAnon"].split()[0]) << 10
    except (OSError, KeyError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most << 10


def told(nbytes: int) -> str:
    """Bytes as the option takes them, rounded up."""
    return f"{-(-nbytes // MIB)}MiB"


def _deciding(plan: Plan) -> int:
    """Bytes of deciding over rows one by one."""
    own = [table for table in plan.tables if table.action == "store"]
    threads = cores() * MEASURED_BYTES
    return DECIDING_BYTES + threads + TABLE_BYTES * len(own) + TIMES_SAMPLE * _sample(own)


def _sample(tables: Sequence[TablePlan]) -> int:
    """Bytes of the largest sample of a table."""
    return max((min(table.rows, MOST) * table.dim * 4 for table in tables), default=0)
