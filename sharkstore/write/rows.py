"""Rows out of a checkpoint in float32: by range, and by tier and slot.

What these yield may be views of the mapped checkpoint; nothing here holds more than a block.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sharkstore.kernels as kernels
from sharkstore.encodings import ROWS_PER_BLOCK
from sharkstore.errors import StatsError
from sharkstore.tensors import Tensor, TensorSource, as_float32

F32 = NDArray[np.float32]
BLOCK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class TableRows:
    """A table's rows in a checkpoint.

    Args:
        rowmap: as `write_ranks` wrote it, mapped; None with one tier.
        zero_nonfinite: NaN and infinities become zero.
    """

    source: TensorSource
    tensor: Tensor
    rowmap: NDArray[np.uint8] | None
    zero_nonfinite: bool = False

    @property
    def block_rows(self) -> int:
        """Rows a block: about 4 MiB in float32, whole blocks of the row map."""
        rows = BLOCK_BYTES // (4 * max(1, self.tensor.shape[1]))
        return max(ROWS_PER_BLOCK, rows // ROWS_PER_BLOCK * ROWS_PER_BLOCK)

    def tiers(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Tiers of rows `start` (a multiple of 64) to `stop`: uint8 (n,)."""
        if self.rowmap is None:
            return np.zeros(stop - start, np.uint8)
        blocks = self.rowmap[start // ROWS_PER_BLOCK : -(-stop // ROWS_PER_BLOCK)]
        return kernels.rowmap_tiers(blocks)[: stop - start]

    def of_tier(self, tier: int, first: int, last: int) -> Iterator[F32]:
        """Rows of a tier, from slot `first` to `last`, in slot order: float32 (n, dim) blocks."""
        start, skip = self._row_of_slot(tier, first)
        left = last - first
        while left:
            if start >= self.tensor.rows:
                where = f"table {self.tensor.name!r}"
                raise StatsError("row priorities changed while they were read", where=where)
            stop = min(self.tensor.rows, start + self.block_rows)
            ids = np.flatnonzero(self.tiers(start, stop) == tier)[skip : skip + left]
            if len(ids):
                yield self._float32(start, stop, ids)
            left -= len(ids)
            start, skip = stop, 0

    def _row_of_slot(self, tier: int, slot: int) -> tuple[int, int]:
        """First row of the block that holds a slot, and the tier's slots before it in there."""
        if self.rowmap is None:
            return slot // ROWS_PER_BLOCK * ROWS_PER_BLOCK, slot % ROWS_PER_BLOCK
        rowmap = self.rowmap

        def before(block: int) -> int:
            return int(kernels.rowmap_counters(rowmap[block : block + 1])[0, tier])

        block = bisect_right(range(len(rowmap)), slot, key=before) - 1
        return block * ROWS_PER_BLOCK, slot - before(block)

    def _float32(self, start: int, stop: int, ids: NDArray[np.int64]) -> F32:
        raw = self.source.read(self.tensor.name, start, stop)
        chosen = raw if len(ids) == len(raw) else raw[ids]
        rows = as_float32(chosen, self.tensor.dtype)
        if self.zero_nonfinite:
            rows = np.where(np.isfinite(rows), rows, np.float32(0))
        return rows


def pieces(source: TensorSource, tensor: Tensor, first: int, last: int) -> Iterator[NDArray[Any]]:
    """The values of some rows of a tensor, as stored, flat, in pieces of at most `BLOCK_BYTES`.

    A tensor that is no table may be one row of gigabytes.
    """
    step = max(1, BLOCK_BYTES // max(1, tensor.row_bytes))
    for start in range(first, last, step):
        flat = source.read(tensor.name, start, min(last, start + step)).reshape(-1)
        size = BLOCK_BYTES // flat.itemsize
        for at in range(0, len(flat), size):
            yield np.ascontiguousarray(flat[at : at + size])
