"""Where bytes lie: chunk sizes, chunk files, row-map blocks, safe paths.

Spec: "Arrays and chunk files", "Row map", "Names".
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from sharkstore.encodings import ROWMAP_BLOCK_BYTES, ROWS_PER_BLOCK, planes_for

ROOT_DOCUMENT = "zarr.json"
TRAILER_BYTES = 4
MAX_ROWS = 2**32 - 1
MAX_DIM = 4096
MAX_TIERS = 8
MAX_CHUNKS = 1024
# names of safe characters, none of them all dots or the name of a document
NODE = r"(?!\.+(?:/|\Z))(?!(?i:zarr\.json)(?:/|\Z))[A-Za-z0-9._%~-]{1,210}"
NODE_PATH = re.compile(rf"{NODE}(?:/{NODE})*")

KIB = 1024
MIB = 1024 * KIB
CHUNK_ALIGNMENT = 64 * KIB
HUGE_PAGE = 2 * MIB
LARGEST_UNIT = 512 * MIB
CHUNK_TARGET = 32 * MIB


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One Zarr array: chunks span whole rows, along the first axis.

    Args:
        path: of the array's group member, from the store's root, with `/`.
        shape: of the array; () for a scalar.
        dtype: little-endian core type.
        chunk_rows: rows a chunk.
    """

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    chunk_rows: int

    @property
    def rows(self) -> int:
        """Length of the first axis; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        """Bytes of one index of the first axis."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def data_bytes(self) -> int:
        """Bytes of all rows, padding and trailers left out."""
        return self.rows * self.row_bytes

    @property
    def chunks(self) -> int:
        """Number of chunk files; 0 for an array without elements."""
        rows = self.rows
        return -(-rows // self.chunk_rows) if rows * self.row_bytes else 0

    @property
    def chunk_bytes(self) -> int:
        """Bytes of the rows of one chunk, padding included."""
        return self.chunk_rows * self.row_bytes

    @property
    def file_bytes(self) -> int:
        """Size of every chunk file of this array: the rows, then the crc32c."""
        return self.chunk_bytes + TRAILER_BYTES

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of a chunk as Zarr metadata states it (no zeros)."""
        if not self.shape:
            return ()
        return (self.chunk_rows, *[size or 1 for size in self.shape[1:]])

    def chunk_path(self, index: int) -> str:
        """Path of chunk `index` from the store's root: Zarr's default key encoding."""
        if not self.shape:
            return f"{self.path}/c"
        return f"{self.path}/c/{index}" + "/0" * (len(self.shape) - 1)

    def chunk_slots(self, index: int) -> tuple[int, int]:
        """First and last + 1 row of chunk `index`, padding left out."""
        start = index * self.chunk_rows
        return start, min(self.rows, start + self.chunk_rows)


def array_spec(
    path: str, shape: tuple[int, ...], dtype: np.dtype[np.generic], target: int = CHUNK_TARGET
) -> ArraySpec:
    """The array with the chunk size that a writer should choose.

    Args:
        target: bytes of a chunk to aim at; smaller in tests that want many chunks.
    """
    whole = ArraySpec(path, shape, dtype, max(1, shape[0] if shape else 1))
    rows = chunk_rows(whole.rows, whole.row_bytes, target) if whole.data_bytes else whole.rows
    return ArraySpec(path, shape, dtype, max(1, rows))


def chunk_rows(rows: int, row_bytes: int, target: int = CHUNK_TARGET) -> int:
    """Rows a chunk: see "Arrays and chunk files" in the specification for the why.

    Small arrays are one chunk, exactly as long as the array. Others take chunks of whole
    huge pages when the padding stays under a sixteenth, else one chunk up to 256 MiB, else
    chunks of whole 64 KiB pages.
    """
    total = rows * row_bytes
    if total <= 2 * target:
        return rows
    huge = balanced_chunk(total, math.lcm(row_bytes, HUGE_PAGE), target)
    if huge is not None and padding(total, huge) * 16 <= total:
        return min(rows, huge // row_bytes)
    if total <= 8 * target:
        return rows
    small = balanced_chunk(total, math.lcm(row_bytes, CHUNK_ALIGNMENT), target)
    return rows if small is None else min(rows, small // row_bytes)


def balanced_chunk(total: int, unit: int, target: int) -> int | None:
    """Multiple of `unit` between half and twice the target that pads least; None above 512 MiB.

    Ties go to the larger chunk; arrays of more than 1 024 such chunks take larger ones.
    """
    if unit > LARGEST_UNIT:
        return None
    least = max(1, -(-total // MAX_CHUNKS // unit), target // 2 // unit)
    most = max(least, 2 * target // unit)
    return min(
        (unit * count for count in range(least, most + 1)),
        key=lambda size: (padding(total, size), -size),
    )


def padding(total: int, chunk: int) -> int:
    """Zero bytes behind the last row of an array of `total` bytes."""
    return -total % chunk


def rowmap_shape(rows: int, tiers: int) -> tuple[int, int]:
    """Shape of the row map's uint8 array."""
    return (-(-rows // ROWS_PER_BLOCK), ROWMAP_BLOCK_BYTES[planes_for(tiers)])


def is_node_path(text: str) -> bool:
    """Whether a reader may follow this path below the store's root."""
    return NODE_PATH.fullmatch(text) is not None
