"""Tensors of torch files as data: where their bytes lie, and how rows are read from there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from sharkstore.errors import CheckpointError
from sharkstore.readers.files import File
from sharkstore.readers.inert import Global
from sharkstore.tensors import FLOATS, INTEGERS, raw_dtype

MOST_AXES = 64
# an expanded tensor repeats its bytes; more often than this, and above so many bytes, it is a bomb
MOST_REPEATS, FREE_BYTES = 1024, 1 << 20
# so sparse a layout is read piece by piece
SPARSE = 4
LOCAL_HEADER = 30
Shape = tuple[int, ...]


@dataclass(eq=False, slots=True)
class Storage:
    """Bytes that tensors lie in: a member of a torch file's zip archive.

    Args:
        dtype: torch's name of its elements.
        header: where its header starts in the file.
        nbytes: its length.
        stop: end of the archive in the file.
    """

    dtype: str
    header: int
    nbytes: int
    stop: int
    _start: int | None = field(default=None, init=False)

    def start(self, file: File) -> int:
        """Where its bytes start in the file: read from there once, since the header's size varies.

        Raises:
            CheckpointError: no such header, or its bytes end behind the archive's.
        """
        if self._start is None:
            header = file.read(self.header, min(self.header + LOCAL_HEADER, self.stop)).tobytes()
            self._start = behind_header(header, self.header, self.nbytes, self.stop, file.place)
        return self._start


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor: elements of a storage.

    Args:
        storage: its bytes.
        dtype: torch's name without `torch.`, one that a store has.
        offset: of its first element in the storage, in elements.
        shape: () for a scalar.
        strides: in elements.
    """

    storage: Storage
    dtype: str
    offset: int
    shape: Shape
    strides: Shape

    def read(self, file: File, start: int, stop: int) -> NDArray[Any]:
        """Rows as stored, bfloat16 as uint16: a view of the file where they lie one after another.

        Args:
            file: that the tensor is in.
            start: first row; a scalar has one.
            stop: behind the last row.

        Raises:
            CheckpointError: the file is damaged there.
        """
        shape, offset, dtype = self.shape, self.offset, raw_dtype(self.dtype)
        if shape:
            shape, offset = (stop - start, *shape[1:]), offset + start * self.strides[0]
        if 0 in shape:
            return np.empty(shape, dtype)
        base = self.storage.start(file)

        def elements(first: int, count: int) -> NDArray[Any]:
            at = base + first * dtype.itemsize
            return file.read(at, at + count * dtype.itemsize).view(dtype)

        return np.asarray(_gathered(elements, dtype, offset, shape, self.strides), order="C")


@dataclass(frozen=True, slots=True)
class Unstorable:
    """A tensor of a kind that a store has no place for, and why."""

    why: str


def behind_header(header: bytes, at: int, nbytes: int, stop: int, place: str) -> int:
    """Where a zip member's bytes start, out of its local header of 30 bytes.

    Raises:
        CheckpointError: no such header, or the bytes end behind the archive's.
    """
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = at + LOCAL_HEADER + lengths
    if header[:4] != b"PK\x03\x04" or len(header) < LOCAL_HEADER or start + nbytes > stop:
        raise CheckpointError(f"not a whole torch file: no member at byte {at}", where=place)
    return start


def _gathered(
    elements: Callable[[int, int], NDArray[Any]],
    dtype: np.dtype[Any],
    offset: int,
    shape: Shape,
    strides: Shape,
) -> NDArray[Any]:
    """Elements of a strided layout; a view of one read where few are skipped."""
    span = _span(shape, strides)
    if span <= SPARSE * math.prod(shape):
        block = elements(offset, span)
        return as_strided(block, shape, [one * dtype.itemsize for one in strides], writeable=False)
    axis = max(range(len(shape)), key=lambda one: strides[one] if shape[one] > 1 else 0)
    out = np.empty(shape, dtype)
    inner = shape[:axis] + shape[axis + 1 :], strides[:axis] + strides[axis + 1 :]
    for index in range(shape[axis]):
        part = _gathered(elements, dtype, offset + index * strides[axis], *inner)
        out[(slice(None),) * axis + (index,)] = part
    return out


def _span(shape: Shape, strides: Shape) -> int:
    """Elements from the first to the last, both included."""
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


# --- what rebuilds tensors in a pickle ---------------------------------------------------------


def rebuild_v2(
    storage: object,
    offset: object,
    shape: object,
    strides: object,
    *_: object,
) -> Stored | Unstorable:
    """A tensor of its storage's dtype; arguments of `torch._utils._rebuild_tensor_v2`."""
    dtype = storage.dtype if isinstance(storage, Storage) else ""
    metadata = _[2] if len(_) > 2 else None
    return _rebuilt(storage, dtype, offset, shape, strides, metadata)


def rebuild_v3(
    storage: object,
    offset: object,
    shape: object,
    strides: object,
    requires_grad: object,
    hooks: object,
    dtype: object,
    metadata: object = None,
) -> Stored | Unstorable:
    """A tensor of a dtype of its own; arguments of `torch._utils._rebuild_tensor_v3`."""
    del requires_grad, hooks
    return _rebuilt(storage, dtype_name(dtype), offset, shape, strides, metadata)


def same(tensor: object, *_: object) -> object:
    """A tensor as it is, for functions that only give it to others."""
    if isinstance(tensor, str | bytes | int | float | list | dict | tuple | None):
        raise TypeError("not of a tensor")
    return tensor


def unstorable(why: str) -> Callable[..., Unstorable]:
    """Makes tensors of a kind that can't be stored."""
    return lambda *_: Unstorable(why)


def dtype_name(dtype: object) -> str:
    """The name of a dtype, without `torch.`.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(dtype, Global) or not dtype.name.startswith("torch."):
        raise TypeError("of no dtype")
    return dtype.name.removeprefix("torch.")


def sizes(value: object, least: int = 0) -> Shape:
    """A shape, or other integers that aren't negative.

    Raises:
        TypeError: no integers.
        ValueError: negative, or too many or large.
    """
    if not isinstance(value, tuple | list) or any(type(one) is not int for one in value):
        raise TypeError("of sizes that are no integers")
    if len(value) > MOST_AXES or any(not least <= one < 2**63 for one in value):
        raise ValueError("of impossible sizes")
    return tuple(value)


def _rebuilt(
    storage: object, dtype: str, offset: object, shape: object, strides: object, metadata: object
) -> Stored | Unstorable:
    if not isinstance(storage, Storage):
        raise TypeError("not of a storage")
    if isinstance(metadata, Mapping) and any(metadata.values()):
        return Unstorable("a view that conjugates or negates")
    if dtype not in (*FLOATS, *INTEGERS):
        return Unstorable(f"dtype {dtype} has no place in a store")
    (first,), whole, steps = sizes((offset,)), sizes(shape), sizes(strides)
    if len(whole) != len(steps):
        raise ValueError(f"{len(whole)} sizes and {len(steps)} strides")
    _check_bounds(storage, raw_dtype(dtype).itemsize, first, whole, steps)
    return Stored(storage, dtype, first, whole, steps)


def _check_bounds(
    storage: Storage, itemsize: int, offset: int, shape: Shape, strides: Shape
) -> None:
    nbytes = math.prod(max(size, 1) for size in shape) * itemsize
    if nbytes >= 2**63:
        raise ValueError(f"shape {shape} is impossibly large")
    if 0 in shape:
        return
    if (offset + _span(shape, strides)) * itemsize > storage.nbytes:
        raise ValueError(f"shape {shape} ends behind its storage of {storage.nbytes} bytes")
    if nbytes > max(MOST_REPEATS * storage.nbytes, FREE_BYTES):
        raise ValueError(f"shape {shape} of a storage of {storage.nbytes} bytes")
