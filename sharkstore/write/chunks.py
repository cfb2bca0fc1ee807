"""Every output chunk a pure task: what it says, and where its bytes come from."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.format.layout import ArraySpec
from sharkstore.format.metadata import StoreMetadata, TableMetadata
from sharkstore.tensors import Tensor, TensorSource, as_float32
from sharkstore.write.books import Books
from sharkstore.write.files import reported
from sharkstore.write.rows import TableRows, pieces
from sharkstore.write.tables import Tables
from sharkstore.write.writer import Chunk, ChunkWriter

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
        codebooks: of pq tiers, (blocks, entries, sub) by path of the array that stores them.
        store: folder of the store under way.
        scratch: folder where chunk files are made, in the same file system.
    """

    source: TensorSource
    metadata: StoreMetadata
    tensors: Mapping[str, Tensor]
    rows: Mapping[str, TableRows]
    means: Mapping[str, NDArray[np.float32]]
    codebooks: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    store: str = ""
    scratch: str = ""
    _by_name: dict[str, TableMetadata] = field(default_factory=dict, init=False)

    @classmethod
    def of(
        cls,
        tables: Tables,
        metadata: StoreMetadata,
        means: Mapping[str, NDArray[np.float32]],
        books: Mapping[str, Books],
        **folders: str,
    ) -> Inputs:
        """Of tables with their codebooks, by name and tier.

        Args:
            folders: `store` and `scratch`.
        """
        paths = {
            array.path: book
            for table in metadata.tables
            for tier, book in books.get(table.name, {}).items()
            if (array := table.tiers[tier].codebook) is not None
        }
        return cls(tables.source, metadata, tables.tensors, tables, means, paths, **folders)

    def table(self, name: str) -> TableMetadata:
        """Metadata of a table."""
        if not self._by_name:
            self._by_name.update((table.name, table) for table in self.metadata.tables)
        return self._by_name[name]


def write_chunks(inputs: Inputs, batch: Sequence[ChunkTask]) -> list[int]:
    """A task: write chunk files, durably; the crc32c of each.

    A chunk file appears whole: another process may do the same.

    Raises:
        WriteError: the disk is full or refuses.
    """
    finals = [os.path.join(inputs.store, task.array.chunk_path(task.index)) for task in batch]
    made = [os.path.join(inputs.scratch, uuid.uuid4().hex) for _ in batch]
    crcs = []
    with ChunkWriter(max(task.array.chunk_bytes for task in batch)) as writer:
        for task, path, final in zip(batch, made, finals, strict=True):
            chunk = writer.chunk(path, task.array.chunk_bytes, final)
            fill_chunk(task, inputs, chunk)
            crcs.append(chunk.close())
    for path, final in zip(made, finals, strict=True):
        with reported(final):
            os.makedirs(os.path.dirname(final), exist_ok=True)
            os.replace(path, final)
    return crcs


def fill_chunk(task: ChunkTask, inputs: Inputs, chunk: Chunk) -> None:
    """Put the bytes of a chunk in, padding left out."""
    if task.array.path.startswith("dense/"):
        _fill_dense(task, inputs, chunk)
    elif task.tier is not None:
        _fill_tier(task, task.tier, inputs, chunk)
    elif task.array.path.endswith("/rowmap"):
        _fill_rowmap(task, inputs, chunk)
    elif task.array.path.endswith(".codebook"):
        first, last = task.slots
        chunk.put(_bytes(inputs.codebooks[task.array.path][first:last]))
    else:
        chunk.put(_bytes(inputs.means[task.array.path]))


def _fill_tier(task: ChunkTask, tier: int, inputs: Inputs, chunk: Chunk) -> None:
    encoding = inputs.table(task.owner).tiers[tier].encoding
    if encoding.name == "constant":
        chunk.put(_bytes(inputs.means[task.array.path]))
        return
    first, last = task.slots
    inputs.rows[task.owner].encode(encoding, tier, first, last, chunk)


def _fill_rowmap(task: ChunkTask, inputs: Inputs, chunk: Chunk) -> None:
    rowmap = inputs.rows[task.owner].rowmap
    assert rowmap is not None
    first, last = task.slots
    chunk.put(rowmap[first:last])


def _fill_dense(task: ChunkTask, inputs: Inputs, chunk: Chunk) -> None:
    tensor = inputs.tensors[task.owner]
    for piece in pieces(inputs.source, tensor, *task.slots):
        chunk.put(_bytes(as_float32(piece, tensor.dtype) if tensor.dtype == "bfloat16" else piece))


def _bytes(values: NDArray[np.generic]) -> U8:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)
