"""One worker process and two: whole conversions in turns, what each costs, and its memory."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.lookup import MIX
from benchmarks.processes import Ran, watched
from benchmarks.progress import steps
from benchmarks.timing import figure, ratios

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Way:
    """How a checkpoint is converted.

    Args:
        bound: whether the CPU is the limit: two workers have a bar.
        stats: whether it needs them.
    """

    name: str
    how: dict[str, Any]
    bound: bool
    stats: bool = False


PLAIN = (
    Way("--tiers int8", {"tiers": "int8"}, bound=False),
    Way(f"--tiers {MIX}", {"tiers": MIX}, bound=False, stats=True),
    Way("--tiers int4", {"tiers": "int4"}, bound=True),
)
# of bytes written: as many tasks as a checkpoint of tens of gigabytes has
SMALL = {"task_bytes": 2 << 20}
CODED = (
    Way("--tiers pq4", {"tiers": "pq4", **SMALL}, bound=True),
    Way("--budget 5%", {"budget": "5%", **SMALL}, bound=True, stats=True),
)

# without codebooks, whose training takes seconds, however small the tables are
QUICK = (
    Way("--tiers int8", {"tiers": "int8"}, bound=False),
    Way(
        "--budget 10% --encodings int8,int2,constant",
        {"budget": "10%", "encodings": ["int8", "int2", "constant"]},
        bound=True,
        stats=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Input:
    """A checkpoint and its stats."""

    checkpoint: Path
    stats: Path

    def warm(self) -> None:
        """Read it into the page cache."""
        for path in (self.checkpoint, self.stats):
            with path.open("rb") as file:
                while file.read(64 << 20):
                    pass


@dataclass(frozen=True, slots=True)
class Shared:
    """Conversions by one worker and by two, in turns.

    Args:
        seconds: of the whole conversion, start of the processes included, by workers.
        trained: seconds thereof until codebooks were trained, which takes no longer for larger
            tables.
        cpu: seconds of CPU of the workers, by their number; what else runs on the machine changes
            these the least.
        private: most bytes of all processes beyond mapped files, by workers.
        told: by the conversions with one worker: see `benchmarks.conversion`.
    """

    way: Way
    seconds: dict[int, list[float]]
    trained: dict[int, list[float]]
    cpu: dict[int, list[float]]
    private: dict[int, int]
    told: list[dict[str, Any]]

    @property
    def gained(self) -> list[float]:
        """Round by round, one worker's time over two workers'."""
        return ratios(self.seconds[1], self.seconds[2])

    @property
    def gained_growing(self) -> list[float]:
        """The same without training."""
        rest = {
            workers: [a - b for a, b in zip(whole, self.trained[workers], strict=True)]
            for workers, whole in self.seconds.items()
        }
        return ratios(rest[1], rest[2])


def run(inputs: Sequence[tuple[Input, Sequence[Way]]], rounds: int) -> list[Shared]:
    """Convert every way by one worker and by two."""
    return [_one(source, way, rounds) for source, ways in inputs for way in ways]


def _one(source: Input, way: Way, rounds: int) -> Shared:
    source.warm()
    found = Shared(way, {1: [], 2: []}, {1: [], 2: []}, {1: [], 2: []}, {1: 0, 2: 0}, [])
    for _ in steps(range(rounds), way.name):
        for workers in (1, 2):
            ran = converted(source, way, workers=workers)
            told = json.loads(ran.out)
            found.seconds[workers].append(ran.seconds)
            found.trained[workers].append(told["stages"].get("train", 0.0))
            found.cpu[workers].append(told["workers_cpu"])
            found.private[workers] = max(found.private[workers], ran.private)
            if workers == 1:
                found.told.append(told)
    return found


def converted(source: Input, way: Way, *, keep: bool = False, **more: Any) -> Ran:
    """Convert in a process of its own; the store is removed, unless what is there is to stay."""
    store = source.checkpoint.with_name("shared.shark")
    how = {**way.how, **more, **({"stats": str(source.stats)} if way.stats else {})}
    command = [sys.executable, str(Path(__file__).with_name("conversion.py"))]
    ran = watched([*command, str(source.checkpoint), str(store), json.dumps(how)], fails=keep)
    if not keep:
        shutil.rmtree(store)
    os.sync()
    return ran


def text(found: Sequence[Shared]) -> str:
    """The table as markdown."""
    columns = (
        "options|GB|1 worker, s|2 workers, s|1 / 2 by pair|median|without training|CPU 2 / 1|"
        "unmapped MiB, 1 worker|2 workers"
    )
    lines = [
        "### `sharkstore convert --workers 2` against `--workers 1`, warm, in turns",
        "",
        (
            "Start of the processes included; where the CPU is the limit (**bold**) the bar is "
            "**≥ 1.6**, the others are limited by disk and memory. Training of codebooks does not "
            "grow with the tables; tasks of encodings with codebooks are small here, as many as "
            "larger tables have. CPU: seconds of all workers; where two need as many as one, only "
            "the lack of two free cores keeps them from half the time. Unmapped: most bytes "
            "beyond mapped files of all processes together."
        ),
        "",
        f"| {columns.replace('|', ' | ')} |",
        "|" + "---|" * 10,
    ]
    for one in found:
        gained, growing = figure(one.gained), figure(one.gained_growing)
        bold = "**" if one.way.bound else ""
        cells = [
            f"`{one.way.name}`",
            f"{one.told[0]['source'] / 1e9:.2g}",
            *(f"{figure(one.seconds[n]).median:.2f}" for n in (1, 2)),
            ", ".join(f"{ratio:.2f}" for ratio in one.gained),
            f"{bold}{gained.median:.2f}{bold} ±{gained.spread / 2:.0%}",
            f"{bold}{growing.median:.2f}{bold} ±{growing.spread / 2:.0%}",
            f"{figure(ratios(one.cpu[2], one.cpu[1])).median:.2f}",
            *(f"{one.private[n] / MIB:.0f}" for n in (1, 2)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def document(found: Sequence[Shared]) -> list[dict[str, Any]]:
    """The same for machines."""
    return [
        {
            "options": one.way.name,
            "cpu_bound": one.way.bound,
            "seconds": one.seconds,
            "training_seconds": one.trained,
            "ratios": one.gained,
            "ratios_without_training": one.gained_growing,
            "workers_cpu": one.cpu,
            "private": one.private,
            "told": one.told,
        }
        for one in found
    ]
