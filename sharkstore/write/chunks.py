"""Every output chunk a pure task: what it says, and where its bytes come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sharkstore.format.layout import ArraySpec
from sharkstore.format.metadata import StoreMetadata, TableMetadata
from sharkstore.quant import encode
from sharkstore.tensors import Tensor, TensorSource, as_float32
from sharkstore.write.rows import BLOCK_BYTES, TableRows, pieces

U8 = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ChunkTask:
    """One chunk of one array.

    Args:
        owner: name of the table, or of the dense parameter.
        tier: index of the tier; None for other arrays.
    """

    owner: str
    array: ArraySpec
    index: int
    tier: int | None = None

    @property
    def slots(self) -> tuple[int, int]:
        """First and last + 1 row of the array in this chunk."""
        return self.array.chunk_slots(self.index)

    @property
    def position(self) -> float:
        """How far into the array the chunk lies, 0 to 1."""
        return self.index / self.array.chunks


def chunk_tasks(metadata: StoreMetadata) -> list[ChunkTask]:
    """All chunks of a store, table by table; in one, chunks that read the same rows are near."""
    tasks: list[ChunkTask] = []
    for table in metadata.tables:
        tier_of = {tier.array.path: index for index, tier in enumerate(table.tiers)}
        chunks = [
            ChunkTask(table.name, array, index, tier_of.get(array.path))
            for array in table.arrays
            for index in range(array.chunks)
        ]
        tasks += sorted(chunks, key=lambda task: task.position)
    for entry in metadata.dense:
        tasks += [ChunkTask(entry.name, entry.array, i) for i in range(entry.array.chunks)]
    return tasks


@dataclass(frozen=True, slots=True)
class Inputs:
    """What tasks read.

    Args:
        rows: the tables' rows, by table.
        means: mean rows by path of the array that stores them.
    """

    source: TensorSource
    metadata: StoreMetadata
    tensors: Mapping[str, Tensor]
    rows: Mapping[str, TableRows]
    means: Mapping[str, NDArray[np.float32]]

    def table(self, name: str) -> TableMetadata:
        """Metadata of a table."""
        return next(table for table in self.metadata.tables if table.name == name)


def chunk_blocks(task: ChunkTask, inputs: Inputs) -> Iterator[U8]:
    """The bytes of a chunk, padding left out, as blocks of uint8."""
    if task.array.path.startswith("dense/"):
        return _dense_blocks(task, inputs)
    if task.tier is not None:
        return _tier_blocks(task, inputs)
    if task.array.path.endswith("/rowmap"):
        return _rowmap_blocks(task, inputs)
    return iter([_bytes(inputs.means[task.array.path])])


def _tier_blocks(task: ChunkTask, inputs: Inputs) -> Iterator[U8]:
    assert task.tier is not None
    encoding = inputs.table(task.owner).tiers[task.tier].encoding
    if encoding.name == "constant":
        yield _bytes(inputs.means[task.array.path])
        return
    for rows in inputs.rows[task.owner].of_tier(task.tier, *task.slots):
        yield encode.encode(encoding, rows)


def _rowmap_blocks(task: ChunkTask, inputs: Inputs) -> Iterator[U8]:
    rowmap = inputs.rows[task.owner].rowmap
    assert rowmap is not None
    first, last = task.slots
    step = BLOCK_BYTES // task.array.row_bytes
    for start in range(first, last, step):
        yield np.asarray(rowmap[start : min(last, start + step)])


def _dense_blocks(task: ChunkTask, inputs: Inputs) -> Iterator[U8]:
    tensor = inputs.tensors[task.owner]
    for piece in pieces(inputs.source, tensor, *task.slots):
        yield _bytes(as_float32(piece, tensor.dtype) if tensor.dtype == "bfloat16" else piece)


def _bytes(values: NDArray[np.generic]) -> U8:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)
