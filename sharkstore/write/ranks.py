"""Ranks first: each row's tier, from priorities read in blocks, written as the row map.

Memory does not grow with the table: boundaries between tiers are found by a radix select
over blocks of priorities, and the row map goes to a file as it is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sharkstore.kernels as kernels
from sharkstore.encodings import planes_for

Advance = Callable[[int], None]
BLOCK = 1 << 18
DIGIT = 16


def nobody(_done: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """The top k rows: keys above `key`, and the first `ties` rows of that key by id."""

    key: int
    ties: int


def write_ranks(
    path: str,
    rows: int,
    counts: Sequence[int],
    priority: NDArray[Any] | None,
    advance: Advance = nobody,
) -> None:
    """Write the row map of a table to a file, block after block, without chunk padding.

    Args:
        counts: rows of each tier, from the highest priority; at least two tiers.
        priority: (rows,), highest first, ties by id; None goes by id alone.
        advance: told the bytes of priorities read, `passes` times over.
    """
    write_rowmap(path, len(counts), tiers_by_row(rows, counts, priority, advance))


def write_rowmap(path: str, tiers: int, blocks: Iterable[NDArray[np.uint8]]) -> None:
    """Write a row map to a file, durably, without chunk padding.

    Args:
        tiers: of the table; at least two.
        blocks: tiers of consecutive rows, uint8 (n,); all but the last of a multiple of 64.
    """
    planes = planes_for(tiers)
    before = np.zeros(tiers, np.int64)
    with open(path, "wb") as file:
        for block in blocks:
            file.write(kernels.build_rowmap(block, planes, before.tolist()).data)
            before += np.bincount(block, minlength=tiers)
        file.flush()
        os.fsync(file.fileno())


def passes(tiers: int, dtype: np.dtype[Any]) -> int:
    """How often priorities are read to rank rows into so many tiers."""
    return 1 + key_dtype(dtype).itemsize // 2 * (tiers - 1)


def tiers_by_row(
    rows: int,
    counts: Sequence[int],
    priority: NDArray[Any] | None,
    advance: Advance = nobody,
) -> Iterator[NDArray[np.uint8]]:
    """Tiers of consecutive rows, in blocks of `BLOCK` rows: uint8 (n,)."""
    ends = np.cumsum(counts)[:-1]
    if priority is None:
        for start in range(0, rows, BLOCK):
            ids = np.arange(start, min(rows, start + BLOCK))
            yield np.searchsorted(ends, ids, side="right").astype(np.uint8)
        return
    boundaries = [find_boundary(priority, int(end), advance) for end in ends]
    key = key_dtype(priority.dtype).type
    seen = [0] * len(boundaries)
    for keys in key_blocks(priority, advance):
        tiers = np.full(len(keys), len(boundaries), np.uint8)
        for index, boundary in enumerate(boundaries):
            tiers -= keys > key(boundary.key)
            equal = np.flatnonzero(keys == key(boundary.key))
            tiers[equal[: max(0, boundary.ties - seen[index])]] -= np.uint8(1)
            seen[index] += len(equal)
        yield tiers


def find_boundary(priority: NDArray[Any], k: int, advance: Advance = nobody) -> Boundary:
    """Where the k rows of highest priority end: exact, in a pass for every 16 bits of a key."""
    bits = 8 * key_dtype(priority.dtype).itemsize
    if k == 0:
        return Boundary(2**bits - 1, 0)
    prefix, wanted = 0, k
    for shift in range(bits - DIGIT, -1, -DIGIT):
        histogram = np.zeros(1 << DIGIT, np.int64)
        for keys in key_blocks(priority, advance):
            if shift < bits - DIGIT:
                keys = keys[keys >> keys.dtype.type(shift + DIGIT) == prefix]  # noqa: PLW2901
            digits = (keys >> keys.dtype.type(shift)).astype(np.uint16)
            histogram += np.bincount(digits, minlength=1 << DIGIT)
        from_top = np.cumsum(histogram[::-1])
        place = int(np.searchsorted(from_top, wanted))
        wanted -= int(from_top[place - 1]) if place else 0
        prefix = prefix << DIGIT | ((1 << DIGIT) - 1 - place)
    return Boundary(prefix, wanted)


def key_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Unsigned integers that hold the order of a dtype's values: of 32 or 64 bits."""
    return np.dtype(np.uint32 if dtype.itemsize <= 4 else np.uint64)


def key_blocks(priority: NDArray[Any], advance: Advance = nobody) -> Iterator[NDArray[Any]]:
    """Priorities as unsigned integers of the same order, block by block: see `key_dtype`."""
    unsigned = key_dtype(priority.dtype)
    signed = np.dtype(f"i{unsigned.itemsize}")
    last = unsigned.type(8 * unsigned.itemsize - 1)
    sign = unsigned.type(1) << last
    for start in range(0, len(priority), BLOCK):
        block = np.asarray(priority[start : start + BLOCK])
        if block.dtype.kind == "u":
            yield block.astype(unsigned)
        elif block.dtype.kind == "i":
            yield block.astype(signed).view(unsigned) ^ sign
        else:
            # adding zero turns -0 into +0: they tie
            bits = (block.astype(f"f{unsigned.itemsize}") + 0).view(unsigned)
            negative = (bits.view(signed) >> signed.type(last)).view(unsigned)
            yield bits ^ (negative | sign)
        advance(block.nbytes)
