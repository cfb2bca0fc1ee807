"""Rows that stand for a table: all of a small one, else some of every weight.

Rows of few uses are many and alike, so few of them stand for all; of those used most, all are
taken. The same rows come every time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sharkstore.plan.stats import BLOCK
from sharkstore.plan.weigh import Weights
from sharkstore.tensors import Tensor, TensorSource, as_float32
from sharkstore.write.rows import BLOCK_BYTES

F64 = NDArray[np.float64]
Own = Callable[[int, int], NDArray[np.bool_]]
I64 = NDArray[np.int64]

# rows of a larger table that are taken
MOST = 1 << 15
# strata: half octaves of weight, from 2 ** -64 to 2 ** 64, and zero
STRATA = 257
HALF_OCTAVE = 0.5**0.5


@dataclass(frozen=True, slots=True)
class Sample:
    """Some rows of a table.

    Args:
        ids: int64 (n,), rising.
        rows: float32 (n, dim); what was not finite is 0.
        weights: float64 (n,): what an error in each costs.
        stands: float64 (n,): how many rows of the table each stands for.
    """

    ids: I64
    rows: NDArray[np.float32]
    weights: F64
    stands: F64

    @classmethod
    def empty(cls, dim: int) -> Sample:
        """No rows."""
        rows = np.empty((0, dim), np.float32)
        return cls(np.empty(0, np.int64), rows, np.empty(0), np.empty(0))


class Room:
    """Room for the rows of many samples, one after the other: every mapping holds a descriptor.

    Args:
        nbytes: of all of them, at most.
        folder: where they may lie in a mapped file, that has no name and goes with them; None:
            in memory.
    """

    def __init__(self, nbytes: int = 0, folder: str | None = None) -> None:
        self._left: NDArray[np.uint8] | None = None
        if folder is not None and nbytes:
            with tempfile.TemporaryFile(dir=folder) as file:
                self._left = np.asarray(np.memmap(file, np.uint8, "w+", shape=(nbytes,)))

    def rows(self, count: int, dim: int) -> NDArray[np.float32]:
        """Room for some rows: float32 (count, dim)."""
        if self._left is None:
            return np.empty((count, dim), np.float32)
        own, self._left = np.split(self._left, [4 * count * dim])
        return own.view(np.float32).reshape(count, dim)


def draw(
    source: TensorSource,
    tensor: Tensor,
    weights: Weights,
    most: int = MOST,
    own: Own | None = None,
) -> Sample:
    """The rows that stand for a table, `most` at most.

    Args:
        own: gives which of the rows from one id to another count, bool (n,); all when left out.
    """
    return _taken(source, tensor, weights, *_pick(tensor.rows, weights, most, own, 1)[0])


def draw_two(
    source: TensorSource,
    tensor: Tensor,
    weights: Weights,
    most: int = MOST,
    room: Room | None = None,
) -> tuple[Sample, Sample]:
    """The same, and as many rows between these: what is fitted to some is measured on others.

    Rows of weights that few have, which are all taken, are in both.

    Args:
        room: for the rows, if not memory: samples of many tables are large.
    """
    first, second = _pick(tensor.rows, weights, most, None, 2)
    sample = _taken(source, tensor, weights, *first, room)
    if len(sample.ids) == tensor.rows:
        return sample, sample
    return sample, _taken(source, tensor, weights, *second, room)


def _taken(
    source: TensorSource,
    tensor: Tensor,
    weights: Weights,
    ids: I64,
    stands: F64,
    room: Room | None = None,
) -> Sample:
    rows = (room or Room()).rows(len(ids), tensor.shape[1])
    values = np.empty(len(ids))
    # a checkpoint in shards, or far away, gives rows that take memory
    step = max(1, BLOCK_BYTES // max(1, tensor.row_bytes))
    for start in range(0, tensor.rows, step):
        stop = min(tensor.rows, start + step)
        first, last = np.searchsorted(ids, [start, stop])
        if first < last:
            places = ids[first:last] - start
            raw = source.read(tensor.name, start, stop)[places]
            rows[first:last] = as_float32(raw, tensor.dtype)
            values[first:last] = weights.block(start, stop)[places]
    rows[~np.isfinite(rows)] = 0
    return Sample(ids, rows, values, stands)


def _pick(
    rows: int, weights: Weights, most: int, own: Own | None, samples: int
) -> list[tuple[I64, F64]]:
    """Ids of so many samples, and how many rows each of them stands for."""
    if rows <= most and own is None:
        return [(np.arange(rows), np.ones(rows))] * samples
    sizes = np.zeros(STRATA, np.int64)
    for _, strata in _blocks(rows, weights, own):
        sizes += np.bincount(strata, minlength=STRATA + 1)[:STRATA]
    wanted = _share_out(sizes, most)
    picked = [([np.zeros(0, np.int64)], [np.zeros(0)]) for _ in range(samples)]
    seen = np.zeros(STRATA, np.int64)
    for start, strata in _blocks(rows, weights, own):
        counts = np.bincount(strata, minlength=STRATA + 1)
        together = np.split(np.argsort(strata, kind="stable"), np.cumsum(counts)[:-1])
        for stratum in np.flatnonzero(counts[:STRATA]):
            members, size = together[stratum], sizes[stratum]
            # every so manyth of the stratum, in even steps over the whole table
            numbers = (seen[stratum] + np.arange(len(members) + 1)) * wanted[stratum]
            for place, (ids, stands) in enumerate(picked):
                steps = (numbers + place * size // samples) // size
                chosen = members[steps[1:] > steps[:-1]]
                ids.append(start + chosen)
                stands.append(np.full(len(chosen), size / max(wanted[stratum], 1)))
            seen[stratum] += len(members)
    return [_in_order(np.concatenate(ids), np.concatenate(stands)) for ids, stands in picked]


def _in_order(ids: I64, stands: F64) -> tuple[I64, F64]:
    order = np.argsort(ids)
    return ids[order], stands[order]


def _blocks(
    rows: int, weights: Weights, own: Own | None
) -> Iterator[tuple[int, NDArray[np.uint16]]]:
    """First row and strata of blocks of rows; STRATA for rows that don't count."""
    for start in range(0, rows, BLOCK):
        stop = min(rows, start + BLOCK)
        strata = strata_of(weights.block(start, stop), weights.scale)
        if own is not None:
            strata[~own(start, stop)] = STRATA
        yield start, strata


def strata_of(weights: F64, scale: float) -> NDArray[np.uint16]:
    """Half octaves of the weights: uint16 (n,), below STRATA; 0 for what weighs nothing."""
    mantissa, octave = np.frexp(weights / scale)
    halves = 2 * np.clip(octave, -63, 63) + (mantissa >= HALF_OCTAVE)
    return np.where(weights > 0, halves + 129, 0).astype(np.uint16)


def _share_out(sizes: I64, most: int) -> I64:
    """As many of each stratum, or all that it has."""
    wanted = np.zeros_like(sizes)
    for place, stratum in enumerate(order := np.argsort(sizes, kind="stable")):
        wanted[stratum] = min(sizes[stratum], (most - wanted.sum()) // (len(order) - place))
    return wanted
