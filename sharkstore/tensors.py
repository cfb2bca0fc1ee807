"""A tensor of a checkpoint: its name, shape and dtype, and its values in float32."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FLOATS = ("float32", "float16", "bfloat16", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a checkpoint.

    Args:
        name: its key in the checkpoint.
        shape: () for a scalar.
        dtype: numpy's name, or `bfloat16`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def rows(self) -> int:
        """Length of the first axis; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        """Bytes of one index of the first axis, as the checkpoint stores it."""
        return math.prod(self.shape[1:]) * raw_dtype(self.dtype).itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor, as the checkpoint stores it."""
        return self.rows * self.row_bytes


class TensorSource(Protocol):
    """Where the rows of tensors come from: every reader is one."""

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop` of a tensor, as stored; bfloat16 as uint16.

        The array may be a view of the mapped file: rows that are not used are not read.
        """


def raw_dtype(dtype: str) -> np.dtype[Any]:
    """The numpy dtype that `Checkpoint.read` gives for a tensor's dtype."""
    return np.dtype("<u2") if dtype == "bfloat16" else np.dtype(dtype).newbyteorder("<")


def as_float32(block: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Values as read, in float32. float64 is rounded to it and may become infinite."""
    if dtype == "bfloat16":
        return (block.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return block.astype(np.float32, copy=False)
