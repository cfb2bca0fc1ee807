"""Rows out of a checkpoint, encoded by tier and slot; values of other tensors in pieces.

Nothing here holds more than a block, and float32 rows are encoded where the file is mapped.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import sharkstore.kernels as kernels
from sharkstore.encodings import ROWS_PER_BLOCK, Encoding
from sharkstore.errors import StatsError
from sharkstore.tensors import Tensor, TensorSource, as_float32

U8 = NDArray[np.uint8]
BLOCK_BYTES = 4 << 20
# encodings that take far longer than memory gives rows are worked on by so many threads at most
MOST_WORKERS = 8
# whose codes, or scales, are the best of many
SEARCHED = ("int4", "int2", "pq")


def cores() -> int:
    """How many threads encodings that take long get."""
    return min(os.cpu_count() or 1, MOST_WORKERS)


class Room(Protocol):
    """What stored rows are put into."""

    def room(self, row_bytes: int) -> U8:
        """Room for the next rows, some at a time: uint8 (n, row bytes), to be filled in place."""

    def done(self, filled: int) -> None:
        """Take in what was filled of the room given: so many bytes."""

    def put(self, block: U8) -> None:
        """Take in a copy of some bytes."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows `start` to `stop`, of which so many of a tier are stored, the first ones skipped."""

    start: int
    stop: int
    skip: int
    count: int


@dataclass(frozen=True, slots=True)
class TableRows:
    """A table's rows in a checkpoint.

    Args:
        rowmap: as `write_ranks` wrote it, mapped; None with one tier.
        zero_nonfinite: NaN and infinities become zero.
        codebooks: of the pq tiers, by index of the tier.
        factors: of the metric that codes are rounded in, by dims a code; empty: the nearest.
        threads: for encodings that take long; None: one a core.
    """

    source: TensorSource
    tensor: Tensor
    rowmap: U8 | None
    zero_nonfinite: bool = False
    codebooks: Mapping[int, kernels.Codebook] = field(default_factory=dict)
    factors: Mapping[int, kernels.Factor] = field(default_factory=dict)
    threads: int | None = None

    @property
    def block_rows(self) -> int:
        """Rows a block: about 4 MiB in float32, whole blocks of the row map."""
        rows = BLOCK_BYTES // (4 * max(1, self.tensor.shape[1]))
        return max(ROWS_PER_BLOCK, rows // ROWS_PER_BLOCK * ROWS_PER_BLOCK)

    def blocks(self, start: int, stop: int) -> U8 | None:
        """Row-map blocks of rows `start` (a multiple of 64) to `stop`; None with one tier."""
        if self.rowmap is None:
            return None
        return self.rowmap[start // ROWS_PER_BLOCK : -(-stop // ROWS_PER_BLOCK)]

    def tiers(self, start: int, stop: int) -> U8:
        """Tiers of rows `start` (a multiple of 64) to `stop`: uint8 (n,)."""
        blocks = self.blocks(start, stop)
        if blocks is None:
            return np.zeros(stop - start, np.uint8)
        return kernels.rowmap_tiers(blocks)[: stop - start]

    def encode(self, encoding: Encoding, tier: int, first: int, last: int, out: Room) -> None:
        """Encode rows of a tier, from slot `first` to `last`, in slot order.

        Args:
            out: gives the room for stored rows, and takes in what was filled.

        Raises:
            StatsError: the tier has fewer rows than the row map was made for.
        """
        if encoding.name in SEARCHED or (encoding.packed and self.factors):
            self._encode_together(encoding, tier, first, last, out)
            return
        row_bytes = encoding.row_bytes(self.tensor.shape[1])
        start, skip = self._row_of_slot(tier, first)
        left = last - first
        while left:
            self._check_start(start)
            stop = min(self.tensor.rows, start + self.block_rows)
            stored = out.room(row_bytes)[:left]
            filled = self._encode_block(encoding, start, stop, tier, skip, stored)
            out.done(filled * row_bytes)
            left -= filled
            skip += filled
            if filled < len(stored):
                start, skip = stop, 0

    def _encode_together(
        self, encoding: Encoding, tier: int, first: int, last: int, out: Room
    ) -> None:
        """The same by several threads, each a block of its own."""
        row_bytes = encoding.row_bytes(self.tensor.shape[1])

        def work(part: _Part) -> U8:
            stored = np.zeros((part.count, row_bytes), np.uint8)
            self._encode_block(encoding, part.start, part.stop, tier, part.skip, stored)
            return stored

        parts = self._parts(tier, first, last)
        workers = self.threads or cores()
        with ThreadPoolExecutor(workers) as pool:
            # a few at a time, so that no more of them wait for the disk
            while some := list(islice(parts, 2 * workers)):
                for stored in pool.map(work, some):
                    out.put(stored)

    def _parts(self, tier: int, first: int, last: int) -> Iterator[_Part]:
        """Blocks with rows of a tier from slot `first` to `last`; the counters tell how many."""
        start, skip = self._row_of_slot(tier, first)
        left = last - first
        while left:
            self._check_start(start)
            stop = min(self.tensor.rows, start + self.block_rows)
            held = min(
                left, self._slots_before(tier, stop) - self._slots_before(tier, start) - skip
            )
            if held:
                yield _Part(start, stop, skip, held)
            left -= held
            start, skip = stop, 0

    def _check_start(self, start: int) -> None:
        if start >= self.tensor.rows:
            where = f"table {self.tensor.name!r}"
            raise StatsError("row priorities changed while they were read", where=where)

    def _slots_before(self, tier: int, row: int) -> int:
        """Slots of a tier before a row: a multiple of 64, or behind the last row."""
        if self.rowmap is None:
            return row
        block = row // ROWS_PER_BLOCK
        if row < self.tensor.rows:
            return int(kernels.rowmap_counters(self.rowmap[block : block + 1])[0, tier])
        start = (row - 1) // ROWS_PER_BLOCK * ROWS_PER_BLOCK
        within = np.count_nonzero(self.tiers(start, row) == tier)
        return self._slots_before(tier, start) + int(within)

    def _row_of_slot(self, tier: int, slot: int) -> tuple[int, int]:
        """First row of the block that holds a slot, and the tier's slots before it in there."""
        if self.rowmap is None:
            return slot // ROWS_PER_BLOCK * ROWS_PER_BLOCK, slot % ROWS_PER_BLOCK
        rowmap = self.rowmap

        def before(block: int) -> int:
            return int(kernels.rowmap_counters(rowmap[block : block + 1])[0, tier])

        block = bisect_right(range(len(rowmap)), slot, key=before) - 1
        return block * ROWS_PER_BLOCK, slot - before(block)

    def _encode_block(
        self, encoding: Encoding, start: int, stop: int, tier: int, skip: int, stored: U8
    ) -> int:
        """Encode rows of a tier among rows `start` to `stop` until `stored` is full; how many."""
        raw = self.source.read(self.tensor.name, start, stop)
        book, factor = self.codebooks.get(tier), self.factors.get(encoding.sub or 1)
        if self.tensor.dtype == "float32" and not self.zero_nonfinite:
            rows = np.require(raw, np.float32, ["C", "A"])
            blocks = self.blocks(start, stop)
            return kernels.encode_tier(encoding, rows, blocks, tier, skip, stored, book, factor)
        part = slice(skip, skip + len(stored))
        if self.rowmap is not None:
            raw = raw[np.flatnonzero(self.tiers(start, stop) == tier)[part]]
        else:
            raw = raw[part]
        rows = as_float32(raw, self.tensor.dtype)
        if self.zero_nonfinite:
            rows = np.where(np.isfinite(rows), rows, np.float32(0))
        kernels.encode_rows(encoding, rows, stored[: len(rows)], book, factor)
        return len(rows)


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
