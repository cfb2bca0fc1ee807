"""A tensor that lies in several files: boxes of it, checked to cover it, and read by row range."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sharkstore.errors import CheckpointError
from sharkstore.tensors import Tensor, raw_dtype

I64 = NDArray[np.int64]
# so few boxes are always cut where none is cut through, which tells faults best
FEW = 64


@dataclass(frozen=True, slots=True)
class Shard:
    """A box of a tensor.

    Args:
        offsets: its first index on each axis of the tensor.
        sizes: its lengths.
        file: that it lies in, for messages.
        read: rows of it, counted from its own first, as stored.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    read: Callable[[int, int], NDArray[Any]]


class Shards(Protocol):
    """Shards by number: a list, or what makes them when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Shard: ...


class Sharded:
    """A tensor out of its shards.

    Args:
        tensor: whole.
        shards: in any order, kept; empty ones are ignored.
        where: the checkpoint, for messages.

    Raises:
        CheckpointError: a part of the tensor is in no shard, or in two, or a shard has more than
            the tensor.
    """

    def __init__(self, tensor: Tensor, shards: Shards, where: str = "") -> None:
        self.tensor = tensor
        self._low, self._high = _bounds(tensor, shards, where)
        some = np.flatnonzero((self._low < self._high).all(axis=1))
        if tensor.shape:
            some = some[np.argsort(self._low[some, 0], kind="stable")]
        self._low, self._high = self._low[some], self._high[some]
        self._shards, self._numbers = shards, some
        if fault := _fault(self._low, self._high, tensor.shape):
            files = [self._shard(one).file for one in fault.shards]
            raise CheckpointError(_told(fault, files, tensor), where=where)
        # no shard before the first whose reach is past a row has that row
        self._reach = np.maximum.accumulate(self._high[:, 0]) if tensor.shape else None

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows, as stored: a view where one shard has them whole, else a new array."""
        if self._reach is None:
            return self._shard(0).read(start, stop)
        found = self._with_rows(self._reach, start, stop)
        shards = [self._shard(one) for one in found]
        if len(shards) == 1 and shards[0].sizes[1:] == self.tensor.shape[1:]:
            first = shards[0].offsets[0]
            return shards[0].read(start - first, stop - first)
        out = np.empty((stop - start, *self.tensor.shape[1:]), raw_dtype(self.tensor.dtype))
        for shard in shards:
            first, *others = shard.offsets
            low, high = max(first, start), min(first + shard.sizes[0], stop)
            columns = (slice(a, a + size) for a, size in zip(others, shard.sizes[1:], strict=True))
            out[(slice(low - start, high - start), *columns)] = shard.read(
                low - first, high - first
            )
        return out

    def _shard(self, one: int | np.intp) -> Shard:
        return self._shards[int(self._numbers[one])]

    def _with_rows(self, reach: I64, start: int, stop: int) -> list[int]:
        """Shards with some of the rows, in order of their first."""
        if start >= stop:
            return []
        first = int(np.searchsorted(reach, start, side="right"))
        last = int(np.searchsorted(self._low[:, 0], stop, side="left"))
        some: list[int] = (first + np.flatnonzero(self._high[first:last, 0] > start)).tolist()
        return some


def _bounds(tensor: Tensor, shards: Shards, where: str) -> tuple[I64, I64]:
    """Where the shards begin and end, int64 (shards, axes), checked to lie in the tensor."""
    axes = len(tensor.shape)
    if any(not 0 <= size < 2**63 for size in tensor.shape):
        raise CheckpointError(f"tensor {tensor.name!r} of shape {tensor.shape}", where=where)
    bounds = array("q")
    for shard in (shards[one] for one in range(len(shards))):
        if len(shard.offsets) != axes or len(shard.sizes) != axes:
            got = f"a shard at {shard.offsets} of {shard.sizes} in {shard.file}"
            raise CheckpointError(
                f"tensor {tensor.name!r} of shape {tensor.shape} has {got}", where=where
            )
        ends = [low + size for low, size in zip(shard.offsets, shard.sizes, strict=True)]
        for low, end, whole in zip(shard.offsets, ends, tensor.shape, strict=True):
            if not 0 <= low <= end <= whole:
                raise CheckpointError(_outside(tensor, shard), where=where)
        bounds.extend((*shard.offsets, *ends))
    both = np.frombuffer(bounds, np.int64).reshape(len(shards), 2, axes)
    return both[:, 0], both[:, 1]


def _outside(tensor: Tensor, shard: Shard) -> str:
    ends = [low + size for low, size in zip(shard.offsets, shard.sizes, strict=True)]
    box = _box(shard.offsets, ends, tuple(-1 for _ in ends))
    return f"{shard.file} has {box} of tensor {tensor.name!r}, whose shape is {tensor.shape}"


class _Part(NamedTuple):
    """A box of the tensor, and the shards that have some of it."""

    low: I64
    high: I64
    shards: NDArray[np.intp]

    def cut(
        self, axis: int, low: int | np.int64, high: int | np.int64, shards: NDArray[np.intp]
    ) -> _Part:
        """The part of this one between two indices of an axis."""
        below, above = self.low.copy(), self.high.copy()
        below[axis], above[axis] = low, high
        return _Part(below, above, shards)


def _fault(low: I64, high: I64, shape: tuple[int, ...]) -> _Part | None:
    """A box that is in no shard, or in two of them; None if there is none.

    The tensor is cut into ever smaller parts: along borders that no shard crosses, or else at the
    median border. A part that one shard fills is done. A level of cuts costs O(n log n), and every
    layout that is a grid of grids needs few.
    """
    whole = np.array(shape, np.int64)
    if not all(shape):
        return None
    parts = [_Part(np.zeros_like(whole), whole, np.arange(len(low)))]
    while parts:
        part = parts.pop()
        clipped = np.maximum(low[part.shards], part.low), np.minimum(high[part.shards], part.high)
        found = _step(part, *clipped, parts)
        if found and len(found.shards) == 2:
            pair = found.shards
            return _Part(low[pair].max(axis=0), high[pair].min(axis=0), pair)
        if found:
            return found
    return None


def _step(part: _Part, low: I64, high: I64, parts: list[_Part]) -> _Part | None:
    """Find what is wrong with a part, or put the parts on the list that it has to be cut into."""
    fills = ((low == part.low) & (high == part.high)).all(axis=1)
    if len(low) == 0:
        return part
    if fills.any():
        first = int(fills.argmax())
        pair = part.shards[[first, 1 if first == 0 else 0]] if len(low) > 1 else None
        return None if pair is None else part._replace(shards=pair)
    best: tuple[int, NDArray[np.intp], NDArray[np.intp]] | None = None
    for axis in range(len(part.low)):
        order = np.argsort(low[:, axis], kind="stable")
        starts = np.append(low[order, axis], part.high[axis])
        ends = np.append(part.low[axis], np.maximum.accumulate(high[order, axis]))
        gaps = np.flatnonzero(starts > ends)
        if len(gaps):
            return part.cut(axis, ends[gaps[0]], starts[gaps[0]], part.shards[:0])
        cuts = np.flatnonzero(starts == ends)
        balanced = len(low) <= FEW or 4 * int(np.diff(cuts).max()) <= 3 * len(low)
        if len(cuts) > 2 and balanced and (best is None or len(cuts) < len(best[2])):
            best = axis, order, cuts
    parts += _along(part, low, high, *best) if best else _halves(part, low, high)
    return None


def _along(
    part: _Part, low: I64, high: I64, axis: int, order: NDArray[np.intp], cuts: NDArray[np.intp]
) -> list[_Part]:
    """The parts between borders that no shard crosses; without those that one shard fills."""
    others = [one for one in range(len(part.low)) if one != axis]
    filling = (low[:, others] == part.low[others]) & (high[:, others] == part.high[others])
    alone = np.diff(cuts) == 1
    done = alone & filling.all(axis=1)[order[cuts[:-1]]]
    return [
        part.cut(
            axis, low[order[a:b], axis].min(), high[order[a:b], axis].max(), part.shards[order[a:b]]
        )
        for a, b in zip(cuts[:-1][~done], cuts[1:][~done], strict=True)
    ]


def _halves(part: _Part, low: I64, high: I64) -> list[_Part]:
    """Two parts, cut at the median border of the axis that has most."""
    borders = [
        np.sort(both[(both > part.low[axis]) & (both < part.high[axis])])
        for axis, both in enumerate(np.concatenate([low, high]).T)
    ]
    axis = max(range(len(borders)), key=lambda one: len(borders[one]))
    cut = borders[axis][len(borders[axis]) // 2]
    return [
        part.cut(axis, part.low[axis], cut, part.shards[low[:, axis] < cut]),
        part.cut(axis, cut, part.high[axis], part.shards[high[:, axis] > cut]),
    ]


def _told(fault: _Part, files: list[str], tensor: Tensor) -> str:
    box = _box(fault.low.tolist(), fault.high.tolist(), tensor.shape)
    if not files:
        return f"tensor {tensor.name!r}: {box} are in no file"
    place = f"twice in {files[0]}" if files[0] == files[1] else f"both in {' and '.join(files)}"
    return f"tensor {tensor.name!r}: {box} are {place}"


def _box(low: Sequence[int], high: Sequence[int], shape: tuple[int, ...]) -> str:
    """A box in words: its rows, and the axes of which it is not the whole."""
    if not shape:
        return "its values"
    names = ["rows", "columns", *(f"indices of axis {axis}" for axis in range(2, len(shape)))]
    named = zip(names[: len(shape)], low, high, strict=True)
    told = [
        f"{name} {a} to {b - 1}"
        for axis, (name, a, b) in enumerate(named)
        if axis == 0 or (a, b) != (0, shape[axis])
    ]
    return " of ".join(told)
