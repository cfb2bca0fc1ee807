"""What an encoding can hold, and the scale exponent that suits a tier."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import sharkstore.kernels as kernels
from sharkstore.encodings import Encoding
from sharkstore.kernels.scales import UNITS

# the first value that rounding to nearest takes to infinity
FLOAT16_OVERFLOW = 65520.0
# with a scale rounded up, or over the twofold range of an affine row, float32 still holds these
AFFINE_OVERFLOW = 2.0**126
SYMMETRIC_OVERFLOW = 2.0**127
# squares of these, in a metric, are neither infinite nor without bits in float32: codes are chosen
# by them
SQUARED_OVERFLOW = 2.0**50
SQUARED_FAINT = 2.0**-50


def fitted(encoding: Encoding, largest: float) -> Encoding:
    """The encoding with the scale exponent that suits a tier.

    Args:
        largest: largest absolute value in the tier's rows.
    """
    scaled = encoding.packed and encoding.mode == "symmetric"
    if not scaled or encoding.scale_dtype != "float16":
        return encoding
    exponent = kernels.scale_exponent(largest, UNITS[encoding.name])
    return replace(encoding, scale_exponent=exponent)


def overflow(encoding: Encoding) -> float:
    """Least absolute value that the encoding can't hold; infinity if it holds all."""
    if encoding.name == "pq":
        return FLOAT16_OVERFLOW if encoding.codebook_dtype == "float16" else SQUARED_OVERFLOW
    affine = encoding.packed and encoding.mode == "affine"
    if encoding.name == "f16" or (affine and encoding.scale_dtype == "float16"):
        return FLOAT16_OVERFLOW
    if encoding.packed:
        return AFFINE_OVERFLOW if affine else SYMMETRIC_OVERFLOW
    return np.inf


def faint(encoding: Encoding, kept_bits: int = 5) -> float:
    """Rows keep fewer bits of their scale, or become zero, below this.

    Compared with a row's range if affine, else with its largest absolute value.
    """
    if encoding.name in ("f32", "constant"):
        return 0.0
    if encoding.name == "pq" and encoding.codebook_dtype == "float32":
        return SQUARED_FAINT
    # the least subnormal number, as a scale or as a value
    least = 2.0**-149 if encoding.packed and encoding.scale_dtype == "float32" else 2.0**-24
    steps = _steps(encoding) if encoding.packed else 1
    return float(steps * least * 2.0 ** (kept_bits - encoding.scale_exponent))


def _steps(encoding: Encoding) -> int:
    """Steps in a row's range if affine, else at most as many in its largest absolute value."""
    if encoding.mode == "affine":
        return int(2**encoding.bits) - 1
    return {"int8": 127, "int4": 8, "int2": 2}[encoding.name]
