"""Blocks of rows to their encodings, and what an encoding can hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

import sharkstore.kernels as kernels
from sharkstore.encodings import Encoding

# the first values that rounding to nearest takes to infinity, or below which it takes to zero
FLOAT16_OVERFLOW = 65520.0
FLOAT16_VANISH = 2.0**-25
# with a scale rounded up, or over the twofold range of an affine row, float32 still holds these
AFFINE_OVERFLOW = 2.0**126
SYMMETRIC_OVERFLOW = 2.0**127


def encode(encoding: Encoding, rows: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Rows as stored: float32 (n, dim) -> uint8 (n, row bytes)."""
    return kernels.encode_rows(encoding, rows)


def fitted(encoding: Encoding, largest: float) -> Encoding:
    """The encoding with the scale exponent that suits a tier.

    Args:
        largest: largest absolute value in the tier's rows.
    """
    scaled = encoding.packed and encoding.mode == "symmetric"
    if not scaled or encoding.scale_dtype != "float16":
        return encoding
    return replace(encoding, scale_exponent=kernels.scale_exponent(largest))


def overflow(encoding: Encoding) -> float:
    """Least absolute value that the encoding can't hold; infinity if it holds all."""
    affine = encoding.packed and encoding.mode == "affine"
    if encoding.name == "f16" or (affine and encoding.scale_dtype == "float16"):
        return FLOAT16_OVERFLOW
    if encoding.packed:
        return AFFINE_OVERFLOW if affine else SYMMETRIC_OVERFLOW
    return np.inf


def vanish(encoding: Encoding) -> float:
    """Rows with no absolute value above this lose all: they become zero, or flat if affine."""
    if encoding.name == "f16":
        return FLOAT16_VANISH
    if not encoding.packed or encoding.scale_dtype == "float32":
        return 0.0
    if encoding.mode == "affine":
        return 127.5 * FLOAT16_VANISH  # a range of twice this has a scale of zero
    return float(127 * FLOAT16_VANISH * 2.0**-encoding.scale_exponent)
