"""`tools/bench convert`: quantising, writing, and whole conversions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import budget, machine, quantise, report, writing
from benchmarks.data import Source, generate
from benchmarks.lookup import MIX
from benchmarks.progress import steps
from benchmarks.timing import Effort, figure, ratios

TIERS = ("int8", MIX)
DIM = 64
SAMPLED = 0.05  # seconds between looks at a process's memory


@dataclass(frozen=True, slots=True)
class Pairs:
    """Conversions and copies of one checkpoint, one after the other.

    Args:
        convert: seconds of each conversion.
        copy: seconds of the copy before it.
        peak: largest resident bytes of a conversion, mapped files included.
        private: largest without mapped files.
    """

    tiers: str
    size: int
    convert: list[float]
    copy: list[float]
    peak: int
    private: int


def run(size: int, pairs: int, effort: Effort, folder: Path) -> dict[str, Any]:
    """Measure everything; the figures."""
    memory_bytes = min(size, 256 << 20)
    return {
        "quantise": [quantise.run(dim, memory_bytes, effort) for dim in (16, 64)],
        "write": writing.run(min(size, 1 << 30), pairs, folder),
        "whole": whole(size, pairs, folder),
        "budget": budget.run(min(size, 1 << 30), pairs, folder),
    }


def whole(size: int, pairs: int, folder: Path) -> list[Pairs]:
    """`sharkstore convert` in a process of its own against `cp` and fsync on the same disk."""
    source = generate(folder, size // (4 * DIM), DIM)
    with source.checkpoint.open("rb") as file:  # warm
        while file.read(64 << 20):
            pass
    return [_pairs(source, tiers, pairs) for tiers in TIERS]


def _pairs(source: Source, tiers: str, pairs: int) -> Pairs:
    copied, store = source.folder / "copy", source.folder / "converted.shark"
    command = [str(Path(sys.executable).with_name("sharkstore")), "convert", "--quiet"]
    command += [str(source.checkpoint), str(store), "--tiers", tiers]
    command += ["--stats", str(source.folder / "stats.safetensors")]
    copies, conversions, peaks, privates = [], [], [0], [0]
    for _ in steps(range(pairs), f"convert --tiers {tiers}"):
        copies.append(timed(lambda: copy(source.checkpoint, copied)))
        copied.unlink()
        os.sync()
        begin = time.perf_counter()
        peak, private = watched(command)
        conversions.append(time.perf_counter() - begin)
        peaks.append(peak)
        privates.append(private)
        shutil.rmtree(store)
        os.sync()
    size = source.checkpoint.stat().st_size
    return Pairs(tiers, size, conversions, copies, max(peaks), max(privates))


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


def watched(command: Sequence[str]) -> tuple[int, int]:
    """Run a command: its largest resident bytes, and the largest without mapped files.

    What the system counts for a child in the end begins with its parent's memory, so the
    child is looked at while it runs; zeros where there is no /proc.

    Raises:
        CalledProcessError: it failed.
    """
    ended = threading.Event()
    found = {"VmHWM": 0, "RssAnon": 0}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        watcher = threading.Thread(target=_watch, args=(process.pid, found, ended))
        watcher.start()
        process.wait()
        ended.set()
        watcher.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return found["VmHWM"], found["RssAnon"]


def _watch(pid: int, found: dict[str, int], ended: threading.Event) -> None:
    status = Path(f"/proc/{pid}/status")
    while not ended.wait(SAMPLED):
        fields = dict(re.findall(r"(\w+):\s+(\d+) kB", _read(status)))
        for key, largest in found.items():
            found[key] = max(largest, int(fields.get(key, 0)) * 1024)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


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
        ]
    )


def _whole(found: Sequence[Pairs]) -> str:
    size = found[0].size / 1e9
    columns = "tiers|convert, s|cp, s|cp / convert by pair|median|peak RSS, MiB|unmapped, MiB"
    lines = [
        f"### `sharkstore convert` of {size:.2g} GB, warm, against `cp` and fsync, in turns",
        "",
        f"| {columns.replace('|', ' | ')} |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found:
        by_pair = ratios(one.copy, one.convert)
        cells = [
            one.tiers,
            f"{figure(one.convert).median:.2f}",
            f"{figure(one.copy).median:.2f}",
            ", ".join(f"{ratio:.2f}" for ratio in by_pair),
            f"{figure(by_pair).median:.2f}",
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
        },
        indent=2,
    )
