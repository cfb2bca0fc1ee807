"""One conversion in a process of its own, told from within: CHECKPOINT STORE JSON.

What it prints has times by stage, CPU seconds of this process and of its workers, and sizes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import sharkstore.allocate.allocate as allocate
import sharkstore.convert as convert
import sharkstore.write.sample as sample
import sharkstore.write.scan as scan
import sharkstore.write.stages as stages
import sharkstore.write.store as store
from sharkstore.format.layout import CHUNK_TARGET
from sharkstore.write.journal import Journal


class Clock:
    """Progress that is timed: each stage takes from the event before it to its own.

    Attributes:
        seconds: by stage.
        cpu: CPU seconds of this process, by stage.
        workers: those of its workers, as far as the system tells.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self.workers: dict[str, float] = {}
        self._last = _clocks()

    def __call__(self, stage: str, _done: int, _total: int) -> None:
        now = _clocks()
        for told, before, after in zip(
            (self.seconds, self.cpu, self.workers), self._last, now, strict=True
        ):
            told[stage] = told.get(stage, 0.0) + after - before
        self._last = now


def _clocks() -> tuple[float, float, float]:
    """Seconds now, and CPU seconds of this process and of those that it started."""
    ticks = 0
    for path in Path("/proc/self/task").glob("*/children"):
        # threads and processes may end meanwhile
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in path.read_text().split():
                fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
    return time.perf_counter(), time.process_time(), ticks / os.sysconf("SC_CLK_TCK")


def main(checkpoint: str, destination: str, how: dict[str, Any]) -> dict[str, Any]:
    """Convert.

    Args:
        how: options of `convert_checkpoint`, and of this: `task_bytes` (of smaller tasks than
            usual), `die_after` (so many of its tasks that write, by SIGKILL).
    """
    task_bytes, die_after = how.pop("task_bytes", 0), how.pop("die_after", 0)
    if task_bytes:
        _take_small_steps(task_bytes)
    tasks = _count_written(die_after)
    sampled = _time_sampling()
    clock = Clock()
    done = convert.convert_checkpoint(checkpoint, destination, progress=clock, **how)
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "stages": clock.seconds,
        "train_workers_cpu": clock.workers.get("train", 0.0),
        "sample_cpu": sum(sampled),
        # row maps are written ahead of the first task that reads
        "tasks_cpu": clock.cpu.get("read", 0.0) + clock.cpu.get("write", 0.0),
        "workers_cpu": workers.ru_utime + workers.ru_stime,
        "tasks": len(tasks),
        "resumed": done.resumed,
        **_sizes(done),
    }


def _sizes(done: convert.Conversion) -> dict[str, Any]:
    """Bytes of the tables, of the store, and how often writing reads the tables at most."""
    tables = done.metadata.tables
    source = [4 * table.rows * table.dim for table in tables]
    # each tier is gathered from the blocks that have rows of it; a constant one needs none
    gathered = [sum(tier.encoding.name != "constant" for tier in one.tiers) for one in tables]
    maps = [one.rowmap.chunks * one.rowmap.file_bytes for one in tables if one.rowmap is not None]
    return {
        "source": sum(source),
        "rows": sum(table.rows for table in tables),
        "stored": done.data_bytes,
        "rowmaps": sum(maps),
        "gathers": sum(a * b for a, b in zip(source, gathered, strict=True)) / sum(source),
    }


def _take_small_steps(task_bytes: int) -> None:
    """As many tasks as a larger checkpoint has."""
    target = min(CHUNK_TARGET, task_bytes)
    fill = functools.partial(store.fill_store, chunk_target=target)
    patch.object(stages, "BATCH_BYTES", task_bytes).start()
    patch.object(scan, "LEAST_SPAN", min(scan.LEAST_SPAN, 4 * task_bytes)).start()
    patch.object(convert, "fill_store", fill).start()


def _count_written(die_after: int) -> list[str]:
    """Names of the tasks that wrote chunks, as the journal takes them in."""
    names: list[str] = []
    usual: Callable[..., None] = Journal.add

    def add(journal: Journal, name: str, result: Any) -> None:
        usual(journal, name, result)
        if name.startswith("write "):
            names.append(name)
            if len(names) == die_after:
                os.kill(os.getpid(), signal.SIGKILL)

    patch.object(Journal, "add", add).start()
    return names


def _time_sampling() -> list[float]:
    """CPU seconds of each drawing of a table's sample, as they come."""
    found: list[float] = []
    usual: Callable[..., Any] = sample.draw_two

    def draw(*arguments: Any) -> Any:
        begin = time.process_time()
        samples = usual(*arguments)
        found.append(time.process_time() - begin)
        return samples

    patch.object(allocate, "draw_two", draw).start()
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))))
