"""How rows are stored: the encodings of format 1.2, and the geometry of row maps.

Spec: formats/sharkstore-1.md, "Encodings", "Row map".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Mode = Literal["symmetric", "affine"]
ScaleDtype = Literal["float16", "float32"]

FLOAT_DTYPES: dict[str, np.dtype[Any]] = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2")}
SCALE_DTYPES: dict[str, np.dtype[Any]] = {
    "float16": np.dtype("<f2"),
    "float32": np.dtype("<f4"),
}
ROWS_PER_BLOCK = 64
# bytes of a row-map block of 64 rows, by its number of bit planes
ROWMAP_BLOCK_BYTES = {1: 16, 2: 32, 3: 64}
MODES: tuple[Mode, ...] = ("symmetric", "affine")
SCALES: tuple[ScaleDtype, ...] = ("float16", "float32")
# bits of a code, by encoding
CODE_BITS = {"int8": 8, "int4": 4, "int2": 2}
# of product quantisation: dims a code, and most entries of a code's part of the codebook
SUBS = (2, 4, 8)
MOST_ENTRIES = 256
NAMES = ("f32", "f16", *CODE_BITS, "pq", "constant")


@dataclass(frozen=True, slots=True)
class Encoding:
    """One way to store a row.

    Args:
        name: `f32`, `f16`, `int8`, `int4`, `int2`, `pq` or `constant`.
        mode: of packed rows: `symmetric` (scale) or `affine` (scale and bias).
        scale_dtype: of packed rows: dtype of the scale, and of the bias if there is one.
        scale_exponent: of symmetric rows with float16 scales: the stored scale is
            the true one times 2 ** scale_exponent.
        sub: of pq: dims a code: 2, 4 or 8.
        entries: of pq: vectors that a code chooses from, 1 to 256.
        codebook_dtype: of pq: dtype of the vectors.
    """

    name: str
    mode: Mode = "symmetric"
    scale_dtype: ScaleDtype = "float16"
    scale_exponent: int = 0
    sub: int = 0
    entries: int = 0
    codebook_dtype: ScaleDtype = "float16"

    @property
    def packed(self) -> bool:
        """Whether a row is bytes (scale, bias, codes) and not an array of floats."""
        return self.name in CODE_BITS

    @property
    def bits(self) -> int:
        """Bits of a code of a packed row: 8, 4 or 2."""
        return CODE_BITS[self.name]

    @property
    def format(self) -> str:
        """The first version of the format that has the encoding."""
        return {"int4": "1.1", "int2": "1.1", "pq": "1.2"}.get(self.name, "1.0")

    @property
    def header_bytes(self) -> int:
        """Bytes of scale and bias ahead of the codes."""
        if not self.packed:
            return 0
        return SCALE_DTYPES[self.scale_dtype].itemsize * (2 if self.mode == "affine" else 1)

    @property
    def array_dtype(self) -> np.dtype[Any]:
        """Dtype of the Zarr array that holds the tier."""
        if self.packed or self.name == "pq":
            return np.dtype("u1")
        return FLOAT_DTYPES.get(self.name, FLOAT_DTYPES["f32"])

    def row_bytes(self, dim: int) -> int:
        """Bytes of one stored row of `dim` values."""
        if self.packed:
            return self.header_bytes + -(-dim * self.bits // 8)
        if self.name == "pq":
            return -(-dim // self.sub)
        return self.array_dtype.itemsize * dim

    def array_shape(self, rows: int, dim: int) -> tuple[int, int]:
        """Shape of the Zarr array for a tier of `rows` rows."""
        if self.name == "constant":
            return (1, dim)
        return (rows, self.row_bytes(dim) // self.array_dtype.itemsize)

    def codebook_shape(self, dim: int) -> tuple[int, int, int]:
        """Shape of the codebook of a pq tier: (codes a row, entries, sub)."""
        return (self.row_bytes(dim), self.entries, self.sub)

    def codebook_bytes(self, dim: int) -> int:
        """Bytes of the codebook; 0 of other encodings."""
        if self.name != "pq":
            return 0
        return self.row_bytes(dim) * self.entries * self.sub * self.book_dtype.itemsize

    @property
    def book_dtype(self) -> np.dtype[Any]:
        """Dtype of the Zarr array that holds the codebook."""
        return SCALE_DTYPES[self.codebook_dtype]

    def __str__(self) -> str:
        if self.name == "pq":
            fewer = f".{self.entries}" if self.entries != MOST_ENTRIES else ""
            wide = ".f32" if self.codebook_dtype == "float32" else ""
            return f"pq{self.sub}{fewer}{wide}"
        parts = [self.name]
        if self.packed and self.mode != "symmetric":
            parts.append(self.mode)
        if self.packed and self.scale_dtype != "float16":
            parts.append("f32")
        return ".".join(parts)


def planes_for(tiers: int) -> int:
    """Bit planes of a row map over `tiers` tiers, 2 to 8: 1, 2 or 3."""
    return (tiers - 1).bit_length()


def parse_encoding(text: str) -> Encoding:
    """Read an encoding as it is spelled.

    `f32`, `f16`, `constant`; `int8`, `int4`, `int2` with `.affine`, `.f32` or both; `pq2`, `pq4`,
    `pq8` with a number of entries (`.64`), `.f32` or both.

    Raises:
        ValueError: for anything else, naming what is known.
    """
    for encoding in SPELLED:
        if str(encoding) == text:
            return encoding
    match = re.fullmatch(r"pq([248])\.([1-9][0-9]{0,2})(\.f32)?", text)
    if match and int(match[2]) <= MOST_ENTRIES:
        wide: ScaleDtype = "float32" if match[3] else "float16"
        return Encoding("pq", sub=int(match[1]), entries=int(match[2]), codebook_dtype=wide)
    known = ", ".join(str(encoding) for encoding in SPELLED)
    raise ValueError(f"unknown encoding {text!r} (known: {known})")


SPELLED = (
    Encoding("f32"),
    Encoding("f16"),
    *(
        Encoding(name, mode, scale_dtype)
        for name in CODE_BITS
        for scale_dtype in SCALES
        for mode in MODES
    ),
    *(
        Encoding("pq", sub=sub, entries=MOST_ENTRIES, codebook_dtype=dtype)
        for dtype in SCALES
        for sub in SUBS
    ),
    Encoding("constant"),
)
