"""The reference of distortions: how far rows are from what would be served for them.

All arithmetic is float32, rounded half to even after each operation, in the order written here,
every sum from +0. The native kernels equal it bit for bit.
"""

from __future__ import annotations

import numpy as np

from sharkstore.encodings import Encoding
from sharkstore.kernels import pq, reference, rounding
from sharkstore.kernels.factor import Factor
from sharkstore.kernels.scales import F32


def distortions(
    encoding: Encoding,
    rows: F32,
    factor: Factor | None = None,
    codebook: pq.Codebook | None = None,
    stand_in: F32 | None = None,
) -> F32:
    """Squared distances.

    Args:
        rows: float32 (n, dim), finite.
        factor: of the metric; codes are rounded in it. None: identity. pq has it from its
            codebook.
        codebook: of pq.
        stand_in: of `constant`: the row served for all, float32 (dim,).

    Returns:
        float32 (n,); infinity where the distance is not finite.
    """
    if encoding.name == "f32":
        return np.zeros(len(rows), np.float32)
    with np.errstate(all="ignore"):
        total = _squared(encoding, rows, factor, codebook, stand_in)
    return np.where(np.isfinite(total), total, np.float32(np.inf))


def _squared(
    encoding: Encoding,
    rows: F32,
    factor: Factor | None,
    codebook: pq.Codebook | None,
    stand_in: F32 | None,
) -> F32:
    if codebook is not None and codebook.root is not None:
        return pq.encode_measured(codebook, rows)[1]
    if factor is not None and encoding.packed:
        return rounding.encode(encoding, rows, factor)[1]
    served = _served(encoding, rows, codebook, stand_in)
    if factor is not None:
        return rounding.squared(rows, factor, lambda dim, _: served[:, dim])
    total = np.zeros(len(rows), np.float32)
    for off in (rows - served).T:
        total += off * off
    return total


def _served(
    encoding: Encoding, rows: F32, codebook: pq.Codebook | None, stand_in: F32 | None
) -> F32:
    dim = rows.shape[1]
    if encoding.name == "constant":
        assert stand_in is not None
        return np.broadcast_to(stand_in, rows.shape)
    if encoding.name == "pq":
        assert codebook is not None
        return pq.decode(codebook, pq.encode(codebook, rows), dim)
    return reference.decode_rows(encoding, reference.encode_rows(encoding, rows), dim)
