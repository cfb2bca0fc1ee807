"""Planning and writing within a budget, beside `--tiers int8` on the same checkpoint.

Both in this process, in turns; what codebooks take to be trained is told apart, for it does not
grow with the tables.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

import sharkstore.allocate.table as tables
from benchmarks.data import EXPONENT, by_use
from benchmarks.progress import steps
from benchmarks.timing import figure, ratios
from sharkstore.convert import convert_checkpoint

BUDGET = "10%"
PLAIN = ("f16", "int8", "int4", "int2", "constant")
OPTIONS: dict[str, dict[str, Any]] = {
    f"--budget {BUDGET}": {"budget": BUDGET},
    f"--budget {BUDGET} --encodings {','.join(PLAIN)}": {"budget": BUDGET, "encodings": PLAIN},
}
# values a row, and each table's share of the bytes
TABLES = ((16, 0.5), (64, 0.5))
USES = 2.0  # a row, in the mean


@dataclass(frozen=True, slots=True)
class Budgeted:
    """Conversions within a budget, and to int8 before each.

    Args:
        convert: seconds of each, training left out.
        train: seconds that codebooks were trained for.
        int8: seconds of each conversion to int8.
        share: bytes of the store in those of float32.
    """

    options: str
    size: int
    convert: list[float]
    train: list[float]
    int8: list[float]
    share: float


def run(size: int, pairs: int, folder: Path) -> list[Budgeted]:
    """Convert a checkpoint of so many bytes, with counts and metrics."""
    checkpoint, stats = folder / "budget.safetensors", folder / "budget.stats.safetensors"
    _generate(size, checkpoint, stats)
    store = folder / "budget.shark"

    def convert(**how: Any) -> tuple[float, float, float]:
        """Seconds without training, of training, and the store's share of the bytes."""
        with _training() as trained:
            begin = time.perf_counter()
            done = convert_checkpoint(checkpoint, store, stats=stats, overwrite=True, **how)
            seconds = time.perf_counter() - begin
        shutil.rmtree(store)
        train = sum(trained)
        return seconds - train, train, done.metadata.nbytes / done.metadata.source_nbytes

    convert(tiers="int8")  # warm
    found = []
    for options, how in OPTIONS.items():
        int8, budget = [], []
        for _ in steps(range(pairs), options):
            int8.append(convert(tiers="int8")[0])
            budget.append(convert(**how))
        seconds, train, shares = (list(values) for values in zip(*budget, strict=True))
        size = checkpoint.stat().st_size
        found.append(Budgeted(options, size, seconds, train, int8, max(shares)))
    for path in (checkpoint, stats):
        path.unlink()
    return found


@contextmanager
def _training() -> Iterator[list[float]]:
    """Seconds of each training of codebooks inside."""
    trained: list[float] = []
    usual: Callable[..., Any] = tables.train_books

    def timed(*arguments: Any) -> Any:
        begin = time.perf_counter()
        books = usual(*arguments)
        trained.append(time.perf_counter() - begin)
        return books

    with patch.object(tables, "train_books", timed):
        yield trained


def _generate(size: int, checkpoint: Path, stats: Path) -> None:
    """Tables of Zipf counts, with metrics that some directions matter most in."""
    values: dict[str, NDArray[Any]] = {}
    measured: dict[str, NDArray[Any]] = {}
    for dim, share in TABLES:
        rows = max(1, int(size * share) // (4 * dim))
        rng = np.random.default_rng([rows, dim])
        sizes = 0.1 * np.exp(rng.normal(0, 0.5, dim))
        values[f"t{dim}"] = rng.standard_normal((rows, dim), np.float32) * sizes.astype(np.float32)
        chances = np.arange(1, rows + 1) ** -EXPONENT
        count = np.empty(rows, np.int64)
        count[by_use(rows)] = rng.poisson(chances * (USES * rows / chances.sum()))
        turned = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
        metric = turned * 10.0 ** -np.linspace(3, 5.5, dim) @ turned.T
        measured[f"tables/t{dim}/count"] = count
        measured[f"tables/t{dim}/metric"] = metric.astype(np.float32)
    save_file(values, checkpoint)
    about = {"fields": "{}", "version": "1", "samples": str(int(USES * rows))}
    save_file(measured, stats, metadata=about)


def text(found: Sequence[Budgeted]) -> str:
    """The table as markdown."""
    size = found[0].size / 1e9
    columns = "options|convert, s|int8, s|by pair|convert / int8|training, s|bytes"
    what = "within a budget, against `--tiers int8`, in turns; training of codebooks apart"
    lines = [
        f"### `sharkstore convert` of {size:.2g} GB {what}",
        "",
        f"| {columns.replace('|', ' | ')} |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found:
        by_pair = ratios(one.convert, one.int8)
        cells = [
            f"`{one.options}`",
            f"{figure(one.convert).median:.2f}",
            f"{figure(one.int8).median:.2f}",
            ", ".join(f"{ratio:.1f}" for ratio in by_pair),
            f"{figure(by_pair).median:.1f}",
            f"{figure(one.train).median:.2f}",
            f"{one.share:.2%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
