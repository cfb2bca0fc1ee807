"""`tools/bench convert`: quantising, writing, and whole conversions."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import budget, machine, quantise, report, resume, sizing, workers, writing
from benchmarks.data import Source, generate
from benchmarks.lookup import MIX
from benchmarks.processes import watched
from benchmarks.progress import steps
from benchmarks.timing import Effort, figure, ratios
from benchmarks.workers import CODED, PLAIN, QUICK, Input, converted

OPTIONS = (
    ("--tiers", "int8"),
    ("--tiers", "int8", "--workers", "1"),
    ("--tiers", MIX),
)
DIM = 64
# of the size, for what takes so much longer
CODED_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Pairs:
    """Conversions and copies of one checkpoint, one after the other.

    Args:
        convert: seconds of each conversion.
        copy: seconds of the copy before it.
        peak: largest resident bytes of a conversion, mapped files included; of all its
            processes together.
        private: largest without mapped files.
    """

    options: str
    size: int
    convert: list[float]
    copy: list[float]
    peak: int
    private: int


def run(
    size: int, pairs: int, effort: Effort, folder: Path, *, quick: bool = False
) -> dict[str, Any]:
    """Measure everything; the figures."""
    memory_bytes = min(size, 256 << 20)
    return {
        "quantise": [quantise.run(dim, memory_bytes, effort) for dim in (16, 64)],
        "write": writing.run(min(size, 1 << 30), pairs, folder),
        "whole": whole(size, pairs, folder),
        "budget": budget.run(min(size, 1 << 30), pairs, folder),
        **shared(size, pairs, folder, quick=quick),
    }


def shared(size: int, rounds: int, folder: Path, *, quick: bool) -> dict[str, Any]:
    """Workers, reruns, and the CPU seconds of a worker's start."""
    ways = (QUICK[:1], QUICK[1:]) if quick else (PLAIN, CODED)
    source = generate(folder, size // (4 * DIM), DIM)
    plain = Input(source.checkpoint, source.folder / "stats.safetensors")
    coded = Input(folder / "coded.safetensors", folder / "coded.stats.safetensors")
    budget._generate(int(size * CODED_SHARE), coded.checkpoint, coded.stats)  # noqa: SLF001
    nothing = generate(folder, 64, DIM)
    little = Input(nothing.checkpoint, nothing.folder / "stats.safetensors")
    starts = [json.loads(converted(little, PLAIN[0], workers=1).out) for _ in range(rounds)]
    alone = [converted(little, PLAIN[0]).seconds for _ in range(rounds)]
    resumed = [(plain, ways[0][0]), (coded, ways[1][-1])]
    found = {
        "start": statistics.median(one["workers_cpu"] for one in starts),
        "workers": workers.run([(plain, ways[0]), (coded, ways[1])], rounds),
        "resume": resume.run(resumed, rounds, statistics.median(alone)),
    }
    for path in (coded.checkpoint, coded.stats):
        path.unlink()
    return found


def whole(size: int, pairs: int, folder: Path) -> list[Pairs]:
    """`sharkstore convert` in a process of its own against `cp` and fsync on the same disk."""
    source = generate(folder, size // (4 * DIM), DIM)
    with source.checkpoint.open("rb") as file:  # warm
        while file.read(64 << 20):
            pass
    return [_pairs(source, options, pairs) for options in OPTIONS]


def _pairs(source: Source, options: Sequence[str], pairs: int) -> Pairs:
    copied, store = source.folder / "copy", source.folder / "converted.shark"
    command = [str(Path(sys.executable).with_name("sharkstore")), "convert", "--quiet"]
    command += [str(source.checkpoint), str(store), *options]
    command += ["--stats", str(source.folder / "stats.safetensors")]
    copies, conversions, peaks, privates = [], [], [0], [0]
    for _ in steps(range(pairs), f"convert {' '.join(options)}"):
        copies.append(timed(lambda: copy(source.checkpoint, copied)))
        copied.unlink()
        os.sync()
        ran = watched(command)
        conversions.append(ran.seconds)
        peaks.append(ran.peak)
        privates.append(ran.private)
        shutil.rmtree(store)
        os.sync()
    size = source.checkpoint.stat().st_size
    return Pairs(" ".join(options), size, conversions, copies, max(peaks), max(privates))


def timed(function: Callable[[], object]) -> float:
    """Seconds of a call."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def copy(source: Path, to: Path) -> None:
    """`cp`, and the copy on disk."""
    subprocess.run(["cp", str(source), str(to)], check=True)
    descriptor = os.open(to, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def text(found: dict[str, Any]) -> str:
    """The report as markdown."""
    method = (
        "Quantising and writing are medians of interleaved rounds ± half the distance from "
        "the 10th to the 90th percentile; **ratios above 1: ours is faster**. GB are 10⁹ "
        "bytes of float32."
    )
    return "\n\n".join(
        [
            "# Conversion",
            f"Machine: {machine.machine()}.",
            f"Versions: {machine.versions()}.",
            method,
            report.markdown(found["quantise"], (), "GB/s"),
            report.markdown(found["write"], (), "GB/s"),
            _whole(found["whole"]),
            budget.text(found["budget"]),
            workers.text(found["workers"]),
            resume.text(found["resume"]),
            sizing.text(found["workers"], found["start"]),
        ]
    )


def _whole(found: Sequence[Pairs]) -> str:
    size = found[0].size / 1e9
    columns = (
        "options|convert, s|cp, s|cp / convert by pair|median|convert / cp|peak RSS, MiB|"
        "unmapped, MiB"
    )
    lines = [
        f"### `sharkstore convert` of {size:.2g} GB, warm, against `cp` and fsync, in turns",
        "",
        "The bar of `--tiers int8` by one worker: convert / cp **≤ 0.6** (cp / convert ≥ 1.67).",
        "",
        f"| {columns.replace('|', ' | ')} |",
        "|" + "---|" * 8,
    ]
    for one in found:
        by_pair = ratios(one.copy, one.convert)
        taken = figure(ratios(one.convert, one.copy))
        cells = [
            f"`{one.options}`",
            f"{figure(one.convert).median:.2f}",
            f"{figure(one.copy).median:.2f}",
            ", ".join(f"{ratio:.2f}" for ratio in by_pair),
            f"{figure(by_pair).median:.2f}",
            f"{taken.median:.2f} ±{taken.spread / 2:.0%}",
            f"{one.peak / 2**20:.0f}",
            f"{one.private / 2**20:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def as_json(found: dict[str, Any]) -> str:
    """The report as JSON."""
    return json.dumps(
        {
            "machine": machine.machine(),
            "versions": machine.versions(),
            "quantise": report.document(found["quantise"]),
            "write": report.document(found["write"]),
            "whole": [
                {name: getattr(one, name) for name in Pairs.__slots__} for one in found["whole"]
            ],
            "budget": [asdict(one) for one in found["budget"]],
            "workers": workers.document(found["workers"]),
            "worker_start_cpu_s": found["start"],
            "resume": [asdict(one) for one in found["resume"]],
        },
        indent=2,
    )
