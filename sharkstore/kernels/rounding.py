"""The reference of codes rounded in a metric, and of errors measured in it.

A row's scale (and bias) are those of the plain encoder. All arithmetic is float32, rounded half to
even after each operation, in the order written here, every sum from +0. The native kernels equal
these functions bit for bit.

Spec: "Rounding in a metric". Method: Babai's nearest plane; Frantar et al., "GPTQ", 2022.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sharkstore.encodings import SCALE_DTYPES, Encoding
from sharkstore.kernels import reference
from sharkstore.kernels.factor import Factor
from sharkstore.kernels.lowbits import LARGEST, clip, lowest_code, pack_codes
from sharkstore.kernels.scales import F32, U8, true_scales

# value of a row that is served, from (dim, the target of its code): float32 (n,) each
Serve = Callable[[int, F32], F32]


def encode(encoding: Encoding, rows: F32, factor: Factor) -> tuple[U8, F32]:
    """Encode rows to codes of 8, 4 or 2 bits, rounded in a metric.

    Args:
        rows: float32 (n, dim), finite.

    Returns:
        uint8 (n, row bytes), and the squared errors, float32 (n,).
    """
    stored = reference.encode_rows(encoding, rows)
    header = encoding.header_bytes
    head = np.ascontiguousarray(stored[:, :header]).view(SCALE_DTYPES[encoding.scale_dtype])
    affine = encoding.mode == "affine"
    lowest, highest = code_range(encoding)
    codes = np.empty_like(rows)
    with np.errstate(all="ignore"):
        step = true_scales(encoding, head[:, 0])
        low = head[:, 1].astype(np.float32) if affine else None
        inverse = clip(np.float32(1) / step, -LARGEST, LARGEST)
        inverse[step == 0] = 0

        def serve(dim: int, target: F32) -> F32:
            quotient = (target if low is None else target - low) * inverse
            codes[:, dim] = np.rint(clip(quotient, lowest, highest))
            value: F32 = codes[:, dim] * step
            return value if low is None else value + low

        sizes = squared(rows, factor, serve)
    stored[:, header:] = _packed(encoding, codes)
    return stored, sizes


def code_range(encoding: Encoding) -> tuple[int, int]:
    """The codes that there are: lowest and highest."""
    if encoding.bits == 8:
        return (-127, 127) if encoding.mode == "symmetric" else (0, 255)
    lowest = lowest_code(encoding)
    return lowest, lowest + (1 << encoding.bits) - 1


def squared(rows: F32, factor: Factor, serve: Serve) -> F32:
    """Squared errors in the metric: float32 (n,)."""
    errors = np.empty((rows.shape[1], len(rows)), np.float32)
    total = np.zeros(len(rows), np.float32)
    for j, dim in enumerate(factor.order):
        pull = np.zeros(len(rows), np.float32)
        if factor.feed is not None:
            for i in range(j):
                pull += factor.feed[i, j] * errors[i]
        errors[j] = rows[:, dim] - serve(int(dim), rows[:, dim] + pull)
        one = (errors[j] + pull) * factor.diagonal[j]
        total += one * one
    return total


def _packed(encoding: Encoding, codes: F32) -> U8:
    if encoding.bits < 8:
        return pack_codes(encoding, codes)
    return codes.astype(np.int8 if encoding.mode == "symmetric" else np.uint8).view(np.uint8)
