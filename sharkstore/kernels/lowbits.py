"""Codes of 4 and 2 bits: scales (and biases) of least squared error, by a fixed search.

The search tries the scales, or ends, of a grid and then twice the best line through the codes
found (linear least squares): with both it is within a few percent of the least error, with half
the work of a grid as good. Symmetric scales may be negative, so that the value farthest from zero
takes the lowest code, which has no counterpart above.

Spec: "int4 and int2".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sharkstore.encodings import SCALE_DTYPES, Encoding
from sharkstore.kernels.scales import F32, U8, Stored, positive, store_scales, true_scales

LARGEST = float(np.finfo(np.float32).max)
REFITS = 2
# scales to try, as parts of the largest absolute value: 66/64 down to 31/64 of its eighth, and
# 84/64 down to 30/64 of its half
PARTS = {4: [k / 512 for k in range(66, 30, -5)], 2: [k / 128 for k in range(84, 29, -18)]}
# ends to try, as parts of the range, taken off at the bottom and at the top
CUTS = {4: [k / 16 for k in range(4)], 2: [k / 8 for k in range(4)]}


@dataclass(frozen=True, slots=True)
class Task:
    """Rows to be encoded.

    Attributes:
        lowest, highest: the codes that there are.
        top, bottom: greatest value of each row, and greatest when negated: float32 (n,).
        size: largest absolute value if symmetric, else range: float32 (n,).
    """

    encoding: Encoding
    rows: F32
    lowest: int
    highest: int
    top: F32
    bottom: F32
    size: F32

    @classmethod
    def of(cls, encoding: Encoding, rows: F32) -> Task:
        """The task of encoding rows, float32 (n, dim)."""
        zero = np.float32(0)
        top, bottom = rows.max(axis=1), (zero - rows).max(axis=1)
        if encoding.mode == "symmetric":
            size = np.maximum(top, bottom) + zero  # never -0
        else:
            size = np.minimum(top + bottom, np.float32(LARGEST))
        lowest = lowest_code(encoding)
        return cls(encoding, rows, lowest, lowest + (1 << encoding.bits) - 1, top, bottom, size)

    @property
    def symmetric(self) -> bool:
        """Whether rows have scales alone."""
        return self.encoding.mode == "symmetric"


@dataclass(slots=True)
class Fit:
    """A scale (and bias) for each row, and what comes of it.

    Attributes:
        scales, biases: as stored (n,); biases None if symmetric.
        step, low: the same as float32 (n,); low 0 if symmetric.
        codes: float32 (n, dim), whole numbers from the lowest code to the highest.
        errors: sum of squared differences, before values are rounded, in squares of the row's
            size: float32 (n,).
    """

    scales: Stored
    biases: Stored | None
    step: F32
    low: F32
    codes: F32
    errors: F32

    def take_better(self, other: Fit) -> None:
        """Take the rows over that the other fits better."""
        better = other.errors < self.errors
        for name in ("scales", "biases", "step", "low", "codes", "errors"):
            if (held := getattr(self, name)) is not None:
                chosen = better[:, None] if held.ndim == 2 else better
                setattr(self, name, np.where(chosen, getattr(other, name), held))


def lowest_code(encoding: Encoding) -> int:
    """The code that is stored as 0."""
    return -(1 << (encoding.bits - 1)) if encoding.mode == "symmetric" else 0


def fit_rows(encoding: Encoding, rows: F32) -> Fit:
    """Search the best scale (and bias) of each row.

    Args:
        rows: float32 (n, dim), finite, at least one value a row.
    """
    with np.errstate(all="ignore"):
        task = Task.of(encoding, rows)
        grid = _scale_grid(task) if task.symmetric else _end_grid(task)
        best = next(grid)
        # an error that is not a number is no better than any
        best.errors = np.where(best.errors < np.inf, best.errors, np.float32(np.inf))
        for one in grid:
            best.take_better(one)
        last = replace(best)
        for _ in range(REFITS):
            last = _refit_scale(task, last) if task.symmetric else _refit_line(task, last)
            best.take_better(last)
    best.codes[best.step == 0] = 0
    return best


def pack_codes(encoding: Encoding, codes: F32) -> U8:
    """Codes (n, dim) as bytes, the first in the low bits; bits behind the last are 0."""
    per_byte = 8 // encoding.bits
    count, dim = codes.shape
    stored = np.zeros((count, -(-dim // per_byte) * per_byte), np.uint8)
    stored[:, :dim] = (codes - np.float32(lowest_code(encoding))).astype(np.uint8)
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(encoding.bits)
    apart = stored.reshape(count, stored.shape[1] // per_byte, per_byte) << shifts
    packed: U8 = np.bitwise_or.reduce(apart, axis=2)
    return packed


def unpack_codes(encoding: Encoding, stored: U8, dim: int) -> F32:
    """Codes as float32 (n, dim), from their bytes."""
    shifts = np.arange(8 // encoding.bits, dtype=np.uint8) * np.uint8(encoding.bits)
    apart = (stored[:, :, None] >> shifts) & np.uint8((1 << encoding.bits) - 1)
    flat = apart.reshape(len(stored), apart.shape[1] * apart.shape[2])
    codes: F32 = flat[:, :dim].astype(np.float32)
    return codes + np.float32(lowest_code(encoding))


def clip(values: F32, low: float, high: float) -> F32:
    """The values within [low, high]; `low` for what is not a number."""
    clipped: F32 = np.minimum(np.fmax(values, np.float32(low)), np.float32(high))
    return clipped


def _scale_grid(task: Task) -> Iterator[Fit]:
    # the value farthest from zero takes the lowest code
    farthest = np.where(task.top > task.bottom, -task.size, task.size)
    for part in PARTS[task.encoding.bits]:
        scales = farthest * np.float32(part)
        yield _fit(task, store_scales(task.encoding, scales))
        if task.encoding.bits == 2:
            yield _fit(task, store_scales(task.encoding, -scales))


def _end_grid(task: Task) -> Iterator[Fit]:
    dtype = SCALE_DTYPES[task.encoding.scale_dtype]
    steps = np.float32(task.highest)
    for below in CUTS[task.encoding.bits]:
        biases = (task.size * np.float32(below) - task.bottom).astype(dtype)
        for above in CUTS[task.encoding.bits]:
            high = task.top - task.size * np.float32(above)
            scales = ((high - biases.astype(np.float32)) / steps).astype(dtype)
            yield _fit(task, positive(scales), biases)


def _refit_scale(task: Task, last: Fit) -> Fit:
    scales = _sum(last.codes * task.rows) / _sum(last.codes * last.codes)
    return _fit(task, store_scales(task.encoding, scales))


def _refit_line(task: Task, last: Fit) -> Fit:
    dtype = SCALE_DTYPES[task.encoding.scale_dtype]
    count = np.float32(task.rows.shape[1])
    offset = task.rows - last.low[:, None]
    codes, offsets = _sum(last.codes), _sum(offset)
    mean = codes / count
    slope = _sum(last.codes * offset) - mean * offsets
    scales = positive((slope / (_sum(last.codes * last.codes) - mean * codes)).astype(dtype))
    left = offsets - scales.astype(np.float32) * codes
    return _fit(task, scales, (last.low + left / count).astype(dtype))


def _fit(task: Task, scales: Stored, biases: Stored | None = None) -> Fit:
    step = true_scales(task.encoding, scales)
    low = np.zeros_like(step) if biases is None else biases.astype(np.float32)
    inverse = clip(np.float32(1) / step, -LARGEST, LARGEST)
    quotient = (task.rows if biases is None else task.rows - low[:, None]) * inverse[:, None]
    codes = np.rint(clip(quotient, task.lowest, task.highest))
    off = quotient - codes
    part = step / task.size  # squares of steps themselves could overflow, or vanish
    return Fit(scales, biases, step, low, codes, _sum(off * off) * (part * part))


def _sum(terms: NDArray[np.float32]) -> F32:
    """Sum of each row, from the first term to the last."""
    # starting at +0 or at the first term differs in the sign of zero alone
    return np.add.accumulate(terms, axis=1)[:, -1] + np.float32(0)
