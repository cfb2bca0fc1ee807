"""Generated tables, their stores, and the ids that are looked up in them."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks import memory
from benchmarks.progress import steps
from sharkstore.convert import convert_checkpoint

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Shape = Literal["lookup", "bag"]

CHECKPOINT = "model.safetensors"
TABLE = "emb"
EXPONENT = 1.05
BAG = 20
BLOCK_BYTES = 64 << 20
DATA_AT = 4096  # bytes that the header has for each tensor


@dataclass(frozen=True, slots=True)
class Source:
    """A generated table: a checkpoint with one tensor, and stats with its row priorities.

    Args:
        folder: where checkpoint, stats and stores of this table lie.
    """

    folder: Path
    rows: int
    dim: int

    @property
    def checkpoint(self) -> Path:
        """The safetensors file."""
        return self.folder / CHECKPOINT

    def blocks(self) -> Iterator[tuple[int, F32]]:
        """First row and values of consecutive blocks."""
        values = self.values()
        step = max(1, BLOCK_BYTES // (4 * self.dim))
        for start in steps(range(0, self.rows, step), f"{self.rows:,} × {self.dim}"):
            yield start, values[start : start + step]

    def values(self) -> F32:
        """The table in float32, mapped."""
        return memory.map_file(self.checkpoint, (self.rows, self.dim), np.float32, data_at(1))

    def store(self, tiers: str) -> Path:
        """A store of the table, converted on first use."""
        return store_in(self.folder, tiers)


def store_in(folder: Path, tiers: str) -> Path:
    """A store of the checkpoint in a folder, converted on first use."""
    path = folder / (tiers.replace("=", "").replace("%", "").replace(",", "-") + ".shark")
    if not path.exists():
        stats = folder / "stats.safetensors"
        convert_checkpoint(folder / CHECKPOINT, path, tiers=tiers, stats=stats)
    return path


def generate(root: Path, rows: int, dim: int) -> Source:
    """Make a table under a folder, unless it is there."""
    source = Source(root / f"{rows}x{dim}", rows, dim)
    if source.checkpoint.exists():
        return source
    write_folder(source.folder, (TABLE,), rows, dim)
    return source


def write_folder(folder: Path, names: Sequence[str], rows: int, dim: int) -> None:
    """A checkpoint of tables alike, and stats with their rows' priorities."""
    folder.mkdir(parents=True, exist_ok=True)
    priority = np.empty(rows, np.float32)
    priority[by_use(rows)] = 1e9 * _weights(rows)
    keys = [f"tables/{name}/priority" for name in names]
    _write(folder / "stats.safetensors", keys, (rows,), iter([priority] * len(names)))
    partial = folder / "partial"
    _write(partial, names, (rows, dim), _values(rows * len(names), dim))
    partial.rename(folder / CHECKPOINT)


def _values(rows: int, dim: int) -> Iterator[F32]:
    """Rows of different sizes, as trained ones are."""
    step = max(1, BLOCK_BYTES // (4 * dim))
    for start in steps(range(0, rows, step), f"generate {rows:,} × {dim}"):
        rng = np.random.default_rng([rows, dim, start])
        block = rng.random((min(step, rows - start), dim), np.float32)
        block -= np.float32(0.5)
        block *= rng.random((len(block), 1), np.float32) * np.float32(0.4) + np.float32(0.04)
        yield block


def _write(path: Path, names: Sequence[str], shape: tuple[int, ...], blocks: Iterator[F32]) -> None:
    """A safetensors file of float32 tensors of one shape, one behind the other."""
    size = 4 * int(np.prod(shape))
    entries = {
        name: {"dtype": "F32", "shape": list(shape), "data_offsets": [at * size, (at + 1) * size]}
        for at, name in enumerate(names)
    }
    header = json.dumps(entries).encode().ljust(data_at(len(names)) - 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for block in blocks:
            file.write(block.data)


def data_at(tables: int) -> int:
    """Where the first tensor starts in a file of so many: rows lie on cache lines, and pages."""
    return DATA_AT * tables


def by_use(rows: int) -> I64:
    """Row ids, the most used first: scattered over the table."""
    return np.random.default_rng(rows).permutation(rows)


def _weights(rows: int) -> NDArray[np.float64]:
    """How much the rows are used relative to the most used, in that order."""
    return np.arange(1, rows + 1, dtype=np.float64) ** -EXPONENT


def draw(distribution: str, rows: int, count: int) -> I64:
    """Ids to look up: `uniform`, or `zipf` as rows are used."""
    rng = np.random.default_rng([rows, count])
    if distribution == "uniform":
        return rng.integers(0, rows, count)
    shares = np.cumsum(_weights(rows))
    ranks = np.searchsorted(shares, rng.random(count) * shares[-1], side="right")
    ids: I64 = by_use(rows)[np.minimum(ranks, rows - 1)]
    return ids


@dataclass(frozen=True, slots=True)
class Part:
    """What one thread does of every batch.

    Args:
        ids: int64 (n,), one array a batch.
        offsets: int64 (bags + 1,) of bags; None for lookups.
        out: float32 (n or bags, dim).
    """

    ids: tuple[I64, ...]
    offsets: I64 | None
    out: F32


@dataclass(frozen=True, slots=True)
class Work:
    """Batches in rotation, whole and split by thread."""

    distribution: str
    shape: Shape
    whole: Part
    parts: tuple[Part, ...]

    @property
    def count(self) -> int:
        """Ids a batch."""
        return len(self.whole.ids[0])

    @property
    def threads(self) -> int:
        """Threads that share a batch."""
        return len(self.parts)


def make_work(
    distribution: str,
    shape: Shape,
    source: Source,
    *,
    count: int,
    batches: int,
    threads: int = 1,
) -> Work:
    """Draw the batches of a workload: `count` ids each, in bags of 20 or alone."""
    each = count if shape == "lookup" else count // BAG
    per = 1 if shape == "lookup" else BAG
    ids = draw(distribution, source.rows, batches * each * per).reshape(batches, each * per)
    out = memory.huge((each, source.dim), np.float32)
    out[:] = 0  # its pages are there before the first turn

    def part(first: int, last: int) -> Part:
        offsets = None if shape == "lookup" else np.arange(last - first + 1, dtype=np.int64) * BAG
        return Part(tuple(ids[:, first * per : last * per]), offsets, out[first:last])

    edges = [each * i // threads for i in range(threads + 1)]
    parts = tuple(part(a, b) for a, b in pairwise(edges))
    return Work(distribution, shape, part(0, each), parts)
