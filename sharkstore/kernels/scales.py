"""Scales and biases of packed rows: how they are rounded, stored and read back.

Spec: "Encodings".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.encodings import SCALE_DTYPES, Encoding

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
Stored = NDArray[np.floating[Any]]
# a tier's largest absolute value, over this, is taken near float16's top; scales of 4 and 2 bits
# lie up to 1.55 times above it, and still below float16's end
UNITS = {"int8": 127.0, "int4": 8.0, "int2": 1.0}


def scale_exponent(largest: float, unit: float = 127.0) -> int:
    """Exponent that takes a tier's largest scale into [2**14, 2**15), near float16's top.

    Args:
        largest: largest absolute value in the tier's rows, float32.
        unit: what the largest value is divided by to give the scale.
    """
    scale = np.float32(largest) / np.float32(unit)
    if scale == 0:
        return 0
    _, exponent = np.frexp(scale)
    return int(np.clip(15 - int(exponent), -126, 126))


def store_scales(encoding: Encoding, scales: F32) -> Stored:
    """Scales (n,) as stored. What float16 can't hold becomes infinite."""
    with np.errstate(all="ignore"):
        if encoding.scale_dtype == "float16":
            scales = scales * _power_of_two(encoding.scale_exponent)
        return scales.astype(SCALE_DTYPES[encoding.scale_dtype])


def true_scales(encoding: Encoding, scales: Stored) -> F32:
    """What codes are multiplied with, from scales (n,) as stored."""
    with np.errstate(all="ignore"):
        return scales.astype(np.float32) * _power_of_two(-encoding.scale_exponent)


def positive(scales: Stored) -> Stored:
    """The scales, and 0 for those that are not positive."""
    return np.where(scales > 0, scales, scales.dtype.type(0))


def pack(head: Sequence[Stored], codes: NDArray[Any]) -> U8:
    """Rows of bytes: scale, bias if there is one, codes."""
    columns = [h.reshape(-1, 1).view(np.uint8) for h in head]
    return np.concatenate([*columns, codes.view(np.uint8)], axis=1)


def _power_of_two(exponent: int) -> np.float32:
    return np.float32(np.ldexp(1.0, exponent))
